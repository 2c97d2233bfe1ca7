"""Element-wise kernels of several operands, with broadcasting: additions and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from deepen.graph.types import Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.matrix_product import broadcast_shapes
from deepen.kernels.families.onnx_parts import QUANTISED_DTYPES, write_activation, write_operator
from deepen.kernels.families.operator_costs import ACTIVATIONS, find_activation, get_operator_code, get_operator_cost
from deepen.kernels.families.shape_features import compute_shape_features, count_broadcast_runs

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS", "make_operands_layout", "read_operands"]

_COMPARE = ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
_LOGIC = ("And", "Or", "Xor")
OPS = (
    "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Sum", "Where", "BitShift", "BitwiseAnd", "BitwiseOr",
    "BitwiseXor", *_COMPARE, *_LOGIC,
)  # fmt: skip
_VARIADIC = ("Min", "Max", "Mean", "Sum")


def read_operands(group: NodeGroup, names: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Read the shapes of the operands and the source of each.

    Returns:
        Shapes, one per operand; and per operand the number of the distinct activation it is, or -1 for a constant
        (``Mul(x, x)`` reads one tensor: ``[0, 0]``).
    """
    seen: dict[str, int] = {}
    sources = [-1 if group.is_const(name) else seen.setdefault(name, len(seen)) for name in names]
    return [list(group.shape(name)) for name in names], sources


def make_operands_layout(params: Params, dtypes: Sequence[str], out: TensorSpec) -> KernelLayout:
    """Layout of a kernel given by ``in_shapes`` and ``sources``: a tensor read twice appears once."""
    inputs: dict[int, TensorSpec] = {}
    weights = []
    for i, (shape, source) in enumerate(zip(params["in_shapes"], params["sources"], strict=True)):
        spec = TensorSpec(name_operand(i, source), tuple(shape), dtypes[i])
        if source < 0:
            weights.append(spec)
        else:
            inputs.setdefault(source, spec)
    return KernelLayout(tuple(inputs.values()), (out,), tuple(weights))


def name_operand(position: int, source: int) -> str:
    """Tensor name of an operand in the built model."""
    return f"c{position}" if source < 0 else f"x{source}"


def check_sources(family: str, params: Params) -> None:
    """Check ``in_shapes`` against ``sources``.

    Raises:
        ConfigError: Naming the parameter.
    """
    shapes, sources = params["in_shapes"], params["sources"]
    if len(sources) != len(shapes):
        raise make_param_error(
            family, "sources", f"must have one value for each of the {len(shapes)} shapes in in_shapes"
        )
    first: dict[int, list[int]] = {}
    for shape, source in zip(shapes, sources, strict=True):
        if source < 0:
            continue
        if source > len(first):
            raise make_param_error(family, "sources", "must number the distinct activations 0, 1, 2, ... in order")
        if first.setdefault(source, shape) != shape:
            raise make_param_error(family, "sources", f"gives tensor {source} two shapes, {first[source]} and {shape}")
    if not first:
        raise make_param_error(family, "sources", "must name at least one activation (0)")


def _data_dtype(group: NodeGroup, node: Node) -> str:
    return group.dtype(node.inputs[1] if node.op_type == "Where" else node.inputs[0])


def _find_eliminated_additions(group: NodeGroup) -> set[str]:
    """Find the names of additions of 0 that the runtime eliminated (Python's ``sum`` begins with ``0 + x``)."""
    additions = [n for n in group.compute if n.op_type == "Add"]
    spare = len(additions) - group.runtime_ops.count("Add")
    if not group.runtime_ops or spare <= 0 or spare == len(additions):
        return set()
    return {n.name for n in additions if any((group.scalar(i) == 0) for i in n.inputs)}


def _read(group: NodeGroup, family: str) -> Params | None:
    """Read a group of one of the families ``add``, ``addrelu`` and ``binary``.

    1. The first node that the runtime did not eliminate is the operator: Add, or Sum of two operands, for ``add`` and
       ``addrelu``; any other for ``binary``.
    2. ``addrelu`` has exactly one node behind it, an activation; the others have none.
    3. At least one operand is an activation.
    """
    # 1
    wanted = OPS if family == "binary" else ("Add",)
    neutral = _find_eliminated_additions(group)
    nodes = [n for n in group.compute if n.name not in neutral]
    node = nodes[0]
    if node.op_type not in wanted and not (family == "add" and node.op_type == "Sum" and len(node.inputs) == 2):
        return None
    if node.op_type == "Sum" and family == "binary" and len(node.inputs) == 2:
        return None
    # 2
    activation = "none"
    if len(nodes) == 2 and nodes[1].inputs[0] == node.outputs[0]:
        activation = find_activation(nodes[1].op_type) or ""
    elif len(nodes) != 1:
        return None
    if not activation or activation == "prelu" or (activation == "none") != (family != "addrelu"):
        return None
    # 3
    shapes, sources = read_operands(group, node.inputs)
    if all(s < 0 for s in sources):
        return None
    found: dict[str, Any] = {"dtype": _data_dtype(group, node), "in_shapes": shapes, "sources": sources}
    if family == "binary":
        return {"op": node.op_type, **found}
    return {**found, "activation": activation} if family == "addrelu" else found


