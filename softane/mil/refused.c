// SPDX-License-Identifier: MIT
/* refused.c - operations of Core ML that softane knows by name only, so that the
 * message can say why, and what to write instead. Operations that it could run
 * but the engine refuses are in optable.c, with a flag. */
#include "mil_internal.h"

#include <string.h>

#define FACTS "[M] refused everywhere: ironmill, sbryngelson/ANEForge"
#define NONE "[P] not among what was seen to run on the engine"
#define STATIC "shapes are static here: "

static const SaRefusedOp refused[] = {
    {"where", "refused by the engine: use select", FACTS},
    {"neg", "refused by the engine: use mul by -1", FACTS},
    {"non_zero", "refused by the engine: the result's shape depends on values", FACTS},
    {"lstm", "refused by the engine: unroll it into products", FACTS},
    {"gru", "refused by the engine: unroll it into products", FACTS},
    {"rnn", "refused by the engine: unroll it into products", "[I] as lstm"},
    {"scatter", "refused by the engine: use select, concat or a product with a constant", FACTS},
    {"scatter_along_axis", "refused by the engine: use select, concat or a product with a constant", FACTS},
    {"scatter_nd", "refused by the engine: use select, concat or a product with a constant", FACTS},
    {"slice_update", "refused by the engine: use concat of slices", "[I] as scatter"},
    {"shape", STATIC "write the numbers", "[M] no dynamic shapes: ironmill, sbryngelson/ANEForge"},
    {"reshape_like", STATIC "use reshape", "[M] no dynamic shapes: ironmill, sbryngelson/ANEForge"},
    {"cond", "refused by the engine: use select", NONE},
    {"while_loop", "refused by the engine: unroll it", NONE},
    {"make_list", "refused by the engine: use tensors", NONE},
    {"list_gather", "refused by the engine: use tensors", NONE},
    {"list_length", "refused by the engine: use tensors", NONE},
    {"list_read", "refused by the engine: use tensors", NONE},
    {"list_scatter", "refused by the engine: use tensors", NONE},
    {"list_write", "refused by the engine: use tensors", NONE},
    {"random_bernoulli", "refused by the engine: make random values on the CPU", NONE},
    {"random_categorical", "refused by the engine: make random values on the CPU", NONE},
    {"random_normal", "refused by the engine: make random values on the CPU", NONE},
    {"random_uniform", "refused by the engine: make random values on the CPU", NONE},
    {"classify", "refused by the engine: use reduce_argmax", NONE},
    {"non_maximum_suppression", "refused by the engine: do it on the CPU", NONE},
    {"reverse_sequence", "not known to run on the engine: use reverse and concat", NONE},
    {"crop_resize", "not known to run on the engine: use crop and resize_bilinear", NONE},
    {"affine", "not known to run on the engine: do it on the CPU", NONE},
    {"resample", "not known to run on the engine: do it on the CPU", NONE},
    {"conv_quantized", "not known to run on the engine: use a constexpr weight", NONE},
    {"read_state", "not known to run on the engine: pass the state as input and output", NONE},
    {"write_state", "not known to run on the engine: pass the state as input and output", NONE},
    {"coreml_update_state", "not known to run on the engine: pass the state as input and output", NONE},
    {"constexpr_lut_to_sparse", "not known to run on the engine: use constexpr_lut_to_dense", NONE},
    {"constexpr_sparse_blockwise_shift_scale", "not known to run on the engine: use constexpr_blockwise_shift_scale", NONE},
    {"group_norm", "no operation of Core ML: reshape the groups to an axis of their own and use layer_norm", NONE},
    {"sort", "no operation of Core ML: use argsort and gather_along_axis", NONE},
    {"acosh", "no operation of Core ML: use log(x + sqrt(x * x - 1))", NONE},
    {"asinh", "no operation of Core ML: use log(x + sqrt(x * x + 1))", NONE},
};

const SaRefusedOp *sa_op_refused_at(int i) {
    return i >= 0 && i < (int)(sizeof refused / sizeof *refused) ? &refused[i] : NULL;
}

const SaRefusedOp *sa_op_refused(const char *name) {
    for (int i = 0; sa_op_refused_at(i); i++)
        if (strcmp(refused[i].name, name) == 0)
            return &refused[i];
    return NULL;
}
