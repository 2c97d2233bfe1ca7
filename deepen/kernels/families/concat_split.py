"""Concatenation and splitting along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepen.kernels.families.definition import Anatomy, Group, Layout, Params, Spec, reject
from deepen.kernels.families.elementwise_binary import check_sources, operand_name, operands, operands_layout
from deepen.kernels.families.shape_features import axis_dims, shape_dims

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import Writer

__all__ = ["ANATOMIES"]


def _read_concat(group: Group) -> Params | None:
    node = group.single(("Concat",))
    if node is None:
        return None
    shapes, sources = operands(group, node.inputs)
    if not shapes[0] or all(s < 0 for s in sources):
        return None
    axis = int(node.attributes.get("axis", 0)) % len(shapes[0])
    return {"dtype": group.dtype(node.inputs[0]), "in_shapes": shapes, "sources": sources, "axis": axis}


def _joined(params: Params) -> tuple[int, ...]:
    axis = params["axis"]
    shape = list(params["in_shapes"][0])
    shape[axis] = sum(s[axis] for s in params["in_shapes"])
    return tuple(shape)


def _concat_layout(params: Params) -> Layout:
    out = Spec("y", _joined(params), params["dtype"])
    return operands_layout(params, [params["dtype"]] * len(params["in_shapes"]), out)


def _concat_dims(params: Params) -> dict[str, float]:
    first, out = params["in_shapes"][0], _joined(params)
    wide = shape_dims(out)
    return {**wide, "c_in": first[1] if len(first) > 1 else first[0], **axis_dims(out, params["axis"])}


def _concat_check(params: Params) -> None:
    shapes, axis = params["in_shapes"], params["axis"]
    if not shapes or not shapes[0]:
        raise reject("concat", "in_shapes", "must hold at least one shape of rank 1 or more")
    if axis >= len(shapes[0]):
        raise reject("concat", "axis", f"must be below the rank {len(shapes[0])}, not {axis}")
    for shape in shapes:
        if len(shape) != len(shapes[0]) or any(
            a != b for i, (a, b) in enumerate(zip(shape, shapes[0], strict=True)) if i != axis
        ):
            raise reject("concat", "in_shapes", f"may differ along axis {axis} only: {shapes[0]} and {shape}")
    check_sources("concat", params)


def _concat_write(params: Params, writer: Writer) -> None:
    names = [operand_name(i, s) for i, s in enumerate(params["sources"])]
    writer.node("Concat", names, "y", axis=params["axis"])


def _read_split(group: Group) -> Params | None:
    node = group.single(("Split",))
    if node is None:
        return _sliced(group)
    x = group.shape(node.inputs[0])
    axis = int(node.attributes.get("axis", 0)) % len(x)
    sizes = [group.shape(name)[axis] for name in node.outputs if name]
    if sum(sizes) != x[axis]:
        return None  # an output nobody reads was left out of the file
    return {"dtype": group.dtype(node.inputs[0]), "shape": list(x), "axis": axis, "sizes": sizes}


def _sliced(group: Group) -> Params | None:
    """Slices of one tensor that together are a split (a runtime may run them as one)."""
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


def _split_layout(params: Params) -> Layout:
    axis, dtype = params["axis"], params["dtype"]
    parts = []
    for i, size in enumerate(params["sizes"]):
        shape = list(params["shape"])
        shape[axis] = size
        parts.append(Spec(f"y{i}", tuple(shape), dtype))
    return Layout((Spec("x", tuple(params["shape"]), dtype),), tuple(parts))


def _split_dims(params: Params) -> dict[str, float]:
    return {**shape_dims(params["shape"]), "c_out": params["sizes"][0], **axis_dims(params["shape"], params["axis"])}


def _split_check(params: Params) -> None:
    shape, axis, sizes = params["shape"], params["axis"], params["sizes"]
    if axis >= len(shape):
        raise reject("split", "axis", f"must be below the rank {len(shape)}, not {axis}")
    if not sizes or sum(sizes) != shape[axis]:
        raise reject("split", "sizes", f"must add up to {shape[axis]}, the size of axis {axis}, not {sum(sizes)}")


def _split_write(params: Params, writer: Writer) -> None:
    names = [f"y{i}" for i in range(len(params["sizes"]))]
    writer.node("Split", ["x", writer.constant(params["sizes"], "int64")], names, axis=params["axis"])


ANATOMIES = (
    Anatomy("concat", _read_concat, _concat_layout, lambda p: 0, _concat_dims, _concat_write, _concat_check),
    Anatomy("split", _read_split, _split_layout, lambda p: 0, _split_dims, _split_write, _split_check),
)
