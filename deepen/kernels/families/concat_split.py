"""Concatenation and splitting along an axis."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.elementwise_binary import check_sources, make_operands_layout, name_operand, read_operands
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.shape_features import compute_axis_features, compute_shape_features

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]


def _read_concat(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Concat",))
    if node is None:
        return None
    shapes, sources = read_operands(group, node.inputs)
    if not shapes[0] or all(s < 0 for s in sources):
        return None
    axis = int(node.attributes.get("axis", 0)) % len(shapes[0])
    return {"dtype": group.dtype(node.inputs[0]), "in_shapes": shapes, "sources": sources, "axis": axis}


def _compute_concat_shape(params: Params) -> tuple[int, ...]:
    axis = params["axis"]
    shape = list(params["in_shapes"][0])
    shape[axis] = sum(s[axis] for s in params["in_shapes"])
    return tuple(shape)


def _concat_layout(params: Params) -> KernelLayout:
    out = TensorSpec("y", _compute_concat_shape(params), params["dtype"])
    return make_operands_layout(params, [params["dtype"]] * len(params["in_shapes"]), out)


def _concat_dims(params: Params) -> dict[str, float]:
    first, out = params["in_shapes"][0], _compute_concat_shape(params)
    wide = compute_shape_features(out)
    return {
        **wide, "c_in": first[1] if len(first) > 1 else first[0], **compute_axis_features(out, params["axis"]),
        "inner_runs": prod(out[: params["axis"]]) * len(params["in_shapes"]),
    }  # fmt: skip


def _concat_check(params: Params) -> None:
    shapes, axis = params["in_shapes"], params["axis"]
    if not shapes or not shapes[0]:
        raise make_param_error("concat", "in_shapes", "must hold at least one shape of rank 1 or more")
    if axis >= len(shapes[0]):
        raise make_param_error("concat", "axis", f"must be below the rank {len(shapes[0])}, not {axis}")
    for shape in shapes:
        if len(shape) != len(shapes[0]) or any(
            a != b for i, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
        ):
            raise make_param_error("concat", "in_shapes", f"may differ along axis {axis} only: {shapes[0]} and {shape}")
    check_sources("concat", params)


def _concat_write(params: Params, writer: KernelModelWriter) -> None:
    names = [name_operand(i, s) for i, s in enumerate(params["sources"])]
    writer.node("Concat", names, "y", axis=params["axis"])


def _read_split(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("Split",))
    if node is None:
        return _read_slices_as_split(group)
    x = group.shape(node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % len(x)
    sizes = [group.shape(name)[axis] for name in node.outputs if name]
    if sum(sizes) != x[axis]:
        return None  # the file omits an output that is not read
    return {"dtype": group.dtype(node.inputs[0]), "shape": list(x), "axis": axis, "sizes": sizes}


def _read_slices_as_split(group: NodeGroup) -> Params | None:
    """Read slices of one tensor that together are a split (a runtime may run them as one)."""
    nodes = group.compute
    source = nodes[0].inputs[0]
    if len(nodes) < 2 or any(n.op_type != "Slice" or n.inputs[0] != source for n in nodes):
        return None
    x = group.shape(source)
    parts = [group.shape(n.outputs[0]) for n in nodes]
    axes = {i for part in parts for i, (a, b) in enumerate(zip(part, x, strict=True)) if a != b}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    sizes = [part[axis] for part in parts]
    if sum(sizes) != x[axis]:
        return None
    return {"dtype": group.dtype(source), "shape": list(x), "axis": axis, "sizes": sizes}


def _split_layout(params: Params) -> KernelLayout:
    axis, dtype = params["axis"], params["dtype"]
    parts = []
    for i, size in enumerate(params["sizes"]):
        shape = list(params["shape"])
        shape[axis] = size
        parts.append(TensorSpec(f"y{i}", tuple(shape), dtype))
    return KernelLayout((TensorSpec("x", tuple(params["shape"]), dtype),), tuple(parts))


def _split_dims(params: Params) -> dict[str, float]:
    return {
        **compute_shape_features(params["shape"]),
        "c_out": params["sizes"][0],
        **compute_axis_features(params["shape"], params["axis"]),
        "inner_runs": prod(params["shape"][: params["axis"]]) * len(params["sizes"]),
    }


def _split_check(params: Params) -> None:
    shape, axis, sizes = params["shape"], params["axis"], params["sizes"]
    if axis >= len(shape):
        raise make_param_error("split", "axis", f"must be below the rank {len(shape)}, not {axis}")
    if not sizes or sum(sizes) != shape[axis]:
        raise make_param_error(
            "split", "sizes", f"must add up to {shape[axis]}, the size of axis {axis}, not {sum(sizes)}"
        )


def _split_write(params: Params, writer: KernelModelWriter) -> None:
    names = [f"y{i}" for i in range(len(params["sizes"]))]
    writer.node("Split", ["x", writer.constant(params["sizes"], "int64")], names, axis=params["axis"])


FAMILY_DEFINITIONS = (
    FamilyDefinition("concat", _read_concat, _concat_layout, lambda p: 0, _concat_dims, _concat_write, _concat_check),
    FamilyDefinition("split", _read_split, _split_layout, lambda p: 0, _split_dims, _split_write, _split_check),
)
