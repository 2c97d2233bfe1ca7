"""Arithmetic per element of every operator that is not a multiply-accumulate, and the stable codes of operators.

The counts are of scalar floating-point operations as a vectorised CPU library executes them, after constant folding:

* 1 for a comparison, sign change, rounding, addition or multiplication;
* 4 for a division or square root: their throughput on current x86 and Arm vector units is four to eight times below
  that of an addition (Agner Fog, *Instruction tables*, VDIVPS/VSQRTPS; Arm Cortex-A76 optimisation guide, FDIV/FSQRT);
* 10 for an exponential or logarithm: a degree-5 polynomial plus range reduction (Cephes ``expf``, the form MLAS and
  XNNPACK use); sigmoid and tanh are rational approximations of about the same length;
* 12 for the error function (two polynomials and a blend), 20 for trigonometric and power functions.

They are features of a regression, not claims about a device; it matters only that they never change. A code, once
assigned, is never reused for another operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = [
    "ACTIVATIONS",
    "OPERATORS",
    "OperatorCost",
    "get_activation_attributes",
    "get_activation_code",
    "get_integer_operator_code",
    "get_operator_code",
    "get_operator_cost",
]


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """Code and cost of one operator.

    Attributes:
        code: Stable number, used as a categorical feature.
        ops: Operations per element (per input element for reductions and normalisations, else per output element).
    """

    code: int
    ops: int


ACTIVATIONS: dict[str, tuple[int, int, str]] = {
    # name: code, ops per element, ONNX operator ("" where several make it up)
    "none": (0, 0, ""),
    "relu": (1, 1, "Relu"),
    "clip": (2, 2, "Clip"),
    "leakyrelu": (3, 2, "LeakyRelu"),
    "prelu": (4, 2, "PRelu"),
    "hardsigmoid": (5, 4, "HardSigmoid"),
    "hardswish": (6, 5, "HardSwish"),
    "sigmoid": (7, 14, "Sigmoid"),
    "silu": (8, 15, ""),
    "tanh": (9, 14, "Tanh"),
    "gelu": (10, 16, ""),
    "elu": (11, 12, "Elu"),
    "selu": (12, 13, "Selu"),
    "celu": (13, 13, "Celu"),
    "softplus": (14, 20, "Softplus"),
    "mish": (15, 35, ""),
    "thresholdedrelu": (16, 1, "ThresholdedRelu"),
    "softsign": (17, 6, "Softsign"),
    "quickgelu": (18, 16, ""),
    "gelutanh": (19, 20, ""),
}
"""Activations at the end of a kernel: name -> (code, operations per element, ONNX operator)."""

_BY_OPERATOR = {operator: name for name, (_, _, operator) in ACTIVATIONS.items() if operator}

_CODES_AND_COSTS: dict[str, tuple[int, int]] = {
    "Gemm": (1, 0), "MatMul": (2, 0), "Attention": (3, 0), "MultiHeadAttention": (4, 0),
    "ProjectedAttention": (5, 0),
    "Softmax": (10, 15), "LogSoftmax": (11, 16), "Hardmax": (12, 2),
    "LayerNormalization": (15, 7), "InstanceNormalization": (16, 7), "GroupNormalization": (17, 7),
    "RMSNormalization": (18, 4), "LpNormalization": (19, 4), "MeanVarianceNormalization": (20, 7),
    "BatchNormalization": (21, 2),
    "Relu": (30, 1), "Clip": (31, 2), "LeakyRelu": (32, 2), "PRelu": (33, 2),
    "ThresholdedRelu": (34, 1),
    "Sigmoid": (40, 14), "Tanh": (41, 14), "Exp": (42, 10), "Log": (43, 10), "Sqrt": (44, 4),
    "Erf": (45, 12), "Neg": (46, 1), "Abs": (47, 1), "Floor": (48, 1), "Ceil": (49, 1),
    "Round": (50, 1), "Reciprocal": (51, 4), "Sin": (52, 20), "Cos": (53, 20), "Tan": (54, 24),
    "Asin": (55, 20), "Acos": (56, 20), "Atan": (57, 20), "Sinh": (58, 20), "Cosh": (59, 20),
    "Asinh": (60, 24), "Acosh": (61, 24), "Atanh": (62, 20), "Sign": (63, 1), "Not": (64, 1),
    "IsNaN": (65, 1), "IsInf": (66, 1), "Elu": (67, 12), "Selu": (68, 13), "Celu": (69, 13),
    "Softplus": (70, 20), "Softsign": (71, 6), "HardSigmoid": (72, 4), "Mish": (73, 35),
    "Cast": (74, 1), "Identity": (75, 0), "BitwiseNot": (76, 1), "CumSum": (77, 1),
    "HardSwish": (78, 5), "Trilu": (79, 1),
    "Add": (90, 1), "Sub": (91, 1), "Mul": (92, 1), "Div": (93, 4), "Pow": (94, 20),
    "Mod": (95, 6), "Min": (96, 1), "Max": (97, 1), "Mean": (98, 1), "Sum": (99, 1),
    "Where": (100, 1), "Equal": (101, 1), "Less": (102, 1), "Greater": (103, 1),
    "LessOrEqual": (104, 1), "GreaterOrEqual": (105, 1), "And": (106, 1), "Or": (107, 1),
    "Xor": (108, 1), "BitShift": (109, 1), "BitwiseAnd": (110, 1), "BitwiseOr": (111, 1),
    "BitwiseXor": (112, 1),
    "GlobalAveragePool": (120, 1), "GlobalMaxPool": (121, 1), "AveragePool": (122, 1),
    "MaxPool": (123, 1), "AveragePool19": (124, 1),
    "ReduceMean": (130, 1), "ReduceSum": (131, 1), "ReduceMax": (132, 1), "ReduceMin": (133, 1),
    "ReduceProd": (134, 1), "ReduceL1": (135, 2), "ReduceL2": (136, 2), "ReduceSumSquare": (137, 2),
    "ReduceLogSum": (138, 1), "ReduceLogSumExp": (139, 11), "ArgMax": (140, 1), "ArgMin": (141, 1),
    "nearest": (150, 0), "linear": (151, 11), "cubic": (152, 400),
    "Gather": (160, 0), "GatherElements": (161, 0), "GatherND": (162, 0),
    "Reshape": (170, 0), "Expand": (171, 0), "Tile": (172, 0), "Shape": (173, 0),
    "constant": (180, 0), "reflect": (181, 0), "edge": (182, 0), "wrap": (183, 0),
    "LSTM": (190, 60), "GRU": (191, 50), "RNN": (192, 16),
    "QuantizeLinear": (200, 4), "DynamicQuantizeLinear": (201, 6), "DequantizeLinear": (202, 2),
    "QLinearConv": (203, 4), "ConvInteger": (204, 0), "QLinearMatMul": (205, 4),
    "MatMulInteger": (206, 0), "QGemm": (207, 4), "DynamicQuantizeMatMul": (208, 3),
    "MatMulIntegerToFloat": (209, 3), "MatMulNBits": (210, 0),
    "erf": (220, 16), "tanh": (221, 20), "quick": (222, 16),
}  # fmt: skip

_SIGNS = {("uint8", "int8"): ("_u8_s8", 10), ("uint8", "uint8"): ("_u8_u8", 20)}
"""Types of two integer operands -> suffix of the operator's name, and what its code is greater by. Processors multiply
unsigned by signed bytes in one instruction; ONNX Runtime takes 12, 55 and 260 pJ for a multiply-accumulate of unsigned
by signed, unsigned by unsigned and signed by signed on one with VNNI."""
_SIGNED_OPERATORS = ("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm", "MatMulIntegerToFloat")
_CODES_AND_COSTS |= {
    op + suffix: (_CODES_AND_COSTS[op][0] + step, _CODES_AND_COSTS[op][1])
    for op in _SIGNED_OPERATORS
    for suffix, step in _SIGNS.values()
}

OPERATORS: dict[str, OperatorCost] = {name: OperatorCost(*pair) for name, pair in _CODES_AND_COSTS.items()}
"""Operators and modes by the name parameters use.

