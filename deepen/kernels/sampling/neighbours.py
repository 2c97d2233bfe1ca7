"""Perturbs a real kernel configuration slightly, all parameters together, so that the result is still realistic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from deepen.errors import make_unknown_name_error
from deepen.kernels.families.catalog import get_family
from deepen.kernels.sampling.random_sizes import SizeSampler
from deepen.kernels.sampling.real_configurations import RealConfiguration

__all__ = ["perturb_params"]

Params = dict[str, Any]

_KEEP_KERNEL, _KEEP_STRIDE, _KEEP_ACTIVATION = 0.9, 0.93, 0.85
_MAX_KERNEL = 15
_INTEGERS = ("uint8", "int8")
_INTEGER_PAIRS = (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8"))
_SWAP_OPERATOR = 0.35
_FEWEST_OPERATORS = 8
_NOT_ON_FLOATS = (
    "Cast", "Identity", "IsNaN", "IsInf", "Not", "And", "Or", "Xor", "BitwiseNot", "BitShift", "BitwiseAnd",
    "BitwiseOr", "BitwiseXor",
)  # fmt: skip
"""Operators on other data types, to another one, or that do nothing."""
_LOOKS = 8
"""Configurations looked at for a fitting activation before it is kept."""


def _swap_activation(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> None:
    """Sometimes take the activation of another real configuration with the same operator and bias.

    Fusion depends on both: ONNX Runtime fuses an activation into a Gemm, never into a bare MatMul.
    """
    if "activation" not in params or not draw.flip(1 - _KEEP_ACTIVATION):
        return
    for index in draw.rng.integers(len(pool), size=_LOOKS):
        other = pool[int(index)].params
        if all(other.get(name) == params.get(name) for name in ("op", "bias")):
            params["activation"] = other["activation"]
            return


def _swap_operator(family: str, params: Params, draw: SizeSampler) -> None:
    """Sometimes take another operator of a family of several on floating-point numbers: real networks show a few."""
    known = get_family(family).schema.get("op")
    if known is None or len(known.choices) < _FEWEST_OPERATORS or not draw.flip(_SWAP_OPERATOR):
        return
    if params.get("dtype") == "float32" == params.get("out_dtype", "float32") and params["op"] not in _NOT_ON_FLOATS:
        params["op"] = str(draw.rng.choice([op for op in known.choices if op not in _NOT_ON_FLOATS]))


def _swap_integers(params: Params, draw: SizeSampler) -> None:
    """Sometimes take other types of two integer operands: what products cost depends on their signs."""
    given, weights = params.get("dtype"), params.get("weight_dtype")
    if given not in _INTEGERS or weights not in _INTEGERS or not draw.flip(0.5):
        return
    left, right = _INTEGER_PAIRS[int(draw.rng.integers(len(_INTEGER_PAIRS)))]
    if params["out_dtype"] == given:
        params["out_dtype"] = left
    params["dtype"], params["weight_dtype"] = left, right


def _perturb_window(params: Params, draw: SizeSampler) -> None:
    """Sometimes change an odd square kernel to the next size, with the pads, or change the stride."""
    kernel, pads = params["kernel"], params["pads"]
    square = len(set(kernel)) == 1 and len(set(pads)) <= 1
    if square and draw.flip(1 - _KEEP_KERNEL):
        step = 2 if kernel[0] % 2 else 1
        new = kernel[0] + step if draw.rng.random() < 0.5 else kernel[0] - step
        if 1 <= new <= min(_MAX_KERNEL, *params["spatial"]):
            params["kernel"] = [new] * len(kernel)
            moved = max(0, pads[0] + (new - kernel[0]) // 2 * params["dilation"][0])
            params["pads"] = [min(moved, new - 1)] * len(pads)
    if square and draw.flip(0.04):
        same = params["kernel"][0] // 2
        params["pads"] = [0 if pads[0] else same] * len(pads)
    if len(set(params["stride"])) == 1 and params["kernel"] != params["stride"] and draw.flip(1 - _KEEP_STRIDE):
        params["stride"] = [2 if params["stride"][0] == 1 else 1] * len(params["stride"])


_ONE_SIDED_WINDOWS = (2, 3, 3, 5, 5, 7, 9, 11, 15, 20)
_MOST_STEPS = 2000


def _reshape_window(params: Params, draw: SizeSampler) -> None:
    """Sometimes make the window or the step of a square two-dimensional kernel unequal, or the map a sequence.

    A convolution over time is written with one dimension, or with two of which one has size 1; models of sound and text
    have both. A runtime may have other code for either.
    """
    kernel, pads, spatial = params["kernel"], params["pads"], params["spatial"]
    if len(kernel) != 2 or len(set(kernel)) > 1 or len(set(pads)) > 1 or max(params["dilation"]) > 1:
        return
    axis = int(draw.rng.integers(2))
    if draw.flip(0.07):  # a sequence of steps
        steps = min(prod(spatial), draw.length(_MOST_STEPS), _MOST_STEPS)
        window = min(int(draw.rng.choice(_ONE_SIDED_WINDOWS)), steps) if max(kernel) > 1 else 1
        front = int(draw.rng.choice([0, window // 2, window - 1]))
        back = min(front, window // 2)
        params["spatial"], params["kernel"], params["pads"] = [1, 1], [1, 1], [0, 0, 0, 0]
        params["spatial"][axis], params["kernel"][axis] = max(steps, 1), max(window, 1)
        params["pads"][axis], params["pads"][2 + axis] = front, back
        stride = max(params["stride"])
        params["stride"] = [1, 1]
        params["stride"][axis] = stride
        if draw.flip(0.5):
            for name, size in (("spatial", 1), ("kernel", 1), ("stride", 1), ("dilation", 1), ("pads", 2)):
                params[name] = params[name][axis::2] if size == 2 else [params[name][axis]]
        return
    if max(kernel) > 1 and draw.flip(0.04):
        window = 1 if draw.flip(0.6) else min(int(draw.rng.choice(_ONE_SIDED_WINDOWS)), spatial[axis])
        params["kernel"] = [window if i == axis else kernel[0] for i in range(2)]
        sides = [min(pads[0], window // 2) if i == axis else pads[0] for i in range(2)]
        params["pads"] = [*sides, *sides]
    if draw.flip(0.04) and len(set(params["stride"])) == 1:
        params["stride"] = [1 if i == axis else 2 for i in range(2)]


def _perturb_conv(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    groups, c_in, c_out = params["groups"], params["c_in"], params["c_out"]
    both = draw.factor()  # a wide network is wide on both sides of a layer
    if groups == c_in and groups > 1:  # depthwise
        params["c_in"] = params["groups"] = draw.width(c_in, both)
        params["c_out"] = params["c_in"] * (c_out // c_in)
    else:
        if groups > 1 and draw.flip(0.25):
            groups = max(2, groups * 2 if draw.rng.random() < 0.5 else groups // 2)
        params["groups"] = groups
        params["c_in"] = draw.width(c_in, both * draw.factor(0.6), groups)
        params["c_out"] = draw.width(c_out, both * draw.factor(0.6), groups)
    params["spatial"] = draw.sides(params["spatial"])
    params["batch"] = draw.batch(params["batch"])
    _perturb_window(params, draw)
    if groups in (1, c_in):
        _reshape_window(params, draw)
    _swap_activation(params, draw, pool)
    if draw.flip(0.04):  # a fused residual stays: whether one is fused depends on the runtime
        params["bias"] = not params["bias"]
    return params


def _perturb_fc(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    both = draw.factor()
    for name in ("k", "n"):
        params[name] = draw.width(params[name], both * draw.factor(0.7))
    params["m"] = draw.length(params["m"]) if params["m"] > 1 or not draw.flip(0.06) else int(draw.rng.integers(2, 65))
    _swap_activation(params, draw, pool)
    return params


def _perturb_pool(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    params["c"] = draw.width(params["c"])
    params["spatial"] = draw.sides(params["spatial"])
    params["batch"] = draw.batch(params["batch"])
    if "kernel" not in params:
        return params
    _perturb_window(params, draw)
    rank = len(params["spatial"])
    params["pads"] = [min(p, k - 1) for p, k in zip(params["pads"], params["kernel"] * 2, strict=True)]
    if "version" in params:
        params["version"] = 19 if draw.flip(0.25) or any(d > 1 for d in params["dilation"]) else 7
    # ceil and count_include_pad are canonical: true only where they change the result
    params["ceil"] = (params["ceil"] or draw.flip(0.1)) and any(
        (size + params["pads"][i] + params["pads"][rank + i] - params["dilation"][i] * (params["kernel"][i] - 1) - 1)
        % params["stride"][i]
        for i, size in enumerate(params["spatial"])
    )
    if "count_include_pad" in params:
        params["count_include_pad"] = any(params["pads"]) and (params["count_include_pad"] or draw.flip(0.1))
    return params


class _SizeMapping:
    """Mapping of each size in a kernel's shapes to one new value, so that equal sizes stay equal."""

    def __init__(self, draw: SizeSampler, tokens: bool = False) -> None:
        self.draw = draw
        self.tokens = tokens
        self.wide, self.long = draw.factor(), draw.factor()
        self.new: dict[int, int] = {}

    def shape(self, shape: Sequence[int]) -> list[int]:
        """Map a shape. From rank 4 on, the second size is a width, those after it sides; else the last is a width."""
        rank = len(shape)
        return [self.size(size, self._role(i, rank)) for i, size in enumerate(shape)]

    def _role(self, position: int, rank: int) -> str:
        if rank >= 4 and not self.tokens:
            return "side" if position >= 2 else "width" if position == 1 else "batch"
        return "width" if position == rank - 1 else "length"

    def size(self, size: int, role: str) -> int:
        """Map a size; of several roles, its first one decides."""
        if size <= 1:
            return size
        if size not in self.new:
            if role == "side":
                self.new[size] = self.draw.side(size, self.long)
            elif role == "width":
                self.new[size] = self.draw.width(size, self.wide * self.draw.factor(0.5))
            else:
                self.new[size] = size if size <= 4 else self.draw.length(size, self.long)
        return self.new[size]


