// SPDX-License-Identifier: MIT
/* exec_programs.h - the MIL programs of test_exec.c: one table of short ones,
 * and generators of the six training kernels at a small size. */
#ifndef SA_TESTS_EXEC_PROGRAMS_H
#define SA_TESTS_EXEC_PROGRAMS_H

#include <stdarg.h>
#include <stdio.h>

/* ============================== Shorthands ================================ */

#define FUNC(params) "func main<ios18>(" params ") {\n"
#define END(outs) "} -> (" outs ");\n"
#define T(dims) "tensor<fp16, [" dims "]>"
#define F32(dims) "tensor<fp32, [" dims "]>"
#define B(dims) "tensor<bool, [" dims "]>"
#define OP(type, id, expr) type " " id " = " expr "[name=string(\"" id "\")];\n"
#define I32(id, v) "int32 " id " = const()[name=string(\"" id "\"), val=int32(" v ")];\n"
#define BOOL(id, v) "bool " id " = const()[name=string(\"" id "\"), val=bool(" v ")];\n"
#define STR(id, v) "string " id " = const()[name=string(\"" id "\"), val=string(\"" v "\")];\n"
#define F16(id, v) "fp16 " id " = const()[name=string(\"" id "\"), val=fp16(" v ")];\n"
#define VEC(id, n, v) "tensor<int32, [" n "]> " id " = const()[name=string(\"" id "\"), val=tensor<int32, [" n "]>([" v "])];\n"
#define MASK(id, n, v) "tensor<bool, [" n "]> " id " = const()[name=string(\"" id "\"), val=tensor<bool, [" n "]>([" v "])];\n"
#define BLOB(id, dims) T(dims) " " id " = const()[name=string(\"" id "\"), val=" T(dims) \
    "(BLOBFILE(path=string(\"@model_path/weights/" id ".bin\"), offset=uint64(64)))];\n"

/* ============================== Functions ================================= */

static const struct {
    const char *consts, *op;
} unary_programs[] = {
    {"", "abs(x=x)"}, {"", "sign(x=x)"}, {"", "sqrt(x=x)"}, {"", "square(x=x)"}, {"", "exp(x=x)"}, {"", "exp2(x=x)"},
    {"", "erf(x=x)"}, {"", "ceil(x=x)"}, {"", "floor(x=x)"}, {"", "round(x=x)"}, {"", "atan(x=x)"},
    {"", "sigmoid(x=x)"}, {"", "tanh(x=x)"}, {"", "relu(x=x)"}, {"", "relu6(x=x)"}, {"", "silu(x=x)"},
    {"", "softplus(x=x)"}, {"", "softsign(x=x)"}, {"", "sin(x=x)"}, {"", "cos(x=x)"},
    {"", "rsqrt(x=x)"}, {F16("e", "0.001"), "rsqrt(x=x, epsilon=e)"},
    {"", "inverse(x=x)"}, {F16("e", "0"), "inverse(x=x, epsilon=e)"},
    {F16("e", "0"), "log(x=x, epsilon=e)"}, {F16("e", "0.5"), "log(x=x, epsilon=e)"},
    {F16("a", "-1.5") F16("b", "3"), "clip(x=x, alpha=a, beta=b)"}, {F16("a", "0.25"), "threshold(x=x, alpha=a)"},
    {"", "sigmoid_hard(x=x)"}, {F16("a", "1.7") F16("b", "0.6"), "scaled_tanh(x=x, alpha=a, beta=b)"},
    {"", "leaky_relu(x=x)"}, {"", "elu(x=x)"}, {F16("a", "0.3"), "elu(x=x, alpha=a)"},
    {STR("m", "EXACT"), "gelu(x=x, mode=m)"}, {STR("m", "TANH_APPROXIMATION"), "gelu(x=x, mode=m)"},
    {STR("m", "SIGMOID_APPROXIMATION"), "gelu(x=x, mode=m)"},
    {F16("p", "-0.5"), "pow(x=x, y=p)"}, {F16("p", "0.5"), "pow(x=x, y=p)"}, {F16("p", "2"), "pow(x=x, y=p)"},
    {F16("p", "-1"), "pow(x=x, y=p)"}, {F16("p", "3"), "pow(x=x, y=p)"}, {F16("p", "-3"), "pow(x=x, y=p)"},
    {F16("p", "1.7"), "pow(x=x, y=p)"}, {F16("p", "0"), "pow(x=x, y=p)"}, {F16("b", "1.3"), "pow(x=b, y=x)"},
    {F16("d", "3"), "floor_div(x=x, y=d)"}, {F16("d", "3"), "mod(x=x, y=d)"}, {F16("d", "0"), "real_div(x=x, y=d)"},
    {F16("n", "1"), "real_div(x=n, y=x)"}, {F16("d", "0.1"), "mul(x=x, y=d)"}, {F16("d", "7"), "real_div(x=x, y=d)"},
};

/* ============================== Short programs ============================ */

/* kinds: 1 integers (exact), 8 with 1: not exact, 2 uniform in [-2, 2),
 * 4 positive up to 4, 16 any finite bits. */
#define BINARY(dx, dy, dz, op, kinds) \
    {kinds, FUNC(T(dx) " x, " T(dy) " z") OP(T(dz), "y", op "(x=x, y=z)") END("y")}
#define COMPARE(op) \
    {1 | 2, FUNC(T("2, 3, 5, 7") " x, " T("2, 3, 5, 7") " z") OP(B("2, 3, 5, 7"), "c", op "(x=x, y=z)") \
            STR("d", "fp16") OP(T("2, 3, 5, 7"), "y", "cast(x=c, dtype=d)") END("y")}
