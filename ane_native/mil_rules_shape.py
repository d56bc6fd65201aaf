# SPDX-License-Identifier: MIT
"""Rules of the operations that move elements, resize images, sort, index and make values.

Each rule may assume that required operands are there, of the kinds and dtypes of the table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ane_native.mil_ops import MAX_RANK, SMALL_BITS, Call, Rule, Shape, Type
from ane_native.mil_rules import same, with_shape

__all__ = ["RULES", "grid_points", "slices"]

# =============================== Shape only =====================================


def reshape(c: Call) -> Type:
    """0 copies the axis of x with the same number, one -1 takes the rest."""
    x, told = c.shape("x"), c.constants["shape"]
    count = math.prod(x)
    ok = 1 <= len(told) <= MAX_RANK and min(told, default=0) >= -1 and told.count(-1) <= 1
    c.require(ok, "shape", f"1 to {MAX_RANK} integers >= 1 (one may be -1)", list(told))
    sizes = [x[i] if n == 0 and i < len(x) else n for i, n in enumerate(told)]
    known = math.prod(n for n in sizes if n != -1)
    ok = known > 0 and (count % known == 0 if -1 in sizes else count == known)
    c.require(ok, "shape", f"{count} elements", list(told))
    return with_shape(c, tuple(count // known if n == -1 else n for n in sizes))


def transpose(c: Call) -> Type:
    """Axis i of the result is axis perm[i] of x."""
    x, perm = c.shape("x"), c.constants["perm"]
    ok = all(-len(x) <= p < len(x) for p in perm)
    ok = ok and sorted(p % len(x) for p in perm) == list(range(len(x)))
    c.require(ok, "perm", f"a permutation of 0..{len(x) - 1}", list(perm))
    return with_shape(c, tuple(x[p] for p in perm))


def expand_dims(c: Call) -> Type:
    """axes number those of the result."""
    x = list(c.shape("x"))
    rank = len(x) + len(c.constants["axes"])
    c.require(rank <= MAX_RANK, "axes", f"a result of rank at most {MAX_RANK}", rank)
    axes = c.axes("axes", rank)
    return with_shape(c, tuple(1 if i in axes else x.pop(0) for i in range(rank)))


def squeeze(c: Call) -> Type:
    """Listed axes must be 1; without a list all that are 1 go."""
    x = c.shape("x")
    if "axes" not in c.constants:
        return with_shape(c, tuple(n for n in x if n != 1))
    axes = c.axes("axes", len(x))
    for i in axes:
        c.require(x[i] == 1, "axes", "axes of size 1", f"axis {i} of {list(x)}")
    return with_shape(c, tuple(n for i, n in enumerate(x) if i not in axes))


def flatten2d(c: Call) -> Type:
    x = c.shape("x")
    axis = c.integer("axis", 1)
    c.require(-len(x) <= axis <= len(x), "axis", f"an axis in [{-len(x)}, {len(x)}]", axis)
    axis += len(x) if axis < 0 else 0
    return with_shape(c, (math.prod(x[:axis]), math.prod(x[axis:])))


# =============================== Slices =========================================


def slices(
    op: str, shape: Shape, constants: Mapping[str, Any]
) -> tuple[tuple[slice | int, ...], Shape]:
    """The slice of a ``slice_by_size`` or ``slice_by_index`` as numpy takes it, and its shape."""
    c = Call(op)
    c.types, c.constants = {"x": Type("fp16", shape)}, dict(constants)
    taken = _slices(c)
    made = []
    for t, n in zip(taken, shape, strict=True):
        if isinstance(t, slice):
            made.append(len(range(*t.indices(n))))
    return taken, tuple(made)


def _slices(c: Call) -> tuple[slice | int, ...]:
    x = c.shape("x")
    rank = len(x)
    if c.op == "slice_by_size":
        begin, size = c.integers("begin", rank, 0), c.integers("size", rank, -1)
        part = [n - b if s == -1 else s for b, s, n in zip(begin, size, x, strict=True)]
        ok = all(s >= 1 and b + s <= n for b, s, n in zip(begin, part, x, strict=True))
        c.require(ok, "size", f"a part of {list(x)} from {list(begin)}", list(size))
        return tuple(slice(b, b + s) for b, s in zip(begin, part, strict=True))
    begin, end = c.integers("begin", rank), c.integers("end", rank)
    stride = c.integers("stride", rank, absent=1)
    c.require(0 not in stride, "stride", "integers other than 0", list(stride))
    masks = []
    for key in ("begin_mask", "end_mask", "squeeze_mask"):
        mask = c.constants.get(key, (False,) * rank)
        c.require(len(mask) == rank, key, f"{rank} bools", list(mask))
        masks.append(mask)
    made: list[slice | int] = []
    for i, n in enumerate(x):
        if masks[2][i]:
            at = 0 if masks[0][i] else begin[i] + (n if begin[i] < 0 else 0)
            c.require(0 <= at < n, "begin", f"an element of {n}", begin[i])
            made.append(at)
            continue
        part_of = slice(
            None if masks[0][i] else begin[i], None if masks[1][i] else end[i], stride[i]
        )
        some = len(range(*part_of.indices(n))) > 0
        c.require(some, "end", f"some of the {n} elements of axis {i}", f"{begin[i]}:{end[i]}")
        made.append(part_of)
    return tuple(made)


def slice_rule(c: Call) -> Type:
    taken = _slices(c)
    shape = [
        len(range(*t.indices(n)))
        for t, n in zip(taken, c.shape("x"), strict=True)
        if isinstance(t, slice)
    ]
    return with_shape(c, tuple(shape))


# =============================== Joining, splitting =============================


def _agree(c: Call, axis: int | None) -> Type:
    types = c.tuples["values"]
    c.require(len(types) >= 1, "values", "at least one tensor", len(types))
    first = types[0]
    for t in types[1:]:
        ok = t.dtype == first.dtype and len(t.shape) == len(first.shape)
        ok = ok and all(
            i == axis or m == n for i, (m, n) in enumerate(zip(first.shape, t.shape, strict=False))
        )
        c.require(ok, "values", f"{first}" + ("" if axis is None else f" but for axis {axis}"), t)
    return first


def concat(c: Call) -> Type:
    types = c.tuples["values"]
    c.require(len(types) >= 1, "values", "at least one tensor", len(types))
    c.require(not c.flag("interleave"), "interleave", "False", True)
    axis = c.axis("axis", len(types[0].shape))
    first = _agree(c, axis)
    total = sum(t.shape[axis] for t in types)
    return Type(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))


def stack(c: Call) -> Type:
    first = _agree(c, None)
    rank = len(first.shape) + 1
    c.require(rank <= MAX_RANK, "values", f"a result of rank at most {MAX_RANK}", rank)
    axis = c.axis("axis", rank)
    shape = (*first.shape[:axis], len(c.tuples["values"]), *first.shape[axis:])
    return Type(first.dtype, shape)


def split(c: Call) -> list[Type]:
    """num_splits equal parts, or split_sizes."""
    x = c.shape("x")
    axis = c.axis("axis", len(x))
    sizes: Shape | None = c.constants.get("split_sizes")
    parts: int | None = c.constants.get("num_splits")
    given = sizes is not None or parts is not None
    c.require(given, "split_sizes", "num_splits or split_sizes", "neither")
    if sizes is None:
        equal = parts or 0
        ok = equal >= 1 and x[axis] % equal == 0
        c.require(ok, "num_splits", f"a divisor of {x[axis]}", parts)
        sizes = (x[axis] // equal,) * equal
    c.require(parts in (None, len(sizes)), "num_splits", f"{len(sizes)}", parts)
    ok = min(sizes, default=0) >= 1 and sum(sizes) == x[axis]
    c.require(ok, "split_sizes", f"integers >= 1 that add up to {x[axis]}", list(sizes))
    return [with_shape(c, (*x[:axis], n, *x[axis + 1 :])) for n in sizes]


# =============================== Padding, repeating =============================


def pad(c: Call) -> Type:
    """(before, after) of the last axes."""
    x, told = c.shape("x"), c.constants["pad"]
    ok = len(told) % 2 == 0 and len(told) <= 2 * len(x) and min(told, default=0) >= 0
    c.require(ok, "pad", f"two integers >= 0 for each of up to {len(x)} axes", list(told))
    shape = list(x)
    first = len(x) - len(told) // 2
    for i in range(len(told) // 2):
        low, high = told[2 * i], told[2 * i + 1]
        ok = c.word("mode", "constant") != "reflect" or max(low, high) < x[first + i]
        c.require(ok, "pad", f"less than the {x[first + i]} elements to reflect", (low, high))
        shape[first + i] += low + high
    return with_shape(c, tuple(shape))


def tile(c: Call) -> Type:
    reps = c.integers("reps", len(c.shape("x")), 1)
    return with_shape(c, tuple(n * r for n, r in zip(c.shape("x"), reps, strict=True)))


def reverse(c: Call) -> Type:
    c.axes("axes", len(c.shape("x")))
    return same(c)


def sliding_windows(c: Call) -> Type:
    """axis -> (windows, size)."""
    x = c.rank("x", 1, MAX_RANK - 1)
    axis = c.axis("axis", len(x))
    size, stride = c.integer("size", 1, 1), c.integer("stride", 1, 1)
    c.require(size <= x[axis], "size", f"at most {x[axis]}", size)
    count = (x[axis] - size) // stride + 1
    return with_shape(c, (*x[:axis], count, size, *x[axis + 1 :]))


# =============================== Images =========================================


def upsample(c: Call) -> Type:
    x = c.rank("x", 3)
    made = []
    for key, n in (("scale_factor_height", x[-2]), ("scale_factor_width", x[-1])):
        size = math.floor(n * float(c.constants.get(key, 1)))
        c.require(size >= 1, key, f"a factor that leaves some of {n}", c.constants.get(key))
        made.append(size)
    return with_shape(c, (*x[:-2], *made))


def resize_to(c: Call) -> Type:
    x = c.rank("x", 3)
    size = [c.integer(f"target_size_{side}", 1, 1) for side in ("height", "width")]
    return with_shape(c, (*x[:-2], *size))


def resize(c: Call) -> Type:
    """The last `resized_dims` of `shape` replace the last axes of x; 0 keeps one."""
    x, told = c.shape("x"), c.constants["shape"]
    ok = 1 <= len(told) <= len(x) and min(told, default=-1) >= 0
    c.require(ok, "shape", f"1 to {len(x)} integers >= 0", list(told))
    dims = c.integer("resized_dims", 1, 1, min(2, len(told)) + 1)
    tail = [t or n for t, n in zip(told[-dims:], x[-dims:], strict=True)]
    return with_shape(c, (*x[:-dims], *tail))


def grid_points(mode: str, size_in: int, size_out: int) -> Any:
    """Where each position of a resized axis lies between the elements of the old one."""
    i, n, m = np.arange(size_out, dtype=np.float64), float(size_in), float(size_out)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        alone = (n - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
        at = i * (n - 1) / (m - 1) if size_out > 1 else np.full(1, alone)
    elif mode == "OFFSET_CORNERS":
        at = (i + 0.5) * ((n - 1 if size_in > 2 else 1) / m)
    elif mode == "UNALIGN_CORNERS":
        at = (i + 0.5) * n / m - 0.5
    else:
        at = i * n / m
    return np.clip(at, 0, n - 1)


def crop(c: Call) -> Type:
    x = c.rank("x", 3)
    made = list(x)
    for i, key in ((-2, "crop_height"), (-1, "crop_width")):
        cut = c.integers(key, 2, 0)
        c.require(sum(cut) < x[i], key, f"less than the {x[i]} elements of the axis", list(cut))
        made[i] -= sum(cut)
    return with_shape(c, tuple(made))


def shuffle(c: Call) -> Type:
    x = c.rank("x", 4, 4)
    key = {"pixel_shuffle": "upscale_factor", "pixel_unshuffle": "downscale_factor"}.get(
        c.op, "block_size"
    )
    b = c.integer(key, 1, 1, 46341)
    if c.op in ("space_to_depth", "pixel_unshuffle"):
        ok = x[2] % b == 0 and x[3] % b == 0
        c.require(ok, key, f"a divisor of height {x[2]} and width {x[3]}", b)
        return with_shape(c, (x[0], x[1] * b * b, x[2] // b, x[3] // b))
    c.require(x[1] % (b * b) == 0, key, f"a number whose square divides {x[1]} channels", b)
    return with_shape(c, (x[0], x[1] // (b * b), x[2] * b, x[3] * b))


def space_batch(c: Call) -> Type:
    x = c.rank("x", 4, 4)
    to_batch = c.op == "space_to_batch"
    key = "paddings" if to_batch else "crops"
    b = c.integers("block_shape", 2, 1)
    edges = c.constants[key]
    ok = len(edges) == 2 and all(n >= 0 for pair in edges for n in pair)
    c.require(ok, key, "two pairs of integers >= 0", list(edges))
    area = b[0] * b[1]
    ok = to_batch or x[0] % area == 0
    c.require(ok, "block_shape", f"a product that divides the batch of {x[0]}", list(b))
    sides = []
    for n, size, pair in zip(x[2:], b, edges, strict=True):
        if to_batch:
            total = n + sum(pair)
            c.require(total % size == 0, "block_shape", f"divisors of the padded {total}", size)
            sides.append(total // size)
        else:
            sides.append(n * size - sum(pair))
            c.require(sides[-1] >= 1, key, f"less than {n * size}", list(pair))
    return with_shape(c, (x[0] * area if to_batch else x[0] // area, x[1], *sides))


# =============================== Order, indices =================================


def argmax(c: Call) -> Type:
    x = c.rank("x", 1)
    axis = c.axis("axis", len(x), -1)
    kept = (1,) if c.flag("keep_dims") else ()
    return Type(c.word("output_dtype", "int32"), (*x[:axis], *kept, *x[axis + 1 :]))


def argsort(c: Call) -> Type:
    c.axis("axis", len(c.rank("x", 1)), -1)
    return Type("int32", c.shape("x"))


def topk(c: Call) -> list[Type]:
    x = c.rank("x", 1)
    axis = c.axis("axis", len(x), -1)
    k = c.integer("k", 1, -1, x[axis] + 1)
    c.require(k != 0, "k", "an integer other than 0", k)
    ok = k not in (3, 4) or c.allow_refused
    c.require(ok, "k", "neither 3 nor 4, which the engine refuses: take 5 and cut", k)
    k = x[axis] if k < 0 else k
    values = with_shape(c, (*x[:axis], k, *x[axis + 1 :]))
    if not c.flag("return_indices", True):
        word = c.constants.get("output_indices_dtype")
        c.require(word is None, "output_indices_dtype", "none: nothing is returned", word)
        return [values]
    return [values, Type(c.word("output_indices_dtype", "int32"), values.shape)]


def _static(c: Call) -> None:
    ok = c.allow_refused or "indices" in c.baked
    c.require(ok, "indices", "a constant: the engine refuses computed indices", "a computed value")


def _check_indices(c: Call, dims: Shape) -> None:
    """Every known index lies in its axis."""
    found = c.arrays.get("indices")
    if found is None:
        return
    flat = np.asarray(found).reshape(-1, len(dims))
    for i, n in enumerate(dims):
        column = flat[:, i].astype(np.int64)
        ok = bool(((column >= -n) & (column < n)).all())
        c.require(ok, "indices", f"integers in [{-n}, {n})", f"{column.min()} to {column.max()}")


def gather(c: Call) -> Type:
    x, indices = c.shape("x"), c.shape("indices")
    c.require(c.integer("batch_dims", 0) == 0, "batch_dims", "0", c.integer("batch_dims", 0))
    axis = c.axis("axis", len(x), 0)
    shape = (*x[:axis], *indices, *x[axis + 1 :])
    c.require(len(shape) <= MAX_RANK, "indices", f"a result of rank at most {MAX_RANK}", shape)
    _static(c)
    _check_indices(c, (x[axis],))
    return with_shape(c, shape)


def gather_along_axis(c: Call) -> Type:
    x, indices = c.rank("x", 1), c.shape("indices")
    axis = c.axis("axis", len(x), 0)
    ok = len(indices) == len(x) and all(
        i == axis or m == n for i, (m, n) in enumerate(zip(x, indices, strict=False))
    )
    c.require(ok, "indices", f"the shape {list(x)} but for axis {axis}", list(indices))
    _static(c)
    _check_indices(c, (x[axis],))
    return with_shape(c, indices)


def gather_nd(c: Call) -> Type:
    x, indices = c.rank("x", 1), c.rank("indices", 1)
    batch = c.integer("batch_dims", 0, 0, len(indices))
    named = indices[-1]
    c.require(batch + named <= len(x), "indices", f"at most {len(x) - batch} axes named", named)
    c.require(indices[:batch] == x[:batch], "indices", f"batch axes {x[:batch]}", list(indices))
    shape = (*indices[:-1], *x[batch + named :])
    c.require(len(shape) <= MAX_RANK, "indices", f"a result of rank at most {MAX_RANK}", shape)
    _static(c)
    _check_indices(c, x[batch : batch + named])
    return with_shape(c, shape)


# =============================== Made values ====================================


def _number_dtype(c: Call, key: str, absent: str) -> str:
    dtype: str = c.constants.get(f"{key}.dtype", absent)
    return dtype


def one_hot(c: Call) -> Type:
    indices = c.rank("indices", 0, MAX_RANK - 1)
    size = c.integer("one_hot_vector_size", 1, 1)
    axis = c.axis("axis", len(indices) + 1, -1)
    on, off = _number_dtype(c, "on_value", ""), _number_dtype(c, "off_value", "")
    ok = (not off or off == on) if on else not off
    c.require(ok, "off_value", f"{on or 'none without on_value'}, as on_value", off)
    return Type(on or "int32", (*indices[:axis], size, *indices[axis:]))


def band_part(c: Call) -> Type:
    c.rank("x", 2)
    c.integer("lower", -1, -1)
    c.integer("upper", -1, -1)
    return same(c)


def fill(c: Call) -> Type:
    shape = c.constants["shape"]
    ok = 1 <= len(shape) <= MAX_RANK and min(shape) >= 1 and math.prod(shape) <= 1 << 40
    c.require(ok, "shape", f"1 to {MAX_RANK} integers >= 1", list(shape))
    return Type(_number_dtype(c, "value", "fp16"), shape)


def fill_like(c: Call) -> Type:
    return Type(_number_dtype(c, "value", "fp16"), c.shape("ref_tensor"))


def range_1d(c: Call) -> Type:
    start, end, step = (c.constants[k] for k in ("start", "end", "step"))
    dtypes = [_number_dtype(c, k, "fp16") for k in ("start", "end", "step")]
    c.require(len(set(dtypes)) == 1, "end", "one dtype for start, end and step", dtypes)
    count = math.ceil((end - start) / step) if step else 0
    c.require(0 < count < 2**31, "step", "a range with elements", (start, end, step))
    return Type(dtypes[0], (count,))


# =============================== Quantised, compressed ==========================


def _scales(c: Call, data: Shape, *, always: bool) -> None:
    """scale and zero_point: scalars, or vectors along axis."""
    axis = c.constants.get("axis")
    at = None if axis is None else c.one_axis("axis", axis, len(data))
    vectors = False
    for key in ("scale", "zero_point"):
        if key in c.types and c.shape(key):
            vectors = True
            c.require(at is not None, key, "an axis beside a vector", "none")
            c.vector(key, data[at or 0])
    if always:
        return
    ok = "zero_point" not in c.types or len(c.shape("zero_point")) == len(c.shape("scale"))
    c.require(ok, "zero_point", "a scalar or a vector as scale is", c.types.get("zero_point"))
    c.require(axis is None or vectors, "axis", "none beside scalars", axis)


def quantize(c: Call) -> Type:
    _scales(c, c.rank("input", 1), always=False)
    to = c.constants["output_dtype"]
    ok = "zero_point" not in c.types or c.types["zero_point"].dtype == to
    c.require(ok, "zero_point", f"dtype {to}", c.types.get("zero_point"))
    return Type(to, c.shape("input"))


def dequantize(c: Call) -> Type:
    _scales(c, c.rank("input", 1), always=False)
    dtype = c.types["input"].dtype
    ok = "zero_point" not in c.types or c.types["zero_point"].dtype == dtype
    c.require(ok, "zero_point", f"dtype {dtype}", c.types.get("zero_point"))
    return Type(c.types["scale"].dtype, c.shape("input"))


def affine(c: Call) -> Type:
    _scales(c, c.rank("quantized_data", 1), always=True)
    return Type(c.types["scale"].dtype, c.shape("quantized_data"))


def blockwise(c: Call) -> Type:
    data = c.rank("data", 1)
    scale = c.rank("scale", len(data), len(data))
    ok = all(n % s == 0 for n, s in zip(data, scale, strict=True))
    c.require(ok, "scale", f"divisors of {list(data)}", list(scale))
    if "offset" in c.types:
        t = c.types["offset"]
        ok = t.shape == scale and t.dtype in ("fp16", "fp32", c.types["data"].dtype)
        c.require(ok, "offset", f"{c.types['data'].dtype}{list(scale)}", t)
    return Type(c.types["scale"].dtype, data)


def _packed(c: Call, key: str, bits: int) -> Shape:
    shape = c.constants["shape"]
    ok = 1 <= len(shape) <= MAX_RANK and min(shape) >= 1
    c.require(ok, "shape", f"1 to {MAX_RANK} integers >= 1", list(shape))
    want = (math.prod(shape) * bits + 7) // 8
    ok = c.types[key].dtype == "uint8" and c.shape(key) == (want,)
    c.require(ok, key, f"uint8[{want}] beside a shape", c.types[key])
    return tuple(shape)


def lut(c: Call) -> Type:
    table, indices = c.types["lut"], c.types["indices"]
    if "shape" in c.constants:
        ok = len(table.shape) == 1 and table.shape[0] in (2, 4, 16, 64, 256)
        c.require(ok, "lut", "2, 4, 16, 64 or 256 entries", table)
        return Type(table.dtype, _packed(c, "indices", table.shape[0].bit_length() - 1))
    rank = len(c.rank("indices", 1))
    c.require(len(table.shape) == rank + 2, "lut", f"rank {rank + 2}", table)
    ok = all(n % t == 0 for n, t in zip(indices.shape, table.shape, strict=False))
    c.require(ok, "lut", f"blocks that divide {list(indices.shape)}", table)
    entries = 1 << SMALL_BITS.get(indices.dtype, 8)
    c.require(table.shape[rank] == entries, "lut", f"{entries} entries on axis {rank}", table)
    axis = c.constants.get("vector_axis")
    told = axis is not None or table.shape[-1] == 1
    c.require(told, "vector_axis", "an axis: the table holds vectors", "none")
    shape = list(indices.shape)
    shape[0 if axis is None else c.one_axis("vector_axis", axis, rank)] *= table.shape[-1]
    return Type(table.dtype, tuple(shape))


def sparse(c: Call) -> Type:
    data, mask = c.rank("nonzero_data", 1, 1), c.types["mask"]
    if "shape" in c.constants:
        shape = _packed(c, "mask", 1)
    else:
        c.require(mask.dtype == "uint1", "mask", "uint1, or uint8 beside a shape", mask)
        shape = mask.shape
    ok = data[0] <= math.prod(shape)
    c.require(ok, "nonzero_data", f"at most {math.prod(shape)} values", data[0])
    return Type(c.types["nonzero_data"].dtype, shape)


def constexpr_cast(c: Call) -> Type:
    return Type(c.constants["output_dtype"], c.shape("source_val"))


RULES: dict[str, Rule] = {
    "reshape": reshape,
    "transpose": transpose,
    "expand_dims": expand_dims,
    "squeeze": squeeze,
    "flatten2d": flatten2d,
    "slice_by_size": slice_rule,
    "slice_by_index": slice_rule,
    "concat": concat,
    "stack": stack,
    "split": split,
    "pad": pad,
    "tile": tile,
    "reverse": reverse,
    "sliding_windows": sliding_windows,
    "upsample_nearest_neighbor": upsample,
    "upsample_bilinear": upsample,
    "resize_nearest_neighbor": resize_to,
    "resize_bilinear": resize_to,
    "resize": resize,
    "crop": crop,
    "space_to_depth": shuffle,
    "depth_to_space": shuffle,
    "pixel_shuffle": shuffle,
    "pixel_unshuffle": shuffle,
    "space_to_batch": space_batch,
    "batch_to_space": space_batch,
    "reduce_argmax": argmax,
    "reduce_argmin": argmax,
    "argsort": argsort,
    "topk": topk,
    "gather": gather,
    "gather_along_axis": gather_along_axis,
    "gather_nd": gather_nd,
    "one_hot": one_hot,
    "band_part": band_part,
    "fill": fill,
    "fill_like": fill_like,
    "range_1d": range_1d,
    "quantize": quantize,
    "dequantize": dequantize,
    "constexpr_affine_dequantize": affine,
    "constexpr_blockwise_shift_scale": blockwise,
    "constexpr_lut_to_dense": lut,
    "constexpr_sparse_to_dense": sparse,
    "constexpr_cast": constexpr_cast,
}
