"""Element-wise kernels of several operands, with broadcasting: additions and everything else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from deepen.graph.types import Node
from deepen.kernels.families.definition import Anatomy, Group, Layout, Params, Spec, reject
from deepen.kernels.families.matrix_product import broadcast
from deepen.kernels.families.onnx_parts import write_activation, write_quantised
from deepen.kernels.families.operator_costs import ACTIVATIONS, activation_named, op_code, op_cost
from deepen.kernels.families.shape_features import shape_dims

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import Writer

__all__ = ["ANATOMIES", "operands", "operands_layout"]

_COMPARE = ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
_LOGIC = ("And", "Or", "Xor")
OPS = (
    "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Sum", "Where", "BitShift", "BitwiseAnd", "BitwiseOr",
    "BitwiseXor", *_COMPARE, *_LOGIC,
)  # fmt: skip
_VARIADIC = ("Min", "Max", "Mean", "Sum")


def operands(group: Group, names: Sequence[str]) -> tuple[list[list[int]], list[int]]:
    """Shapes of the operands and where each comes from.

    Returns:
        Shapes, one per operand; and per operand the number of the distinct activation it is, or -1 for a constant
        (``Mul(x, x)`` reads one tensor: ``[0, 0]``).
    """
    seen: dict[str, int] = {}
    sources = [-1 if group.is_const(name) else seen.setdefault(name, len(seen)) for name in names]
    return [list(group.shape(name)) for name in names], sources


def operands_layout(params: Params, dtypes: Sequence[str], out: Spec) -> Layout:
    """Layout of a kernel given by ``in_shapes`` and ``sources``: a tensor read twice appears once."""
    inputs: dict[int, Spec] = {}
    weights = []
    for i, (shape, source) in enumerate(zip(params["in_shapes"], params["sources"], strict=True)):
        spec = Spec(operand_name(i, source), tuple(shape), dtypes[i])
        if source < 0:
            weights.append(spec)
        else:
            inputs.setdefault(source, spec)
    return Layout(tuple(inputs.values()), (out,), tuple(weights))


def operand_name(position: int, source: int) -> str:
    """Tensor name of an operand in the built model."""
    return f"c{position}" if source < 0 else f"x{source}"


def check_sources(family: str, params: Params) -> None:
    """Check ``in_shapes`` against ``sources``.

    Raises:
        ConfigError: Naming the parameter.
    """
    shapes, sources = params["in_shapes"], params["sources"]
    if len(sources) != len(shapes):
        raise reject(family, "sources", f"must have one value for each of the {len(shapes)} shapes in in_shapes")
    first: dict[int, list[int]] = {}
    for shape, source in zip(shapes, sources, strict=True):
        if source < 0:
            continue
        if source > len(first):
            raise reject(family, "sources", "must number the distinct activations 0, 1, 2, ... in order")
        if first.setdefault(source, shape) != shape:
            raise reject(family, "sources", f"gives tensor {source} two shapes, {first[source]} and {shape}")
    if not first:
        raise reject(family, "sources", "must name at least one activation (0)")


def _data_dtype(group: Group, node: Node) -> str:
    return group.dtype(node.inputs[1] if node.op_type == "Where" else node.inputs[0])


_QUANTISED = {"add": ("Add", "QLinearAdd"), "binary": ("Mul", "QLinearMul")}
_INTEGERS = ("uint8", "int8")


def _read_quantised(group: Group, family: str) -> Params | None:
    """An addition or multiplication on 8-bit integers: the runtime's operator, or one between (de)quantisations."""
    op, fused = _QUANTISED[family]
    node = group.single((fused,))
    if node is not None:
        names = [node.inputs[0], node.inputs[3]]
    else:
        node = group.quantised((op,), f"com.microsoft.{fused}")
        if node is None:
            return None
        names = [group.before_dequantise(name) for name in node.inputs]
    shapes, sources = operands(group, names)
    found = {"dtype": group.dtype(names[0]), "in_shapes": shapes, "sources": sources}
    if found["dtype"] not in _INTEGERS or all(s < 0 for s in sources):
        return None
    return {"op": op, **found} if family == "binary" else found


def _eliminated(group: Group) -> set[str]:
    """Names of additions of a constant the runtime left out (``0 + x``, which Python's ``sum`` begins with)."""
    additions = [n for n in group.compute if n.op_type == "Add"]
    spare = len(additions) - group.runtime_ops.count("Add")
    if not group.runtime_ops or spare <= 0 or spare == len(additions):
        return set()
    return {n.name for n in additions if any((group.scalar(i) == 0) for i in n.inputs)}


