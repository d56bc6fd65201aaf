// SPDX-License-Identifier: MIT
/* check.c - the validator: all operations of a program, its ports, its limits.
 *
 * Last stage before bind and plan; what passes here needs no further question
 * about types. Names and the death of outputs are the parser's business. Reads
 * the program and changes nothing but n_live_ops. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Limits ==================================== */

/* Largest values seen to work on some machine . */
void sa_limits_default(SaLimits *out) {
    *out = (SaLimits){
        .max_dim = 65536,
        .max_width = 65536,
        .max_conv_in = 31999,
        .max_kernel_width = 15,
        .max_text_bytes = (size_t)64 << 20,
        .max_ops = 65536,
        .max_ports = 255,
        .allow_dialect_a = true,
        .allow_dialect_b = true,
    };
}

/* Every axis of a value; the last one only where it is no constant. */
static SaStatus check_size(const SaValue *v, const SaLimits *limits, SaError *err) {
    for (int i = 0; i < v->type.rank; i++)
        if (v->type.dim[i] > limits->max_dim)
            return sa_error_set(err, SA_E_LIMIT, v->pos, "'%.60s': axis %d has %lld elements, at most %lld are allowed",
                                v->name, i, (long long)v->type.dim[i], (long long)limits->max_dim);
    if (!v->constant && v->type.rank > 0 && v->type.dim[v->type.rank - 1] > limits->max_width)
        return sa_error_set(err, SA_E_LIMIT, v->pos, "'%.60s': width %lld, at most %lld is allowed", v->name,
                            (long long)v->type.dim[v->type.rank - 1], (long long)limits->max_width);
    return SA_OK;
}

/* ============================== Ports ===================================== */

/* Inputs and outputs are surfaces: fp16, or fp32 where the program casts. */
static SaStatus check_port(const SaValue *v, const char *what, SaError *err) {
    if (v->type.dtype == SA_FP16 || v->type.dtype == SA_FP32)
        return SA_OK;
    return sa_error_set(err, SA_E_TYPE, v->pos, "%s '%.60s': expected fp16 or fp32, got %s", what, v->name,
                        sa_dtype_name(v->type.dtype));
}

/* The inputs; outputs follow when their operations have been checked. */
static SaStatus check_ports(const SaFunction *f, const SaLimits *limits, SaError *err) {
    if (f->n_params > limits->max_ports || f->n_outputs > limits->max_ports)
        return sa_error_set(err, SA_E_LIMIT, f->pos, "more than %d inputs or outputs", limits->max_ports);
    for (int i = 0; i < f->n_params; i++) {
        SA_TRY(check_port(f->params[i], "input", err));
        SA_TRY(check_size(f->params[i], limits, err));
    }
    return SA_OK;
}

/* ============================== Operations ================================ */

/* Infer one operation; results that outgrow the stack go to the arena. */
static SaStatus check_op(SaArena *arena, const SaOp *op, const SaLimits *limits, SaError *err) {
    SaType few[8];
    SaRuleCtx c = {.op = op, .limits = limits, .err = err, .out = few};
    if (op->id != SA_OP_CONST) {
        if (op->n_results > (int)(sizeof few / sizeof *few))
            c.out = sa_arena_alloc(arena, (size_t)op->n_results * sizeof *c.out);
        if (!c.out)
            return sa_error_set(err, SA_E_MEMORY, op->pos, "out of memory");
        memset(few, 0, sizeof few);
        SA_TRY(sa_op_infer(&c));
    }
    for (int i = 0; i < op->n_results; i++)
        SA_TRY(check_size(op->results[i], limits, err));
    return SA_OK;
}

/* Count the operations that an output depends on, walking backwards. */
static SaStatus count_live(SaArena *arena, const SaFunction *f, int *count, SaError *err) {
    bool *live = sa_arena_alloc(arena, (size_t)f->n_values * sizeof *live);
    if (!live)
        return sa_error_set(err, SA_E_MEMORY, f->pos, "out of memory");
    for (int i = 0; i < f->n_outputs; i++)
        live[f->outputs[i]->id] = true;
    for (int i = f->n_ops - 1; i >= 0; i--) {
        const SaOp *op = &f->ops[i];
        bool needed = false;
        for (int k = 0; k < op->n_results; k++)
            needed |= live[op->results[k]->id];
        if (!needed || op->id == SA_OP_CONST || sa_op_is_constexpr(op))
            continue;
        ++*count;
        for (int k = 0; k < op->n_args; k++)
            for (int j = 0; j < op->args[k].count; j++)
                live[op->args[k].values[j]->id] = true;
    }
    return SA_OK;
}

/* See mil.h. `limits` may be NULL. Afterwards n_live_ops counts only the
 * operations an output depends on. */
SaStatus sa_program_check(SaArena *arena, SaProgram *p, const SaLimits *limits, SaError *err) {
    SaLimits standard;
    int live = 0;
    if (!limits) {
        sa_limits_default(&standard);
        limits = &standard;
    }
    for (int i = 0; i < p->n_functions; i++) {
        const SaFunction *f = &p->functions[i];
        if (f->n_ops > limits->max_ops)
            return sa_error_set(err, SA_E_LIMIT, f->pos, "more than %d operations", limits->max_ops);
        SA_TRY(check_ports(f, limits, err));
        for (int k = 0; k < f->n_ops; k++)
            SA_TRY(check_op(arena, &f->ops[k], limits, err));
        for (int k = 0; k < f->n_outputs; k++) {
            SA_TRY(check_port(f->outputs[k], "output", err));
            if (sa_value_is_constant(f->outputs[k])) /* a constexpr; consts are the parser's business */
                return sa_error_set(err, SA_E_NAME, f->outputs[k]->pos,
                                    "'%.60s' is no result of an operation: it is optimised away", f->outputs[k]->name);
        }
        SA_TRY(count_live(arena, f, &live, err));
    }
    p->n_live_ops = live;
    return SA_OK;
}
