"""Arithmetic per element of every operator that is not a multiply-accumulate, and the stable codes of operators.

The counts are of scalar floating-point operations as a vectorised CPU library executes them, after constant folding:

* 1 for a comparison, sign change, rounding, addition or multiplication;
* 4 for a division or square root: their throughput on current x86 and Arm vector units is four to eight times below
  that of an addition (Agner Fog, *Instruction tables*, VDIVPS/VSQRTPS; Arm Cortex-A76 optimisation guide, FDIV/FSQRT);
* 10 for an exponential or logarithm: a degree-5 polynomial plus range reduction (Cephes ``expf``, the form MLAS and
  XNNPACK use); sigmoid and tanh are rational approximations of about the same length;
* 12 for the error function (two polynomials and a blend), 20 for trigonometric and power functions.

They are features of a regression, not claims about a device: what counts is that they are fixed. A code, once given,
is never reused for another operator.
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
"""Activations a kernel may end in: name -> (code, operations per element, ONNX operator)."""

_BY_OPERATOR = {operator: name for name, (_, _, operator) in ACTIVATIONS.items() if operator}

OPERATORS: dict[str, OperatorCost] = {
    "Gemm": OperatorCost(1, 0), "MatMul": OperatorCost(2, 0), "Attention": OperatorCost(3, 0), "MultiHeadAttention": OperatorCost(4, 0),
    "ProjectedAttention": OperatorCost(5, 0),
    "Softmax": OperatorCost(10, 15), "LogSoftmax": OperatorCost(11, 16), "Hardmax": OperatorCost(12, 2),
    "LayerNormalization": OperatorCost(15, 7), "InstanceNormalization": OperatorCost(16, 7), "GroupNormalization": OperatorCost(17, 7),
    "RMSNormalization": OperatorCost(18, 4), "LpNormalization": OperatorCost(19, 4), "MeanVarianceNormalization": OperatorCost(20, 7),
    "BatchNormalization": OperatorCost(21, 2),
    "Relu": OperatorCost(30, 1), "Clip": OperatorCost(31, 2), "LeakyRelu": OperatorCost(32, 2), "PRelu": OperatorCost(33, 2),
    "ThresholdedRelu": OperatorCost(34, 1),
    "Sigmoid": OperatorCost(40, 14), "Tanh": OperatorCost(41, 14), "Exp": OperatorCost(42, 10), "Log": OperatorCost(43, 10), "Sqrt": OperatorCost(44, 4),
    "Erf": OperatorCost(45, 12), "Neg": OperatorCost(46, 1), "Abs": OperatorCost(47, 1), "Floor": OperatorCost(48, 1), "Ceil": OperatorCost(49, 1),
    "Round": OperatorCost(50, 1), "Reciprocal": OperatorCost(51, 4), "Sin": OperatorCost(52, 20), "Cos": OperatorCost(53, 20), "Tan": OperatorCost(54, 24),
    "Asin": OperatorCost(55, 20), "Acos": OperatorCost(56, 20), "Atan": OperatorCost(57, 20), "Sinh": OperatorCost(58, 20), "Cosh": OperatorCost(59, 20),
    "Asinh": OperatorCost(60, 24), "Acosh": OperatorCost(61, 24), "Atanh": OperatorCost(62, 20), "Sign": OperatorCost(63, 1), "Not": OperatorCost(64, 1),
    "IsNaN": OperatorCost(65, 1), "IsInf": OperatorCost(66, 1), "Elu": OperatorCost(67, 12), "Selu": OperatorCost(68, 13), "Celu": OperatorCost(69, 13),
    "Softplus": OperatorCost(70, 20), "Softsign": OperatorCost(71, 6), "HardSigmoid": OperatorCost(72, 4), "Mish": OperatorCost(73, 35),
    "Cast": OperatorCost(74, 1), "Identity": OperatorCost(75, 0), "BitwiseNot": OperatorCost(76, 1), "CumSum": OperatorCost(77, 1),
    "HardSwish": OperatorCost(78, 5), "Trilu": OperatorCost(79, 1),
    "Add": OperatorCost(90, 1), "Sub": OperatorCost(91, 1), "Mul": OperatorCost(92, 1), "Div": OperatorCost(93, 4), "Pow": OperatorCost(94, 20),
    "Mod": OperatorCost(95, 6), "Min": OperatorCost(96, 1), "Max": OperatorCost(97, 1), "Mean": OperatorCost(98, 1), "Sum": OperatorCost(99, 1),
    "Where": OperatorCost(100, 1), "Equal": OperatorCost(101, 1), "Less": OperatorCost(102, 1), "Greater": OperatorCost(103, 1),
    "LessOrEqual": OperatorCost(104, 1), "GreaterOrEqual": OperatorCost(105, 1), "And": OperatorCost(106, 1), "Or": OperatorCost(107, 1),
    "Xor": OperatorCost(108, 1), "BitShift": OperatorCost(109, 1), "BitwiseAnd": OperatorCost(110, 1), "BitwiseOr": OperatorCost(111, 1),
    "BitwiseXor": OperatorCost(112, 1),
    "GlobalAveragePool": OperatorCost(120, 1), "GlobalMaxPool": OperatorCost(121, 1), "AveragePool": OperatorCost(122, 1),
    "MaxPool": OperatorCost(123, 1), "AveragePool19": OperatorCost(124, 1),
    "ReduceMean": OperatorCost(130, 1), "ReduceSum": OperatorCost(131, 1), "ReduceMax": OperatorCost(132, 1), "ReduceMin": OperatorCost(133, 1),
    "ReduceProd": OperatorCost(134, 1), "ReduceL1": OperatorCost(135, 2), "ReduceL2": OperatorCost(136, 2), "ReduceSumSquare": OperatorCost(137, 2),
    "ReduceLogSum": OperatorCost(138, 1), "ReduceLogSumExp": OperatorCost(139, 11), "ArgMax": OperatorCost(140, 1), "ArgMin": OperatorCost(141, 1),
    "nearest": OperatorCost(150, 0), "linear": OperatorCost(151, 11), "cubic": OperatorCost(152, 35),
    "Gather": OperatorCost(160, 0), "GatherElements": OperatorCost(161, 0), "GatherND": OperatorCost(162, 0),
    "Reshape": OperatorCost(170, 0), "Expand": OperatorCost(171, 0), "Tile": OperatorCost(172, 0), "Shape": OperatorCost(173, 0),
    "constant": OperatorCost(180, 0), "reflect": OperatorCost(181, 0), "edge": OperatorCost(182, 0), "wrap": OperatorCost(183, 0),
    "LSTM": OperatorCost(190, 60), "GRU": OperatorCost(191, 50), "RNN": OperatorCost(192, 16),
    "QuantizeLinear": OperatorCost(200, 4), "DynamicQuantizeLinear": OperatorCost(201, 6), "DequantizeLinear": OperatorCost(202, 2),
    "QLinearConv": OperatorCost(203, 4), "ConvInteger": OperatorCost(204, 0), "QLinearMatMul": OperatorCost(205, 4),
    "MatMulInteger": OperatorCost(206, 0), "QGemm": OperatorCost(207, 4), "DynamicQuantizeMatMul": OperatorCost(208, 3),
    "MatMulIntegerToFloat": OperatorCost(209, 3), "MatMulNBits": OperatorCost(210, 0),
    "erf": OperatorCost(220, 16), "tanh": OperatorCost(221, 20), "quick": OperatorCost(222, 16),
}  # fmt: skip
"""Operators and modes by the name parameters use.

