"""Matrix products: fully connected layers (constant right side) and products of two activations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from deepen.graph.types import Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.fused_activations import match_fused_tail
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.onnx_parts import write_activation
from deepen.kernels.families.operator_costs import ACTIVATIONS, find_activation, get_operator_code
from deepen.kernels.families.shape_features import compute_lane_waste

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS", "broadcast_shapes"]

_GEMM = ("Gemm", "FusedGemm")
_MATMUL = ("MatMul", "FusedMatMul", "TransposeMatMul")


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the common shape of tensors under multidirectional (numpy) broadcasting.

    Raises:
        ValueError: If the shapes do not broadcast.
    """
    rank = max((len(s) for s in shapes), default=0)
    padded = [[1] * (rank - len(s)) + list(s) for s in shapes]
    out = []
    for sizes in zip(*padded, strict=True):
        wide = {s for s in sizes if s != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {', '.join(str(list(s)) for s in shapes)} do not broadcast")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


def _find_product_node(group: NodeGroup) -> Node | None:
    anchors = [n for n in group.compute if n.op_type in (*_GEMM, *_MATMUL)]
    return anchors[0] if len(anchors) == 1 else None


def _read_node_activation(node: Node) -> str:
    value = node.attributes.get("activation", "")
    return find_activation(value.decode() if isinstance(value, bytes) else str(value)) or "none"


def _read_fc(group: NodeGroup) -> Params | None:
    """Read a fully connected layer.

    1. One product of an activation and a constant of rank 1 or 2.
    2. Sizes (m, k) x (k, n), with either operand transposed; leading sizes of the activation count as rows.
    3. All other nodes follow the product as bias, residual and activation.
    4. It is built as a Gemm if it is one, or the runtime makes it one, else as a MatMul.
    """
    # 1
    anchor = _find_product_node(group)
    if anchor is None or not group.is_const(anchor.inputs[1]) or group.is_const(anchor.inputs[0]):
        return None
    a, b = group.shape(anchor.inputs[0]), group.shape(anchor.inputs[1])
    if not a or not 1 <= len(b) <= 2:
        return None
    # 2
    gemm = anchor.op_type in _GEMM
    flip_a = bool(anchor.attributes.get("transA", 0)) and len(a) > 1
    flip_b = bool(anchor.attributes.get("transB", 0))
    k = a[0] if flip_a and gemm else (a[-2] if flip_a else a[-1])
    n = 1 if len(b) == 1 else (b[0] if flip_b else b[1])
    # 3
    tail = match_fused_tail(group, anchor.outputs[0], n, {anchor.name})
    if {x.name for x in group.compute} - tail.used - {anchor.name}:
        return None
    third = anchor.inputs[2] if len(anchor.inputs) > 2 else ""
    residual = tail.residual or bool(third and not group.is_const(third))
    bias = tail.bias or bool(third and group.is_const(third))
    # 4
    as_gemm = gemm or bias or residual or group.runtime_executes("Gemm", "com.microsoft.FusedGemm")
    return {
        "dtype": group.dtype(anchor.inputs[0]), "m": prod(a) // max(k, 1), "k": k, "n": n, "bias": bias,
        "activation": tail.activation if tail.activation != "none" else _read_node_activation(anchor),
        "residual": residual,
        "trans_a": flip_a, "trans_b": gemm and flip_b, "op": "Gemm" if as_gemm else "MatMul",
    }  # fmt: skip


def _fc_layout(params: Params) -> KernelLayout:
    dtype, m, k, n = params["dtype"], params["m"], params["k"], params["n"]
    x = TensorSpec("x", (k, m) if params["trans_a"] else (m, k), dtype)
    y = TensorSpec("y", (m, n), dtype)
    weights = [TensorSpec("w", (n, k) if params["trans_b"] else (k, n), dtype)]
    if params["bias"]:
        weights.append(TensorSpec("b", (n,), dtype))
    if params["activation"] == "prelu":
        weights.append(TensorSpec("slope", (n,), dtype))
    return KernelLayout((x, TensorSpec("z", (m, n), dtype)) if params["residual"] else (x,), (y,), tuple(weights))


def _compute_gemm_features(m: int, n: int, k: int, batch: int) -> dict[str, float]:
    wastes = {f"waste_{name}_16": compute_lane_waste(size, 16) for name, size in (("m", m), ("n", n), ("k", k))}
    return {"m": m, "n": n, "k": k, "gemm_batch": batch, **wastes}


def _fc_dims(params: Params) -> dict[str, float]:
    return {
        **_compute_gemm_features(params["m"], params["n"], params["k"], 1), "batch": params["m"], "c_in": params["k"],
        "c_out": params["n"], "waste_c_in_16": compute_lane_waste(params["k"], 16),
        "waste_c_out_16": compute_lane_waste(params["n"], 16),
        "op_code": get_operator_code(params["op"]),
    }  # fmt: skip


def _fc_check(params: Params) -> None:
    if params["op"] == "MatMul":
        for name in ("bias", "residual", "trans_a", "trans_b"):
            if params[name]:
                raise make_param_error("fc", name, "needs op Gemm: a MatMul has no such input")


def _write_final_activation(params: Params, writer: KernelModelWriter, out: str) -> None:
    if params["activation"] != "none":
        write_activation(writer, params["activation"], out, "y", params["dtype"])


def _fc_write(params: Params, writer: KernelModelWriter) -> None:
    last = "y" if params["activation"] == "none" else None
    if params["op"] == "MatMul":
        _write_final_activation(params, writer, writer.node("MatMul", ["x", "w"], last))
        return
    both = params["bias"] and params["residual"]
    third = ["b"] if params["bias"] else (["z"] if params["residual"] else [])
    out = writer.node(
        "Gemm", ["x", "w", *third], None if both else last, transA=int(params["trans_a"]), transB=int(params["trans_b"])
    )
    _write_final_activation(params, writer, writer.node("Add", [out, "z"], last) if both else out)


def _count_product_ops(params: Params, layout: KernelLayout) -> int:
    each = ACTIVATIONS[params["activation"]][1] + params["bias"] + params["residual"]
    return int(layout.outputs[0].elements * each)


def _trace_operand(group: NodeGroup, name: str) -> tuple[list[int], bool, set[str]]:
    """Trace an operand of a product back through one transpose and scalings by a constant.

    Returns:
        The operand's shape before them, whether its last two sizes are swapped, and the names of the nodes passed.
    """
    shape = list(group.shape(name))
    used: set[str] = set()
    flipped = turned = False
    by_output = {out: n for n in group.compute for out in n.outputs}
    while (node := by_output.get(name)) is not None:
        if node.op_type == "Transpose" and not turned:
            turned = True
            perm = group.ints(node, "perm") or tuple(reversed(range(len(shape))))
            flipped = len(perm) > 1 and perm[-2] == len(perm) - 1
        elif node.op_type not in ("Mul", "Div") or not any(
            group.is_const(i) and prod(group.shape(i)) == 1 for i in node.inputs
        ):
            break
        used.add(node.name)
        name = next(i for i in node.inputs if not group.is_const(i))
    if flipped:
        shape[-1], shape[-2] = shape[-2], shape[-1]
    return shape, flipped, used


def _read_matmul(group: NodeGroup) -> Params | None:
    """Read a product of two activations, or of any operands that ``fc`` does not cover.

    1. One product; its operands are traced back through transposes and scalings.
    2. Operators that read an operand transposed swap its last two sizes once more.
    3. All other nodes follow the product as bias, residual and activation.
    """
    # 1
    anchor = _find_product_node(group)
    if anchor is None:
        return None
    const_a, const_b = (group.is_const(name) for name in anchor.inputs[:2])
    a, flip_a, used_a = _trace_operand(group, anchor.inputs[0])
    b, flip_b, used_b = _trace_operand(group, anchor.inputs[1])
    if not a or not b or (const_a and const_b):
        return None
    # 2
    for shape, batch in ((a, "transBatchA"), (b, "transBatchB")):
        if anchor.attributes.get(batch, 0):  # (rows, batch..., columns) is the same work as (batch..., rows, columns)
            shape.insert(len(shape) - 2, shape.pop(0))
    flip_a ^= bool(anchor.attributes.get("transA", 0))
    flip_b ^= bool(anchor.attributes.get("transB", 0))
    # 3
    n = 1 if len(b) == 1 else (b[-2] if flip_b else b[-1])
    tail = match_fused_tail(group, anchor.outputs[0], n, {anchor.name} | used_a | used_b)
    if {x.name for x in group.compute} - tail.used - {anchor.name} - used_a - used_b:
        return None
    third = anchor.inputs[2] if len(anchor.inputs) > 2 else ""
    return {
        "dtype": group.dtype(anchor.inputs[0]), "a_shape": a, "b_shape": b, "trans_a": flip_a, "trans_b": flip_b,
        "constant": "a" if const_a else "b" if const_b else "none",
        "bias": tail.bias or bool(third and group.is_const(third)),
        "residual": tail.residual or bool(third and not group.is_const(third)),
        "activation": tail.activation if tail.activation != "none" else _read_node_activation(anchor),
    }  # fmt: skip


def _compute_matmul_sizes(params: Params) -> tuple[tuple[int, ...], int, int, int]:
    """Compute (batch sizes, m, n, k) of the product."""
    a, b = list(params["a_shape"]), list(params["b_shape"])
    a, b = ([1, *a] if len(a) == 1 else a), ([*b, 1] if len(b) == 1 else b)
    m, k = (a[-1], a[-2]) if params["trans_a"] else (a[-2], a[-1])
    n = b[-2] if params["trans_b"] else b[-1]
    return broadcast_shapes(a[:-2], b[:-2]), m, n, k


def _matmul_layout(params: Params) -> KernelLayout:
    dtype = params["dtype"]
    batch, m, n, _ = _compute_matmul_sizes(params)
    rows = () if len(params["a_shape"]) == 1 else (m,)
    columns = () if len(params["b_shape"]) == 1 else (n,)
    y = TensorSpec("y", (*batch, *rows, *columns), dtype)
    operands = {name: TensorSpec(name, tuple(params[f"{name}_shape"]), dtype) for name in "ab"}
    weights = [operands.pop(params["constant"])] if params["constant"] != "none" else []
    if params["bias"]:
        weights.append(TensorSpec("bias", (n,), dtype))
    inputs = [*operands.values(), *([TensorSpec("z", y.shape, dtype)] if params["residual"] else [])]
    return KernelLayout(tuple(inputs), (y,), tuple(weights))


def _matmul_dims(params: Params) -> dict[str, float]:
    batch, m, n, k = _compute_matmul_sizes(params)
    wide = tuple(params["a_shape"][:-2]) != tuple(params["b_shape"][:-2])
    return {**_compute_gemm_features(m, n, k, prod(batch)), "batch": prod(batch), "broadcast": float(wide)}


def _matmul_check(params: Params) -> None:
    a, b = list(params["a_shape"]), list(params["b_shape"])
    for name, shape in (("a", a), ("b", b)):
        if not shape:
            raise make_param_error("matmul", f"{name}_shape", "must have at least one size")
        if len(shape) == 1 and params[f"trans_{name}"]:
            raise make_param_error("matmul", f"trans_{name}", "needs an operand of rank 2 or more")
    rows = b[0] if len(b) == 1 else (b[-1] if params["trans_b"] else b[-2])
    try:
        k = _compute_matmul_sizes(params)[3]
    except ValueError as error:
        raise make_param_error("matmul", "b_shape", f"does not broadcast with a_shape: {error}") from error
    if rows != k:
        raise make_param_error("matmul", "b_shape", f"has {rows} rows for the {k} columns of a_shape")
    if params["activation"] == "prelu":
        raise make_param_error("matmul", "activation", "may not be prelu")
    if params["bias"] and len(b) == 1:
        raise make_param_error("matmul", "bias", "needs b_shape of rank 2 or more")


def _matmul_write(params: Params, writer: KernelModelWriter) -> None:
    operands: list[str] = []
    for name in "ab":
        rank = len(params[f"{name}_shape"])
        perm = [*range(rank - 2), rank - 1, rank - 2]
        operands.append(writer.node("Transpose", [name], perm=perm) if params[f"trans_{name}"] else name)
    steps: list[tuple[str, list[Any]]] = [("MatMul", operands)]
    steps += [("Add", ["bias"])] if params["bias"] else []
    steps += [("Add", ["z"])] if params["residual"] else []
    out = ""
    for i, (op, extra) in enumerate(steps):
        last = "y" if i == len(steps) - 1 and params["activation"] == "none" else None
        out = writer.node(op, extra if op == "MatMul" else [out, *extra], last)
    _write_final_activation(params, writer, out)


FAMILY_DEFINITIONS = (
    FamilyDefinition("fc", _read_fc, _fc_layout, lambda p: _count_product_ops(p, _fc_layout(p)), _fc_dims, _fc_write,
        _fc_check),
    FamilyDefinition(
        "matmul", _read_matmul, _matmul_layout, lambda p: _count_product_ops(p, _matmul_layout(p)), _matmul_dims,
        _matmul_write,
        _matmul_check,
    ),
)  # fmt: skip
