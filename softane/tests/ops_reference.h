// SPDX-License-Identifier: MIT
/* ops_reference.h - the second half of exec_reference.h: the operations from
 * pools to compressed weights, slow and plainly right, in double. Included
 * there and nowhere else. Written from the definitions in docs/OPS.md, element
 * by element of the result; no helper is shared with plan/ or exec/. */
#ifndef SA_TESTS_OPS_REFERENCE_H
#define SA_TESTS_OPS_REFERENCE_H

/* ============================== Elementwise =============================== */

static double ref_param_or(const SaOp *op, const char *key, double absent) {
    SaDtype t;
    sa_op_number(op, key, &absent, &t);
    return absent;
}

static bool ref_more_unary(const SaOp *op, double x, double *y, double *rel) {
    *rel = 1e-6;
    float f = (float)x, a = (float)ref_param_or(op, "alpha", 1), b = (float)ref_param_or(op, "beta", 0);
    switch (op->id) {
    case SA_OP_TAN: *y = tan(x); return true;
    case SA_OP_ASIN: *y = asin(x); return true;
    case SA_OP_ACOS: *y = acos(x); return true;
    case SA_OP_SINH: *y = sinh(x); return true;
    case SA_OP_COSH: *y = cosh(x); return true;
    case SA_OP_ATANH: *y = atanh(x); return true;
    case SA_OP_CLAMPED_RELU: *rel = 0; *y = fmin((double)b, x < 0 ? (double)(f * a) : x); return true;
    case SA_OP_LINEAR_ACTIVATION: *y = (double)a * x + (double)b; return true;
    case SA_OP_THRESHOLDED_RELU: *rel = 0; *y = x < (double)a ? 0 : x; return true;
    default: return false;
    }
}

static void ref_softplus_parametric(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *a = ref_arg(r, op, "alpha"), *b = ref_arg(r, op, "beta");
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK];
        ref_unravel(i, &out->type, at);
        double u = b->y[at[1]] * x->y[i];
        out->raw[i] = a->y[at[1]] * ((u > 0 ? u : 0) + log1p(exp(-fabs(u))));
        out->slack[i] = 2e-6 * (fabs(out->raw[i]) + fabs(a->y[at[1]] * u));
    }
}

/* ============================== Norms ===================================== */

static void ref_channel_norm(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *mean = ref_arg(r, op, "mean"), *var = ref_arg(r, op, "variance");
    RefValue *gamma = ref_arg(r, op, "gamma"), *beta = ref_arg(r, op, "beta");
    size_t plane = x->n / (size_t)(x->type.dim[0] * x->type.dim[1]);
    double eps = (double)ref_param(op, "epsilon", 1e-5f);
    for (size_t p = 0; p < x->n; p += plane) {
        size_t c = p / plane % (size_t)x->type.dim[1];
        double m = 0, v = 0, g = gamma ? gamma->y[c] : 1, b = beta ? beta->y[c] : 0;
        for (size_t i = 0; i < plane; i++)
            m += x->y[p + i] / (double)plane;
        for (size_t i = 0; i < plane; i++)
            v += pow(x->y[p + i] - m, 2) / (double)plane;
        if (mean) {
            m = mean->y[c];
            v = var->y[c];
        }
        for (size_t i = 0; i < plane; i++) {
            double y = (x->y[p + i] - m) / sqrt(v + eps);
            out->raw[p + i] = y * g + b;
            out->slack[p + i] = (double)(plane + 16) * 0x1p-23 * ((4 + fabs(y)) * fabs(g) + fabs(b));
        }
    }
}

static void ref_lrn(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    int64_t size = 1, channels = x->type.dim[1];
    sa_op_int(op, "size", &size);
    double alpha = (double)ref_param(op, "alpha", 1e-4f), beta = (double)ref_param(op, "beta", 0.75f), k = (double)ref_param(op, "k", 1);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], near[SA_MAX_RANK];
        double sum = 0;
        ref_unravel(i, &out->type, at);
        memcpy(near, at, sizeof at);
        for (int64_t c = at[1] - size / 2; c <= at[1] + (size - 1) / 2; c++)
            if (c >= 0 && c < channels) {
                near[1] = c;
                sum += pow(x->y[ref_ravel(near, &x->type)], 2);
            }
        out->raw[i] = x->y[i] / pow(k + alpha / (double)size * sum, beta);
        out->slack[i] = 5e-6 * fabs(out->raw[i]);
    }
}