def _read(group: Group, family: str) -> Params | None:
    if family in _QUANTISED and (quantised := _read_quantised(group, family)) is not None:
        return quantised
    wanted = OPS if family == "binary" else ("Add",)
    neutral = _eliminated(group)
    nodes = [n for n in group.compute if n.name not in neutral]
    node = nodes[0]
    if node.op_type not in wanted and not (family == "add" and node.op_type == "Sum" and len(node.inputs) == 2):
        return None
    if node.op_type == "Sum" and family == "binary" and len(node.inputs) == 2:
        return None
    activation = "none"
    if len(nodes) == 2 and nodes[1].inputs[0] == node.outputs[0]:
        activation = activation_named(nodes[1].op_type) or ""
    elif len(nodes) != 1:
        return None
    if not activation or activation == "prelu" or (activation == "none") != (family != "addrelu"):
        return None
    shapes, sources = operands(group, node.inputs)
    if all(s < 0 for s in sources):
        return None
    found: dict[str, Any] = {"dtype": _data_dtype(group, node), "in_shapes": shapes, "sources": sources}
    if family == "binary":
        return {"op": node.op_type, **found}
    return {**found, "activation": activation} if family == "addrelu" else found


def _out_dtype(params: Params) -> str:
    return "bool" if params.get("op") in (*_COMPARE, *_LOGIC) else params["dtype"]


def _layout(params: Params) -> Layout:
    dtypes = [params["dtype"]] * len(params["in_shapes"])
    if params.get("op") == "Where":
        dtypes[0] = "bool"
    return operands_layout(params, dtypes, Spec("y", broadcast(*params["in_shapes"]), _out_dtype(params)))


def _ops(params: Params) -> int:
    steps = max(len(params["in_shapes"]) - 1, 1) if params.get("op", "Sum") in _VARIADIC else 1
    each = op_cost(params.get("op", "Add")) * steps + ACTIVATIONS[params.get("activation", "none")][1]
    return _layout(params).outputs[0].elements * each


def _dims(params: Params) -> dict[str, float]:
    out = broadcast(*params["in_shapes"])
    wide = any(tuple(shape) != out for shape in params["in_shapes"])
    return {**shape_dims(out), "op_code": op_code(params.get("op", "Add")), "broadcast": float(wide)}


def _check(params: Params, family: str) -> None:
    op, count = params.get("op", "Add"), len(params["in_shapes"])
    check_sources(family, params)
    if params["dtype"] in _INTEGERS and (family == "addrelu" or op in ("Sub", "Div", "Pow", "Mean", "Sum")):
        raise reject(family, "dtype", f"of {op} may be {params['dtype']} for Add and Mul only (as quantised operators)")
    exact = 3 if op == "Where" else None if op in _VARIADIC else 2
    if (exact is not None and count != exact) or count < 1:
        raise reject(family, "in_shapes", f"of {op} must have {exact or 'at least one'} shapes, not {count}")
    if op == "Sum" and count == 2:
        raise reject(family, "op", "Sum of two is family add")
    if op in _LOGIC and params["dtype"] != "bool":
        raise reject(family, "dtype", f"of {op} must be bool, not {params['dtype']}")
    if op == "Where" and 0 in params["sources"][1:] and params["sources"][0] == 0:
        raise reject(family, "sources", "of Where may not use the condition as data")
    if params.get("activation") in ("none", "prelu") or (family == "addrelu" and not _one_node(params)):
        raise reject(family, "activation", f"must be one operator other than PRelu, not {params['activation']}")
    try:
        broadcast(*params["in_shapes"])
    except ValueError as error:
        raise reject(family, "in_shapes", f"must broadcast: {error}") from error


def _one_node(params: Params) -> bool:
    return bool(ACTIVATIONS[params["activation"]][2])


def _write(params: Params, writer: Writer) -> None:
    op = params.get("op", "Add")
    names = [operand_name(i, s) for i, s in enumerate(params["sources"])]
    if params["dtype"] in _INTEGERS and op in ("Add", "Mul"):
        write_quantised(writer, params["dtype"], names, lambda real, out: writer.node(op, real, out))
        return
    activation = params.get("activation", "none")
    extra: dict[str, Any] = {"direction": "LEFT"} if op == "BitShift" else {}
    if op == "Mod" and params["dtype"].startswith(("float", "bfloat")):
        extra["fmod"] = 1
    out = writer.node(op, names, "y" if activation == "none" else None, **extra)
    if activation != "none":
        write_activation(writer, activation, out, "y", params["dtype"])


ANATOMIES = tuple(
    Anatomy(name, partial(_read, family=name), _layout, _ops, _dims, _write, partial(_check, family=name), lambda p: 18)
    for name in ("add", "addrelu", "binary")
)
