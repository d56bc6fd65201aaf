// SPDX-License-Identifier: MIT
/* port.c - surfaces <-> fp32 slots: the row layout of plan.h, and dtypes.
 *
 * A row whose bytes are a multiple of 64 is followed directly by the next one,
 * so the whole surface is one run; else rows are converted one by one and the
 * padding is neither read nor written. */
#include <math.h>
#include <string.h>

#include "exec.h"

/* ============================== Runs of elements ========================== */

#define SA_LOAD_AS(type)                                       \
    for (size_t i = 0; i < n; i++)                             \
        d[i] = (float)((const type *)s)[i];                    \
    break

static void load_run(const SaKernels *k, SaDtype t, float *d, const void *s, size_t n) {
    switch (t) {
    case SA_FP16: k->half_to_float(d, s, n); break;
    case SA_FP32: memcpy(d, s, n * sizeof *d); break;
    case SA_INT8: SA_LOAD_AS(int8_t);
    case SA_UINT8: SA_LOAD_AS(uint8_t);
    case SA_INT16: SA_LOAD_AS(int16_t);
    case SA_UINT16: SA_LOAD_AS(uint16_t);
    case SA_INT32: SA_LOAD_AS(int32_t);
    case SA_UINT64: SA_LOAD_AS(uint64_t);
    case SA_BOOL:
        for (size_t i = 0; i < n; i++)
            d[i] = ((const uint8_t *)s)[i] ? 1.0f : 0.0f;
        break;
    default: break; /* no port has it: lower.c */
    }
}

/* Saturating; NaN gives 0. lo and hi are exact in double. */
static double into(float x, double lo, double hi) {
    double y = x == x ? (double)x : 0.0;
    return y < lo ? lo : y > hi ? hi : y;
}

#define SA_STORE_AS(type, lo, hi)                              \
    for (size_t i = 0; i < n; i++)                             \
        ((type *)d)[i] = (type)into(s[i], lo, hi);             \
    break

static void store_run(const SaKernels *k, SaDtype t, void *d, const float *s, size_t n) {
    switch (t) {
    case SA_FP16: k->half_even(d, s, n); break; /* exact: the values are on the grid */
    case SA_FP32: memcpy(d, s, n * sizeof *s); break;
    case SA_INT8: SA_STORE_AS(int8_t, -128.0, 127.0);
    case SA_UINT8: SA_STORE_AS(uint8_t, 0.0, 255.0);
    case SA_INT16: SA_STORE_AS(int16_t, -32768.0, 32767.0);
    case SA_UINT16: SA_STORE_AS(uint16_t, 0.0, 65535.0);
    case SA_INT32: SA_STORE_AS(int32_t, -2147483648.0, 2147483647.0);
    case SA_UINT64: SA_STORE_AS(uint64_t, 0.0, 0x1.fffffffffffffp63);
    case SA_BOOL:
        for (size_t i = 0; i < n; i++)
            ((uint8_t *)d)[i] = s[i] != 0.0f;
        break;
    default: break; /* no port has it: lower.c */
    }
}

/* ============================== Whole ports =============================== */

typedef struct {
    SaRun *run;
    const SaPort *port;
    char *surface;
    float *slot;
    bool store;
    size_t rows, width, per_chunk; /* rows of `width` elements, `stride` bytes apart */
    size_t stride;
} PortJob;

static void port_chunk(void *context, size_t chunk) {
    const PortJob *j = context;
    size_t first = chunk * j->per_chunk, last = first + j->per_chunk;
    last = last < j->rows ? last : j->rows;
    for (size_t r = first; r < last; r++) {
        size_t left = (size_t)sa_type_count(&j->port->type) - r * j->width;
        size_t n = j->width < left ? j->width : left;
        char *at = j->surface + r * j->stride;
        float *f = j->slot + r * j->width;
        if (j->store)
            store_run(j->run->k, j->port->type.dtype, at, f, n);
        else
            load_run(j->run->k, j->port->type.dtype, f, at, n);
        if (!j->store && j->port->type.dtype == SA_FP16 && j->run->numerics == SA_NUMERICS_SILICON)
            j->run->k->round[SA_ROUND_SILICON](f, f, n); /* NaN is unknown there: +inf */
    }
}

static void port_move(PortJob *j) {
    const SaPort *p = j->port;
    size_t count = (size_t)sa_type_count(&p->type), size = sa_dtype_bytes(p->type.dtype);
    j->width = (size_t)p->w;
    j->stride = p->row_stride;
    j->per_chunk = sa_units_per_chunk(j->width);
    if (j->stride == j->width * size) { /* one run: cut where it suits us */
        j->width = SA_GRAIN;
        j->stride = SA_GRAIN * size;
        j->per_chunk = 1;
    }
    j->rows = (count + j->width - 1) / j->width;
    size_t chunks = (j->rows + j->per_chunk - 1) / j->per_chunk;
    sa_parallel(j->run->threads, chunks, port_chunk, j);
}

void sa_port_load(SaRun *r, const SaPort *port, const void *surface, float *slot) {
    PortJob j = {.run = r, .port = port, .surface = (char *)(uintptr_t)surface, .slot = slot};
    port_move(&j);
}

void sa_port_store(SaRun *r, const SaPort *port, const float *slot, void *surface) {
    PortJob j = {.run = r, .port = port, .surface = surface, .slot = (float *)(uintptr_t)slot, .store = true};
    port_move(&j);
}