/* ============================== Windows =================================== */

/* Strides, dilations and padding in front, as written or as "same" needs. */
typedef struct {
    int n;
    int64_t stride[3], dil[3], before[3], after[3], kernel[3];
} RefWindow;

static RefWindow ref_window(const SaOp *op, const SaType *x, const SaType *out, const int64_t *kernel) {
    RefWindow w = {.n = x->rank - 2, .stride = {1, 1, 1}, .dil = {1, 1, 1}};
    int64_t pad[6] = {0};
    const char *type = "valid";
    sa_op_ints(op, "strides", w.stride, w.n);
    sa_op_ints(op, "dilations", w.dil, w.n);
    sa_op_ints(op, "pad", pad, 2 * w.n);
    sa_op_string(op, "pad_type", &type);
    for (int a = 0; a < w.n; a++) {
        w.kernel[a] = kernel[a];
        int64_t need = (out->dim[2 + a] - 1) * w.stride[a] + (kernel[a] - 1) * w.dil[a] + 1 - x->dim[2 + a];
        need = need > 0 ? need : 0;
        bool custom = strcmp(type, "custom") == 0, lower = strcmp(type, "same_lower") == 0, same = strcmp(type, "same") == 0;
        w.before[a] = custom ? pad[2 * a] : same ? need / 2 : lower ? (need + 1) / 2 : 0;
        w.after[a] = custom ? pad[2 * a + 1] : same || lower ? need - w.before[a] : 0;
    }
    return w;
}

static void ref_pool(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    int64_t kernel[3] = {1, 1, 1};
    bool exclude = false;
    sa_op_ints(op, "kernel_sizes", kernel, 3);
    sa_op_bool(op, "exclude_padding_from_average", &exclude);
    RefWindow w = ref_window(op, &x->type, &out->type, kernel);
    int64_t taps = 1;
    for (int a = 0; a < w.n; a++)
        taps *= kernel[a];
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], src[SA_MAX_RANK];
        double max = -INFINITY, sum = 0, sq = 0, mag = 0, count = 0;
        ref_unravel(i, &out->type, at);
        memcpy(src, at, sizeof at);
        for (int64_t t = 0; t < taps; t++) {
            int64_t rest = t;
            bool inside = true, padded = true;
            for (int a = w.n - 1; a >= 0; a--) {
                int64_t p = at[2 + a] * w.stride[a] + rest % kernel[a] - w.before[a], d = x->type.dim[2 + a];
                rest /= kernel[a];
                inside = inside && p >= 0 && p < d;
                padded = padded && p < d + w.after[a]; /* ceil_mode reaches beyond */
                src[2 + a] = p;
            }
            count += exclude ? inside : padded;
            if (!inside)
                continue;
            double v = x->y[ref_ravel(src, &x->type)];
            max = v > max ? v : max;
            sum += v;
            mag += fabs(v);
            sq += v * v;
        }
        double part = (double)(taps + 2) * 0x1p-24;
        out->raw[i] = op->id == SA_OP_MAX_POOL ? max : op->id == SA_OP_AVG_POOL ? (count > 0 ? sum / count : 0) : sqrt(sq);
        out->slack[i] = op->id == SA_OP_MAX_POOL ? 0 : op->id == SA_OP_AVG_POOL ? (count > 0 ? part * mag / count : 0) : part * sqrt(sq);
    }
}

