// SPDX-License-Identifier: MIT
/* eval.c - one evaluation: surfaces are bound to symbols, sizes are checked,
 * the plan runs. The hot path of the whole engine: no allocation, no lock
 * while timing is off. */
#include "device.h"

#include <string.h>
#include <sys/stat.h>

/* Statuses of the driver, all with statusType 9. Source: facts, ane-api.md §8.4. */
#define STATUS_TYPE 9u
#define STATUS_SURFACE 0x1du   /* a surface does not fit its symbol */
#define STATUS_SYMBOL 0x2u     /* symbol or procedure index is wrong */
#define STATUS_NOT_FOUND 14u   /* the program has gone */
#define STATUS_LOST 15u        /* no completion arrived */
#define STATUS_MEMORY 0x16u

#define PORTS_MAX 255
#define LENIENT_PROCEDURES 16  /* a program with one procedure answers to 0…15 */

static const SaPos nowhere = {0, 0};

/* ============================== Binding =================================== */

/* Put the base addresses of `slots` into symbol order. `first` is the symbol
 * index of the procedure's first port. Returns the driver status, 0 = good. */
static unsigned bind(const SaEntry *e, int proc, bool output, int first, int count, const SaSlot *slots, int n,
                     void **base, SaError *why) {
    const char *role = output ? "output" : "input";
    const int *order = output ? e->output_port : e->input_port; /* of symbols; NULL: that of the ports */
    memset(base, 0, (size_t)count * sizeof *base);
    for (int i = 0; i < n; i++) {
        int at = slots[i].symbol - first;
        bool known = at >= 0 && at < count;
        if (known && order)
            at = order[first + at];
        if (!known || base[at]) {
            sa_error_set(why, SA_E_BIND, nowhere, "%s %d: symbol index %d is %s procedure %d (%d…%d)", role, i,
                         slots[i].symbol, known ? "bound twice in" : "not of", proc, first, first + count - 1);
            return STATUS_SYMBOL;
        }
        const SaPort *port = output ? sa_plan_output(e->plan, proc, at) : sa_plan_input(e->plan, proc, at);
        if (slots[i].bytes < port->bytes) {
            sa_error_set(why, SA_E_BIND, nowhere, "%s '%s': surface has %zu bytes, symbol needs %zu", role, port->name,
                         slots[i].bytes, port->bytes);
            return STATUS_SURFACE;
        }
        base[at] = slots[i].base;
    }
    if (n != count) { /* fewer: more would have hit a symbol twice */
        sa_error_set(why, SA_E_BIND, nowhere, "procedure %d has %d %ss, %d are bound", proc, count, role, n);
        return STATUS_SYMBOL;
    }
    return 0;
}

/* The procedure a request means, or -1. */
static int pick(const SaEntry *e, int procedure) {
    if (procedure >= 0 && procedure < e->procedures)
        return procedure;
    return e->procedures == 1 && procedure < LENIENT_PROCEDURES ? 0 : -1;
}

/* Quirk procedures=first: procedure 0 runs whatever was asked for, provided its
 * ports are as large. Returns what runs, or -1. */
static int stand_in(const SaEntry *e, int proc) {
    const SaPlan *p = e->plan;
    if (sa_setting(SA_SET_PROCEDURES) != SA_PROCEDURES_FIRST || proc == 0)
        return proc;
    if (sa_plan_inputs(p, 0) != sa_plan_inputs(p, proc) || sa_plan_outputs(p, 0) != sa_plan_outputs(p, proc))
        return -1;
    for (int i = 0; i < sa_plan_inputs(p, 0); i++)
        if (sa_plan_input(p, 0, i)->bytes > sa_plan_input(p, proc, i)->bytes)
            return -1;
    for (int i = 0; i < sa_plan_outputs(p, 0); i++)
        if (sa_plan_output(p, 0, i)->bytes > sa_plan_output(p, proc, i)->bytes)
            return -1;
    return 0;
}

/* Quirk staging_evals: the daemon needs the directory a program was loaded
 * from. True when it has gone and the evaluations it is good for are spent. */
static bool orphaned(SaLoaded *l) {
    struct stat st;
    if (stat(l->staging, &st) == 0)
        return false;
    return atomic_fetch_add(&l->orphaned, 1) >= sa_setting(SA_SET_STAGING_EVALS);
}

/* Failpoints run.*: the evaluation says YES, its first output is wrong. */
static void spoil(const SaPort *port, uint8_t *bytes) {
    if (SA_FAILPOINT("run.nan"))
        memset(bytes, 0xff, port->bytes); /* a NaN in fp16 and in fp32 */
    if (SA_FAILPOINT("run.zero"))
        memset(bytes, 0, port->bytes);
    if (SA_FAILPOINT("run.flip"))
        bytes[0] ^= 1;
}

