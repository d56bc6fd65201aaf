// SPDX-License-Identifier: MIT
/* type_shape.c - rules of the operations that move elements. Each rule may
 * assume what type.c has checked: required operands are there, with the kinds
 * and dtypes of the table.
 *
 * Sizes come from outside, so every sum and product that could leave int64 is
 * checked; the results are compared with declared types, which are small. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Shape only ================================ */

/* shape: 0 copies the axis of x with the same number, one -1 takes the rest */
SaStatus sa_rule_reshape(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *shape = sa_rule_type(c, "shape");
    SaType *out = &c->out[0];
    int64_t want[SA_MAX_RANK], count = sa_type_count(x), known = 1;
    int open = -1;
    if (shape->dim[0] > SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "shape", "rank %lld, at most %d is allowed", (long long)shape->dim[0],
                            SA_MAX_RANK);
    int rank = (int)shape->dim[0];
    SA_TRY(sa_rule_ints(c, "shape", want, rank));
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    out->rank = rank;
    /* sizes that are given; `known` never passes the count of x, so it cannot overflow far */
    for (int i = 0; i < rank; i++) {
        int64_t d = want[i];
        if (d == 0 && i < x->rank)
            d = x->dim[i];
        if (d == -1) {
            if (open >= 0)
                return sa_rule_fail(c, SA_E_SHAPE, "shape", "more than one -1");
            open = i;
            continue;
        }
        if (d < 1)
            return sa_rule_fail(c, SA_E_SHAPE, "shape", "axis %d has size %lld", i, (long long)d);
        out->dim[i] = d;
        if (__builtin_mul_overflow(known, d, &known) || known > count)
            return sa_rule_fail(c, SA_E_SHAPE, "shape", "more elements than the %lld of x", (long long)count);
    }
    if (open >= 0 ? count % known != 0 : count != known)
        return sa_rule_fail(c, SA_E_SHAPE, "shape", "%lld elements do not make the %lld of x", (long long)known,
                            (long long)count);
    if (open >= 0)
        out->dim[open] = count / known;
    return SA_OK;
}

/* out axis i = axis perm[i] of x */
SaStatus sa_rule_transpose(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    int64_t perm[SA_MAX_RANK];
    unsigned seen = 0;
    SA_TRY(sa_rule_ints(c, "perm", perm, x->rank));
    c->out[0] = *x;
    for (int i = 0; i < x->rank; i++) {
        int at;
        SA_TRY(sa_rule_axis(c, "perm", perm[i], x->rank, &at));
        if (seen & (1u << at))
            return sa_rule_fail(c, SA_E_SHAPE, "perm", "axis %d is given twice", at);
        seen |= 1u << at;
        c->out[0].dim[i] = x->dim[at];
    }
    return SA_OK;
}

/* axes number those of the result */
SaStatus sa_rule_expand_dims(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaType *out = &c->out[0];
    int64_t n = sa_rule_type(c, "axes")->dim[0];
    unsigned mask;
    if (n > SA_MAX_RANK - x->rank)
        return sa_rule_fail(c, SA_E_LIMIT, "axes", "the result has rank %lld, at most %d is allowed",
                            (long long)(n + x->rank), SA_MAX_RANK);
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    out->rank = x->rank + (int)n;
    SA_TRY(sa_rule_axes(c, "axes", out->rank, &mask));
    for (int i = 0, k = 0; i < out->rank; i++)
        out->dim[i] = mask & (1u << i) ? 1 : x->dim[k++];
    return SA_OK;
}

/* listed axes must be 1; without a list all that are 1 go */
SaStatus sa_rule_squeeze(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaType *out = &c->out[0];
    unsigned mask;
    bool listed = sa_op_arg(c->op, "axes") != NULL;
    SA_TRY(sa_rule_axes(c, "axes", x->rank, &mask));
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    for (int i = 0; i < x->rank; i++) {
        bool gone = (mask & (1u << i)) && (listed || x->dim[i] == 1);
        if (gone && x->dim[i] != 1)
            return sa_rule_fail(c, SA_E_SHAPE, "axes", "axis %d has size %lld, not 1", i, (long long)x->dim[i]);
        if (!gone)
            out->dim[out->rank++] = x->dim[i];
    }
    return SA_OK;
}

