"""Element-wise kernels of one activation: rectifiers, smooth activations, other unary operators."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.fused_activations import EXPRESSIONS, match_expression, match_whole_group
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.onnx_parts import QUANTISED_DTYPES, write_activation, write_operator
from deepen.kernels.families.operator_costs import get_activation_attributes, get_operator_code, get_operator_cost
from deepen.kernels.families.shape_features import compute_shape_features

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS", "RECTIFIERS", "UNARY"]

RECTIFIERS = ("Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu")
UNARY = (
    "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Erf", "Neg", "Abs", "Floor", "Ceil", "Round", "Reciprocal", "Sin", "Cos",
    "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Sign", "Not", "IsNaN", "IsInf", "Elu",
    "Selu", "Celu", "Softplus", "Softsign", "HardSigmoid", "Mish", "Cast", "Identity", "BitwiseNot", "CumSum",
)  # fmt: skip
_ON_INTEGERS = ("Neg", "Abs", "Sign", "Cast", "Identity", "BitwiseNot", "CumSum", "Not")
"""Operators that are defined on integers."""
_TO_BOOL = ("IsNaN", "IsInf")


def _make_same_shape_layout(params: Params) -> KernelLayout:
    shape = tuple(params["shape"])
    return KernelLayout((TensorSpec("x", shape, params["dtype"]),), (TensorSpec("y", shape, params["dtype"]),))


def _count_elements(params: Params) -> int:
    return _make_same_shape_layout(params).inputs[0].elements


def _dims(params: Params) -> dict[str, float]:
    return {**compute_shape_features(params["shape"]), "op_code": get_operator_code(params.get("op", ""))}


# relu ------------------------------------------------------------------------------------------------------------


def _read_relu(group: NodeGroup) -> Params | None:
    node = group.find_single_node(RECTIFIERS)
    if node is None:
        return None
    x = group.shape(node.inputs[0])
    found = {"op": node.op_type, "dtype": group.dtype(node.inputs[0]), "shape": list(x), "slope_shape": []}
    if node.op_type == "PRelu":
        found["slope_shape"] = list(group.shape(node.inputs[1]))
    return found


def _relu_layout(params: Params) -> KernelLayout:
    base = _make_same_shape_layout(params)
    if params["op"] != "PRelu":
        return base
    return KernelLayout(
        base.inputs, base.outputs, (TensorSpec("slope", tuple(params["slope_shape"]), params["dtype"]),)
    )


def _relu_check(params: Params) -> None:
    slope, shape = params["slope_shape"], params["shape"]
    tail = [s for s in slope if s != 1]
    fits = len(slope) <= len(shape) and all(s in (1, t) for s, t in zip(reversed(slope), reversed(shape), strict=False))
    if params["op"] == "PRelu" and not fits:
        raise make_param_error("relu", "slope_shape", f"{slope} does not broadcast to shape {shape}")
    if params["op"] != "PRelu" and tail:
        raise make_param_error("relu", "slope_shape", "is for PRelu only; leave it empty")


def _relu_write(params: Params, writer: KernelModelWriter) -> None:
    name = {"Relu": "relu", "Clip": "clip", "LeakyRelu": "leakyrelu", "PRelu": "prelu"}.get(
        params["op"], "thresholdedrelu"
    )
    if name == "leakyrelu":
        write_operator(writer, params["dtype"], "LeakyRelu", ["x"], **get_activation_attributes(name))
    else:
        write_activation(writer, name, "x", "y", params["dtype"])


# hswish, silu, gelu ----------------------------------------------------------------------------------------------


def _find_activation_input(
    group: NodeGroup, forms: tuple[object, ...], ops: tuple[str, ...], hints: tuple[str, ...]
) -> str | None:
    """Find the input of a group that is one function: a single operator, a known chain, or named by the runtime."""
    node = group.find_single_node(ops)
    if node is not None:
        return node.inputs[0]
    found = match_whole_group(group, forms)
    if found is None and group.runtime_executes(*hints) and len(group.inputs) == 1 and len(group.outputs) == 1:
        found = group.inputs[0].name
    return found


def _read_hswish(group: NodeGroup) -> Params | None:
    x = _find_activation_input(group, EXPRESSIONS["hardswish"], ("HardSwish",), ())
    return None if x is None else {"dtype": group.dtype(x), "shape": list(group.shape(x))}


def _read_silu(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("QuickGelu",))
    if node is not None and float(node.attributes.get("alpha", 1.702)) != 1.0:
        return None
    x = _find_activation_input(group, EXPRESSIONS["silu"], ("Swish", "QuickGelu"), ())
    return None if x is None else {"dtype": group.dtype(x), "shape": list(group.shape(x))}


_GELU_HINTS = {
    "com.microsoft.BiasGelu": "erf", "com.microsoft.Gelu": "erf", "Gelu": "erf", "com.microsoft.FastGelu": "tanh",
    "com.microsoft.QuickGelu": "quick",
}  # fmt: skip


def _read_gelu(group: NodeGroup) -> Params | None:
    """Read a GELU.

    1. A single operator.
    2. A known chain, alone or behind the addition of a constant.
    3. An unknown chain with an Erf, Tanh or Sigmoid for which the runtime executes a GELU.
    """
    # 1
    node = group.find_single_node(("Gelu", "FastGelu", "QuickGelu", "BiasGelu"))
    if node is not None:
        raw = node.attributes.get("approximate", "none")
        tanh = (raw.decode() if isinstance(raw, bytes) else raw) == "tanh"
        op = {"FastGelu": "tanh", "QuickGelu": "quick"}.get(node.op_type, "tanh" if tanh else "erf")
        bias = len(node.inputs) > 1 and bool(node.inputs[1])
        return _make_gelu_params(group, node.inputs[0], op, bias)
    # 2
    for op, name in (("erf", "gelu"), ("tanh", "gelutanh"), ("quick", "quickgelu")):
        x = match_whole_group(group, EXPRESSIONS[name])
        if x is not None:
            return _make_gelu_params(group, x, op, False)
        found = _find_biased_input(group, EXPRESSIONS[name])
        if found is not None:
            return _make_gelu_params(group, found, op, True)
    # 3
    hint = next((h for h in _GELU_HINTS if group.runtime_executes(h)), None)
    erf_like = {"Erf", "Tanh", "Sigmoid"} & set(group.op_types)
    if hint is None or not erf_like or len(group.inputs) != 1 or len(group.outputs) != 1:
        return None
    return _make_gelu_params(group, group.inputs[0].name, _GELU_HINTS[hint], hint == "com.microsoft.BiasGelu")


def _make_gelu_params(group: NodeGroup, x: str, op: str, bias: bool) -> Params:
    return {"op": op, "dtype": group.dtype(x), "shape": list(group.shape(x)), "bias": bias}


def _find_biased_input(group: NodeGroup, forms: tuple[object, ...]) -> str | None:
    """Find the input of ``Add(x, constant)`` followed by exactly one of the forms."""
    for add in (n for n in group.compute if n.op_type == "Add"):
        data = [i for i in add.inputs if not group.is_const(i)]
        rest = {n.name for n in group.compute} - {add.name}
        if len(data) != 1 or len(rest) == len(group.compute):
            continue
        for end in group.compute:
            for form in forms:
                found = match_expression(group, end.outputs[0], form, add.outputs[0])
                if found and {n.name for n in found[1]} == rest:
                    return data[0]
    return None


def _gelu_layout(params: Params) -> KernelLayout:
    base = _make_same_shape_layout(params)
    if not params["bias"]:
        return base
    return KernelLayout(base.inputs, base.outputs, (TensorSpec("b", (params["shape"][-1],), params["dtype"]),))


def _gelu_check(params: Params) -> None:
    if params["bias"] and not params["shape"]:
        raise make_param_error("gelu", "bias", "needs a shape of rank 1 or more")


def _is_single_gelu_operator(params: Params) -> bool:
    """Return whether a GELU is built as one operator: runtimes fuse the chain of the exact form, not the tanh form."""
    return bool(params["op"] == "tanh" and not params["bias"])


def _gelu_write(params: Params, writer: KernelModelWriter) -> None:
    if _is_single_gelu_operator(params):
        writer.node("Gelu", ["x"], "y", approximate="tanh")
        return
    x = writer.node("Add", ["x", "b"]) if params["bias"] else "x"
    name = {"erf": "gelu", "tanh": "gelutanh", "quick": "quickgelu"}[params["op"]]
    write_activation(writer, name, x, "y", params["dtype"])


# elementwise -----------------------------------------------------------------------------------------------------


def _read_unary(group: NodeGroup) -> Params | None:
    node = group.find_single_node(UNARY)
    if node is None:
        x = match_whole_group(group, EXPRESSIONS["mish"])
        if x is None:
            return None
        dtype = group.dtype(x)
        return {"op": "Mish", "dtype": dtype, "shape": list(group.shape(x)), "out_dtype": dtype}
    x = node.inputs[0]
    return {
        "op": node.op_type, "dtype": group.dtype(x), "shape": list(group.shape(x)),
        "out_dtype": group.dtype(node.outputs[0]),
    }  # fmt: skip


def _unary_layout(params: Params) -> KernelLayout:
    shape = tuple(params["shape"])
    return KernelLayout((TensorSpec("x", shape, params["dtype"]),), (TensorSpec("y", shape, params["out_dtype"]),))


def _unary_check(params: Params) -> None:
    op, dtype, out = params["op"], params["dtype"], params["out_dtype"]
    wanted = "bool" if op in _TO_BOOL else dtype
    if op != "Cast" and out != wanted:
        raise make_param_error("elementwise", "out_dtype", f"of {op} on {dtype} must be {wanted}, not {out}")
    if op == "Not" and dtype != "bool":
        raise make_param_error("elementwise", "dtype", f"of Not must be bool, not {dtype}")
    if op == "CumSum" and not params["shape"]:
        raise make_param_error("elementwise", "shape", "of CumSum must have at least one size")


def _unary_write(params: Params, writer: KernelModelWriter) -> None:
    from deepen.kernels.families.onnx_writer import get_onnx_type

    op = params["op"]
    if op == "CumSum":
        writer.node(op, ["x", writer.scalar(len(params["shape"]) - 1, "int64")], "y")
    else:
        native = op in _ON_INTEGERS or params["dtype"] not in QUANTISED_DTYPES
        target = get_onnx_type(params["out_dtype"]) if op == "Cast" else None
        if native:
            writer.node(op, ["x"], "y", to=target)
        else:
            write_operator(writer, params["dtype"], op, ["x"])


def _count_operator_ops(params: Params, name: str) -> int:
    return _count_elements(params) * get_operator_cost(name)


FAMILY_DEFINITIONS = (
    FamilyDefinition("relu", _read_relu, _relu_layout, lambda p: _count_operator_ops(p, p["op"]), _dims, _relu_write,
        _relu_check),
    FamilyDefinition(
        "hswish", _read_hswish, _make_same_shape_layout, lambda p: _count_operator_ops(p, "HardSwish"), _dims,
        lambda p, w: write_activation(w, "hardswish", "x", "y", p["dtype"]),
    ),
    FamilyDefinition(
        "silu", _read_silu, _make_same_shape_layout, partial(_count_operator_ops, name="quick"), _dims,
        lambda p, w: write_activation(w, "silu", "x", "y", p["dtype"]),
    ),
    FamilyDefinition(
        "gelu", _read_gelu, _gelu_layout, lambda p: _count_operator_ops(p, p["op"]) + _count_elements(p) * p["bias"],
        _dims,
        _gelu_write, _gelu_check, lambda p: 20 if _is_single_gelu_operator(p) else 17,
    ),
    FamilyDefinition(
        "elementwise", _read_unary, _unary_layout, lambda p: _count_operator_ops(p, p["op"]), _dims, _unary_write,
        _unary_check,
        lambda p: 18,
    ),
)  # fmt: skip