static void ref_conv_transpose(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *w = ref_arg(r, op, "weight");
    int n = x->type.rank - 2;
    int64_t groups = 1, kernel[3] = {1, 1, 1}, pad[6] = {0}, stride[3] = {1, 1, 1}, dil[3] = {1, 1, 1}, before[3] = {0};
    const char *type = "valid";
    sa_op_int(op, "groups", &groups);
    sa_op_ints(op, "strides", stride, n);
    sa_op_ints(op, "dilations", dil, n);
    sa_op_ints(op, "pad", pad, 2 * n);
    sa_op_string(op, "pad_type", &type);
    int64_t taps = 1, per_out = w->type.dim[1], per_in = x->type.dim[1] / groups;
    for (int a = 0; a < n; a++) {
        kernel[a] = w->type.dim[2 + a];
        taps *= kernel[a];
        int64_t cut = dil[a] * (kernel[a] - 1) + 1 - stride[a]; /* "same" leaves in * stride */
        before[a] = type[0] == 'c' ? pad[2 * a] : type[0] == 's' && cut > 0 ? cut / 2 : 0;
    }
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], xa[SA_MAX_RANK], wa[SA_MAX_RANK];
        double sum = 0, mag = 0;
        ref_unravel(i, &out->type, at);
        xa[0] = at[0];
        wa[1] = at[1] % per_out;
        for (int64_t c = 0; c < per_in; c++)
            for (int64_t t = 0; t < taps; t++) {
                int64_t rest = t;
                bool inside = true;
                wa[0] = xa[1] = at[1] / per_out * per_in + c;
                for (int a = n - 1; a >= 0; a--) {
                    wa[2 + a] = rest % kernel[a];
                    rest /= kernel[a];
                    int64_t p = at[2 + a] + before[a] - wa[2 + a] * dil[a]; /* = stride * x position */
                    inside = inside && p >= 0 && p % stride[a] == 0 && p / stride[a] < x->type.dim[2 + a];
                    xa[2 + a] = p / stride[a];
                }
                double v = inside ? x->y[ref_ravel(xa, &x->type)] * w->y[ref_ravel(wa, &w->type)] : 0;
                sum += v;
                mag += fabs(v);
            }
        ref_dot(out, i, sum, mag, (size_t)(per_in * taps));
    }
}

/* ============================== Products ================================== */

static void ref_einsum(Ref *r, const SaOp *op, RefValue *out) {
    const SaArg *values = sa_op_arg(op, "values");
    RefValue *x = &r->v[values->values[0]->id], *y = &r->v[values->values[1]->id];
    int k = out->type.rank;
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], xa[SA_MAX_RANK], ya[SA_MAX_RANK];
        double sum = 0, mag = 0;
        ref_unravel(i, &out->type, at);
        memcpy(xa, at, sizeof at);
        memcpy(ya, at, sizeof at);
        for (int64_t p = 0; p < x->type.dim[k - 1]; p++) {
            xa[k - 1] = p;
            ya[k - 3] = p;
            double t = ref_at(x, xa, k) * ref_at(y, ya, k);
            sum += t;
            mag += fabs(t);
        }
        ref_dot(out, i, sum, mag, (size_t)x->type.dim[k - 1]);
    }
}

/* The scores are rounded three times on their way: an error of up to 1.5 units
 * each, which the softmax turns into a relative one of the weights. */
static void ref_attention(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *q = ref_arg(r, op, "query"), *k = ref_arg(r, op, "key"), *v = ref_arg(r, op, "value"), *m = ref_arg(r, op, "attn_mask");
    int rank = q->type.rank;
    size_t rows = (size_t)q->type.dim[rank - 2], keys = (size_t)k->type.dim[rank - 2], e = (size_t)q->type.dim[rank - 1];
    size_t ev = (size_t)v->type.dim[rank - 1], batch = q->n / rows / e;
    double *s = calloc(keys, sizeof *s);
    for (size_t b = 0; b < batch; b++)
        for (size_t i = 0; i < rows; i++) {
            double max = -INFINITY, sum = 0, worst = 0;
            SaType t = q->type;
            t.dim[rank - 1] = (int64_t)keys;
            for (size_t j = 0; j < keys; j++) {
                int64_t at[SA_MAX_RANK];
                s[j] = 0;
                for (size_t c = 0; c < e; c++)
                    s[j] += q->y[(b * rows + i) * e + c] * k->y[(b * keys + j) * e + c];
                worst = fmax(worst, fabs(s[j]));
                s[j] /= sqrt((double)e);
                ref_unravel((b * rows + i) * keys + j, &t, at);
                if (m && m->type.dtype == SA_BOOL)
                    s[j] = ref_at(m, at, rank) != 0 ? s[j] : -INFINITY;
                else if (m)
                    s[j] += ref_at(m, at, rank);
                worst = fmax(worst, isinf(s[j]) ? 0 : fabs(s[j]));
                max = fmax(max, s[j]);
            }
            for (size_t j = 0; j < keys; j++)
                sum += exp(s[j] - max);
            for (size_t c = 0; c < ev; c++) {
                double y = 0, mag = 0;
                for (size_t j = 0; j < keys; j++) {
                    double t2 = exp(s[j] - max) / sum * v->y[(b * keys + j) * ev + c];
                    y += t2;
                    mag += fabs(t2);
                }
                out->raw[(b * rows + i) * ev + c] = y;
                out->slack[(b * rows + i) * ev + c] = mag * 0x1p-11 * (2 + 5 * worst);
            }
        }
    free(s);
}