#define LOGIC(op) \
    {1, FUNC(T("1, 4, 1, 33") " x, " T("1, 4, 1, 33") " z") STR("b", "bool") STR("d", "fp16") \
        OP(B("1, 4, 1, 33"), "p", "cast(x=x, dtype=b)") OP(B("1, 4, 1, 33"), "q", "cast(x=z, dtype=b)") \
        OP(B("1, 4, 1, 33"), "c", op) OP(T("1, 4, 1, 33"), "y", "cast(x=c, dtype=d)") END("y")}
#define REDUCE(op, dx, n, axes, keep, dy, kinds) \
    {kinds, FUNC(T(dx) " x") VEC("a", n, axes) BOOL("k", keep) OP(T(dy), "y", op "(x=x, axes=a, keep_dims=k)") END("y")}
#define REDUCES(op, kinds) \
    REDUCE(op, "1, 37, 1, 70", "1", "1", "true", "1, 1, 1, 70", kinds), REDUCE(op, "1, 37, 1, 70", "1", "-1", "false", "1, 37, 1", kinds), \
    REDUCE(op, "2, 3, 4, 5", "2", "0, 2", "true", "1, 3, 1, 5", kinds), REDUCE(op, "2, 3, 4, 5", "2", "1, 3", "false", "2, 4", kinds), \
    REDUCE(op, "3, 1, 2, 8", "2", "1, 3", "true", "3, 1, 2, 1", kinds), REDUCE(op, "1, 5, 1, 6", "1", "0", "true", "1, 5, 1, 6", kinds), \
    {kinds, FUNC(T("2, 3, 40") " x") BOOL("k", "true") OP(T("1, 1, 1"), "y", op "(x=x, keep_dims=k)") END("y")}
#define SOFTMAX(dims, axis) {2 | 8 | 1, FUNC(T(dims) " x") I32("a", axis) OP(T(dims), "y", "softmax(x=x, axis=a)") END("y")}
#define MATMUL(dx, dy, dz, tx, ty) \
    {1 | 2, FUNC(T(dx) " x, " T(dy) " z") BOOL("tx", tx) BOOL("ty", ty) \
            OP(T(dz), "y", "matmul(x=x, y=z, transpose_x=tx, transpose_y=ty)") END("y")}
#define CONV(dx, dw, dy, n, st, type, np, pad, dil, g) \
    {1 | 2, FUNC(T(dx) " x") BLOB("w", dw) VEC("s", n, st) STR("t", type) VEC("p", np, pad) VEC("d", n, dil) I32("g", g) \
            OP(T(dy), "y", "conv(x=x, weight=w, strides=s, pad_type=t, pad=p, dilations=d, groups=g)") END("y")}
#define MOVE(dx, consts, dy, op) {1 | 16, FUNC(T(dx) " x") consts OP(T(dy), "y", op) END("y")}

