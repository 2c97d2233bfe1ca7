"""Data movement: transpose, reshape, slice, pad, resize, gather."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from deepen.graph.types import Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.matrix_product import broadcast_shapes
from deepen.kernels.families.operator_costs import get_operator_code, get_operator_cost
from deepen.kernels.families.shape_features import (
    compute_axis_features,
    compute_shape_features,
    compute_spatial_features,
    count_broadcast_runs,
)

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]

_FAR = 2**62


def _make_unary_layout(params: Params, out: tuple[int, ...], dtype: str | None = None) -> KernelLayout:
    x = TensorSpec("x", tuple(params["shape"]), params["dtype"])
    return KernelLayout((x,), (TensorSpec("y", out, dtype or params["dtype"]),))


def _make_output_shape_layout(params: Params) -> KernelLayout:
    return _make_unary_layout(params, tuple(params["out_shape"]))


def _count_no_ops(params: Params) -> int:
    """Moving data is not arithmetic."""
    return 0 * len(params)


def _compute_output_window_features(params: Params) -> dict[str, float]:
    out = _make_output_shape_layout(params).outputs[0].shape if "out_shape" in params else _compute_padded_shape(params)
    name = params.get("mode", params.get("op", ""))
    return {
        **compute_shape_features(params["shape"]),
        **compute_spatial_features("{}_out", out[2:]),
        "op_code": get_operator_code(name),
    }


# transpose -------------------------------------------------------------------------------------------------------


def _read_transpose(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Transpose", "DepthToSpace", "SpaceToDepth"))
    if node is None:
        return None
    x = list(group.shape(node.inputs[0]))
    dtype = group.dtype(node.inputs[0])
    if node.op_type == "Transpose":
        perm = group.ints(node, "perm")
        return {"dtype": dtype, "shape": x, "perm": list(perm) if perm else list(reversed(range(len(x))))}
    # the operator specification defines both as reshape, transpose, reshape
    size = int(node.attributes["blocksize"])
    n, c, h, w = x
    mode = node.attributes.get("mode", "DCR")
    if node.op_type == "SpaceToDepth":
        return {"dtype": dtype, "shape": [n, c, h // size, size, w // size, size], "perm": [0, 3, 5, 1, 2, 4]}
    if mode in ("CRD", b"CRD"):
        return {"dtype": dtype, "shape": [n, c // size**2, size, size, h, w], "perm": [0, 1, 4, 2, 5, 3]}
    return {"dtype": dtype, "shape": [n, size, size, c // size**2, h, w], "perm": [0, 3, 4, 1, 5, 2]}


def _transpose_layout(params: Params) -> KernelLayout:
    return _make_unary_layout(params, tuple(params["shape"][a] for a in params["perm"]))


def _transpose_dims(params: Params) -> dict[str, float]:
    # sizes of the innermost run that stays contiguous: the trailing axes a permutation leaves in place
    shape, perm = params["shape"], params["perm"]
    kept = len(perm)
    while kept and perm[kept - 1] == kept - 1:
        kept -= 1
    moved = shape[perm[kept - 1]] if kept else 1
    # as the runtime walks it: axes of size 1 neither move nor interrupt anything
    wide = [a for a in perm if shape[a] != 1]
    while wide and wide[-1] == max(wide):
        wide.pop()
    return {
        **compute_shape_features(shape), "inner_size": prod(shape[kept:]), "axis_size": moved,
        "outer_size": prod(shape[:kept]) / max(1, moved), "inner_runs": prod(shape[a] for a in wide),
    }  # fmt: skip


def _transpose_check(params: Params) -> None:
    if sorted(params["perm"]) != list(range(len(params["shape"]))):
        raise make_param_error(
            "transpose", "perm", f"must be a permutation of the {len(params['shape'])} axes, not {params['perm']}"
        )


def _transpose_write(params: Params, writer: KernelModelWriter) -> None:
    writer.node("Transpose", ["x"], "y", perm=params["perm"])


# reshape ---------------------------------------------------------------------------------------------------------

_RESHAPES = {
    "Reshape": "Reshape", "Flatten": "Reshape", "Squeeze": "Reshape", "Unsqueeze": "Reshape", "Expand": "Expand",
    "Tile": "Tile", "Shape": "Shape", "Size": "Shape",
}  # fmt: skip


def _read_reshape(group: NodeGroup) -> Params | None:
    node = group.find_single_node(tuple(_RESHAPES))
    if node is None:
        return None
    x = node.inputs[0]
    return {
        "op": _RESHAPES[node.op_type], "dtype": group.dtype(x), "shape": list(group.shape(x)),
        "out_shape": list(group.shape(node.outputs[0])),
    }  # fmt: skip


def _reshape_layout(params: Params) -> KernelLayout:
    if params["op"] != "Shape":
        return _make_output_shape_layout(params)
    x = TensorSpec("x", tuple(params["shape"]), params["dtype"], touched=0)
    return KernelLayout((x,), (TensorSpec("y", tuple(params["out_shape"]), "int64"),))


def _reshape_check(params: Params) -> None:
    op, shape, out = params["op"], params["shape"], params["out_shape"]
    if op == "Reshape":
        ok = prod(shape) == prod(out)
    elif op == "Shape":
        ok = out == [] or (len(out) == 1 and out[0] <= len(shape))
    elif op == "Tile":
        ok = len(out) == len(shape) and all(o % s == 0 for o, s in zip(out, shape, strict=True))
    else:
        try:
            ok = broadcast_shapes(shape, out) == tuple(out)
        except ValueError:
            ok = False
    if not ok:
        raise make_param_error("reshape", "out_shape", f"{out} cannot come from {shape} by {op}")


def _reshape_dims(params: Params) -> dict[str, float]:
    op, shape, out = params["op"], params["shape"], params["out_shape"]
    runs = 1
    if op == "Expand":
        runs = count_broadcast_runs([shape], out)
    elif op == "Tile":
        repeated = [i for i, (a, b) in enumerate(zip(shape, out, strict=True)) if a != b]
        runs = prod(out) // max(prod(shape[repeated[-1] :]), 1) if repeated else 1
    return {**_compute_output_window_features(params), "inner_runs": runs}


def _reshape_write(params: Params, writer: KernelModelWriter) -> None:
    op, out = params["op"], params["out_shape"]
    if op == "Shape":
        writer.node(
            "Shape" if out else "Size", ["x"], "y", end=out[0] if out and out[0] < len(params["shape"]) else None
        )
    elif op == "Tile":
        repeats = [o // s if s else 1 for o, s in zip(out, params["shape"], strict=True)]
        writer.node(op, ["x", writer.constant(repeats, "int64")], "y")
    else:
        writer.node(op, ["x", writer.constant(np.array(out, dtype=np.int64), "int64")], "y")


# slice -----------------------------------------------------------------------------------------------------------


def _read_slice(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Slice",))
    if node is None:
        return None
    x, out = list(group.shape(node.inputs[0])), list(group.shape(node.outputs[0]))
    steps = [1] * len(x)
    given = group.ints(node, "steps", 4)
    if given is None and len(node.inputs) > 4 and node.inputs[4]:
        return None  # steps known only at run time
    axes = group.ints(node, "axes", 3) or tuple(range(len(given or ())))
    for axis, step in zip(axes, given or (), strict=False):
        steps[axis] = step
    steps = [1 if size == 1 else step for size, step in zip(out, steps, strict=True)]
    return {"dtype": group.dtype(node.inputs[0]), "shape": x, "out_shape": out, "steps": steps}


def _slice_layout(params: Params) -> KernelLayout:
    out = tuple(params["out_shape"])
    x = TensorSpec("x", tuple(params["shape"]), params["dtype"], touched=prod(out))
    return KernelLayout((x,), (TensorSpec("y", out, params["dtype"]),))


def _slice_dims(params: Params) -> dict[str, float]:
    out = params["out_shape"]
    cut = [i for i, (a, b) in enumerate(zip(params["shape"], out, strict=True)) if a != b or params["steps"][i] != 1]
    last = cut[-1] if cut else 0
    jumping = bool(cut) and params["steps"][last] != 1  # every element on its own, with what lies behind the axis
    return {
        **_compute_output_window_features(params),
        "inner_size": prod(out[last + 1 :]),
        "axis_size": out[last] if out else 1,
        "inner_runs": prod(out[: last + jumping]),
    }


def _slice_check(params: Params) -> None:
    shape, out, steps = params["shape"], params["out_shape"], params["steps"]
    if not (len(shape) == len(out) == len(steps)):
        raise make_param_error("slice", "out_shape", "needs the rank of shape, and so does steps")
    for size, cut, step in zip(shape, out, steps, strict=True):
        if step == 0 or (cut == 1 and step != 1):
            raise make_param_error("slice", "steps", "must not be 0, and must be 1 where the output has size 1")
        if (cut - 1) * abs(step) + 1 > size:
            raise make_param_error("slice", "out_shape", f"asks for {cut} of {size} elements at step {step}")


def _slice_write(params: Params, writer: KernelModelWriter) -> None:
    rank = len(params["shape"])
    starts, ends = [], []
    for size, cut, step in zip(params["shape"], params["out_shape"], params["steps"], strict=True):
        start = 0 if step > 0 else size - 1
        end = start + (cut - 1) * step + (1 if step > 0 else -1)
        starts.append(start)
        ends.append(end if end >= 0 else -_FAR)
    lists = [writer.constant(v, "int64") for v in (starts, ends, list(range(rank)), params["steps"])]
    writer.node("Slice", ["x", *lists], "y")


# pad -------------------------------------------------------------------------------------------------------------


def _read_pad(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Pad",))
    if node is None:
        return None
    x, out = list(group.shape(node.inputs[0])), list(group.shape(node.outputs[0]))
    rank = len(x)
    given = group.ints(node, "pads", 1) or group.ints(node, "paddings")
    mode = node.attributes.get("mode", "constant")
    pads = [0] * (2 * rank)
    if given is None:  # known only at run time: the sizes are, and only they count
        pads[rank:] = [b - a for a, b in zip(x, out, strict=True)]
    else:
        axes = group.ints(node, "axes", 3) or tuple(range(rank))
        for i, axis in enumerate(axes):
            pads[axis % rank], pads[rank + axis % rank] = given[i], given[len(axes) + i]
    text = mode.decode() if isinstance(mode, bytes) else str(mode)
    return {"dtype": group.dtype(node.inputs[0]), "shape": x, "pads": pads, "mode": text}


def _compute_padded_shape(params: Params) -> tuple[int, ...]:
    rank = len(params["shape"])
    return tuple(s + params["pads"][i] + params["pads"][rank + i] for i, s in enumerate(params["shape"]))


def _pad_dims(params: Params) -> dict[str, float]:
    rank = len(params["shape"])
    padded = [i for i in range(rank) if params["pads"][i] or params["pads"][rank + i]]
    runs = prod(params["shape"][: padded[-1]]) if padded else 1
    return {**_compute_output_window_features(params), "inner_runs": runs}


def _pad_check(params: Params) -> None:
    rank = len(params["shape"])
    if len(params["pads"]) != 2 * rank or any(s < 1 for s in _compute_padded_shape(params)):
        raise make_param_error(
            "pad", "pads", f"must have {2 * rank} values and leave something over, not {params['pads']}"
        )
    for i, size in enumerate(params["shape"]):
        if params["mode"] != "constant" and not all(
            0 <= p < size for p in (params["pads"][i], params["pads"][rank + i])
        ):
            raise make_param_error("pad", "pads", f"must be 0 to {size - 1} along axis {i} in mode {params['mode']}")


def _pad_write(params: Params, writer: KernelModelWriter) -> None:
    writer.node("Pad", ["x", writer.constant(params["pads"], "int64")], "y", mode=params["mode"])


# resize ----------------------------------------------------------------------------------------------------------


def _read_resize(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Resize", "Upsample"))
    if node is None:
        return None
    mode = node.attributes.get("mode", "nearest")
    text = mode.decode() if isinstance(mode, bytes) else str(mode)
    return {
        "dtype": group.dtype(node.inputs[0]), "shape": list(group.shape(node.inputs[0])),
        "out_shape": list(group.shape(node.outputs[0])), "mode": {"bilinear": "linear"}.get(text, text),
    }  # fmt: skip


def _resize_check(params: Params) -> None:
    shape, out = params["shape"], params["out_shape"]
    if len(shape) != len(out) or not shape:
        raise make_param_error("resize", "out_shape", "must have the rank of shape, 1 or more")
    changed = [i for i, (a, b) in enumerate(zip(shape, out, strict=True)) if a != b]
    if params["mode"] != "nearest" and (len(shape) != 4 or any(i < 2 for i in changed)):
        raise make_param_error("resize", "mode", f"{params['mode']} needs rank 4 and may change height and width only")


def _resize_write(params: Params, writer: KernelModelWriter) -> None:
    sizes = writer.constant(params["out_shape"], "int64")
    coordinates = "asymmetric" if params["mode"] == "nearest" else "half_pixel"
    writer.node(
        "Resize", ["x", "", "", sizes], "y", mode=params["mode"], coordinate_transformation_mode=coordinates,
        nearest_mode="floor" if params["mode"] == "nearest" else None,
    )  # fmt: skip


# gather ----------------------------------------------------------------------------------------------------------


def _read_gather(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Gather", "GatherElements", "GatherND"))
    if node is None:
        return None
    shape = list(group.shape(node.inputs[0]))
    return {
        "op": node.op_type, "dtype": group.dtype(node.inputs[0]), "shape": shape,
        "indices_shape": list(group.shape(node.inputs[1])), "axis": _normalise_gather_axis(node, len(shape)),
        "constant": group.is_const(node.inputs[0]),
    }  # fmt: skip


def _normalise_gather_axis(node: Node, rank: int) -> int:
    if node.op_type == "GatherND":
        return int(node.attributes.get("batch_dims", 0))
    return int(node.attributes.get("axis", 0)) % max(rank, 1)


def _compute_gather_shape(params: Params) -> tuple[int, ...]:
    shape, indices, axis = tuple(params["shape"]), tuple(params["indices_shape"]), params["axis"]
    if params["op"] == "Gather":
        return shape[:axis] + indices + shape[axis + 1 :]
    if params["op"] == "GatherElements":
        return indices
    return indices[:-1] + shape[axis + indices[-1] :]


def _gather_layout(params: Params) -> KernelLayout:
    out = _compute_gather_shape(params)
    table = TensorSpec("x", tuple(params["shape"]), params["dtype"], touched=prod(out))
    indices = TensorSpec("indices", tuple(params["indices_shape"]), "int64")
    y = TensorSpec("y", out, params["dtype"])
    # a constant table with constant indices would be folded away, so the indices are fed there
    return KernelLayout((indices,), (y,), (table,)) if params["constant"] else KernelLayout((table,), (y,), (indices,))


def _gather_dims(params: Params) -> dict[str, float]:
    shape, indices, op = params["shape"], params["indices_shape"], params["op"]
    axis = min(params["axis"], len(shape) - 1)
    # slices copied whole: one per index, of GatherElements one element
    runs = {"Gather": prod(shape[:axis]) * prod(indices), "GatherND": prod(indices[:-1])}.get(op, prod(indices))
    return {**compute_axis_features(shape, axis), "op_code": get_operator_code(op), "inner_runs": runs}


def _gather_check(params: Params) -> None:
    shape, indices, axis = params["shape"], params["indices_shape"], params["axis"]
    if not shape or axis >= len(shape):
        raise make_param_error("gather", "axis", f"must be below the rank {len(shape)} of shape, not {axis}")
    if params["op"] == "GatherElements" and (
        len(indices) != len(shape)
        or any(i > s for k, (i, s) in enumerate(zip(indices, shape, strict=True)) if k != axis)
    ):
        raise make_param_error(
            "gather", "indices_shape", "must have the rank of shape and fit into it outside the axis"
        )
    if params["op"] == "GatherND":
        if not indices or axis >= len(indices) or indices[:axis] != shape[:axis]:
            raise make_param_error("gather", "indices_shape", "must begin with the batch sizes of shape")
        if axis + indices[-1] > len(shape):
            raise make_param_error(
                "gather", "indices_shape", f"ends in {indices[-1]}, more than the axes shape has left"
            )


def _gather_write(params: Params, writer: KernelModelWriter) -> None:
    if not params["constant"]:  # spread over the table, so that no cache line is hit twice without need
        count = prod(params["indices_shape"])
        if params["op"] == "GatherND":
            bounds = np.array(params["shape"][params["axis"] : params["axis"] + params["indices_shape"][-1]])
            values = (np.arange(count).reshape(-1, len(bounds)) * 7919) % bounds
        else:
            values = (np.arange(count) * 7919) % params["shape"][params["axis"]]
        writer.constant(values.reshape(params["indices_shape"]), "int64", "indices")
    axis = {"batch_dims": params["axis"]} if params["op"] == "GatherND" else {"axis": params["axis"]}
    writer.node(params["op"], ["x", "indices"], "y", **axis)


FAMILY_DEFINITIONS = (
    FamilyDefinition(
        "transpose", _read_transpose, _transpose_layout, _count_no_ops, _transpose_dims,
        _transpose_write, _transpose_check,
    ),
    FamilyDefinition("reshape", _read_reshape, _reshape_layout, _count_no_ops, _reshape_dims,
        _reshape_write, _reshape_check),
    FamilyDefinition("slice", _read_slice, _slice_layout, _count_no_ops, _slice_dims, _slice_write, _slice_check),
    FamilyDefinition("pad", _read_pad, lambda p: _make_unary_layout(p, _compute_padded_shape(p)), _count_no_ops,
        _pad_dims, _pad_write, _pad_check, lambda p: 19),
    FamilyDefinition(
        "resize", _read_resize, _make_output_shape_layout,
        lambda p: prod(p["out_shape"]) * get_operator_cost(p["mode"]), _compute_output_window_features, _resize_write,
        _resize_check,
    ),
    FamilyDefinition("gather", _read_gather, _gather_layout, _count_no_ops, _gather_dims, _gather_write, _gather_check),
)  # fmt: skip