def _get_output_dtype(params: Params) -> str:
    return "bool" if params.get("op") in (*_COMPARE, *_LOGIC) else params["dtype"]


def _layout(params: Params) -> KernelLayout:
    dtypes = [params["dtype"]] * len(params["in_shapes"])
    if params.get("op") == "Where":
        dtypes[0] = "bool"
    return make_operands_layout(
        params, dtypes, TensorSpec("y", broadcast_shapes(*params["in_shapes"]), _get_output_dtype(params))
    )


def _ops(params: Params) -> int:
    steps = max(len(params["in_shapes"]) - 1, 1) if params.get("op", "Sum") in _VARIADIC else 1
    each = get_operator_cost(params.get("op", "Add")) * steps + ACTIVATIONS[params.get("activation", "none")][1]
    return _layout(params).outputs[0].elements * each


def _dims(params: Params) -> dict[str, float]:
    out = broadcast_shapes(*params["in_shapes"])
    wide = any(tuple(shape) != out for shape in params["in_shapes"])
    return {
        **compute_shape_features(out),
        "op_code": get_operator_code(params.get("op", "Add")),
        "broadcast": float(wide),
        "inner_runs": count_broadcast_runs(params["in_shapes"], out),
    }


def _check(params: Params, family: str) -> None:
    op, count = params.get("op", "Add"), len(params["in_shapes"])
    check_sources(family, params)
    if params["dtype"] in QUANTISED_DTYPES and (family == "addrelu" or op in ("Sub", "Div", "Pow", "Mean", "Sum")):
        raise make_param_error(
            family, "dtype", f"of {op} may be {params['dtype']} for Add and Mul only (as quantised operators)"
        )
    exact = 3 if op == "Where" else None if op in _VARIADIC else 2
    if (exact is not None and count != exact) or count < 1:
        raise make_param_error(family, "in_shapes", f"of {op} must have {exact or 'at least one'} shapes, not {count}")
    if op == "Sum" and count == 2:
        raise make_param_error(family, "op", "Sum of two is family add")
    if op in _LOGIC and params["dtype"] != "bool":
        raise make_param_error(family, "dtype", f"of {op} must be bool, not {params['dtype']}")
    if op == "Where" and 0 in params["sources"][1:] and params["sources"][0] == 0:
        raise make_param_error(family, "sources", "of Where may not use the condition as data")
    if params.get("activation") in ("none", "prelu") or (family == "addrelu" and not _is_single_operator(params)):
        raise make_param_error(
            family, "activation", f"must be one operator other than PRelu, not {params['activation']}"
        )
    try:
        broadcast_shapes(*params["in_shapes"])
    except ValueError as error:
        raise make_param_error(family, "in_shapes", f"must broadcast: {error}") from error


def _is_single_operator(params: Params) -> bool:
    return bool(ACTIVATIONS[params["activation"]][2])


def _write(params: Params, writer: KernelModelWriter) -> None:
    op = params.get("op", "Add")
    names = [name_operand(i, s) for i, s in enumerate(params["sources"])]
    if op in ("Add", "Mul") and params["dtype"] in QUANTISED_DTYPES:
        write_operator(writer, params["dtype"], op, names)
        return
    activation = params.get("activation", "none")
    extra: dict[str, Any] = {"direction": "LEFT"} if op == "BitShift" else {}
    if op == "Mod" and params["dtype"].startswith(("float", "bfloat")):
        extra["fmod"] = 1
    out = writer.node(op, names, "y" if activation == "none" else None, **extra)
    if activation != "none":
        write_activation(writer, activation, out, "y", params["dtype"])


FAMILY_DEFINITIONS = tuple(
    FamilyDefinition(
        name, partial(_read, family=name), _layout, _ops, _dims, _write, partial(_check, family=name), lambda p: 18
    )
    for name in ("add", "addrelu", "binary")
)