static const struct {
    int kinds;
    const char *text;
} programs[] = {
    /* broadcasting */
    BINARY("1, 5, 1, 37", "1, 5, 1, 37", "1, 5, 1, 37", "add", 1 | 2 | 16),
    BINARY("1, 5, 1, 64", "1, 1, 1, 64", "1, 5, 1, 64", "mul", 1 | 2 | 16),
    BINARY("1, 5, 1, 64", "1, 5, 1, 1", "1, 5, 1, 64", "sub", 1 | 2 | 16),
    BINARY("1, 1, 1, 64", "1, 5, 1, 64", "1, 5, 1, 64", "sub", 1 | 2 | 16),
    BINARY("1, 4, 9, 9", "1, 1, 9, 9", "1, 4, 9, 9", "add", 1 | 2),
    BINARY("1, 4, 9, 9", "1, 4, 9, 1", "1, 4, 9, 9", "sub", 1 | 2),
    BINARY("3, 1, 5, 1", "1, 4, 1, 6", "3, 4, 5, 6", "mul", 1 | 2),
    BINARY("2, 1, 3, 1, 5", "2, 4, 1, 6, 1", "2, 4, 3, 6, 5", "sub", 1 | 2),
    BINARY("7", "7", "7", "add", 1 | 2), BINARY("1", "1", "1", "mul", 1 | 2),
    BINARY("1, 40, 1, 1024", "1, 40, 1, 1024", "1, 40, 1, 1024", "mul", 2),
    BINARY("1, 40, 1, 1024", "1, 40, 1, 1", "1, 40, 1, 1024", "real_div", 4),
    BINARY("1, 4, 1, 33", "1, 4, 1, 33", "1, 4, 1, 33", "real_div", 1 | 2 | 16),
    BINARY("1, 4, 1, 33", "1, 4, 1, 33", "1, 4, 1, 33", "floor_div", 1 | 2),
    BINARY("1, 4, 1, 33", "1, 4, 1, 33", "1, 4, 1, 33", "mod", 1 | 2),
    BINARY("1, 4, 1, 33", "1, 4, 1, 33", "1, 4, 1, 33", "pow", 4),
    BINARY("1, 4, 1, 33", "1, 4, 1, 33", "1, 4, 1, 33", "maximum", 1 | 2 | 16),
    BINARY("1, 4, 1, 33", "1, 4, 1, 1", "1, 4, 1, 33", "minimum", 1 | 2 | 16),
    {1 | 2, FUNC(T("1, 4, 1, 33") " x") OP(T("1, 4, 1, 33"), "y", "mul(x=x, y=x)") END("y")},
    {1 | 2, FUNC(T("1, 4, 1, 33") " x") F16("k", "1") OP(T("1, 4, 1, 33"), "y", "sub(x=k, y=x)") END("y")},

    COMPARE("greater"), COMPARE("greater_equal"), COMPARE("less"), COMPARE("less_equal"), COMPARE("equal"), COMPARE("not_equal"),
    LOGIC("logical_and(x=p, y=q)"), LOGIC("logical_or(x=p, y=q)"), LOGIC("logical_xor(x=p, y=q)"), LOGIC("logical_not(x=p)"),
    {1 | 2, FUNC(T("1, 4, 3, 33") " x, " T("1, 4, 1, 33") " z") F16("h", "0.25")
            OP(B("1, 4, 3, 33"), "c", "less(x=x, y=z)") OP(T("1, 4, 3, 33"), "y", "select(cond=c, a=x, b=h)")
            OP(T("1, 4, 3, 33"), "u", "select(cond=c, a=z, b=x)") END("y, u")},
    {1 | 2, FUNC(T("2, 5, 3, 4") " x") BLOB("s", "5") OP(T("2, 5, 3, 4"), "y", "prelu(x=x, alpha=s)") END("y")},
    {1 | 2, FUNC(F32("1, 4, 1, 19") " x") STR("h", "fp16") STR("f", "fp32") OP(T("1, 4, 1, 19"), "a", "cast(x=x, dtype=h)")
            OP(T("1, 4, 1, 19"), "c", "mul(x=a, y=a)") OP(F32("1, 4, 1, 19"), "y", "cast(x=c, dtype=f)") END("y")},
    {1 | 2, FUNC(T("1, 4, 1, 33") " x") STR("i", "int8") STR("h", "fp16") OP("tensor<int8, [1, 4, 1, 33]>", "a", "cast(x=x, dtype=i)")
            OP(T("1, 4, 1, 33"), "y", "cast(x=a, dtype=h)") END("y")},

    REDUCES("reduce_sum", 1 | 2), REDUCES("reduce_mean", 1 | 8 | 2), REDUCES("reduce_max", 1 | 2 | 16), REDUCES("reduce_min", 1 | 2 | 16),
    REDUCES("reduce_l1_norm", 1 | 2), REDUCES("reduce_l2_norm", 1 | 8 | 2), REDUCES("reduce_sum_square", 1 | 2),
    REDUCES("reduce_log_sum", 4), REDUCES("reduce_log_sum_exp", 2),
    REDUCE("reduce_prod", "2, 3, 4, 5", "1", "3", "true", "2, 3, 4, 1", 1 | 2), REDUCE("reduce_prod", "2, 3, 4, 5", "1", "1", "true", "2, 1, 4, 5", 1 | 2),
    REDUCE("reduce_sum", "1, 768, 1, 256", "1", "1", "true", "1, 1, 1, 256", 1 | 2),
    REDUCE("reduce_sum", "4, 64, 1100", "1", "1", "true", "4, 1, 1100", 2), REDUCE("reduce_max", "1, 300, 300", "1", "2", "false", "1, 300", 2),

    SOFTMAX("1, 3, 5, 70", "-1"), SOFTMAX("1, 37, 1, 40", "1"), SOFTMAX("2, 3, 4, 5", "2"), SOFTMAX("1, 1, 1, 7", "1"),
    SOFTMAX("6, 1500", "1"), SOFTMAX("300, 130", "0"), SOFTMAX("2, 20, 1100", "1"),
    {2, FUNC(T("2, 5, 6") " x") VEC("a", "1", "2") BLOB("g", "6") BLOB("b", "6") OP(T("2, 5, 6"), "y", "layer_norm(x=x, axes=a, gamma=g, beta=b)") END("y")},
    {2, FUNC(T("1, 48, 1, 33") " x") VEC("a", "1", "1") BLOB("g", "48") OP(T("1, 48, 1, 33"), "y", "layer_norm(x=x, axes=a, gamma=g)") END("y")},
    {2, FUNC(T("2, 5, 6, 4") " x") VEC("a", "2", "1, 3") BLOB("g", "5, 4") BLOB("b", "5, 4") F16("e", "0.01")
        OP(T("2, 5, 6, 4"), "y", "layer_norm(x=x, axes=a, gamma=g, beta=b, epsilon=e)") END("y")},
    {2, FUNC(T("3, 40") " x") OP(T("3, 40"), "y", "layer_norm(x=x)") END("y")},
    {2, FUNC(T("2, 5, 6, 4") " x") OP(T("2, 5, 6, 4"), "y", "l2_norm(x=x)") END("y")},
    {2, FUNC(T("3, 1, 1, 1") " x") OP(T("3, 1, 1, 1"), "y", "l2_norm(x=x)") END("y")},

    MATMUL("5, 7", "7, 3", "5, 3", "false", "false"), MATMUL("2, 3, 5, 7", "2, 3, 7, 4", "2, 3, 5, 4", "false", "false"),
    MATMUL("2, 3, 5, 7", "1, 1, 7, 4", "2, 3, 5, 4", "false", "false"), MATMUL("1, 1, 5, 7", "2, 3, 4, 7", "2, 3, 5, 4", "false", "true"),
    MATMUL("2, 1, 7, 5", "1, 3, 7, 4", "2, 3, 5, 4", "true", "false"), MATMUL("4, 1, 6", "4, 6, 1", "4, 1, 1", "false", "false"),
    MATMUL("2, 1, 2, 3, 4", "1, 2, 1, 4, 5", "2, 2, 2, 3, 5", "false", "false"), MATMUL("6, 5", "2, 3, 6, 4", "2, 3, 5, 4", "true", "false"),
    MATMUL("1, 4, 128, 64", "1, 4, 128, 64", "1, 4, 128, 128", "false", "true"), MATMUL("1, 256, 256", "1, 256, 256", "1, 256, 256", "false", "false"),
    {1 | 2, FUNC(T("2, 3, 6") " x") BLOB("w", "5, 6") BLOB("b", "5") OP(T("2, 3, 5"), "y", "linear(x=x, weight=w, bias=b)") END("y")},
    {1 | 2, FUNC(T("33") " x") BLOB("w", "70, 33") OP(T("70"), "y", "linear(x=x, weight=w)") END("y")},
    {1 | 2, FUNC(T("1, 4, 6, 5") " x, " T("1, 4, 7, 6") " z") VEC("p", "4", "0, 1, 3, 2") /* transposes that become flags */
            OP(T("1, 4, 5, 6"), "a", "transpose(x=x, perm=p)") OP(T("1, 4, 6, 7"), "b", "transpose(x=z, perm=p)")
            OP(T("1, 4, 5, 7"), "c", "matmul(x=a, y=b)") OP(T("1, 4, 7, 5"), "y", "transpose(x=c, perm=p)") END("y")},
    {1 | 2, FUNC(T("1, 4, 6, 5") " x") VEC("p", "4", "0, 1, 3, 2") BOOL("t", "true") OP(T("1, 4, 5, 6"), "a", "transpose(x=x, perm=p)")
            OP(T("1, 4, 6, 6"), "c", "matmul(x=a, y=a, transpose_x=t)") OP(T("1, 4, 6, 6"), "y", "transpose(x=c, perm=p)") END("y, a, c")},

    CONV("1, 20, 1, 33", "7, 20, 1, 1", "1, 7, 1, 33", "2", "1, 1", "valid", "4", "0, 0, 0, 0", "1, 1", "1"),
    CONV("3, 6, 4, 5", "4, 6, 1, 1", "3, 4, 4, 5", "2", "1, 1", "valid", "4", "0, 0, 0, 0", "1, 1", "1"),
    CONV("1, 256, 1, 300", "130, 256, 1, 1", "1, 130, 1, 300", "2", "1, 1", "valid", "4", "0, 0, 0, 0", "1, 1", "1"),
    CONV("2, 12, 1, 9", "8, 3, 1, 1", "2, 8, 1, 9", "2", "1, 1", "valid", "4", "0, 0, 0, 0", "1, 1", "4"),
    CONV("1, 16, 1, 40", "16, 4, 1, 1", "1, 16, 1, 40", "2", "1, 1", "valid", "4", "0, 0, 0, 0", "1, 1", "4"),
    CONV("1, 3, 9, 10", "5, 3, 3, 3", "1, 5, 9, 10", "2", "1, 1", "same", "4", "0, 0, 0, 0", "1, 1", "1"),
    CONV("2, 3, 9, 10", "5, 3, 3, 2", "2, 5, 5, 5", "2", "2, 2", "same", "4", "0, 0, 0, 0", "1, 1", "1"),
    CONV("1, 4, 11, 12", "6, 2, 3, 3", "1, 6, 4, 10", "2", "2, 1", "custom", "4", "1, 0, 2, 0", "2, 2", "2"),
    CONV("1, 4, 7, 8", "6, 4, 2, 3", "1, 6, 6, 6", "2", "1, 1", "valid", "4", "0, 0, 0, 0", "1, 1", "1"),
    CONV("2, 6, 7, 8", "6, 1, 3, 3", "2, 6, 7, 8", "2", "1, 1", "custom", "4", "1, 1, 1, 1", "1, 1", "6"),
    CONV("1, 6, 7, 8", "12, 1, 3, 3", "1, 12, 3, 4", "2", "2, 2", "custom", "4", "0, 0, 1, 1", "1, 1", "6"),
    CONV("1, 5, 30", "4, 5, 4", "1, 4, 14", "1", "2", "custom", "2", "1, 0", "1", "1"),
    CONV("1, 4, 1, 8", "4, 4, 1, 1", "1, 4, 1, 4", "2", "1, 2", "valid", "4", "0, 0, 0, 0", "1, 1", "1"),
    {1 | 2, FUNC(T("1, 6, 1, 33") " x, " T("1, 5, 1, 6") " k") VEC("s", "4", "5, 6, 1, 1") OP(T("5, 6, 1, 1"), "w", "reshape(x=k, shape=s)")
            OP(T("1, 5, 1, 33"), "y", "conv(x=x, weight=w)") END("y")},

    MOVE("2, 3, 4, 5", VEC("s", "2", "6, 20"), "6, 20", "reshape(x=x, shape=s)"),
    MOVE("2, 3, 4, 5", VEC("p", "4", "0, 1, 3, 2"), "2, 3, 5, 4", "transpose(x=x, perm=p)"),
    MOVE("1, 40, 70, 3", VEC("p", "4", "0, 2, 1, 3"), "1, 70, 40, 3", "transpose(x=x, perm=p)"),
    MOVE("1, 2, 130, 70", VEC("p", "4", "0, 1, 3, 2"), "1, 2, 70, 130", "transpose(x=x, perm=p)"),
    MOVE("1, 2, 128, 64", VEC("p", "4", "0, 1, 3, 2"), "1, 2, 64, 128", "transpose(x=x, perm=p)"),
    MOVE("3, 4, 5, 6", VEC("p", "4", "3, 2, 1, 0"), "6, 5, 4, 3", "transpose(x=x, perm=p)"),
    MOVE("2, 3, 4, 5, 6", VEC("p", "5", "4, 0, 3, 1, 2"), "6, 2, 5, 3, 4", "transpose(x=x, perm=p)"),
    MOVE("5, 1, 4", VEC("p", "3", "1, 0, 2"), "1, 5, 4", "transpose(x=x, perm=p)"),
    MOVE("4, 5", VEC("a", "2", "0, 3"), "1, 4, 5, 1", "expand_dims(x=x, axes=a)"),
    MOVE("1, 4, 1, 5", VEC("a", "1", "2"), "1, 4, 5", "squeeze(x=x, axes=a)"), MOVE("1, 4, 1, 5", "", "1, 4, 1, 5", "identity(x=x)"),
    MOVE("1, 8, 1, 33", VEC("b", "4", "0, 3, 0, 0") VEC("s", "4", "1, 4, 1, 33"), "1, 4, 1, 33", "slice_by_size(x=x, begin=b, size=s)"),
    MOVE("2, 8, 3, 33", VEC("b", "4", "1, 3, 0, 5") VEC("s", "4", "1, 4, -1, 20"), "1, 4, 3, 20", "slice_by_size(x=x, begin=b, size=s)"),
    MOVE("2, 8, 9", VEC("b", "3", "0, -2, 8") VEC("e", "3", "2, 0, 0") VEC("s", "3", "1, -2, -3") MASK("m", "3", "true, false, false"),
         "2, 3, 3", "slice_by_index(x=x, begin=b, end=e, stride=s, begin_mask=m)"),
    MOVE("2, 8, 9", VEC("b", "3", "1, 2, 0") VEC("e", "3", "0, 6, 0") MASK("q", "3", "true, false, false") MASK("m", "3", "false, false, true"),
         "4, 9", "slice_by_index(x=x, begin=b, end=e, squeeze_mask=q, end_mask=m)"),
    MOVE("2, 3, 4", VEC("r", "3", "2, 1, 3"), "4, 3, 12", "tile(x=x, reps=r)"), MOVE("2, 3, 4", VEC("r", "3", "1, 1, 1"), "2, 3, 4", "tile(x=x, reps=r)"),
    MOVE("2, 3, 4", VEC("a", "2", "0, -1"), "2, 3, 4", "reverse(x=x, axes=a)"), MOVE("5, 33", "", "5, 33", "reverse(x=x)"),
    MOVE("2, 3, 4", VEC("p", "4", "1, 2, 0, 3") F16("c", "7"), "2, 6, 7", "pad(x=x, pad=p, constant_val=c)"),
    MOVE("2, 3, 4", VEC("p", "6", "0, 1, 0, 0, 2, 0"), "3, 3, 6", "pad(x=x, pad=p)"),
    MOVE("2, 5, 6", VEC("p", "4", "4, 2, 0, 3") STR("m", "reflect"), "2, 11, 9", "pad(x=x, pad=p, mode=m)"),
    MOVE("2, 5, 6", VEC("p", "4", "4, 2, 1, 3") STR("m", "replicate"), "2, 11, 10", "pad(x=x, pad=p, mode=m)"),
    MOVE("2, 5, 6", VEC("i", "3", "4, 0, -2") I32("a", "1"), "2, 3, 6", "gather(x=x, indices=i, axis=a)"),
    MOVE("9, 4", VEC("i", "2", "7, 7"), "2, 4", "gather(x=x, indices=i)"),

    /* joins: computed in place, copied, nested, the same value twice */
    {1 | 2, FUNC(T("1, 3, 1, 33") " x, " T("1, 5, 1, 33") " z") I32("a", "1") BOOL("f", "false") OP(T("1, 3, 1, 33"), "u", "add(x=x, y=x)")
            OP(T("1, 16, 1, 33"), "y", "concat(axis=a, interleave=f, values=(u, x, z, z))") END("y")},
    {1 | 2, FUNC(T("2, 3, 4") " x, " T("2, 3, 5") " z") I32("a", "-1") BOOL("f", "false") OP(T("2, 3, 4"), "u", "add(x=x, y=x)")
            OP(T("2, 3, 13"), "y", "concat(axis=a, interleave=f, values=(u, z, x))") END("y")},
    {1 | 2, FUNC(T("1, 3, 1, 33") " x") I32("a", "1") BOOL("f", "false") OP(T("1, 3, 1, 33"), "u", "add(x=x, y=x)")
            OP(T("1, 3, 1, 33"), "v", "mul(x=u, y=x)") OP(T("1, 6, 1, 33"), "c", "concat(axis=a, interleave=f, values=(u, v))")
            OP(T("1, 6, 1, 33"), "d", "sub(x=c, y=c)") OP(T("1, 18, 1, 33"), "y", "concat(axis=a, interleave=f, values=(c, d, c))") END("y, u")},
    {1 | 2, FUNC(T("3, 4") " x, " T("3, 4") " z") I32("a", "1") OP(T("3, 4"), "u", "mul(x=x, y=z)") OP(T("3, 3, 4"), "y", "stack(axis=a, values=(x, u, z))") END("y")},
    {1 | 2, FUNC(T("3, 4") " x") I32("a", "0") OP(T("3, 4"), "u", "mul(x=x, y=x)") OP(T("2, 3, 4"), "y", "stack(axis=a, values=(u, x))") END("y")},
    {1 | 2, FUNC(T("1, 8, 5") " x") I32("n", "2") I32("a", "1") T("1, 4, 5") " p, " T("1, 4, 5") " q = split(x=x, num_splits=n, axis=a)[name=string(\"s\")];\n"
            OP(T("1, 4, 5"), "y", "sub(x=p, y=q)") END("y, q")},
    {1 | 2, FUNC(T("2, 8, 5") " x") VEC("n", "3", "1, 4, 3") I32("a", "1") T("2, 1, 5") " p, " T("2, 4, 5") " q, " T("2, 3, 5")
            " r = split(x=x, split_sizes=n, axis=a)[name=string(\"s\")];\n" OP(T("2, 4, 5"), "y", "mul(x=p, y=q)") END("y, r")},
    /* taking over an operand's memory must not disturb who still reads it */
    {1 | 2, FUNC(T("1, 4, 1, 64") " x") VEC("b", "4", "0, 1, 0, 0") VEC("s", "4", "1, 1, 1, 64") OP(T("1, 4, 1, 64"), "u", "add(x=x, y=x)")
            OP(T("1, 1, 1, 64"), "t", "slice_by_size(x=u, begin=b, size=s)") OP(T("1, 4, 1, 64"), "y", "mul(x=u, y=t)") END("y")},
    {1 | 2, FUNC(T("1, 4, 4, 64") " x") VEC("r", "3", "4, 4, 64") OP(T("1, 4, 4, 64"), "u", "add(x=x, y=x)") OP(T("1, 4, 4, 64"), "v", "relu(x=u)")
            OP(T("1, 4, 4, 64"), "w", "sub(x=v, y=u)") OP(T("4, 4, 64"), "y", "reshape(x=w, shape=r)") END("y, v")},
};