/* ============================== Slices ==================================== */

/* begin and size per axis; size -1 = to the end. Returns NULL, or what is
 * wrong, naming the operand in *key. */
static const char *slice_size(const SaOp *op, const SaType *x, SaSlice *s, const char **key) {
    int64_t begin[SA_MAX_RANK], size[SA_MAX_RANK];
    *key = "begin";
    if (sa_op_value(op, "begin")->type.dim[0] != x->rank || sa_op_ints(op, "begin", begin, x->rank) != x->rank)
        return "expected one element per axis";
    *key = "size";
    if (sa_op_value(op, "size")->type.dim[0] != x->rank || sa_op_ints(op, "size", size, x->rank) != x->rank)
        return "expected one element per axis";
    for (int i = 0; i < x->rank; i++) {
        *key = "begin";
        if (begin[i] < 0 || begin[i] >= x->dim[i])
            return "lies outside x";
        *key = "size";
        s->count[i] = size[i] == -1 ? x->dim[i] - begin[i] : size[i];
        if (s->count[i] < 1 || s->count[i] > x->dim[i] - begin[i])
            return "reaches outside x";
        s->begin[i] = begin[i];
        s->step[i] = 1;
    }
    return NULL;
}

/* Optional vector of one element per axis; keeps the defaults when absent. */
static bool optional_ints(const SaOp *op, const char *key, int64_t *out, int rank) {
    const SaValue *v = sa_op_value(op, key);
    return !v || (v->type.dim[0] == rank && sa_op_ints(op, key, out, rank) == rank);
}

/* The same for booleans. */
static bool optional_mask(const SaOp *op, const char *key, bool *out, int rank) {
    const SaValue *v = sa_op_value(op, key);
    return !v || (v->type.dim[0] == rank && sa_op_bools(op, key, out, rank) == rank);
}

/* One axis as Python slices it: negative positions count from the end, those
 * beyond are clamped. False when nothing is left. */
static bool slice_axis(int64_t dim, int64_t begin, bool from_start, int64_t end, bool to_end, int64_t step,
                       int64_t *first, int64_t *count) {
    /* a slice backwards may end before the first element: at -1 */
    int64_t lo = step > 0 ? 0 : -1, hi = step > 0 ? dim : dim - 1;
    begin += begin < 0 ? dim : 0;
    end += end < 0 ? dim : 0;
    begin = begin < lo ? lo : begin > hi ? hi : begin;
    end = end < lo ? lo : end > hi ? hi : end;
    if (from_start)
        begin = step > 0 ? 0 : dim - 1;
    if (to_end)
        end = step > 0 ? dim : -1;
    int64_t span = step > 0 ? end - begin : begin - end, stride = step > 0 ? step : -step;
    if (span <= 0)
        return false;
    *first = begin;
    *count = (span - 1) / stride + 1;
    return true;
}

/* begin, end, stride, masks. Returns NULL, or what is wrong. */
static const char *slice_index(const SaOp *op, const SaType *x, SaSlice *s, const char **key) {
    int64_t begin[SA_MAX_RANK] = {0}, end[SA_MAX_RANK] = {0}, stride[SA_MAX_RANK] = {1, 1, 1, 1, 1};
    bool begin_mask[SA_MAX_RANK] = {0}, end_mask[SA_MAX_RANK] = {0};
    if (!optional_ints(op, *key = "begin", begin, x->rank) || !optional_ints(op, *key = "end", end, x->rank) ||
        !optional_ints(op, *key = "stride", stride, x->rank) ||
        !optional_mask(op, *key = "begin_mask", begin_mask, x->rank) ||
        !optional_mask(op, *key = "end_mask", end_mask, x->rank) ||
        !optional_mask(op, *key = "squeeze_mask", s->drop, x->rank))
        return "expected one element per axis";
    for (int i = 0; i < x->rank; i++) {
        *key = "stride";
        if (stride[i] == 0 || stride[i] < -INT32_MAX || stride[i] > INT32_MAX)
            return "must be neither 0 nor huge";
        s->step[i] = stride[i];
        if (s->drop[i]) { /* one element, whatever end says */
            int64_t at = begin_mask[i] ? 0 : begin[i] < 0 ? begin[i] + x->dim[i] : begin[i];
            *key = "begin";
            if (at < 0 || at >= x->dim[i])
                return "lies outside x";
            s->begin[i] = at;
            s->count[i] = 1;
            continue;
        }
        *key = "end";
        if (!slice_axis(x->dim[i], begin[i], begin_mask[i], end[i], end_mask[i], stride[i], &s->begin[i],
                        &s->count[i]))
            return "leaves nothing of an axis";
    }
    return NULL;
}

