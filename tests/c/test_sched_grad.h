// SPDX-License-Identifier: MIT
/* test_sched_grad.h - weight gradients that are waited for one by one, as exact overlap does.
 *
 * Part of test_sched.c. One thread submits a product after the other, as a backward pass does; a
 * second one waits for each alone, reads its sums and writes zeros over them, as an update does;
 * a third one waits for all, again and again, which frees what was submitted. The products are
 * gains of norms, which need no BLAS: every byte of them is seen by the thread sanitizer. */
enum { GRADS = 4, GRAD_ROWS = 64, GRAD_TOKENS = 512, GRAD_ROUNDS = 60 };

typedef struct {
    uint16_t dy[GRAD_ROWS * GRAD_TOKENS], x[GRAD_ROWS * GRAD_TOKENS];
    float dw[GRADS][GRAD_ROWS];
    AneGradJob job[GRADS];
    int64_t submitted, updated; /* products of all rounds, atomic: the two threads take turns by them */
    int64_t again;              /* waits that were left and begun anew */
    bool ended;
} Overlap;

static void *update_as_they_end(void *context) {
    Overlap *o = context;
    for (int64_t at = 0; at < (int64_t)GRAD_ROUNDS * GRADS; at++) {
        while (__atomic_load_n(&o->submitted, __ATOMIC_ACQUIRE) <= at)
            sched_yield();
        const int i = (int)(at % GRADS), slice_ms = (int)(at / GRADS % 3); /* 0: only look */
        AneError err;
        int status;
        while ((status = ane_cpu_grad_wait_for(&o->job[i], 1, slice_ms, &err)) == ANE_AGAIN)
            o->again++;
        CHECK(status == ANE_OK);
        bool whole = true;
        for (int r = 0; r < GRAD_ROWS; r++) {
            whole = whole && o->dw[i][r] == (float)(2 * GRAD_TOKENS);
            o->dw[i][r] = 0.0f;
        }
        CHECK(whole);
        __atomic_store_n(&o->updated, at + 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

static void *wait_for_all(void *context) {
    Overlap *o = context;
    while (!GET(o->ended)) {
        CHECK(ane_cpu_grad_wait(1, NULL) >= 0);
        sched_yield();
    }
    return NULL;
}

static void a_gradient_that_was_waited_for_alone_is_whole_and_left_alone(void) {
    Overlap *o = calloc(1, sizeof *o);
    if (!o) {
        FAIL("memory for a test");
        return;
    }
    for (int i = 0; i < GRAD_ROWS * GRAD_TOKENS; i++) {
        o->dy[i] = 0x3C00; /* 1 */
        o->x[i] = 0x4000;  /* 2 */
    }
    for (int i = 0; i < GRADS; i++)
        o->job[i] = (AneGradJob){
            .dy_f16 = o->dy, .x_f16 = o->x, .dw = o->dw[i], .rows = GRAD_ROWS, .cols = 0, .count = GRAD_TOKENS, .exponent = 0};
    CHECK(ane_cpu_grad_wait_for(NULL, 0, 0, NULL) == ANE_OK);
    CHECK(ane_cpu_grad_wait_for(NULL, 1, 0, NULL) == ANE_E_ARG);
    CHECK(ane_cpu_grad_wait_for(o->job, 1, -1, NULL) == ANE_E_ARG);
    CHECK(ane_cpu_grad_wait_for(o->job, GRADS, 0, NULL) == ANE_OK); /* nothing was submitted */
    pthread_t updater, waiter;
    CHECK(pthread_create(&updater, NULL, update_as_they_end, o) == 0);
    CHECK(pthread_create(&waiter, NULL, wait_for_all, o) == 0);
    for (int64_t round = 0; round < GRAD_ROUNDS; round++) {
        for (int i = 0; i < GRADS; i++) {
            CHECK(ane_cpu_grad_submit(&o->job[i], 1, NULL) == ANE_OK);
            __atomic_store_n(&o->submitted, round * GRADS + i + 1, __ATOMIC_RELEASE);
        }
        while (__atomic_load_n(&o->updated, __ATOMIC_ACQUIRE) < (round + 1) * GRADS)
            sched_yield();
        int status;
        while ((status = ane_cpu_grad_wait(50, NULL)) == ANE_AGAIN) /* the same dw come next */
            ;
        CHECK(status == ANE_OK);
    }
    SET(o->ended, true);
    pthread_join(updater, NULL);
    pthread_join(waiter, NULL);
    printf("gradients: %d waited for one by one, %lld waits left and begun anew\n", GRAD_ROUNDS * GRADS, (long long)o->again);
    free(o);
}