Softmax: maximum 1, subtract 1, exponential 10, sum 1, scale 1, rounded up for the row reciprocal. Normalisations: two
passes for mean and variance (4), then subtract, multiply, add (3); without mean 4. Linear interpolation in two
dimensions: four products, three sums, weights (11); cubic: sixteen taps, which ONNX Runtime 1.32 finds one by one in
scalar code (130 ns of an output element on one core where linear takes 3.5 ns, measured). Recurrent costs are per
hidden element and gate set: three sigmoids (two for GRU), one or two tanh, and the blend.
"""


def get_operator_code(name: str) -> int:
    """Stable code of an operator or mode; 0 where it has none."""
    found = OPERATORS.get(name)
    return found.code if found else 0


def get_integer_operator_code(name: str, dtype: str, weight_dtype: str) -> int:
    """Stable code of an operator on integers, which tells types of operands apart."""
    suffix, _ = _SIGNS.get((dtype, weight_dtype), ("", 0))
    return get_operator_code(name + suffix) or get_operator_code(name)


def get_operator_cost(name: str) -> int:
    """Operations per element of an operator; 1 where the table has none."""
    found = OPERATORS.get(name)
    return found.ops if found else 1


def get_activation_code(name: str) -> int:
    """Stable code of an activation."""
    return ACTIVATIONS[name][0]


def find_activation(operator: str) -> str | None:
    """Name of the activation that a single ONNX operator computes, or ``None``."""
    return _BY_OPERATOR.get(operator)


def get_activation_attributes(name: str) -> dict[str, Any]:
    """Attributes for building the operator of an activation (they do not change its cost)."""
    return {"leakyrelu": {"alpha": 0.1}, "thresholdedrelu": {"alpha": 0.1}}.get(name, {})
