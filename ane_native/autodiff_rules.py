# SPDX-License-Identifier: MIT
"""Derivatives, one rule per operation: adjoint of the result -> adjoints of the operands.

A rule gets a :class:`Back` and calls :meth:`Back.put` for each operand it knows the adjoint of;
what is put is built only when somebody wants it. Formulas are those of the textbooks; where
the derivative jumps (relu at 0, ties of a maximum) the comments say which value is taken.
"""

from __future__ import annotations

import math

from ane_native.autodiff_base import Back, NotDifferentiable, Rule, kept
from ane_native.autodiff_math import (
    add_back,
    batch_norm_back,
    between,
    cast_back,
    cumsum_back,
    div_back,
    extreme_back,
    gelu_back,
    instance_norm_back,
    l2_norm_back,
    layer_norm_back,
    lrn_back,
    mod_back,
    mul_back,
    per_channel_back,
    pow_back,
    reduce_extreme_back,
    reduction,
    select_back,
    silu_back,
    softmax_back,
    sub_back,
    unary,
)
from ane_native.autodiff_product import (
    attention_back,
    avg_pool_back,
    conv_back,
    conv_transpose_back,
    einsum_back,
    l2_pool_back,
    linear_back,
    matmul_back,
    max_pool_back,
)
from ane_native.autodiff_quantised import (
    affine_back,
    blockwise_back,
    compressed_cast_back,
    lut_back,
    sparse_back,
)
from ane_native.autodiff_shape import (
    band_back,
    concat_back,
    crop_back,
    gather_along_back,
    gather_back,
    gather_nd_back,
    pad_back,
    reshape_back,
    resize_back,
    reverse_back,
    shuffle_back,
    slice_back,
    split_back,
    stack_back,
    tile_back,
    topk_back,
    transpose_back,
    windows_back,
)

__all__ = ["NOT_DIFFERENTIABLE", "RULES", "ZERO", "Back", "NotDifferentiable"]

