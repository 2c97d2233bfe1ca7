"""Configurations every family is tried with; imported by path (tests are not a package)."""

from __future__ import annotations

from typing import Any

CONV = {
    "c_in": 8, "c_out": 16, "spatial": [14, 20], "kernel": [3, 5], "stride": [1, 2], "dilation": [1, 1],
    "pads": [1, 2, 0, 1], "bias": True,
}  # fmt: skip
CONV_1D = {"c_in": 8, "c_out": 12, "spatial": [50], "kernel": [7], "stride": [3], "dilation": [2], "pads": [4, 0]}
CONV_3D = {
    "batch": 2, "c_in": 4, "c_out": 6, "spatial": [5, 6, 7], "kernel": [3, 1, 2], "stride": [1, 2, 1],
    "dilation": [1, 1, 3], "pads": [1, 0, 0, 1, 0, 2],
}  # fmt: skip
POOL = {"c": 8, "spatial": [15, 14], "kernel": [3, 2], "stride": [2, 2], "dilation": [1, 1], "pads": [1, 1, 1, 0]}
ATTENTION = {"batch": 2, "heads": 4, "kv_heads": 4, "q_len": 6, "kv_len": 6, "head_dim": 8, "v_head_dim": 8}
SE = {"c": 8, "spatial": [7, 9], "mid": 2}
QCONV = {**CONV}
QMATMUL = {"m": 4, "k": 32, "n": 6}
FLOAT_OUT = {"out_dtype": "float32"}

FUSED = {"relu", "clip", "leakyrelu", "sigmoid", "tanh", "hardsigmoid"}
"""Activations ONNX Runtime fuses into a convolution on the CPU; the others stay kernels of their own there."""


def _activations(family: str, params: dict[str, Any], names: list[str]) -> list[tuple[str, dict[str, Any], bool]]:
    return [(family, {**params, "activation": name}, name in FUSED) for name in names]