static unsigned run(const SaEntry *e, const SaBinding *b, unsigned qos, SaError *why) {
    void *in[PORTS_MAX], *out[PORTS_MAX];
    int proc = pick(e, b->procedure);
    if (proc < 0) {
        sa_error_set(why, SA_E_BIND, nowhere, "procedure %d of %d", b->procedure, e->procedures);
        return STATUS_SYMBOL;
    }
    int n_in = e->first_input[proc + 1] - e->first_input[proc];
    int n_out = e->first_output[proc + 1] - e->first_output[proc];
    if (n_in > PORTS_MAX || n_out > PORTS_MAX)
        return STATUS_SYMBOL;
    unsigned status = bind(e, proc, false, e->first_input[proc], n_in, b->inputs, b->n_inputs, in, why);
    if (!status)
        status = bind(e, proc, true, e->first_output[proc], n_out, b->outputs, b->n_outputs, out, why);
    if (status)
        return status;
    int64_t thin = (int64_t)sa_setting(SA_SET_THIN_CHANNELS);
    if (thin > 0 && e->thin[proc] > thin) {
        sa_error_set(why, SA_E_BIND, nowhere, "%lld channels in fewer than 32 columns (thin_channels=%lld)", (long long)e->thin[proc],
                     (long long)thin);
        return STATUS_SURFACE;
    }
    int runs = e->procedures > 1 ? stand_in(e, proc) : 0;
    if (runs < 0 || (e->narrow[proc] && sa_setting(SA_SET_WIDTH_RULE) == SA_WIDTH_FAIL)) {
        sa_error_set(why, SA_E_BIND, nowhere, runs < 0 ? "procedure 0 has other ports (procedures=first)"
                                                       : "a row is no multiple of 64 bytes (width_rule=fail)");
        return STATUS_SURFACE;
    }

    bool background = qos == 17 || qos == 9;
    uint64_t threads = sa_setting(SA_SET_THREADS);
    SaRunOptions options = {
        .threads = background ? 1 : threads > 1024 ? 1024 : (int)threads,
    };
    sa_device_run_options(&options);
    uint64_t start = sa_timing_on() ? sa_now_ns() : 0;
    bool stale = SA_FAILPOINT("run.stale") != 0; /* YES, and the outputs keep what they held */
    SaStatus st = stale ? SA_OK : sa_plan_run(e->plan, runs, (const void *const *)in, out, &options);
    if (st != SA_OK) {
        sa_error_set(why, st, nowhere, "evaluation stopped");
        return STATUS_MEMORY;
    }
    if (sa_failpoints_armed && n_out > 0)
        spoil(sa_plan_output(e->plan, runs, 0), out[0]);
    if (start)
        sa_timing_eval(start, sa_plan_flops(e->plan, runs),
                       e->port_bytes[proc] + (double)e->weight_bytes / e->procedures);
    return SA_FAILPOINT("queue.complete") ? STATUS_LOST : 0;
}

/* ============================== Entry point =============================== */

bool sa_device_eval(SaLoaded *loaded, const SaBinding *b, unsigned qos, SaAnswer *out) {
    if (SA_FAILPOINT("device.gone"))
        sa_device_lose();
    int injected = SA_FAILPOINT("facade.eval");
    if (injected)
        return sa_answer_injected(out, SA_DO_EVAL, NULL, injected);
    if (!sa_loaded_enter(loaded))
        return sa_setting(SA_SET_AFTER_UNLOAD) == SA_AFTER_SILENT
                   ? sa_answer_silent(out, NULL)
                   : sa_answer_status(out, STATUS_TYPE, STATUS_NOT_FOUND, NULL);

    SaError why = {.code = SA_OK};
    unsigned status;
    if (loaded->staging && orphaned(loaded)) {
        sa_error_set(&why, SA_E_IO, nowhere, "'%.200s' was deleted while the program was loaded", loaded->staging);
        status = STATUS_MEMORY;
    } else {
        status = run(loaded->entry, b, qos, &why);
    }
    sa_loaded_leave(loaded);
    if (status) {
        sa_log(SA_LOG_ERROR, "evaluate failed, status 0x%x: %s", status, why.text);
        return sa_answer_status(out, STATUS_TYPE, status, &why);
    }
    atomic_fetch_add_explicit(&sa_device()->evals, 1, memory_order_relaxed);
    return out->ok = true;
}