/* ============================== Images ==================================== */

/* Where output i of an axis samples it, from the text of docs/OPS.md. */
static double ref_sample(const char *mode, double i, double in, double out) {
    double at = i * in / out;
    if (!strcmp(mode, "STRICT_ALIGN_CORNERS"))
        at = out > 1 ? i * (in - 1) / (out - 1) : 0;
    else if (!strcmp(mode, "ALIGN_CORNERS"))
        at = out > 1 ? i * (in - 1) / (out - 1) : (in - 1) / 2;
    else if (!strcmp(mode, "OFFSET_CORNERS"))
        at = 0.5 * fmax(1, in - 1) / out + i * fmax(1, in - 1) / out;
    else if (!strcmp(mode, "UNALIGN_CORNERS"))
        at = (i + 0.5) * in / out - 0.5;
    return fmin(in - 1, fmax(0, at));
}

static void ref_resize(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    const char *mode = "DEFAULT", *how = "LINEAR";
    bool corners = true, nearest = op->id == SA_OP_UPSAMPLE_NEAREST_NEIGHBOR || op->id == SA_OP_RESIZE_NEAREST_NEIGHBOR;
    int64_t dims = 2;
    sa_op_string(op, "sampling_mode", &mode);
    sa_op_string(op, "interpolation_mode", &how);
    sa_op_bool(op, "align_corners", &corners);
    sa_op_int(op, "resized_dims", &dims);
    if (op->id == SA_OP_UPSAMPLE_BILINEAR)
        mode = corners ? "STRICT_ALIGN_CORNERS" : "UNALIGN_CORNERS";
    nearest = nearest || how[0] == 'N';
    int rank = x->type.rank;
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], src[SA_MAX_RANK], lo[2] = {0, 0};
        double f[2] = {0, 0}, y = 0, mag = 0;
        ref_unravel(i, &out->type, at);
        for (int a = rank < 2 ? 1 : 0; a < 2; a++) {
            int axis = rank - 2 + a;
            int64_t in = x->type.dim[axis], n = out->type.dim[axis];
            double p = axis < rank - (int)dims ? (double)at[axis]
                       : nearest               ? floor((double)(at[axis] * in / n))
                                               : ref_sample(mode, (double)at[axis], (double)in, (double)n);
            lo[a] = (int64_t)floor(p);
            f[a] = p - floor(p);
        }
        for (int k = 0; k < 4; k++) {
            double weight = (k & 1 ? f[1] : 1 - f[1]) * (k & 2 ? f[0] : 1 - f[0]);
            memcpy(src, at, sizeof at);
            if (weight == 0)
                continue;
            src[rank - 1] = lo[1] + (k & 1);
            if (rank > 1)
                src[rank - 2] = lo[0] + (k >> 1);
            double v = x->y[ref_ravel(src, &x->type)];
            y += weight * v;
            mag += weight * fabs(v);
        }
        out->raw[i] = y;
        /* grid points are fp32: a sixteenth of a place of the position, times the slope */
        out->slack[i] = nearest ? 0 : 0x1p-20 * (mag + 2);
    }
}