# (family, parameters, whether ONNX Runtime runs it as exactly one kernel)
CONFIGS: list[tuple[str, dict[str, Any], bool]] = [
    ("conv-bn-relu", CONV, True),
    ("conv-bn-relu", CONV_1D, True),
    ("conv-bn-relu", CONV_3D, True),
    ("conv-bn-relu", {**CONV, "kernel": [1, 1], "stride": [1, 1], "pads": [0] * 4, "bias": False}, True),
    ("conv-bn-relu", {**CONV, "activation": "relu", "residual": True}, False),
    *_activations("conv-bn-relu", CONV, [
        "relu", "clip", "leakyrelu", "prelu", "hardsigmoid", "hardswish", "sigmoid", "silu", "tanh", "gelu", "elu",
        "selu", "celu", "softplus", "mish", "thresholdedrelu", "softsign", "quickgelu", "gelutanh",
    ]),
    ("dwconv-bn-relu", {**CONV, "groups": 8, "activation": "clip"}, True),
    ("dwconv-bn-relu", {**CONV_1D, "c_out": 8, "groups": 8}, True),
    ("groupconv", {**CONV, "groups": 4, "activation": "relu"}, True),
    ("convtranspose", {**CONV, "output_padding": [0, 1]}, True),
    ("convtranspose", {**CONV, "groups": 4, "output_padding": [0, 0]}, True),
    ("convtranspose", {**CONV_1D, "output_padding": [1]}, True),
    ("fc", {"m": 3, "k": 20, "n": 30, "bias": True, "activation": "relu", "trans_b": True}, True),
    ("fc", {"m": 3, "k": 20, "n": 30, "op": "MatMul"}, True),
    ("fc", {"m": 3, "k": 20, "n": 30, "trans_a": True}, True),
    ("fc", {"m": 3, "k": 20, "n": 30, "residual": True}, True),
    ("fc", {"m": 3, "k": 20, "n": 30, "residual": True, "bias": True}, False),
    ("matmul", {"a_shape": [2, 4, 8, 16], "b_shape": [2, 4, 16, 8]}, True),
    ("matmul", {"a_shape": [2, 4, 8, 16], "b_shape": [2, 4, 8, 16], "trans_b": True}, True),
    ("matmul", {"a_shape": [2, 16, 8], "b_shape": [2, 4, 16], "trans_a": True, "trans_b": True}, True),
    ("matmul", {"a_shape": [3, 8, 16], "b_shape": [16, 5], "residual": True}, False),
    ("matmul", {"a_shape": [3, 8, 16], "b_shape": [3, 16, 5], "constant": "b"}, True),
    ("matmul", {"a_shape": [16], "b_shape": [3, 16, 5]}, True),
    ("attention", ATTENTION, True),
    ("attention", {**ATTENTION, "mask": True, "kv_heads": 2, "kv_len": 9}, True),
    ("attention", {**ATTENTION, "causal": True, "v_head_dim": 4}, True),
    ("attention", {**ATTENTION, "op": "MultiHeadAttention", "kv_len": 9}, True),
    ("attention", {**ATTENTION, "op": "MultiHeadAttention", "mask": True}, True),
    ("attention", {**ATTENTION, "op": "ProjectedAttention", "hidden_in": 24}, True),
    ("attention", {**ATTENTION, "op": "ProjectedAttention", "hidden_in": 24, "mask": True, "v_head_dim": 16}, True),
    ("softmax", {"shape": [2, 3, 8], "axis": 1}, True),
    ("softmax", {"shape": [2, 3, 8, 8], "axis": 3, "bias_shape": [8, 8]}, False),
    ("softmax", {"op": "LogSoftmax", "shape": [2, 3, 8], "axis": 2}, True),
    ("layernorm", {"shape": [2, 3, 8], "axis": 2}, True),
    ("layernorm", {"shape": [2, 3, 8], "axis": 1, "bias": False}, True),
    ("layernorm", {"shape": [2, 3, 8], "axis": 2, "skip": True}, True),
    ("layernorm", {"shape": [2, 3, 8], "axis": 2, "skip": True, "skip_output": True}, False),
    ("layernorm", {"op": "InstanceNormalization", "shape": [2, 4, 8, 8], "axis": 1}, True),
    ("layernorm", {"op": "GroupNormalization", "shape": [2, 4, 8, 8], "axis": 1, "groups": 2}, True),
    ("layernorm", {"op": "MeanVarianceNormalization", "shape": [2, 4, 8], "axis": 1, "bias": False}, True),
    ("rmsnorm", {"shape": [2, 3, 8], "axis": 2}, True),
    ("rmsnorm", {"shape": [2, 3, 8], "axis": 2, "skip": True, "skip_output": True}, False),
    ("lrn", {"shape": [1, 16, 8, 8], "size": 5}, True),
    ("bn", {"shape": [1, 16, 8, 8]}, True),
    ("bn", {"shape": [3, 16]}, True),
    ("bnrelu", {"shape": [1, 16, 8, 8]}, False),
    ("bnrelu", {"shape": [1, 16, 8, 8], "activation": "silu"}, False),
    ("relu", {"shape": [1, 8, 7, 7]}, True),
    ("relu", {"op": "Clip", "shape": [8]}, True),
    ("relu", {"op": "LeakyRelu", "shape": []}, True),
    ("relu", {"op": "PRelu", "shape": [1, 8, 7, 7], "slope_shape": [8, 1, 1]}, True),
    ("relu", {"op": "ThresholdedRelu", "shape": [1, 8]}, True),
    ("hswish", {"shape": [1, 8, 3]}, True),
    ("silu", {"shape": [1, 8, 3]}, True),
    ("gelu", {"shape": [1, 8, 3]}, True),
    ("gelu", {"shape": [1, 8], "bias": True}, True),
    ("gelu", {"shape": [1, 8], "op": "tanh"}, True),
    ("gelu", {"shape": [1, 8], "op": "quick"}, True),
    ("elementwise", {"op": "Cast", "shape": [1, 8], "out_dtype": "int64"}, True),
    ("elementwise", {"op": "Mish", "shape": [1, 8]}, True),
    ("elementwise", {"op": "CumSum", "shape": [1, 8]}, True),
    ("elementwise", {"op": "Not", "dtype": "bool", "out_dtype": "bool", "shape": [8]}, True),
    ("elementwise", {"op": "IsNaN", "out_dtype": "bool", "shape": [8]}, True),
    *(("elementwise", {"op": op, "shape": [1, 8, 2]}, True) for op in (
        "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Erf", "Neg", "Abs", "Floor", "Ceil", "Round", "Reciprocal", "Sin",
        "Elu", "Selu", "Celu", "Softplus", "Softsign", "HardSigmoid",
    )),
    ("add", {"in_shapes": [[1, 8, 4, 4], [8, 1, 1]], "sources": [0, -1]}, True),
    ("add", {"in_shapes": [[1, 8, 4, 4], [1, 8, 4, 4]], "sources": [0, 0]}, True),
    ("add", {"in_shapes": [[8], []], "sources": [0, 1]}, True),
    ("add", {"dtype": "uint8", "in_shapes": [[1, 8, 4, 4], [1, 8, 4, 4]], "sources": [0, 1]}, True),
    ("binary", {"op": "Mul", "dtype": "int8", "in_shapes": [[1, 8, 4], [1, 8, 4]], "sources": [0, 1]}, True),
    ("global-avgpool", {"dtype": "uint8", "c": 8, "spatial": [7, 5]}, True),
    ("addrelu", {"in_shapes": [[1, 8, 4, 4], [1, 8, 4, 4]], "sources": [0, 1]}, False),
    ("binary", {"op": "Mul", "in_shapes": [[1, 8, 4, 4], [1, 8, 1, 1]], "sources": [0, 1]}, True),
    ("binary", {"op": "Where", "in_shapes": [[4], [3, 4], []], "sources": [0, 1, -1]}, True),
    ("binary", {"op": "Sum", "in_shapes": [[3, 4]] * 3, "sources": [0, 1, 0]}, True),
    ("binary", {"op": "And", "dtype": "bool", "in_shapes": [[3, 4]] * 2, "sources": [0, 1]}, True),
    ("binary", {"op": "BitShift", "dtype": "uint8", "in_shapes": [[3, 4]] * 2, "sources": [0, 1]}, True),
    *(("binary", {"op": op, "in_shapes": [[3, 4], [3, 4]], "sources": [0, 1]}, True) for op in (
        "Sub", "Div", "Pow", "Mod", "Min", "Max", "Mean", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
    )),
    ("concat", {"in_shapes": [[1, 8, 4], [1, 3, 4], [1, 8, 4]], "sources": [0, 1, 0], "axis": 1}, True),
    ("concat", {"in_shapes": [[2, c] for c in range(1, 7)], "sources": list(range(6)), "axis": 1}, True),
    ("split", {"shape": [1, 8, 4], "sizes": [3, 5], "axis": 1}, True),
    ("split", {"shape": [6], "sizes": [1, 2, 3], "axis": 0}, True),
    ("maxpool", {**POOL, "indices": True}, True),
    ("maxpool", {**POOL, "spatial": [16, 14], "pads": [0] * 4, "ceil": True}, True),
    ("maxpool", {"c": 3, "spatial": [20], "kernel": [4], "stride": [4], "dilation": [2], "pads": [0, 1]}, True),
    ("avgpool", {**POOL, "count_include_pad": True}, True),
    ("avgpool", {**POOL, "pads": [0] * 4}, True),
    ("global-avgpool", {"c": 8, "spatial": [7, 5]}, True),
    ("global-avgpool", {"op": "GlobalMaxPool", "batch": 2, "c": 8, "spatial": [7]}, True),
    ("reduce", {"op": "ReduceMean", "shape": [1, 8, 7, 7], "axes": [2, 3]}, True),
    ("reduce", {"op": "ArgMax", "shape": [1, 8, 7, 7], "axes": [1], "keepdims": False}, True),
    ("reduce", {"op": "ReduceL2", "shape": [4, 5], "axes": [0, 1], "keepdims": False}, True),
    ("resize", {"shape": [1, 3, 8, 8], "out_shape": [1, 3, 16, 24]}, True),
    ("resize", {"shape": [1, 3, 8, 8], "out_shape": [1, 3, 16, 24], "mode": "linear"}, True),
    ("resize", {"shape": [1, 3, 8, 8], "out_shape": [1, 3, 16, 5], "mode": "cubic"}, True),
    ("gather", {"shape": [100, 16], "indices_shape": [2, 7], "constant": True}, True),
    ("gather", {"shape": [10, 16], "indices_shape": [2, 7], "axis": 1}, True),
    ("gather", {"shape": [10, 16], "indices_shape": [], "axis": 1}, True),
    ("gather", {"op": "GatherElements", "shape": [10, 16], "indices_shape": [10, 7], "axis": 1}, True),
    ("gather", {"op": "GatherND", "shape": [10, 16, 3], "indices_shape": [10, 7, 1], "axis": 1}, True),
    ("transpose", {"shape": [2, 3, 4, 5], "perm": [0, 2, 3, 1]}, True),
    ("transpose", {"shape": [5, 3], "perm": [1, 0]}, True),
    ("reshape", {"shape": [2, 3, 4], "out_shape": [6, 4]}, True),
    ("reshape", {"shape": [1, 1], "out_shape": []}, True),
    ("reshape", {"op": "Expand", "shape": [2, 1, 4], "out_shape": [2, 5, 4]}, True),
    ("reshape", {"op": "Tile", "shape": [2, 1, 4], "out_shape": [2, 5, 8]}, True),
    ("reshape", {"op": "Shape", "shape": [2, 1, 4], "out_shape": [2]}, False),  # static: the runtime folds it away
    ("reshape", {"op": "Shape", "shape": [2, 1, 4], "out_shape": []}, True),
    ("slice", {"shape": [2, 8, 9], "out_shape": [2, 4, 3], "steps": [1, 2, 1]}, True),
    ("slice", {"shape": [2, 8, 9], "out_shape": [2, 4, 3], "steps": [1, -2, -3]}, True),
    ("pad", {"shape": [1, 3, 8, 8], "pads": [0, 0, 1, 1, 0, 0, 2, 0]}, True),
    ("pad", {"shape": [1, 3, 8, 8], "pads": [0, 0, -1, 1, 0, 0, 2, 0]}, True),
    ("pad", {"shape": [1, 3, 8, 8], "pads": [0, 0, 1, 1, 0, 0, 2, 0], "mode": "reflect"}, True),
    ("pad", {"shape": [1, 3, 8, 8], "pads": [0, 0, 1, 1, 0, 0, 2, 0], "mode": "wrap"}, True),
    ("recurrent", {"op": "LSTM", "seq": 5, "batch": 2, "input": 8, "hidden": 6}, True),
    ("recurrent", {
        "op": "LSTM", "seq": 5, "input": 8, "hidden": 6, "initial": 2, "state_outputs": 2, "directions": 2,
    }, True),
    ("recurrent", {
        "op": "GRU", "seq": 5, "input": 8, "hidden": 6, "initial": 1, "state_outputs": 1, "sequence_output": False,
    }, True),
    ("recurrent", {"op": "RNN", "seq": 5, "input": 8, "hidden": 6, "bias": False}, True),
    ("quantize", {"shape": [1, 4, 8]}, True),
    ("quantize", {"shape": [1, 4, 8], "axis": 1, "out_dtype": "int8"}, True),
    ("quantize", {"op": "DynamicQuantizeLinear", "shape": [1, 4, 8]}, True),
    ("dequantize", {"shape": [1, 4, 8]}, True),
    ("dequantize", {"shape": [1, 4, 8], "dtype": "int8", "axis": 2}, True),
    ("qconv", QCONV, True),
    ("qconv", {**QCONV, "per_channel": False, "dtype": "int8", "out_dtype": "int8", "groups": 8}, True),
    ("qconv", {
        **QCONV, "op": "ConvInteger", "bias": False, "per_channel": False, "out_dtype": "int32",
        "weight_dtype": "uint8",
    }, True),
    ("qmatmul", QMATMUL, True),
    ("qmatmul", {**QMATMUL, "constant": False, "batch": 3}, True),
    ("qmatmul", {**QMATMUL, "per_channel": True}, True),
    ("qmatmul", {**QMATMUL, "op": "MatMulInteger", "out_dtype": "int32"}, True),
    ("qmatmul", {**QMATMUL, "op": "QGemm", "bias": True}, True),
    ("qmatmul", {**QMATMUL, "op": "QGemm", "per_channel": True}, True),
    ("qmatmul", {**QMATMUL, **FLOAT_OUT, "op": "DynamicQuantizeMatMul", "dtype": "float32", "bias": True}, True),
    ("qmatmul", {**QMATMUL, **FLOAT_OUT, "op": "DynamicQuantizeMatMul", "dtype": "float32"}, True),
    ("qmatmul", {**QMATMUL, **FLOAT_OUT, "op": "MatMulIntegerToFloat", "per_channel": True}, True),
    ("qmatmul", {
        **QMATMUL, **FLOAT_OUT, "op": "MatMulNBits", "dtype": "float32", "weight_dtype": "uint4", "block": 32,
    }, True),
    ("se", SE, False),
    ("se", {**SE, "activation": "silu", "gate": "hardsigmoid", "bias": False}, False),
    ("channelshuffle", {"c": 12, "spatial": [7, 7], "groups": 3}, False),
    ("channelshuffle", {"c": 12, "spatial": [7], "groups": 2}, False),
]  # fmt: skip
