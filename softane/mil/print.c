// SPDX-License-Identifier: MIT
/* print.c - SaProgram -> text that parses to the same program.
 *
 * The first print normalises (spacing, order of attributes, buildInfo, inline
 * scalars as named consts); printing what was parsed from it changes nothing
 * more. Values are exact: integers as such, other floats in hexadecimal, float
 * tensors and non-finite numbers as words of bits. */
#include "mil_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ============================== Buffer ==================================== */

typedef struct {
    char *text;
    size_t length, cap;
    bool failed; /* out of memory: the rest is dropped */
    char dialect;
} Out;

/* Room for n more bytes and the end. */
static bool reserve(Out *o, size_t n) {
    size_t need, cap;
    if (o->failed)
        return false;
    if (!sa_add_ok(o->length, n, &need) || !sa_add_ok(need, 1, &need))
        return !(o->failed = true);
    if (need <= o->cap)
        return true;
    if (!sa_mul_ok(need, 2, &cap))
        return !(o->failed = true);
    char *text = sa_malloc(cap);
    if (!text)
        return !(o->failed = true);
    if (o->length)
        memcpy(text, o->text, o->length);
    sa_free(o->text);
    o->text = text;
    o->cap = cap;
    return true;
}

/* Append text; a failure is kept in o and shows at the end. */
static void put(Out *o, const char *s) {
    size_t n = strlen(s);
    if (!reserve(o, n))
        return;
    memcpy(o->text + o->length, s, n + 1);
    o->length += n;
}

/* Short pieces only: the result must fit 200 bytes. */
__attribute__((format(printf, 2, 3))) static void putf(Out *o, const char *fmt, ...) {
    char piece[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(piece, sizeof piece, fmt, ap);
    va_end(ap);
    put(o, piece);
}

/* ============================== Pieces ==================================== */

/* A type in the spelling of the dialect. */
static void put_type(Out *o, const SaType *t) {
    char text[160];
    if (t->rank == 0 && o->dialect == 'B') {
        putf(o, "tensor<%s, []>", sa_dtype_name(t->dtype));
        return;
    }
    sa_type_format(t, text, sizeof text);
    put(o, text);
}

/* "text" with the escapes the lexer knows. */
static void put_quoted(Out *o, const char *s) {
    put(o, "\"");
    for (; *s; s++) {
        char two[3] = {'\\', *s, '\0'};
        if (*s == '\n' || *s == '\t')
            two[1] = *s == '\n' ? 'n' : 't';
        put(o, *s == '"' || *s == '\\' || two[1] != *s ? two : two + 1);
    }
    put(o, "\"");
}

/* string("x") in the spelling of the dialect. */
static void put_string(Out *o, const char *s) {
    SaType t = {.dtype = SA_STRING};
    put_type(o, &t);
    put(o, "(");
    put_quoted(o, s);
    put(o, ")");
}

/* One float scalar. No printf of floating point: its radix depends on the
 * locale. `bits` and `width` are those of the value's own format. */
static void put_float(Out *o, float f, uint32_t bits, int width) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    uint32_t e = (u >> 23) & 0xff, m = u & 0x7fffff;
    const char *sign = u >> 31 ? "-" : "";
    if (e == 0xff || (e == 0 && m)) { /* inf, NaN; subnormal floats are simplest as bits, too */
        putf(o, "0x%0*x", width, (unsigned)bits);
    } else if (e == 0) {
        putf(o, "%s0", sign);
    } else if (e < 127 + 20 && f == (float)(int)f) {
        putf(o, "%d", (int)f);
    } else {
        int digits = 6;
        m <<= 1; /* 24 bits: six hexadecimal digits */
        for (; digits > 0 && !(m & 0xf); digits--)
            m >>= 4;
        if (digits)
            putf(o, "%s0x1.%0*xp%d", sign, digits, (unsigned)m, (int)e - 127);
        else
            putf(o, "%s0x1p%d", sign, (int)e - 127);
    }
}

/* Element i of an inline constant. */
static void put_element(Out *o, const SaType *t, const SaConst *c, int64_t i) {
    const char *p = (const char *)c->data + (size_t)i * sa_dtype_bytes(t->dtype);
    uint16_t half;
    uint32_t word;
    float f;
    uint64_t u64;
    int64_t n = 0;
    SaValue v = {.type = *t, .constant = c};
    switch (t->dtype) {
    case SA_FP16:
        memcpy(&half, p, sizeof half);
        if (t->rank)
            putf(o, "0x%04x", (unsigned)half);
        else
            put_float(o, sa_half_to_float(half), half, 4);
        break;
    case SA_FP32:
        memcpy(&word, p, sizeof word);
        memcpy(&f, p, sizeof f);
        if (t->rank)
            putf(o, "0x%08x", (unsigned)word);
        else
            put_float(o, f, word, 8);
        break;
    case SA_BOOL:
        put(o, *p ? "true" : "false");
        break;
    case SA_UINT64:
        memcpy(&u64, p, sizeof u64);
        putf(o, "%llu", (unsigned long long)u64);
        break;
    default:
        sa_const_int_at(&v, i, &n);
        putf(o, "%lld", (long long)n);
        break;
    }
}