Softmax: maximum 1, subtract 1, exponential 10, sum 1, scale 1, rounded up for the row reciprocal. Normalisations: two
passes for mean and variance (4), then subtract, multiply, add (3); without mean 4. Linear interpolation in two
dimensions: four products, three sums, weights (11); cubic: sixteen taps. Recurrent costs are per hidden element and
gate set: three sigmoids (two for GRU), one or two tanh, and the blend.
"""


def get_operator_code(name: str) -> int:
    """Stable code of an operator or mode; 0 where it has none."""
    found = OPERATORS.get(name)
    return found.code if found else 0


def get_operator_cost(name: str) -> int:
    """Operations per element of an operator; 1 where the table has none."""
    found = OPERATORS.get(name)
    return found.ops if found else 1


def get_activation_code(name: str) -> int:
    """Stable code of an activation."""
    return ACTIVATIONS[name][0]


def find_activation(operator: str) -> str | None:
    """Activation a single ONNX operator is, or ``None``."""
    return _BY_OPERATOR.get(operator)


def get_activation_attributes(name: str) -> dict[str, Any]:
    """Attributes the operator of an activation is built with (they do not change its cost)."""
    return {"leakyrelu": {"alpha": 0.1}, "thresholdedrelu": {"alpha": 0.1}}.get(name, {})