/* ============================== Training kernels ========================== */

/* Appends to a text. */
typedef struct {
    char *at;
    size_t left;
} Text;

__attribute__((format(printf, 2, 3))) static void put(Text *t, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->at, t->left, fmt, ap);
    va_end(ap);
    t->at += n;
    t->left -= (size_t)n;
}

enum { TRAINING_KERNELS = 6 };

/* Model width, FFN width, heads, width of a head, tokens. A small model; the
 * benchmark sets the size of Stories110M. */
static int kD = 32, kH = 96, kHeads = 4, kd = 8, kT = 64;

static const char *const training_names[TRAINING_KERNELS] = {"fwdAttn", "fwdFFN", "ffnBwd", "sdpaBwd1", "sdpaBwd2", "qkvBwd"};

static void put_op(Text *t, const char *id, int c, int h, int w, const char *expr) {
    put(t, "tensor<fp16, [1, %d, %d, %d]> %s = %s[name=string(\"%s\")];\n", c, h, w, id, expr, id);
}

static void put_blob(Text *t, const char *id, int o, int i) {
    put(t, "tensor<fp16, [%d, %d, 1, 1]> %s = const()[name=string(\"%s\"), val=tensor<fp16, [%d, %d, 1, 1]>"
           "(BLOBFILE(path=string(\"@model_path/weights/%s.bin\"), offset=uint64(64)))];\n", o, i, id, id, o, i, id);
}

