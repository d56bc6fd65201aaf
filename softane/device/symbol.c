// SPDX-License-Identifier: MIT
/* symbol.c - which symbol index means which port.
 *
 * The engine numbers the ports of a program; callers must look the numbers up.
 * A plan has its ports in ASCII order of their names, and so has the engine as
 * far as is known. The other orders are for testing callers: the setting
 * `order` at the time of the compile (or of the load from a file) decides. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* ============================== Orders ==================================== */

/* One side of one procedure while it is being ordered. */
typedef struct {
    const SaPlan *plan;
    int proc;
    bool output;
} Side;

static const SaPort *port_of(const Side *s, int i) {
    return s->output ? sa_plan_output(s->plan, s->proc, i) : sa_plan_input(s->plan, s->proc, i);
}

/* As they stand in the text. A value that is returned twice has two ports. */
static void by_declaration(const Side *s, SaValue *const *values, int n, int *order, bool *taken) {
    memset(taken, 0, (size_t)n * sizeof *taken);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            if (!taken[k] && strcmp(port_of(s, k)->name, values[i]->name) == 0) {
                order[i] = k;
                taken[k] = true;
                break;
            }
}

/* Smallest surface first, equal ones by name (insertion sort: n <= 255). */
static void by_size(const Side *s, int n, int *order) {
    for (int i = 1; i < n; i++) {
        int moved = order[i], k = i;
        for (; k > 0 && port_of(s, order[k - 1])->bytes > port_of(s, moved)->bytes; k--)
            order[k] = order[k - 1];
        order[k] = moved;
    }
}

/* splitmix64 (public domain, Sebastiano Vigna): a good enough shuffle. */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void by_chance(uint64_t *state, int n, int *order) {
    for (int i = n - 1; i > 0; i--) {
        int k = (int)(draw(state) % (uint64_t)(i + 1)), t = order[i];
        order[i] = order[k];
        order[k] = t;
    }
}

/* The same for one seed and identity, in every process. */
static uint64_t chance_of(const char *identity) {
    uint64_t h = sa_setting(SA_SET_SEED) ^ 0xcbf29ce484222325u;
    for (; *identity; identity++)
        h = (h ^ (uint8_t)*identity) * 0x100000001b3u;
    return h;
}

/* ============================== Entry point =============================== */

bool sa_symbol_order(SaEntry *e, const SaProgram *program) {
    uint64_t mode = sa_setting(SA_SET_ORDER), state = chance_of(e->identity);
    if (mode == SA_ORDER_NAME)
        return true;
    size_t in = (size_t)e->first_input[e->procedures], out = (size_t)e->first_output[e->procedures];
    e->input_port = calloc(in + 1, sizeof(int));
    e->output_port = calloc(out + 1, sizeof(int));
    bool *taken = calloc(in + out + 1, sizeof *taken);
    if (!taken || !e->input_port || !e->output_port) { /* the entry frees its own */
        free(taken);
        return false;
    }
    for (int p = 0; p < e->procedures; p++)
        for (int output = 0; output < 2; output++) {
            Side s = {e->plan, p, output};
            const SaFunction *f = &program->functions[p];
            const int *first = output ? e->first_output : e->first_input;
            int *order = (output ? e->output_port : e->input_port) + first[p], n = first[p + 1] - first[p];
            for (int i = 0; i < n; i++)
                order[i] = i;
            if (mode == SA_ORDER_DECLARATION)
                by_declaration(&s, output ? f->outputs : f->params, n, order, taken);
            else if (mode == SA_ORDER_SIZE)
                by_size(&s, n, order);
            else
                by_chance(&state, n, order);
        }
    free(taken);
    return true;
}
