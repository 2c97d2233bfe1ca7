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

__all__ = ["ACTIVATIONS", "OPERATORS", "Cost", "activation_attributes", "activation_code", "op_code", "op_cost"]


@dataclass(frozen=True, slots=True)
class Cost:
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

OPERATORS: dict[str, Cost] = {
    "Gemm": Cost(1, 0), "MatMul": Cost(2, 0), "Attention": Cost(3, 0), "MultiHeadAttention": Cost(4, 0),
    "ProjectedAttention": Cost(5, 0),
    "Softmax": Cost(10, 15), "LogSoftmax": Cost(11, 16), "Hardmax": Cost(12, 2),
    "LayerNormalization": Cost(15, 7), "InstanceNormalization": Cost(16, 7), "GroupNormalization": Cost(17, 7),
    "RMSNormalization": Cost(18, 4), "LpNormalization": Cost(19, 4), "MeanVarianceNormalization": Cost(20, 7),
    "BatchNormalization": Cost(21, 2),
    "Relu": Cost(30, 1), "Clip": Cost(31, 2), "LeakyRelu": Cost(32, 2), "PRelu": Cost(33, 2),
    "ThresholdedRelu": Cost(34, 1),
    "Sigmoid": Cost(40, 14), "Tanh": Cost(41, 14), "Exp": Cost(42, 10), "Log": Cost(43, 10), "Sqrt": Cost(44, 4),
    "Erf": Cost(45, 12), "Neg": Cost(46, 1), "Abs": Cost(47, 1), "Floor": Cost(48, 1), "Ceil": Cost(49, 1),
    "Round": Cost(50, 1), "Reciprocal": Cost(51, 4), "Sin": Cost(52, 20), "Cos": Cost(53, 20), "Tan": Cost(54, 24),
    "Asin": Cost(55, 20), "Acos": Cost(56, 20), "Atan": Cost(57, 20), "Sinh": Cost(58, 20), "Cosh": Cost(59, 20),
    "Asinh": Cost(60, 24), "Acosh": Cost(61, 24), "Atanh": Cost(62, 20), "Sign": Cost(63, 1), "Not": Cost(64, 1),
    "IsNaN": Cost(65, 1), "IsInf": Cost(66, 1), "Elu": Cost(67, 12), "Selu": Cost(68, 13), "Celu": Cost(69, 13),
    "Softplus": Cost(70, 20), "Softsign": Cost(71, 6), "HardSigmoid": Cost(72, 4), "Mish": Cost(73, 35),
    "Cast": Cost(74, 1), "Identity": Cost(75, 0), "BitwiseNot": Cost(76, 1), "CumSum": Cost(77, 1),
    "HardSwish": Cost(78, 5), "Trilu": Cost(79, 1),
    "Add": Cost(90, 1), "Sub": Cost(91, 1), "Mul": Cost(92, 1), "Div": Cost(93, 4), "Pow": Cost(94, 20),
    "Mod": Cost(95, 6), "Min": Cost(96, 1), "Max": Cost(97, 1), "Mean": Cost(98, 1), "Sum": Cost(99, 1),
    "Where": Cost(100, 1), "Equal": Cost(101, 1), "Less": Cost(102, 1), "Greater": Cost(103, 1),
    "LessOrEqual": Cost(104, 1), "GreaterOrEqual": Cost(105, 1), "And": Cost(106, 1), "Or": Cost(107, 1),
    "Xor": Cost(108, 1), "BitShift": Cost(109, 1), "BitwiseAnd": Cost(110, 1), "BitwiseOr": Cost(111, 1),
    "BitwiseXor": Cost(112, 1),
    "GlobalAveragePool": Cost(120, 1), "GlobalMaxPool": Cost(121, 1), "AveragePool": Cost(122, 1),
    "MaxPool": Cost(123, 1), "AveragePool19": Cost(124, 1),
    "ReduceMean": Cost(130, 1), "ReduceSum": Cost(131, 1), "ReduceMax": Cost(132, 1), "ReduceMin": Cost(133, 1),
    "ReduceProd": Cost(134, 1), "ReduceL1": Cost(135, 2), "ReduceL2": Cost(136, 2), "ReduceSumSquare": Cost(137, 2),
    "ReduceLogSum": Cost(138, 1), "ReduceLogSumExp": Cost(139, 11), "ArgMax": Cost(140, 1), "ArgMin": Cost(141, 1),
    "nearest": Cost(150, 0), "linear": Cost(151, 11), "cubic": Cost(152, 35),
    "Gather": Cost(160, 0), "GatherElements": Cost(161, 0), "GatherND": Cost(162, 0),
    "Reshape": Cost(170, 0), "Expand": Cost(171, 0), "Tile": Cost(172, 0), "Shape": Cost(173, 0),
    "constant": Cost(180, 0), "reflect": Cost(181, 0), "edge": Cost(182, 0), "wrap": Cost(183, 0),
    "LSTM": Cost(190, 60), "GRU": Cost(191, 50), "RNN": Cost(192, 16),
    "QuantizeLinear": Cost(200, 4), "DynamicQuantizeLinear": Cost(201, 6), "DequantizeLinear": Cost(202, 2),
    "QLinearConv": Cost(203, 4), "ConvInteger": Cost(204, 0), "QLinearMatMul": Cost(205, 4),
    "MatMulInteger": Cost(206, 0), "QGemm": Cost(207, 4), "DynamicQuantizeMatMul": Cost(208, 3),
    "MatMulIntegerToFloat": Cost(209, 3), "MatMulNBits": Cost(210, 0),
    "erf": Cost(220, 16), "tanh": Cost(221, 20), "quick": Cost(222, 16),
}  # fmt: skip
"""Operators and modes by the name parameters use.

Softmax: maximum 1, subtract 1, exponential 10, sum 1, scale 1, rounded up for the row reciprocal. Normalisations: two
passes for mean and variance (4), then subtract, multiply, add (3); without mean 4. Linear interpolation in two
dimensions: four products, three sums, weights (11); cubic: sixteen taps. Recurrent costs are per hidden element and
gate set: three sigmoids (two for GRU), one or two tanh, and the blend.
"""


def op_code(name: str) -> int:
    """Stable code of an operator or mode; 0 where it has none."""
    found = OPERATORS.get(name)
    return found.code if found else 0


def op_cost(name: str) -> int:
    """Operations per element of an operator; 1 where the table has none."""
    found = OPERATORS.get(name)
    return found.ops if found else 1


def activation_code(name: str) -> int:
    """Stable code of an activation."""
    return ACTIVATIONS[name][0]


def activation_named(operator: str) -> str | None:
    """Activation a single ONNX operator is, or ``None``."""
    return _BY_OPERATOR.get(operator)


def activation_attributes(name: str) -> dict[str, Any]:
    """Attributes the operator of an activation is built with (they do not change its cost)."""
    return {"leakyrelu": {"alpha": 0.1}, "thresholdedrelu": {"alpha": 0.1}}.get(name, {})