/* The source of an element that is only moved; false for a padded one. */
static bool ref_moved_from(Ref *r, const SaOp *op, const RefValue *x, const SaType *out, const int64_t *at, int64_t *src) {
    int64_t b = 1, blocks[2] = {1, 1}, edge[4] = {0}, cut[2] = {0, 0}, axis = 0, stride = 1;
    int64_t n = x->type.dim[0], c = out->dim[1];
    RefValue *pairs = ref_arg(r, op, op->id == SA_OP_SPACE_TO_BATCH ? "paddings" : "crops");
    sa_op_int(op, "block_size", &b);
    sa_op_int(op, "upscale_factor", &b);
    sa_op_int(op, "downscale_factor", &b);
    sa_op_ints(op, "block_shape", blocks, 2);
    for (int i = 0; pairs && i < 4; i++)
        edge[i] = (int64_t)pairs->y[i];
    memcpy(src, at, sizeof(int64_t) * SA_MAX_RANK);
    switch (op->id) {
    case SA_OP_CROP:
        for (int i = 0; i < 2; i++) {
            sa_op_ints(op, i ? "crop_width" : "crop_height", cut, 2);
            src[x->type.rank - 2 + i] += cut[0];
        }
        return true;
    case SA_OP_SPACE_TO_DEPTH: /* channel (i b + j) C + c */
        c = x->type.dim[1];
        src[1] = at[1] % c;
        src[2] = at[2] * b + at[1] / c / b;
        src[3] = at[3] * b + at[1] / c % b;
        return true;
    case SA_OP_DEPTH_TO_SPACE:
        src[1] = (at[2] % b * b + at[3] % b) * c + at[1];
        src[2] = at[2] / b;
        src[3] = at[3] / b;
        return true;
    case SA_OP_PIXEL_UNSHUFFLE: /* channel c b b + i b + j */
        src[1] = at[1] / (b * b);
        src[2] = at[2] * b + at[1] / b % b;
        src[3] = at[3] * b + at[1] % b;
        return true;
    case SA_OP_PIXEL_SHUFFLE:
        src[1] = at[1] * b * b + at[2] % b * b + at[3] % b;
        src[2] = at[2] / b;
        src[3] = at[3] / b;
        return true;
    case SA_OP_SPACE_TO_BATCH: /* image (i b1 + j) N + n */
        src[0] = at[0] % n;
        src[2] = at[2] * blocks[0] + at[0] / n / blocks[1] - edge[0];
        src[3] = at[3] * blocks[1] + at[0] / n % blocks[1] - edge[2];
        return src[2] >= 0 && src[2] < x->type.dim[2] && src[3] >= 0 && src[3] < x->type.dim[3];
    case SA_OP_BATCH_TO_SPACE: {
        int64_t h = at[2] + edge[0], w = at[3] + edge[2];
        src[0] = (h % blocks[0] * blocks[1] + w % blocks[1]) * out->dim[0] + at[0];
        src[2] = h / blocks[0];
        src[3] = w / blocks[1];
        return true;
    }
    default: /* sliding_windows */
        sa_op_int(op, "axis", &axis);
        sa_op_int(op, "stride", &stride);
        axis += axis < 0 ? x->type.rank : 0;
        src[axis] = at[axis] * stride + at[axis + 1];
        for (int a = (int)axis + 1; a < x->type.rank; a++)
            src[a] = at[a + 1];
        return true;
    }
}

static void ref_rearrange(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0}, src[SA_MAX_RANK];
        ref_unravel(i, &out->type, at);
        out->raw[i] = ref_moved_from(r, op, x, &out->type, at, src) ? x->y[ref_ravel(src, &x->type)] : 0;
    }
}

/* ============================== Order ===================================== */

/* Element p of the line through `at` along `axis`. */
static double ref_on_line(const RefValue *x, const int64_t *at, int axis, int64_t p) {
    int64_t mine[SA_MAX_RANK];
    memcpy(mine, at, sizeof mine);
    mine[axis] = p;
    return x->y[ref_ravel(mine, &x->type)];
}

/* The order of numbers: NaN comes before all and is no different from NaN. */
static bool ref_below(double a, double b) { return a < b || (isnan(a) && !isnan(b)); }

static void ref_argmax(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    int axis = (int)ref_axis(op, "axis", -1, x->type.rank);
    SaType t = x->type;
    t.dim[axis] = 1;
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0}, best = 0;
        ref_unravel(i, &t, at);
        for (int64_t p = 1; p < x->type.dim[axis]; p++) {
            double v = ref_on_line(x, at, axis, p), b = ref_on_line(x, at, axis, best);
            best = (op->id == SA_OP_REDUCE_ARGMAX ? ref_below(b, v) : ref_below(v, b)) ? p : best;
        }
        out->raw[i] = (double)best;
    }
}