static void put_vec4(Text *t, const char *id, int a, int b, int c, int d) {
    put(t, "tensor<int32, [4]> %s = const()[name=string(\"%s\"), val=tensor<int32, [4]>([%d,%d,%d,%d])];\n", id, id, a, b, c, d);
}

static void put_slice(Text *t, const char *id, int from, int channels) {
    put(t, "tensor<int32, [4]> %s_b = const()[name=string(\"%s_b\"), val=tensor<int32, [4]>([0,%d,0,0])];\n", id, id, from);
    put(t, "tensor<int32, [4]> %s_s = const()[name=string(\"%s_s\"), val=tensor<int32, [4]>([1,%d,1,%d])];\n", id, id, channels, kT);
    put(t, "tensor<fp16, [1, %d, 1, %d]> %s = slice_by_size(x=x, begin=%s_b, size=%s_s)[name=string(\"%s\")];\n", channels, kT, id, id, id, id);
}

static void put_conv(Text *t, const char *id, int o, const char *w, const char *x) {
    put(t, "tensor<fp16, [1, %d, 1, %d]> %s = conv(x=%s, weight=%s, strides=st, pad_type=pt, pad=pd4, dilations=st, groups=gr)[name=string(\"%s\")];\n",
        o, kT, id, x, w, id);
}