/* TYPE "(" … ")" */
static void put_value(Out *o, const SaValue *v) {
    const SaConst *c = v->constant;
    const char *u64 = o->dialect == 'B' ? "tensor<uint64, []>" : "uint64";
    if (v->type.dtype == SA_STRING) {
        put_string(o, c->string);
        return;
    }
    put_type(o, &v->type);
    put(o, "(");
    if (c->blob_path) {
        put(o, "BLOBFILE(path=");
        put_string(o, c->blob_path);
        putf(o, ", offset=%s(%llu))", u64, (unsigned long long)c->blob_offset);
    } else if (v->type.rank == 0) {
        put_element(o, &v->type, c, 0);
    } else {
        for (int64_t i = 0, n = sa_type_count(&v->type); i < n && !o->failed; i++) {
            put(o, i ? ", " : "[");
            put_element(o, &v->type, c, i);
        }
        put(o, "]");
    }
    put(o, ")");
}

/* ============================== Structure ================================= */

/* key=name or key=(a, b) */
static void put_arg(Out *o, const SaArg *a) {
    put(o, a->key);
    put(o, a->is_tuple ? "=(" : "=");
    for (int i = 0; i < a->count; i++) {
        put(o, i ? ", " : "");
        put(o, a->values[i]->name);
    }
    put(o, a->is_tuple ? ")" : "");
}

/* One statement on one line. */
static void put_op(Out *o, const SaOp *op) {
    put(o, "        ");
    for (int i = 0; i < op->n_results; i++) {
        put(o, i ? ", " : "");
        put_type(o, &op->results[i]->type);
        put(o, " ");
        put(o, op->results[i]->name);
    }
    put(o, " = ");
    put(o, sa_op_name(op->id));
    put(o, "(");
    for (int i = 0, n = 0; i < op->n_args; i++) {
        if (op->args[i].is_attribute)
            continue;
        put(o, n++ ? ", " : "");
        put_arg(o, &op->args[i]);
    }
    put(o, ")[name=");
    put_string(o, op->label);
    for (int i = 0; i < op->n_args; i++)
        if (op->args[i].is_attribute) {
            put(o, ", ");
            put(o, op->args[i].key);
            put(o, "=");
            put_value(o, op->args[i].values[0]);
        }
    if (op->id == SA_OP_CONST) {
        put(o, ", val=");
        put_value(o, op->results[0]);
    }
    put(o, "];\n");
}

/* One function with its parameters, statements and outputs. */
static void put_function(Out *o, const SaFunction *f) {
    put(o, "    func ");
    put(o, f->name);
    put(o, "<");
    put(o, f->target);
    put(o, ">(");
    for (int i = 0; i < f->n_params; i++) {
        put(o, i ? ", " : "");
        put_type(o, &f->params[i]->type);
        put(o, " ");
        put(o, f->params[i]->name);
    }
    put(o, ") {\n");
    for (int i = 0; i < f->n_ops && !o->failed; i++)
        put_op(o, &f->ops[i]);
    put(o, "    } -> (");
    for (int i = 0; i < f->n_outputs; i++) {
        put(o, i ? ", " : "");
        put(o, f->outputs[i]->name);
    }
    put(o, ");\n");
}

/* See mil.h. *out is the caller's, to be freed with sa_free; NULL on
 * SA_E_MEMORY. Any thread, as long as nobody changes the program. */
SaStatus sa_program_print(const SaProgram *p, char **out) {
    Out o = {.dialect = p->dialect};
    const char *info = p->dialect == 'B' ? "tensor<string, []>, tensor<string, []>" : "string, string";
    *out = NULL;
    putf(&o, "program(%.40s)\n", p->version);
    putf(&o, "[buildInfo = dict<%s>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n", info);
    for (int i = 0; i < p->n_functions; i++)
        put_function(&o, &p->functions[i]);
    put(&o, "}\n");
    if (o.failed) {
        sa_free(o.text);
        return SA_E_MEMORY;
    }
    *out = o.text;
    return SA_OK;
}