_SHAPES = ("shape", "in_shapes", "a_shape", "b_shape", "out_shape", "indices_shape", "slope_shape")


def _perturb_shapes(
    params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration], *, tokens: bool = False
) -> Params:
    """Map every size in parameters that are shapes; axes, permutations and pads stay."""
    renaming = _SizeMapping(draw, tokens)
    for name in _SHAPES:
        if name in params:
            value = params[name]
            nested = bool(value) and isinstance(value[0], list)
            params[name] = [renaming.shape(s) for s in value] if nested else renaming.shape(value)
    _swap_activation(params, draw, pool)
    return params


_INNER = (1, 2, 3, 4, 8, 16)
"""Innermost sizes of geometry, of coordinates and of channels-last maps."""


def _split_into_spans(count: int, draw: SizeSampler) -> list[int]:
    """Cut about ``count`` elements into rows of a middle and a short innermost axis."""
    inner = int(draw.rng.choice(_INNER))
    middle = max(1, min(count // inner, round(2.0 ** draw.rng.uniform(2, 8))))
    return [max(1, count // (inner * middle)), middle, inner]


def _perturb_operands(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    """Map the shapes of operands; sometimes spread them along any axes, the innermost ones too."""
    _perturb_shapes(params, draw, pool)
    sources = params["sources"]
    repeated = sources.count(-1) + len({s for s in sources if s >= 0}) < len(sources)
    if len(sources) < 2 or repeated or not draw.flip(0.16):
        return params
    out = _split_into_spans(max(map(prod, params["in_shapes"])), draw)
    params["in_shapes"] = [[size if draw.rng.random() < 0.6 else 1 for size in out] for _ in sources]
    return params


def _perturb_token_shapes(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    """Map every size in parameters that are shapes of tokens: sizes in the middle are heads and tokens, not sides."""
    if "axis" in params and not params.get("bias_shape", [0]) and draw.flip(0.12):
        params["axis"] = int(draw.rng.integers(len(params["shape"])))  # a softmax over the channels of a map, say
    return _perturb_shapes(params, draw, pool, tokens=True)


def _perturb_concat(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    """Map common sizes together and each size along the axis on its own; sometimes add or remove a part."""
    axis, shapes = params["axis"], params["in_shapes"]
    renaming, both = _SizeMapping(draw), draw.factor()
    parts = [draw.width(shape[axis], both * draw.factor(0.6)) for shape in shapes]
    common = renaming.shape([1 if i == axis else size for i, size in enumerate(shapes[0])])
    sources = list(params["sources"])
    if draw.flip(0.15) and len(parts) > 1:
        if draw.rng.random() < 0.5 and len(parts) > 2:
            parts.pop()
            sources.pop()
        else:
            parts.append(parts[-1])
            sources.append(max(sources) + 1)
    params["in_shapes"] = [[*common[:axis], part, *common[axis + 1 :]] for part in parts]
    order: dict[int, int] = {}
    params["sources"] = [s if s < 0 else order.setdefault(s, len(order)) for s in sources]
    for i, source in enumerate(params["sources"]):  # a tensor read twice has one shape
        params["in_shapes"][i] = (
            params["in_shapes"][params["sources"].index(source)] if source >= 0 else params["in_shapes"][i]
        )
    return params


def _perturb_split(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    axis = params["axis"]
    renaming, factor = _SizeMapping(draw), draw.factor()
    renamed: dict[int, int] = {}
    params["sizes"] = [renamed.setdefault(s, draw.width(s, factor)) for s in params["sizes"]]
    shape = renaming.shape([1 if i == axis else size for i, size in enumerate(params["shape"])])
    shape[axis] = sum(params["sizes"])
    params["shape"] = shape
    return params


def _perturb_reshape(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    """Perturb a reshape so that both shapes keep the same number of elements.

    1. Cut both shapes into the smallest pieces with equal products.
    2. A piece with several sizes on both sides stays: no size can change alone.
    3. In any other piece, map the sizes of the side that has more; the other side is their product.
    """
    if params["op"] != "Reshape":
        return _perturb_shapes(params, draw, pool)
    if draw.flip(0.06):  # a broadcast written out
        out = _split_into_spans(prod(params["out_shape"]), draw)
        return {**params, "op": "Expand", "shape": [s if draw.rng.random() < 0.6 else 1 for s in out], "out_shape": out}
    old, out = params["shape"], params["out_shape"]
    renaming = _SizeMapping(draw)
    new_old: list[int] = []
    new_out: list[int] = []
    i = j = 0
    while i < len(old) or j < len(out):
        # 1
        start = (i, j)
        left, right = (old[i] if i < len(old) else 1), (out[j] if j < len(out) else 1)
        i, j = min(i + 1, len(old)), min(j + 1, len(out))
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * out[j], j + 1
        ours, theirs = old[start[0] : i], out[start[1] : j]
        fine = ours if len(ours) >= len(theirs) else theirs
        if min(len(ours), len(theirs)) > 1:  # 2
            new_old += ours
            new_out += theirs
            continue
        # 3
        moved = [renaming.size(size, "width" if size > 64 else "length") for size in fine]
        whole = [prod(moved)]
        new_old += moved if fine is ours else whole[: len(ours)]
        new_out += moved if fine is not ours or len(theirs) == len(ours) else whole[: len(theirs)]
    params["shape"], params["out_shape"] = new_old, new_out
    return params


def _perturb_in_proportion(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    """Map the input's sizes; the output's keep their ratio to them (slice, resize)."""
    old, out = params["shape"], params["out_shape"]
    params["shape"] = new = _SizeMapping(draw).shape(old)
    params["out_shape"] = [max(1, -(-o * b // a)) for a, b, o in zip(old, new, out, strict=True)]
    if "steps" in params and draw.flip(0.2):  # a slice of an inner axis: one coordinate, or half the channels, of many
        shape = _split_into_spans(prod(new), draw)
        axis = int(draw.rng.integers(1, 3))
        cut = [max(1, size // 2) if i == axis else size for i, size in enumerate(shape)]
        params["shape"], params["out_shape"], params["steps"] = shape, cut, [1] * 3
    return params


def _perturb_norm(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    _perturb_shapes(params, draw, pool)
    groups = params.get("groups", 0)
    if groups > 1 and len(params["shape"]) > 1:
        params["shape"][1] = max(1, round(params["shape"][1] / groups)) * groups
    return params


def _perturb_lrn(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    if draw.flip(0.15):
        params["size"] = int(draw.rng.choice([3, 5, 7, 9]))
    return _perturb_shapes(params, draw, pool)


def _perturb_attention(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    together = params["heads"] * params["head_dim"]
    long, own_keys = draw.factor(), params["kv_len"] == params["q_len"]
    ratio = params["heads"] // params["kv_heads"]
    params["kv_heads"] = draw.length(params["kv_heads"])
    params["heads"] = params["kv_heads"] * ratio
    params["q_len"] = draw.length(params["q_len"], long)
    params["kv_len"] = params["q_len"] if own_keys else draw.length(params["kv_len"], long)
    same = params["head_dim"] == params["v_head_dim"]
    params["head_dim"] = draw.width(params["head_dim"], multiple=8)
    params["v_head_dim"] = params["head_dim"] if same else draw.width(params["v_head_dim"])
    if params["hidden_in"] == together:
        params["hidden_in"] = params["heads"] * params["head_dim"]
    elif params["hidden_in"]:
        params["hidden_in"] = draw.width(params["hidden_in"])
    return params


def _perturb_recurrent(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    params["seq"] = draw.length(params["seq"])
    both = draw.factor()
    for name in ("input", "hidden"):
        params[name] = draw.width(params[name], both * draw.factor(0.6))
    return params


def _perturb_channels(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    """Perturb multi-node blocks on images: squeeze-and-excitation, channel shuffle."""
    both = draw.factor()
    params["c"] = draw.width(params["c"], both, params.get("groups", 1))
    params["spatial"] = draw.sides(params["spatial"])
    if "mid" in params:
        params["mid"] = draw.width(params["mid"], both * draw.factor(0.4))
    return params


def _perturb_rotary(params: Params, draw: SizeSampler, pool: Sequence[RealConfiguration]) -> Params:
    whole = params["turned"] == params["head_dim"]
    params["heads"] = draw.width(params["heads"])
    params["tokens"] = draw.length(params["tokens"]) if params["tokens"] > 1 else 1
    params["head_dim"] = draw.width(params["head_dim"], multiple=8)
    params["turned"] = params["head_dim"] if whole else min(params["turned"], params["head_dim"])
    return params


_PERTURBATIONS: dict[str, Callable[[Params, SizeSampler, Sequence[RealConfiguration]], Params]] = {
    "attention": _perturb_attention, "channels": _perturb_channels, "concat": _perturb_concat, "conv": _perturb_conv,
    "fc": _perturb_fc, "lrn": _perturb_lrn,
    "norm": _perturb_norm, "operands": _perturb_operands, "pool": _perturb_pool, "proportion": _perturb_in_proportion,
    "recurrent": _perturb_recurrent, "reshape": _perturb_reshape,
    "rotary": _perturb_rotary,
    "shapes": _perturb_shapes, "split": _perturb_split, "tokens": _perturb_token_shapes,
}  # fmt: skip
"""How configurations of a family move, by ``kind`` of its ``[sampling]`` table."""


def perturb_params(
    name: str, params: Mapping[str, Any], draw: SizeSampler, pool: Sequence[RealConfiguration]
) -> Params:
    """Make a neighbour of a real configuration.

    Args:
        name: Family; ``kind`` of its ``[sampling]`` table names the perturbation (``shapes`` if there is none).
        params: The real configuration.
        draw: Random choices; a spread of 0 returns the configuration itself.
        pool: All real configurations of the family, for values that are chosen rather than scaled.

    Returns:
        New parameters. They fit together in most cases; the caller checks.

    Raises:
        ConfigError: If the family's file names an unknown kind.
    """
    kind = str(get_family(name).sampling.get("kind", "shapes"))
    if kind not in _PERTURBATIONS:
        raise make_unknown_name_error(f"[sampling] kind in kernels/families/{name}.toml", kind, _PERTURBATIONS)
    copy = {key: list(value) if isinstance(value, list) else value for key, value in params.items()}
    if draw.spread == 0:
        return copy
    _swap_operator(name, copy, draw)
    _swap_integers(copy, draw)
    return _PERTURBATIONS[kind](copy, draw, pool)