/* [1,D,1,T] -> [1,h,T,d] and back. */
static void put_heads(Text *t, const char *id, const char *x) {
    put(t, "tensor<fp16, [1, %d, %d, %d]> %s_r = reshape(x=%s, shape=hs)[name=string(\"%s_r\")];\n", kHeads, kd, kT, id, x, id);
    put(t, "tensor<fp16, [1, %d, %d, %d]> %s = transpose(x=%s_r, perm=sw)[name=string(\"%s\")];\n", kHeads, kT, kd, id, id, id);
}

static void put_unheads(Text *t, const char *id, const char *x) {
    put(t, "tensor<fp16, [1, %d, %d, %d]> %s_t = transpose(x=%s, perm=sw)[name=string(\"%s_t\")];\n", kHeads, kd, kT, id, x, id);
    put(t, "tensor<fp16, [1, %d, 1, %d]> %s = reshape(x=%s_t, shape=us)[name=string(\"%s\")];\n", kD, kT, id, id, id);
}

static void put_rmsnorm(Text *t) {
    put(t, "tensor<int32, [1]> ax = const()[name=string(\"ax\"), val=tensor<int32, [1]>([1])];\n"
           "fp16 inv = const()[name=string(\"inv\"), val=fp16(%f)];\nfp16 eps = const()[name=string(\"eps\"), val=fp16(0.00001)];\n"
           "fp16 mh = const()[name=string(\"mh\"), val=fp16(-0.5)];\n"
           "tensor<fp16, [1, %d, 1, 1]> gain = const()[name=string(\"gain\"), val=tensor<fp16, [1, %d, 1, 1]>"
           "(BLOBFILE(path=string(\"@model_path/weights/g.bin\"), offset=uint64(64)))];\n", 1.0 / kD, kD, kD);
    put_op(t, "sq", kD, 1, kT, "mul(x=x, y=x)");
    put_op(t, "ss", 1, 1, kT, "reduce_sum(x=sq, axes=ax, keep_dims=yes)");
    put_op(t, "ms", 1, 1, kT, "mul(x=ss, y=inv)");
    put_op(t, "me", 1, 1, kT, "add(x=ms, y=eps)");
    put_op(t, "rr", 1, 1, kT, "pow(x=me, y=mh)");
    put_op(t, "xr", kD, 1, kT, "mul(x=x, y=rr)");
    put_op(t, "xn", kD, 1, kT, "mul(x=xr, y=gain)");
}