/* Resolve the slice of `op`; see mil.h. */
static const char *slice_resolve(const SaOp *op, SaSlice *s, const char **key) {
    const SaValue *x = sa_op_value(op, "x");
    memset(s, 0, sizeof *s);
    s->rank = x->type.rank;
    return op->id == SA_OP_SLICE_BY_SIZE ? slice_size(op, &x->type, s, key) : slice_index(op, &x->type, s, key);
}

/* See mil.h: the resolved slice for whoever executes it. */
bool sa_op_slice(const SaOp *op, SaSlice *out) {
    const char *key = "";
    if ((op->id != SA_OP_SLICE_BY_SIZE && op->id != SA_OP_SLICE_BY_INDEX) || !sa_op_value(op, "x") ||
        !sa_op_value(op, "begin") || !sa_op_value(op, op->id == SA_OP_SLICE_BY_SIZE ? "size" : "end"))
        return false;
    return slice_resolve(op, out, &key) == NULL;
}

/* out axis = number of elements taken, squeezed axes go */
static SaStatus rule_slice(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaType *out = &c->out[0];
    SaSlice s;
    const char *key = NULL, *wrong = slice_resolve(c->op, &s, &key);
    if (wrong)
        return sa_rule_fail(c, SA_E_SHAPE, key, "%s", wrong);
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    for (int i = 0; i < x->rank; i++)
        if (!s.drop[i])
            out->dim[out->rank++] = s.count[i];
    return SA_OK;
}

SaStatus sa_rule_slice_by_size(SaRuleCtx *c) { return rule_slice(c); }
SaStatus sa_rule_slice_by_index(SaRuleCtx *c) { return rule_slice(c); }

/* ============================== Joining, splitting ======================== */

/* The values of a tuple must agree with the first but for axis `free_axis`
 * (-1: everywhere). */
static SaStatus check_tuple(SaRuleCtx *c, const SaArg *a, int free_axis) {
    const SaType *first = &a->values[0]->type;
    for (int i = 1; i < a->count; i++) {
        const SaType *t = &a->values[i]->type;
        bool good = t->dtype == first->dtype && t->rank == first->rank;
        for (int k = 0; good && k < t->rank; k++)
            good = k == free_axis || t->dim[k] == first->dim[k];
        if (!good) {
            char want[96], got[96];
            sa_type_format(first, want, sizeof want);
            sa_type_format(t, got, sizeof got);
            return sa_rule_fail(c, SA_E_SHAPE, "values", "'%.60s' is %s, the first is %s", a->values[i]->name, got, want);
        }
    }
    return SA_OK;
}

/* sizes add up along axis */
SaStatus sa_rule_concat(SaRuleCtx *c) {
    const SaArg *a = sa_op_arg(c->op, "values");
    int64_t axis = 0, sum = 0;
    bool interleave = false;
    int at;
    sa_op_int(c->op, "axis", &axis);
    sa_op_bool(c->op, "interleave", &interleave);
    if (interleave)
        return sa_rule_fail(c, SA_E_OPERAND, "interleave", "only false is supported");
    SA_TRY(sa_rule_axis(c, "axis", axis, a->values[0]->type.rank, &at));
    SA_TRY(check_tuple(c, a, at));
    for (int i = 0; i < a->count; i++) /* at most 2^31 values of at most 2^31: no overflow */
        sum += a->values[i]->type.dim[at];
    c->out[0] = a->values[0]->type;
    c->out[0].dim[at] = sum;
    return SA_OK;
}