_U = unary
_R = reduction
RULES: dict[str, Rule] = {
    **{
        "add": add_back,
        "sub": sub_back,
        "mul": mul_back,
        "real_div": div_back,
        "mod": mod_back,
        "pow": pow_back,
    },
    **{"maximum": extreme_back, "minimum": extreme_back, "select": select_back, "cast": cast_back},
    "abs": _U(lambda b, g, x, y, dy: dy * g.sign(x)),
    "sqrt": _U(lambda b, g, x, y, dy: dy * 0.5 / y),
    "rsqrt": _U(lambda b, g, x, y, dy: dy * (y * y * y * -0.5)),
    "inverse": _U(lambda b, g, x, y, dy: -(dy * (y * y))),
    "square": _U(lambda b, g, x, y, dy: dy * (x * 2.0)),
    "exp": _U(lambda b, g, x, y, dy: dy * y),
    "exp2": _U(lambda b, g, x, y, dy: dy * (y * math.log(2))),
    "log": _U(lambda b, g, x, y, dy: dy / (x + b.p("epsilon"))),
    "erf": _U(lambda b, g, x, y, dy: dy * (g.exp(-(x * x)) * (2 / math.sqrt(math.pi)))),
    "atan": _U(lambda b, g, x, y, dy: dy / (x * x + 1.0)),
    "sin": _U(lambda b, g, x, y, dy: dy * g.cos(x)),
    "cos": _U(lambda b, g, x, y, dy: -(dy * g.sin(x))),
    "tan": _U(lambda b, g, x, y, dy: dy * (y * y + 1.0)),
    "asin": _U(lambda b, g, x, y, dy: dy * g.pow(1.0 - x * x, -0.5)),
    "acos": _U(lambda b, g, x, y, dy: -(dy * g.pow(1.0 - x * x, -0.5))),
    "sinh": _U(lambda b, g, x, y, dy: dy * g.cosh(x)),
    "cosh": _U(lambda b, g, x, y, dy: dy * g.sinh(x)),
    "atanh": _U(lambda b, g, x, y, dy: dy / (1.0 - x * x)),
    "clip": _U(lambda b, g, x, y, dy: between(g, x, b.p("alpha"), b.p("beta"), dy)),
    "threshold": _U(lambda b, g, x, y, dy: g.select(g.greater(x, b.p("alpha")), dy, 0.0)),
    "sigmoid": _U(lambda b, g, x, y, dy: dy * (y * (1.0 - y))),
    "sigmoid_hard": _U(lambda b, g, x, y, dy: between(g, y, 0.0, 1.0, dy) * b.p("alpha", 0.2)),
    "tanh": _U(lambda b, g, x, y, dy: dy * (1.0 - y * y)),
    "scaled_tanh": _U(
        lambda b, g, x, y, dy: (
            dy
            * (
                (1.0 - g.square(g.tanh(x * b.p("beta", 1.0))))
                * (b.p("alpha", 1.0) * b.p("beta", 1.0))
            )
        )
    ),
    "relu": _U(lambda b, g, x, y, dy: g.select(g.greater(x, 0.0), dy, 0.0)),  # 0 at 0
    "relu6": _U(lambda b, g, x, y, dy: between(g, x, 0.0, 6.0, dy)),
    "leaky_relu": _U(lambda b, g, x, y, dy: g.select(g.less(x, 0.0), dy * b.p("alpha", 0.01), dy)),
    "prelu": per_channel_back,
    "softplus_parametric": per_channel_back,
    "elu": _U(lambda b, g, x, y, dy: g.select(g.greater(x, 0.0), dy, dy * (y + b.p("alpha", 1.0)))),
    "silu": _U(silu_back),
    "softplus": _U(lambda b, g, x, y, dy: dy * g.sigmoid(x)),
    "softsign": _U(lambda b, g, x, y, dy: dy * g.pow(g.abs(x) + 1.0, -2.0)),
    "clamped_relu": _U(
        lambda b, g, x, y, dy: g.select(
            g.less(y, b.p("beta")), g.select(g.less(x, 0.0), dy * b.p("alpha"), dy), 0.0
        )
    ),
    "linear_activation": _U(lambda b, g, x, y, dy: dy * b.p("alpha")),
    "thresholded_relu": _U(lambda b, g, x, y, dy: g.select(g.less(x, b.p("alpha")), 0.0, dy)),
    "gelu": _U(gelu_back),
    "reduce_sum": _R(lambda b, g, x, y, dy: dy),
    "reduce_mean": _R(lambda b, g, x, y, dy: dy * (y.size / x.size)),
    "reduce_max": _R(reduce_extreme_back),
    "reduce_min": _R(reduce_extreme_back),
    "reduce_l1_norm": _R(lambda b, g, x, y, dy: dy * g.sign(x)),
    "reduce_l2_norm": _R(lambda b, g, x, y, dy: x * (dy / y)),
    "reduce_log_sum": _R(
        lambda b, g, x, y, dy: dy / kept(b, g.reduce_sum(x, b.p("axes"), keep_dims=True))
    ),
    "reduce_log_sum_exp": _R(lambda b, g, x, y, dy: dy * g.exp(x - y)),
    "reduce_sum_square": _R(lambda b, g, x, y, dy: x * (dy * 2.0)),
    "reduce_prod": _R(lambda b, g, x, y, dy: dy * y / x),
    **{"cumsum": cumsum_back, "softmax": softmax_back, "layer_norm": layer_norm_back},
    **{"instance_norm": instance_norm_back, "batch_norm": batch_norm_back, "l2_norm": l2_norm_back},
    **{
        "local_response_norm": lrn_back,
        "matmul": matmul_back,
        "linear": linear_back,
        "einsum": einsum_back,
    },
    **{"scaled_dot_product_attention": attention_back, "conv": conv_back},
    **{"conv_transpose": conv_transpose_back, "avg_pool": avg_pool_back, "l2_pool": l2_pool_back},
    **{"max_pool": max_pool_back, "identity": reshape_back, "reshape": reshape_back},
    **{"expand_dims": reshape_back, "squeeze": reshape_back, "flatten2d": reshape_back},
    **{"transpose": transpose_back, "slice_by_size": slice_back, "slice_by_index": slice_back},
    **{
        "concat": concat_back,
        "stack": stack_back,
        "split": split_back,
        "pad": pad_back,
        "tile": tile_back,
    },
    **{"reverse": reverse_back, "sliding_windows": windows_back, "crop": crop_back},
    **dict.fromkeys(
        ("space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle"), shuffle_back
    ),
    **{"space_to_batch": shuffle_back, "batch_to_space": shuffle_back},
    **dict.fromkeys(
        (
            *("upsample_nearest_neighbor", "upsample_bilinear", "resize_nearest_neighbor"),
            *("resize_bilinear", "resize"),
        ),
        resize_back,
    ),
    **{"gather": gather_back, "gather_along_axis": gather_along_back, "gather_nd": gather_nd_back},
    **{"topk": topk_back, "band_part": band_back, "dequantize": affine_back},
    **{"constexpr_affine_dequantize": affine_back, "constexpr_cast": compressed_cast_back},
    **{"constexpr_blockwise_shift_scale": blockwise_back},
    **{"constexpr_lut_to_dense": lut_back, "constexpr_sparse_to_dense": sparse_back},
}
"""Operation -> how adjoints go back through it."""

ZERO = frozenset({"sign", "ceil", "floor", "round", "floor_div", "fill_like"})
"""Steps: their derivative is 0 wherever there is one. Of the operand of fill_like only the shape
counts."""

NOT_DIFFERENTIABLE: dict[str, str] = {
    **dict.fromkeys(
        ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"),
        "the result is true or false",
    ),
    **dict.fromkeys(("logical_not", "logical_and", "logical_or", "logical_xor"), "bools"),
    **dict.fromkeys(("reduce_argmax", "reduce_argmin", "argsort"), "the results are indices"),
    "one_hot": "the indices are whole numbers, the values constants of the text",
    **dict.fromkeys(("fill", "range_1d"), "all operands are constants of the text"),
    "quantize": "the results are whole numbers",
}
"""Operation -> why it has no derivative."""