/* Scores and their softmax from the heads q and k. */
static void put_scores(Text *t) {
    put(t, "tensor<fp16, [1, 1, %d, %d]> mask = const()[name=string(\"mask\"), val=tensor<fp16, [1, 1, %d, %d]>"
           "(BLOBFILE(path=string(\"@model_path/weights/mask.bin\"), offset=uint64(64)))];\n", kT, kT, kT, kT);
    put_op(t, "s0", kHeads, kT, kT, "matmul(x=q, y=k, transpose_x=no, transpose_y=yes)");
    put_op(t, "s1", kHeads, kT, kT, "mul(x=s0, y=sc)");
    put_op(t, "s2", kHeads, kT, kT, "add(x=s1, y=mask)");
    put_op(t, "P", kHeads, kT, kT, "softmax(x=s2, axis=last)");
}

static void put_fwd_attn(Text *t) {
    put_rmsnorm(t);
    for (int i = 0; i < 4; i++)
        put_blob(t, (const char *[]){"wq", "wk", "wv", "wo"}[i], kD, kD);
    put_conv(t, "Q", kD, "wq", "xn");
    put_conv(t, "K", kD, "wk", "xn");
    put_conv(t, "V", kD, "wv", "xn");
    put_heads(t, "q", "Q");
    put_heads(t, "k", "K");
    put_heads(t, "v", "V");
    put_scores(t);
    put_op(t, "pv", kHeads, kT, kd, "matmul(x=P, y=v, transpose_x=no, transpose_y=no)");
    put_unheads(t, "attn", "pv");
    put_conv(t, "o", kD, "wo", "attn");
    put_op(t, "out", 6 * kD, 1, kT, "concat(axis=one, interleave=no, values=(o, Q, K, V, attn, xn))");
}

static void put_fwd_ffn(Text *t) {
    put_rmsnorm(t);
    put_blob(t, "w1", kH, kD);
    put_blob(t, "w3", kH, kD);
    put_blob(t, "w2", kD, kH);
    put_conv(t, "h1", kH, "w1", "xn");
    put_conv(t, "h3", kH, "w3", "xn");
    put_op(t, "sg", kH, 1, kT, "sigmoid(x=h1)");
    put_op(t, "sl", kH, 1, kT, "mul(x=h1, y=sg)");
    put_op(t, "gate", kH, 1, kT, "mul(x=sl, y=h3)");
    put_conv(t, "yy", kD, "w2", "gate");
    put_op(t, "out", 2 * kD + 3 * kH, 1, kT, "concat(axis=one, interleave=no, values=(yy, h1, h3, gate, xn))");
}

static void put_ffn_bwd(Text *t) {
    put(t, "fp16 unit = const()[name=string(\"unit\"), val=fp16(1)];\n");
    put_blob(t, "w2t", kH, kD);
    put_blob(t, "w1t", kD, kH);
    put_blob(t, "w3t", kD, kH);
    put_slice(t, "dffn", 0, kD);
    put_slice(t, "h1", kD, kH);
    put_slice(t, "h3", kD + kH, kH);
    put_conv(t, "ds", kH, "w2t", "dffn");
    put_op(t, "sg", kH, 1, kT, "sigmoid(x=h1)");
    put_op(t, "a1", kH, 1, kT, "sub(x=unit, y=sg)");
    put_op(t, "a2", kH, 1, kT, "mul(x=h1, y=a1)");
    put_op(t, "a3", kH, 1, kT, "add(x=unit, y=a2)");
    put_op(t, "sd", kH, 1, kT, "mul(x=sg, y=a3)");
    put_op(t, "b1", kH, 1, kT, "mul(x=ds, y=h3)");
    put_op(t, "dh1", kH, 1, kT, "mul(x=b1, y=sd)");
    put_op(t, "b2", kH, 1, kT, "mul(x=h1, y=sg)");
    put_op(t, "dh3", kH, 1, kT, "mul(x=ds, y=b2)");
    put_conv(t, "d1", kD, "w1t", "dh1");
    put_conv(t, "d3", kD, "w3t", "dh3");
    put_op(t, "dx", kD, 1, kT, "add(x=d1, y=d3)");
    put_op(t, "out", kD + 2 * kH, 1, kT, "concat(axis=one, interleave=no, values=(dx, dh1, dh3))");
}