/* a new axis before `axis` */
SaStatus sa_rule_stack(SaRuleCtx *c) {
    const SaArg *a = sa_op_arg(c->op, "values");
    const SaType *first = &a->values[0]->type;
    SaType *out = &c->out[0];
    int64_t axis = 0;
    int at;
    sa_op_int(c->op, "axis", &axis);
    if (first->rank == SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "values", "the result has rank above %d", SA_MAX_RANK);
    SA_TRY(sa_rule_axis(c, "axis", axis, first->rank + 1, &at));
    SA_TRY(check_tuple(c, a, -1));
    memset(out, 0, sizeof *out);
    out->dtype = first->dtype;
    out->rank = first->rank + 1;
    for (int i = 0, k = 0; i < out->rank; i++)
        out->dim[i] = i == at ? a->count : first->dim[k++];
    return SA_OK;
}

/* num_splits equal parts, or split_sizes; both only when they agree */
SaStatus sa_rule_split(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *sizes = sa_rule_type(c, "split_sizes");
    const SaValue *list = sa_op_value(c->op, "split_sizes");
    int64_t axis = 0, parts = 0, sum = 0;
    int at;
    /* how many parts: told, counted, or both */
    bool counted = sa_op_int(c->op, "num_splits", &parts);
    sa_op_int(c->op, "axis", &axis);
    SA_TRY(sa_rule_axis(c, "axis", axis, x->rank, &at));
    if (!counted && !sizes)
        return sa_rule_fail(c, SA_E_OPERAND, NULL, "num_splits or split_sizes is needed");
    if (counted && (parts < 1 || (!sizes && x->dim[at] % parts)))
        return sa_rule_fail(c, SA_E_SHAPE, "num_splits", "%lld parts do not divide %lld", (long long)parts,
                            (long long)x->dim[at]);
    if (counted && sizes && parts != sizes->dim[0])
        return sa_rule_fail(c, SA_E_SHAPE, "split_sizes", "%lld sizes for %lld parts", (long long)sizes->dim[0],
                            (long long)parts);
    if (sizes)
        parts = sizes->dim[0];
    if (parts != c->op->n_results)
        return sa_rule_fail(c, SA_E_TYPE, NULL, "declared %d results, the operation has %lld", c->op->n_results,
                            (long long)parts);
    for (int i = 0; i < c->op->n_results; i++) {
        int64_t size = x->dim[at] / parts;
        if (sizes && (!sa_const_int_at(list, i, &size) || size < 1 || size > x->dim[at] - sum))
            return sa_rule_fail(c, SA_E_SHAPE, "split_sizes", "part %d does not fit", i);
        sum += size;
        c->out[i] = *x;
        c->out[i].dim[at] = size;
    }
    if (sum != x->dim[at])
        return sa_rule_fail(c, SA_E_SHAPE, "split_sizes", "they add up to %lld, not %lld", (long long)sum,
                            (long long)x->dim[at]);
    return SA_OK;
}

/* ============================== Padding, repeating ======================== */