/* The index that comes at place `k`: so many come before it. */
static int64_t ref_ranked(const RefValue *x, const int64_t *at, int axis, bool ascending, int64_t k) {
    int64_t n = x->type.dim[axis];
    for (int64_t p = 0; p < n; p++) {
        int64_t before = 0;
        for (int64_t q = 0; q < n; q++) {
            double v = ref_on_line(x, at, axis, q), own = ref_on_line(x, at, axis, p);
            before += (ascending ? ref_below(v, own) : ref_below(own, v)) || (q < p && !ref_below(v, own) && !ref_below(own, v));
        }
        if (before == k)
            return p;
    }
    return -1;
}

static void ref_sorted(Ref *r, const SaOp *op, RefValue *out, bool values) {
    RefValue *x = ref_arg(r, op, "x");
    int axis = (int)ref_axis(op, "axis", -1, x->type.rank);
    bool ascending = false;
    sa_op_bool(op, "ascending", &ascending);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0};
        ref_unravel(i, &out->type, at);
        int64_t p = ref_ranked(x, at, axis, ascending, at[axis]);
        out->raw[i] = values ? ref_on_line(x, at, axis, p) : (double)p;
    }
}

static void ref_cumsum(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    int axis = (int)ref_axis(op, "axis", 0, x->type.rank);
    bool exclusive = false, reverse = false;
    sa_op_bool(op, "exclusive", &exclusive);
    sa_op_bool(op, "reverse", &reverse);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0};
        double sum = 0, mag = 0;
        ref_unravel(i, &out->type, at);
        for (int64_t p = 0; p < x->type.dim[axis]; p++) {
            bool counts = (reverse ? p > at[axis] : p < at[axis]) || (p == at[axis] && !exclusive);
            double v = counts ? ref_on_line(x, at, axis, p) : 0;
            sum += v;
            mag += fabs(v);
        }
        ref_dot(out, i, sum, mag, (size_t)x->type.dim[axis]);
    }
}

/* ============================== Indices, made values ====================== */

static int64_t ref_wrapped(double i, int64_t dim) {
    i = i < 0 ? i + (double)dim : i;
    return (int64_t)fmin((double)dim - 1, fmax(0, i));
}

static void ref_gather_more(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *idx = ref_arg(r, op, "indices");
    int axis = (int)ref_axis(op, "axis", 0, x->type.rank);
    int64_t batch = 0;
    sa_op_int(op, "batch_dims", &batch);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0}, src[SA_MAX_RANK] = {0}, row[SA_MAX_RANK] = {0};
        ref_unravel(i, &out->type, at);
        if (op->id == SA_OP_GATHER_ALONG_AXIS) {
            memcpy(src, at, sizeof at);
            src[axis] = ref_wrapped(idx->y[i], x->type.dim[axis]);
        } else {
            int k = idx->type.rank - 1, named = (int)idx->type.dim[k];
            for (int a = 0; a < k; a++)
                row[a] = at[a];
            for (int a = 0; a < x->type.rank; a++) {
                row[k] = a - batch;
                src[a] = a < batch           ? at[a]
                         : a < batch + named ? ref_wrapped(idx->y[ref_ravel(row, &idx->type)], x->type.dim[a])
                                             : at[k + a - (int)batch - named];
            }
        }
        out->raw[i] = x->y[ref_ravel(src, &x->type)];
    }
}

static void ref_one_hot(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *idx = ref_arg(r, op, "indices");
    int axis = (int)ref_axis(op, "axis", -1, out->type.rank);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0}, src[SA_MAX_RANK] = {0};
        ref_unravel(i, &out->type, at);
        for (int a = 0, k = 0; a < out->type.rank; a++)
            if (a != axis)
                src[k++] = at[a];
        bool on = idx->y[ref_ravel(src, &idx->type)] == (double)at[axis];
        out->raw[i] = on ? ref_param_or(op, "on_value", 1) : ref_param_or(op, "off_value", 0);
    }
}

static void ref_band_part(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    int64_t lower = -1, upper = -1;
    sa_op_int(op, "lower", &lower);
    sa_op_int(op, "upper", &upper);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0};
        ref_unravel(i, &out->type, at);
        int64_t row = at[out->type.rank - 2], column = at[out->type.rank - 1];
        bool in = (lower < 0 || row - column <= lower) && (upper < 0 || column - row <= upper);
        out->raw[i] = in ? x->y[i] : 0;
    }
}