static void put_sdpa_bwd1(Text *t) {
    put_blob(t, "wot", kD, kD);
    put_slice(t, "Q", 0, kD);
    put_slice(t, "K", kD, kD);
    put_slice(t, "V", 2 * kD, kD);
    put_slice(t, "dx2", 3 * kD, kD);
    put_conv(t, "da", kD, "wot", "dx2");
    put_heads(t, "q", "Q");
    put_heads(t, "k", "K");
    put_heads(t, "v", "V");
    put_heads(t, "dA", "da");
    put_scores(t);
    put_op(t, "dV4", kHeads, kT, kd, "matmul(x=P, y=dA, transpose_x=yes, transpose_y=no)");
    put_op(t, "dP4", kHeads, kT, kT, "matmul(x=dA, y=v, transpose_x=no, transpose_y=yes)");
    put_unheads(t, "dV", "dV4");
    put_op(t, "Pf", kHeads * kT, 1, kT, "reshape(x=P, shape=ps)");
    put_op(t, "dPf", kHeads * kT, 1, kT, "reshape(x=dP4, shape=ps)");
    put_op(t, "out", kD + 2 * kHeads * kT, 1, kT, "concat(axis=one, interleave=no, values=(dV, Pf, dPf))");
}

static void put_sdpa_bwd2(Text *t) {
    put_slice(t, "Pf", 0, kHeads * kT);
    put_slice(t, "dPf", kHeads * kT, kHeads * kT);
    put_slice(t, "Q", 2 * kHeads * kT, kD);
    put_slice(t, "K", 2 * kHeads * kT + kD, kD);
    put_op(t, "P", kHeads, kT, kT, "reshape(x=Pf, shape=qs)");
    put_op(t, "dP", kHeads, kT, kT, "reshape(x=dPf, shape=qs)");
    put_heads(t, "q", "Q");
    put_heads(t, "k", "K");
    put(t, "tensor<int32, [1]> la = const()[name=string(\"la\"), val=tensor<int32, [1]>([-1])];\n");
    put_op(t, "pd", kHeads, kT, kT, "mul(x=P, y=dP)");
    put_op(t, "sm", kHeads, kT, 1, "reduce_sum(x=pd, axes=la, keep_dims=yes)");
    put_op(t, "df", kHeads, kT, kT, "sub(x=dP, y=sm)");
    put_op(t, "e1", kHeads, kT, kT, "mul(x=P, y=df)");
    put_op(t, "dS", kHeads, kT, kT, "mul(x=e1, y=sc)");
    put_op(t, "dQ4", kHeads, kT, kd, "matmul(x=dS, y=k, transpose_x=no, transpose_y=no)");
    put_op(t, "dK4", kHeads, kT, kd, "matmul(x=dS, y=q, transpose_x=yes, transpose_y=no)");
    put_unheads(t, "dQ", "dQ4");
    put_unheads(t, "dK", "dK4");
    put_op(t, "out", 2 * kD, 1, kT, "concat(axis=one, interleave=no, values=(dQ, dK))");
}

static void put_qkv_bwd(Text *t) {
    static const char *const part[3] = {"dq", "dk", "dv"}, *const w[3] = {"wqt", "wkt", "wvt"}, *const c[3] = {"c0", "c1", "c2"};
    for (int i = 0; i < 3; i++) {
        put_blob(t, w[i], kD, kD);
        put_slice(t, part[i], i * kD, kD);
        put_conv(t, c[i], kD, w[i], part[i]);
    }
    put_op(t, "c01", kD, 1, kT, "add(x=c0, y=c1)");
    put_op(t, "out", kD, 1, kT, "add(x=c01, y=c2)");
}

/* The body of kernel k: fwdAttn, fwdFFN, ffnBwd, sdpaBwd1, sdpaBwd2, qkvBwd. */
static void training_kernel(int k, char *buf, size_t cap) {
    static void (*const put_kernel[])(Text *) = {put_fwd_attn, put_fwd_ffn, put_ffn_bwd, put_sdpa_bwd1, put_sdpa_bwd2, put_qkv_bwd};
    const int channels[] = {kD, kD, kD + 2 * kH, 4 * kD, 2 * kHeads * kT + 2 * kD, 3 * kD};
    Text t = {buf, cap};
    put(&t, "func main<ios18>(tensor<fp16, [1, %d, 1, %d]> x) {\n", channels[k], kT);
    put(&t, STR("pt", "valid") VEC("st", "2", "1,1") VEC("pd4", "4", "0,0,0,0") I32("gr", "1") I32("one", "1") I32("last", "-1") BOOL("no", "false")
            BOOL("yes", "true"));
    put(&t, "fp16 sc = const()[name=string(\"sc\"), val=fp16(%f)];\n", 1.0 / sqrt((double)kd));
    put_vec4(&t, "hs", 1, kHeads, kd, kT);
    put_vec4(&t, "us", 1, kD, 1, kT);
    put_vec4(&t, "sw", 0, 1, 3, 2);
    put_vec4(&t, "ps", 1, kHeads * kT, 1, kT);
    put_vec4(&t, "qs", 1, kHeads, kT, kT);
    put_kernel[k](&t);
    put(&t, "} -> (out);\n");
}

#endif