/* pad: (before, after) of the last axes */
SaStatus sa_rule_pad(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    int64_t n = sa_rule_type(c, "pad")->dim[0], pad[2 * SA_MAX_RANK];
    const char *mode = "constant";
    if (n % 2 || n > 2 * x->rank)
        return sa_rule_fail(c, SA_E_SHAPE, "pad", "expected two elements per padded axis, got %lld", (long long)n);
    SA_TRY(sa_rule_ints(c, "pad", pad, (int)n));
    sa_op_string(c->op, "mode", &mode);
    bool reflect = strcmp(mode, "reflect") == 0;
    c->out[0] = *x;
    for (int i = 0; i < (int)n / 2; i++) {
        int at = x->rank - (int)n / 2 + i;
        int64_t before = pad[2 * i], after = pad[2 * i + 1];
        if (before < 0 || after < 0 || before > INT32_MAX || after > INT32_MAX)
            return sa_rule_fail(c, SA_E_OPERAND, "pad", "must lie between 0 and 2^31");
        if (reflect && (before >= x->dim[at] || after >= x->dim[at]))
            return sa_rule_fail(c, SA_E_SHAPE, "pad", "reflects more than axis %d has", at);
        c->out[0].dim[at] += before + after;
    }
    return SA_OK;
}

/* axis i repeated reps[i] times */
SaStatus sa_rule_tile(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    int64_t reps[SA_MAX_RANK];
    SA_TRY(sa_rule_ints(c, "reps", reps, x->rank));
    c->out[0] = *x;
    for (int i = 0; i < x->rank; i++)
        if (reps[i] < 1 || __builtin_mul_overflow(x->dim[i], reps[i], &c->out[0].dim[i]))
            return sa_rule_fail(c, SA_E_OPERAND, "reps", "%lld repetitions", (long long)reps[i]);
    return SA_OK;
}

/* distinct axes; type of x */
SaStatus sa_rule_reverse(SaRuleCtx *c) {
    unsigned mask;
    SA_TRY(sa_rule_axes(c, "axes", sa_rule_type(c, "x")->rank, &mask));
    return sa_rule_same(c);
}

/* ============================== Gather ==================================== */

/* Every constant index lies in [-dim, dim). Indices from a file pass until
 * they have been read. Expects an operation that passed its rule. */
SaStatus sa_gather_check_indices(const SaOp *op, SaError *err) {
    const SaValue *x = sa_op_value(op, "x"), *indices = sa_op_value(op, "indices");
    SaRuleCtx c = {.op = op, .err = err};
    int64_t first = 0, at, each = 1;
    if (!indices->constant || !indices->constant->data)
        return SA_OK;
    if (op->id == SA_OP_GATHER_ND) { /* the last axis of indices runs over axes of x */
        sa_op_int(op, "batch_dims", &first);
        each = indices->type.dim[indices->type.rank - 1];
    } else {
        sa_op_int(op, "axis", &first);
        first += first < 0 ? x->type.rank : 0;
    }
    for (int64_t i = 0, n = sa_type_count(&indices->type); i < n; i++) {
        int64_t dim = x->type.dim[first + i % each];
        if (!sa_const_int_at(indices, i, &at) || at < -dim || at >= dim)
            return sa_rule_fail(&c, SA_E_OPERAND, "indices", "element %lld is outside an axis of %lld", (long long)i,
                                (long long)dim);
    }
    return SA_OK;
}

/* axis of x is replaced by the axes of indices */
SaStatus sa_rule_gather(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *indices = sa_rule_type(c, "indices");
    SaType *out = &c->out[0];
    int64_t axis = 0, batch = 0;
    int at;
    sa_op_int(c->op, "axis", &axis);
    sa_op_int(c->op, "batch_dims", &batch);
    if (batch != 0)
        return sa_rule_fail(c, SA_E_OPERAND, "batch_dims", "only 0 is supported");
    SA_TRY(sa_rule_axis(c, "axis", axis, x->rank, &at));
    if (x->rank - 1 + indices->rank > SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "indices", "the result has rank %d, at most %d is allowed",
                            x->rank - 1 + indices->rank, SA_MAX_RANK);
    SA_TRY(sa_rule_static_indices(c));
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    /* axes before, those of the indices, axes behind */
    for (int i = 0; i < at; i++)
        out->dim[out->rank++] = x->dim[i];
    for (int i = 0; i < indices->rank; i++)
        out->dim[out->rank++] = indices->dim[i];
    for (int i = at + 1; i < x->rank; i++)
        out->dim[out->rank++] = x->dim[i];
    return sa_gather_check_indices(c->op, c->err);
}