/* ============================== Quantised ================================= */

/* Element of a scalar, or of a vector along `axis`. */
static double ref_per_axis(const RefValue *v, const int64_t *at, int64_t axis) {
    return !v ? 0 : v->type.rank == 0 ? v->y[0] : v->y[at[axis]];
}

static void ref_quantize(Ref *r, const SaOp *op, RefValue *out) {
    const char *key = op->id == SA_OP_CONSTEXPR_AFFINE_DEQUANTIZE ? "quantized_data" : "input";
    RefValue *x = ref_arg(r, op, key), *s = ref_arg(r, op, "scale"), *z = ref_arg(r, op, "zero_point");
    int64_t axis = ref_axis(op, "axis", 0, x->type.rank);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0};
        ref_unravel(i, &x->type, at);
        double scale = ref_per_axis(s, at, axis), zero = ref_per_axis(z, at, axis);
        double lo = out->type.dtype == SA_INT8 ? -128 : 0, hi = out->type.dtype == SA_INT8 ? 127 : 255;
        if (op->id == SA_OP_QUANTIZE)
            out->raw[i] = fmin(hi, fmax(lo, rint((double)((float)x->y[i] / (float)scale)) + zero));
        else
            out->raw[i] = (double)((float)(x->y[i] - zero) * (float)scale);
    }
}

static void ref_blockwise(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "data"), *s = ref_arg(r, op, "scale"), *o = ref_arg(r, op, "offset");
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK] = {0};
        ref_unravel(i, &x->type, at);
        for (int a = 0; a < x->type.rank; a++)
            at[a] /= x->type.dim[a] / s->type.dim[a];
        size_t b = ref_ravel(at, &s->type);
        out->raw[i] = (double)((float)(x->y[i] - (o ? o->y[b] : 0)) * (float)s->y[b]);
    }
}

/* Bit field i of a list of bytes. */
static unsigned ref_field(const RefValue *bytes, size_t i, int bits) {
    unsigned v = 0;
    for (int b = 0; b < bits; b++) {
        size_t bit = i * (size_t)bits + (size_t)b;
        v |= ((unsigned)bytes->y[bit / 8] >> (bit % 8) & 1u) << b;
    }
    return v;
}

static void ref_lut(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *idx = ref_arg(r, op, "indices"), *lut = ref_arg(r, op, "lut");
    int64_t axis = ref_axis(op, "vector_axis", 0, idx->type.rank);
    int k = idx->type.rank;
    for (size_t i = 0; i < out->n; i++) {
        if (ref_arg(r, op, "shape")) {
            int bits = (int)lround(log2((double)lut->n));
            out->raw[i] = lut->y[ref_field(idx, i, bits)];
            continue;
        }
        int64_t at[SA_DEEP_RANK] = {0}, place[SA_DEEP_RANK] = {0}, v = lut->type.dim[k + 1];
        ref_unravel(i, &out->type, at);
        place[k + 1] = at[axis] % v;
        at[axis] /= v;
        for (int a = 0; a < k; a++)
            place[a] = at[a] / (idx->type.dim[a] / lut->type.dim[a]);
        place[k] = (int64_t)idx->y[ref_ravel(at, &idx->type)];
        out->raw[i] = lut->y[ref_ravel(place, &lut->type)];
    }
}

static void ref_sparse(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *data = ref_arg(r, op, "nonzero_data"), *mask = ref_arg(r, op, "mask");
    size_t used = 0;
    for (size_t i = 0; i < out->n; i++)
        out->raw[i] = (ref_arg(r, op, "shape") ? ref_field(mask, i, 1) : (unsigned)mask->y[i]) ? data->y[used++] : 0;
}

/* ============================== Dispatch ================================== */

/* The attributes of a constexpr operation are constants without a statement. */
static void ref_const(Ref *r, const SaValue *v);

