"""Quantised kernels: to and from integers, convolution and matrix products on integers."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from deepen.graph.types import Node
from deepen.kernels.families import convolution
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.operator_costs import get_integer_operator_code, get_operator_code, get_operator_cost
from deepen.kernels.families.shape_features import compute_lane_waste, compute_shape_features

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]

_SCALE = 0.02


def _find_dequantised_source(group: NodeGroup, name: str) -> tuple[str, str] | None:
    """Find the tensor and scale that a DequantizeLinear, anywhere in the graph, turns into this tensor."""
    node = group.producer(name)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    return node.inputs[0], node.inputs[1]


def _is_per_channel(group: NodeGroup, scale: str) -> bool:
    return bool(scale) and prod(group.shape(scale)) > 1


# quantize, dequantize --------------------------------------------------------------------------------------------


def _read_scale(group: NodeGroup, family: str) -> Params | None:
    names = ("QuantizeLinear", "DynamicQuantizeLinear") if family == "quantize" else ("DequantizeLinear",)
    node = group.find_single_node(names)
    if node is None:
        return None
    x = group.shape(node.inputs[0])
    per_axis = len(node.inputs) > 1 and _is_per_channel(group, node.inputs[1])
    found = {
        "dtype": group.dtype(node.inputs[0]), "out_dtype": group.dtype(node.outputs[0]), "shape": list(x),
        "axis": int(node.attributes.get("axis", 1)) % len(x) if per_axis else -1,
    }  # fmt: skip
    return {"op": node.op_type, **found} if family == "quantize" else found


def _scale_layout(params: Params) -> KernelLayout:
    shape, integer = tuple(params["shape"]), params["out_dtype"] if "op" in params else params["dtype"]
    x, y = TensorSpec("x", shape, params["dtype"]), TensorSpec("y", shape, params["out_dtype"])
    if params.get("op") == "DynamicQuantizeLinear":
        return KernelLayout((x,), (y, TensorSpec("scale", (), "float32"), TensorSpec("zero", (), "uint8")))
    wide = (shape[params["axis"]],) if params["axis"] >= 0 else ()
    real = params["dtype"] if "op" in params else params["out_dtype"]
    return KernelLayout((x,), (y,), (TensorSpec("scale", wide, real), TensorSpec("zero", wide, integer)))


def _scale_dims(params: Params) -> dict[str, float]:
    return {
        **compute_shape_features(params["shape"]),
        "op_code": get_operator_code(params.get("op", "DequantizeLinear")),
    }


def _scale_check(params: Params, family: str) -> None:
    if params["axis"] >= len(params["shape"]):
        raise make_param_error(family, "axis", f"must be below the rank {len(params['shape'])}, not {params['axis']}")
    if params["axis"] >= 0 and params["shape"][params["axis"]] == 1:
        raise make_param_error(family, "axis", "of size 1 has one scale; use -1")
    if params.get("op") == "DynamicQuantizeLinear" and (params["axis"] >= 0 or params["out_dtype"] != "uint8"):
        raise make_param_error(family, "out_dtype", "of DynamicQuantizeLinear must be uint8, with axis -1")
    side = "out_dtype" if family == "quantize" else "dtype"
    if params[side] not in ("uint8", "int8", "uint16", "int16", *(("int32",) if family == "dequantize" else ())):
        raise make_param_error(family, side, f"must be an integer type, not {params[side]}")


def _add_scale_constants(writer: KernelModelWriter) -> list[str]:
    scale, zero = writer.layout.weights
    return [
        writer.constant(np.full(scale.shape, _SCALE), scale.dtype, "scale"),
        writer.constant(np.zeros(zero.shape), zero.dtype, "zero"),
    ]


def _scale_write(params: Params, writer: KernelModelWriter) -> None:
    op = params.get("op", "DequantizeLinear")
    if op == "DynamicQuantizeLinear":
        writer.node(op, ["x"], ["y", "scale", "zero"])
    else:
        writer.node(op, ["x", *_add_scale_constants(writer)], "y", axis=params["axis"] if params["axis"] >= 0 else None)


def _scale_ops(params: Params) -> int:
    return prod(params["shape"]) * get_operator_cost(params.get("op", "DequantizeLinear"))


# qconv -----------------------------------------------------------------------------------------------------------


def _read_qconv(group: NodeGroup) -> Params | None:
    """Read a convolution on integers.

    1. The group has exactly one convolution.
    2. ``QLinearConv`` and ``ConvInteger`` read integers themselves.
    3. A ``Conv`` reads dequantised tensors, and its result is quantised, or the runtime executes a ``QLinearConv``.
    """
    # 1
    anchors = [n for n in group.compute if n.op_type in ("QLinearConv", "ConvInteger", "Conv")]
    if len(anchors) != 1:
        return None
    node = anchors[0]
    x, w, scale, out = node.inputs[0], node.inputs[1], "", node.outputs[0]
    if node.op_type == "QLinearConv":  # 2
        w, scale, bias = node.inputs[3], node.inputs[4], len(node.inputs) > 8 and bool(node.inputs[8])
    elif node.op_type == "ConvInteger":
        bias = False
    else:  # 3
        left, right = _find_dequantised_source(group, x), _find_dequantised_source(group, w)
        written = [n for n in group.nodes if n.op_type == "QuantizeLinear"]
        if left is None or right is None or not (written or group.runtime_executes("QLinearConv")):
            return None
        bias = len(node.inputs) > 2 and bool(node.inputs[2])
        x, (w, scale) = left[0], right
        out = written[-1].outputs[0] if written else ""
    shape, weight = group.shape(x), group.shape(w)
    kernel = list(weight[2:])
    return {
        "op": "ConvInteger" if node.op_type == "ConvInteger" else "QLinearConv", "dtype": group.dtype(x),
        "weight_dtype": group.dtype(w), "out_dtype": group.dtype(out) or group.dtype(x),
        "per_channel": _is_per_channel(group, scale),
        "batch": shape[0], "c_in": shape[1], "c_out": weight[0], "spatial": list(shape[2:]), "kernel": kernel,
        **convolution.read_conv_geometry(node, shape[2:], kernel), "groups": int(node.attributes.get("group", 1)),
        "bias": bias,
    }  # fmt: skip


def _qconv_layout(params: Params) -> KernelLayout:
    c_out = params["c_out"]
    x = TensorSpec("x", (params["batch"], params["c_in"], *params["spatial"]), params["dtype"])
    y = TensorSpec("y", (params["batch"], c_out, *convolution.compute_conv_output_size(params)), params["out_dtype"])
    weights = [TensorSpec("w", (c_out, params["c_in"] // params["groups"], *params["kernel"]), params["weight_dtype"])]
    if params["op"] == "QLinearConv":
        wide = (c_out,) if params["per_channel"] else ()
        weights += [TensorSpec("w_scale", wide, "float32"), TensorSpec("w_zero", wide, params["weight_dtype"])]
        weights += [TensorSpec("b", (c_out,), "int32")] if params["bias"] else []
    return KernelLayout((x,), (y,), tuple(weights))


def _get_code(params: Params) -> int:
    return get_integer_operator_code(params["op"], params["dtype"], params["weight_dtype"])


def _qconv_check(params: Params) -> None:
    convolution.check_geometry("qconv", params)
    for name in ("c_in", "c_out"):
        if params[name] % params["groups"]:
            raise make_param_error(
                "qconv", name, f"must be a multiple of groups ({params['groups']}), not {params[name]}"
            )
    if any(size < 1 for size in convolution.compute_conv_output_size(params)):
        raise make_param_error("qconv", "spatial", f"{params['spatial']} is too small for kernel, dilation and pads")
    if params["op"] == "ConvInteger":
        for name, want in (("bias", False), ("per_channel", False), ("out_dtype", "int32")):
            if params[name] != want:
                raise make_param_error("qconv", name, f"of ConvInteger must be {want}, not {params[name]}")
    elif params["out_dtype"] != params["dtype"]:
        raise make_param_error("qconv", "out_dtype", "of QLinearConv must equal dtype")
    if params["per_channel"] and params["c_out"] == 1:
        raise make_param_error("qconv", "per_channel", "makes no difference with one output channel; leave it false")
    if params["dtype"] == "int8" and params["weight_dtype"] != "int8":
        raise make_param_error("qconv", "weight_dtype", "of int8 activations must be int8")


def _qconv_write(params: Params, writer: KernelModelWriter) -> None:
    attributes = {
        "kernel_shape": params["kernel"], "strides": params["stride"], "dilations": params["dilation"],
        "pads": params["pads"],
        "group": params["groups"],
    }  # fmt: skip
    zero = writer.constant(np.zeros(()), params["dtype"], "x_zero")
    if params["op"] == "ConvInteger":
        writer.node("ConvInteger", ["x", "w", zero], "y", **attributes)
        return
    scale = writer.scalar(_SCALE, "float32")
    wide = (params["c_out"],) if params["per_channel"] else ()
    w_scale = writer.constant(np.full(wide, _SCALE), "float32", "w_scale")
    w_zero = writer.constant(np.zeros(wide), params["weight_dtype"], "w_zero")
    bias = ["b"] if params["bias"] else []
    writer.node("QLinearConv", ["x", scale, zero, "w", w_scale, w_zero, scale, zero, *bias], "y", **attributes)


def _qconv_dims(params: Params) -> dict[str, float]:
    return {**convolution.compute_conv_features(params), "op_code": _get_code(params)}


# qmatmul ---------------------------------------------------------------------------------------------------------

_PLAIN = ("MatMul", "Gemm")
_INTEGER = ("QLinearMatMul", "MatMulInteger", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits")
_TO_FLOAT = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits")


def _read_qmatmul(group: NodeGroup) -> Params | None:
    anchors = [n for n in group.compute if n.op_type in (*_INTEGER, *_PLAIN)]
    if len(anchors) != 1:
        return None
    node = anchors[0]
    if node.op_type == "MatMulNBits":
        return _read_n_bits(group, node)
    found = _read_qmatmul_operands(group, node)
    if found is None:
        return None
    op, a, b, scale, bias, out_dtype = found
    left, right = group.shape(a), group.shape(b)
    if not left or not right:
        return None
    k = left[-1]
    n = right[-2] if node.attributes.get("transB", 0) else (right[-1] if len(right) > 1 else 1)
    batch = prod(group.shape(node.outputs[0])[:-2]) if len(right) > 2 else 1
    constant = group.is_const(b)
    rows = prod(left[:-1]) if len(right) <= 2 else (left[-2] if len(left) > 1 else 1)
    return {
        "op": op, "dtype": group.dtype(a), "weight_dtype": group.dtype(b), "out_dtype": out_dtype,
        "batch": batch, "m": rows,
        "k": k, "n": n, "constant": constant, "per_channel": _is_per_channel(group, scale), "bias": bias, "block": 0,
    }  # fmt: skip


def _read_qmatmul_operands(group: NodeGroup, node: Node) -> tuple[str, str, str, str, bool, str] | None:
    """Read (op, left, right, right scale, bias, output type) of a quantised product.

    1. An operator on integers has them at fixed positions.
    2. ``MatMulInteger`` may have scaling and quantisation around it.
    3. A float product reads dequantised tensors, and its result is quantised, or the runtime executes a quantised one.
    """
    # 1
    out = group.dtype(node.outputs[0])
    at: dict[str, tuple[int, int, int]] = {  # positions of right side, its scale, bias
        "QLinearMatMul": (3, 4, 99), "QGemm": (3, 4, 6), "DynamicQuantizeMatMul": (1, 2, 4),
        "MatMulIntegerToFloat": (1, 3, 6),
    }  # fmt: skip
    if node.op_type in at:
        b, s, c = at[node.op_type]
        bias = len(node.inputs) > c and bool(node.inputs[c])
        return node.op_type, node.inputs[0], node.inputs[b], node.inputs[s], bias, out
    # 2
    if node.op_type == "MatMulInteger":
        return _read_matmul_integer(group, node)
    # 3
    left, right = _find_dequantised_source(group, node.inputs[0]), _find_dequantised_source(group, node.inputs[1])
    written = [n for n in group.nodes if n.op_type == "QuantizeLinear"]
    hints = ("QLinearMatMul", "com.microsoft.QGemm", "com.microsoft.MatMulIntegerToFloat")
    if left is None or right is None or not (written or group.runtime_executes(*hints)):
        return None
    bias = len(node.inputs) > 2 and bool(node.inputs[2])
    op = "QGemm" if node.op_type == "Gemm" or group.runtime_executes("com.microsoft.QGemm") else "QLinearMatMul"
    out = group.dtype(written[-1].outputs[0]) if written else group.dtype(left[0])
    return op, left[0], right[0], right[1], bias, out


def _read_matmul_integer(group: NodeGroup, node: Node) -> tuple[str, str, str, str, bool, str]:
    """Read a MatMulInteger, alone or with the scaling (and the quantisation in front) that makes it a float product."""
    scaled = any(n.op_type == "Mul" for n in group.nodes)
    bias = any(n.op_type == "Add" for n in group.compute)
    scale = ""
    for mul in (n for n in group.nodes if n.op_type == "Mul"):
        scale = next((i for i in mul.inputs if group.is_const(i)), scale)
    if not scaled:
        return "MatMulInteger", node.inputs[0], node.inputs[1], "", False, group.dtype(node.outputs[0])
    quantised = next((n for n in group.compute if n.op_type == "DynamicQuantizeLinear"), None)
    if quantised is not None:
        return "DynamicQuantizeMatMul", quantised.inputs[0], node.inputs[1], scale, bias, "float32"
    return "MatMulIntegerToFloat", node.inputs[0], node.inputs[1], scale, bias, "float32"


def _read_n_bits(group: NodeGroup, node: Node) -> Params | None:
    bits = int(node.attributes.get("bits", 4))
    k, n = int(node.attributes["K"]), int(node.attributes["N"])
    dtype = group.dtype(node.inputs[0])
    return {
        "op": "MatMulNBits", "dtype": dtype, "weight_dtype": f"uint{bits}", "out_dtype": dtype, "batch": 1,
        "m": prod(group.shape(node.inputs[0])[:-1]), "k": k, "n": n, "constant": True, "per_channel": False,
        "bias": len(node.inputs) > 5 and bool(node.inputs[5]), "block": int(node.attributes.get("block_size", 32)),
    }  # fmt: skip


def _qmatmul_layout(params: Params) -> KernelLayout:
    m, k, n = params["m"], params["k"], params["n"]
    lead = () if params["batch"] == 1 else (params["batch"],)
    a, y = TensorSpec("a", (*lead, m, k), params["dtype"]), TensorSpec("y", (*lead, m, n), params["out_dtype"])
    inputs, weights = [a], []
    if params["op"] == "MatMulNBits":
        blocks = -(-k // params["block"])
        weights = [
            TensorSpec("b", (n, blocks, params["block"] // 2), "uint8"),
            TensorSpec("scale", (n, blocks), params["dtype"]),
        ]
    else:
        b = TensorSpec("b", (*lead, k, n), params["weight_dtype"])
        (weights if params["constant"] else inputs).append(b)
    if params["op"] == "MatMulIntegerToFloat":
        inputs.append(TensorSpec("a_scale", (), "float32"))
    if params["per_channel"]:
        weights.append(TensorSpec("b_scale", (n,), "float32"))
    if params["bias"]:
        weights.append(TensorSpec("bias", (n,), "int32" if params["op"] == "QGemm" else "float32"))
    return KernelLayout(tuple(inputs), (y,), tuple(weights))


def _qmatmul_dims(params: Params) -> dict[str, float]:
    m, n, k = params["m"], params["n"], params["k"]
    return {
        "batch": params["batch"], "m": m, "n": n, "k": k, "gemm_batch": params["batch"], "c_in": k, "c_out": n,
        "op_code": _get_code(params), "waste_m_16": compute_lane_waste(m, 16),
        "waste_n_16": compute_lane_waste(n, 16),
        "waste_k_16": compute_lane_waste(k, 16),
    }  # fmt: skip


def _qmatmul_check(params: Params) -> None:
    op = params["op"]
    out = "int32" if op == "MatMulInteger" else "float32" if op in _TO_FLOAT else params["dtype"]
    if params["out_dtype"] != out:
        raise make_param_error("qmatmul", "out_dtype", f"of {op} must be {out}, not {params['out_dtype']}")
    wanted = ("float32",) if op in ("DynamicQuantizeMatMul", "MatMulNBits") else ("uint8", "int8")
    if params["dtype"] not in wanted:
        raise make_param_error("qmatmul", "dtype", f"of {op} must be {' or '.join(wanted)}, not {params['dtype']}")
    if params["weight_dtype"] not in (("uint4",) if op == "MatMulNBits" else ("uint8", "int8")):
        raise make_param_error("qmatmul", "weight_dtype", f"of {op} may not be {params['weight_dtype']}")
    if params["dtype"] == "int8" and params["weight_dtype"] != "int8":
        raise make_param_error("qmatmul", "weight_dtype", "of an int8 left operand must be int8")
    if params["bias"] and op in ("QLinearMatMul", "MatMulInteger"):
        raise make_param_error("qmatmul", "bias", f"is not known of {op}")
    if params["per_channel"] and (op in ("MatMulInteger", "MatMulNBits") or not params["constant"] or params["n"] == 1):
        raise make_param_error(
            "qmatmul", "per_channel", "needs a constant right operand of 2 or more columns and an op with scales"
        )
    if (op == "MatMulNBits") != bool(params["block"]) or (
        params["block"] and params["block"] not in (16, 32, 64, 128, 256)
    ):
        raise make_param_error(
            "qmatmul", "block", "must be 16, 32, 64, 128 or 256 for MatMulNBits and 0 for any other op"
        )
    if params["batch"] > 1 and op in ("QGemm", "MatMulNBits"):
        raise make_param_error("qmatmul", "batch", f"of {op} must be 1")
    if op in ("QGemm", "MatMulNBits") and not params["constant"]:
        raise make_param_error("qmatmul", "constant", f"must be true for {op}")


def _qmatmul_write(params: Params, writer: KernelModelWriter) -> None:
    op, n = params["op"], params["n"]
    if op == "MatMulNBits":
        extra = ["", "", "bias"] if params["bias"] else []
        writer.node("MatMulNBits", ["a", "b", "scale", *extra], "y", domain="com.microsoft", K=params["k"], N=n, bits=4,
                    block_size=params["block"])  # fmt: skip
        return
    wide = (n,) if params["per_channel"] else ()
    scale = writer.scalar(_SCALE, "float32")
    b_scale = writer.constant(np.full(wide, _SCALE), "float32", "b_scale") if wide else scale
    b_zero = writer.constant(np.zeros(()), params["weight_dtype"])
    left = "uint8" if params["dtype"] == "float32" else params["dtype"]
    a_zero = writer.constant(np.zeros(()), left)
    if op == "QLinearMatMul":
        b_zero = writer.constant(np.zeros(wide), params["weight_dtype"]) if wide else b_zero
        writer.node(op, ["a", scale, a_zero, "b", b_scale, b_zero, scale, a_zero], "y")
    elif op == "MatMulInteger":
        writer.node(op, ["a", "b", a_zero, b_zero], "y")
    elif op == "QGemm":
        _write_qgemm(params, writer, (scale, a_zero, b_scale, wide))
    else:
        a, a_scale, zero = "a", "a_scale", a_zero
        if op == "DynamicQuantizeMatMul":
            names = [writer.fresh("q"), writer.fresh("q_scale"), writer.fresh("q_zero")]
            writer.node("DynamicQuantizeLinear", ["a"], names)
            a, a_scale, zero = names
        product = writer.node("Cast", [writer.node("MatMulInteger", [a, "b", zero, b_zero])], to=1)
        both = writer.node("Mul", [a_scale, b_scale])
        out = writer.node("Mul", [product, both], None if params["bias"] else "y")
        if params["bias"]:
            writer.node("Add", [out, "bias"], "y")


def _write_qgemm(params: Params, writer: KernelModelWriter, parts: tuple[str, str, str, tuple[int, ...]]) -> None:
    scale, a_zero, b_scale, wide = parts
    b_zero = writer.constant(np.zeros(wide), params["weight_dtype"])
    real = [
        writer.node("DequantizeLinear", ["a", scale, a_zero]),
        writer.node("DequantizeLinear", ["b", b_scale, b_zero], axis=1),
    ]
    if params["bias"]:  # by convention a bias is quantised with the product of both scales
        product = writer.constant(np.full(wide, _SCALE**2), "float32")
        real.append(
            writer.node("DequantizeLinear", ["bias", product, writer.constant(np.zeros(wide), "int32")], axis=0)
        )
    writer.node("QuantizeLinear", [writer.node("Gemm", real), scale, a_zero], "y")


def _qmatmul_ops(params: Params) -> int:
    return int(params["batch"] * params["m"] * params["n"] * (get_operator_cost(params["op"]) + params["bias"]))


def _qconv_ops(params: Params) -> int:
    return int(_qconv_layout(params).outputs[0].elements * (get_operator_cost(params["op"]) + params["bias"]))


_SCALED: tuple[Any, ...] = ("quantize", "dequantize")
FAMILY_DEFINITIONS = (
    FamilyDefinition("qconv", _read_qconv, _qconv_layout, _qconv_ops, _qconv_dims, _qconv_write, _qconv_check),
    FamilyDefinition("qmatmul", _read_qmatmul, _qmatmul_layout, _qmatmul_ops, _qmatmul_dims, _qmatmul_write,
        _qmatmul_check),
    *(
        FamilyDefinition(
            name, partial(_read_scale, family=name), _scale_layout, _scale_ops, _scale_dims, _scale_write,
            partial(_scale_check, family=name), lambda p: 21,
        )
        for name in _SCALED
    ),
)  # fmt: skip