static void ref_more_result(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    switch (op->id) {
    case SA_OP_SOFTPLUS_PARAMETRIC: ref_softplus_parametric(r, op, out); break;
    case SA_OP_CONV_TRANSPOSE: ref_conv_transpose(r, op, out); break;
    case SA_OP_EINSUM: ref_einsum(r, op, out); break;
    case SA_OP_SCALED_DOT_PRODUCT_ATTENTION: ref_attention(r, op, out); break;
    case SA_OP_MAX_POOL: case SA_OP_AVG_POOL: case SA_OP_L2_POOL: ref_pool(r, op, out); break;
    case SA_OP_BATCH_NORM: case SA_OP_INSTANCE_NORM: ref_channel_norm(r, op, out); break;
    case SA_OP_LOCAL_RESPONSE_NORM: ref_lrn(r, op, out); break;
    case SA_OP_REDUCE_ARGMAX: case SA_OP_REDUCE_ARGMIN: ref_argmax(r, op, out); break;
    case SA_OP_CUMSUM: ref_cumsum(r, op, out); break;
    case SA_OP_ARGSORT: ref_sorted(r, op, out, false); break;
    case SA_OP_UPSAMPLE_NEAREST_NEIGHBOR: case SA_OP_UPSAMPLE_BILINEAR: case SA_OP_RESIZE_NEAREST_NEIGHBOR:
    case SA_OP_RESIZE_BILINEAR: case SA_OP_RESIZE: ref_resize(r, op, out); break;
    case SA_OP_FLATTEN2D: memcpy(out->raw, x->y, x->n * sizeof(double)); break;
    case SA_OP_GATHER_ALONG_AXIS: case SA_OP_GATHER_ND: ref_gather_more(r, op, out); break;
    case SA_OP_ONE_HOT: ref_one_hot(r, op, out); break;
    case SA_OP_BAND_PART: ref_band_part(r, op, out); break;
    case SA_OP_FILL: case SA_OP_FILL_LIKE:
        for (size_t i = 0; i < out->n; i++)
            out->raw[i] = ref_param_or(op, "value", 0);
        break;
    case SA_OP_RANGE_1D:
        for (size_t i = 0; i < out->n; i++)
            out->raw[i] = ref_param_or(op, "start", 0) + (double)i * ref_param_or(op, "step", 1);
        break;
    case SA_OP_QUANTIZE: case SA_OP_DEQUANTIZE: case SA_OP_CONSTEXPR_AFFINE_DEQUANTIZE: ref_quantize(r, op, out); break;
    case SA_OP_CONSTEXPR_BLOCKWISE_SHIFT_SCALE: ref_blockwise(r, op, out); break;
    case SA_OP_CONSTEXPR_LUT_TO_DENSE: ref_lut(r, op, out); break;
    case SA_OP_CONSTEXPR_SPARSE_TO_DENSE: ref_sparse(r, op, out); break;
    case SA_OP_CONSTEXPR_CAST: memcpy(out->raw, ref_arg(r, op, "source_val")->y, out->n * sizeof(double)); break;
    default:
        for (size_t i = 0; i < out->n; i++) {
            double rel = 0;
            if (ref_more_unary(op, x->y[i], &out->raw[i], &rel)) {
                out->slack[i] = isfinite(out->raw[i]) ? rel * (1 + fabs(out->raw[i])) : 0;
                if (rel == 0)
                    out->slack[i] = 0;
            } else {
                ref_rearrange(r, op, out);
                return;
            }
        }
    }
}

/* The operations from SA_OP_TAN on. */
static void ref_more_op(Ref *r, const SaOp *op) {
    for (int i = 0; i < op->n_args; i++)
        if (op->args[i].is_attribute)
            ref_const(r, op->args[i].values[0]);
    Ref even = *r; /* compressed weights are rounded by the compiler */
    even.numerics = SA_NUMERICS_IEEE;
    bool product = op->id == SA_OP_CONV_TRANSPOSE || op->id == SA_OP_EINSUM || op->id == SA_OP_SCALED_DOT_PRODUCT_ATTENTION;
    for (int i = 0; i < op->n_results; i++) {
        RefValue *out = ref_new(r, op->results[i]);
        if (op->id == SA_OP_TOPK)
            ref_sorted(r, op, out, i == 0);
        else
            ref_more_result(r, op, out);
        ref_store(sa_op_is_constexpr(op) || op->id == SA_OP_RANGE_1D ? &even : r, out, product);
    }
}

#endif
