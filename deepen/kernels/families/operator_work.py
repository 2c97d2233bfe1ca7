"""Arithmetic and traffic of operators that have no family of their own, from shapes, attributes and table sizes.

The unit of work is the one of :mod:`deepen.kernels.families.operator_costs`: an addition as a vectorised loop executes
it. Other code costs more of them: 1 ns of scalar code is :data:`SCALAR`, so that the pooled roofline answers a kernel
nobody measured in the right order of magnitude. The weights were chosen by measuring single operators in ONNX Runtime
1.31 on one core of an x86 server (process time, four sizes over nearly three decades); they are within a factor of two
or three of what was measured there, and no claim about another device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Any

import numpy as np

from deepen.graph.types import DTYPE_BYTES, Graph, Node
from deepen.kernels.families.operator_costs import OPERATORS
from deepen.kernels.families.tree_ensembles import measure_tree_ensemble

__all__ = [
    "ROTATION",
    "SCALAR",
    "NodeView",
    "count_bytes_read",
    "count_node_ops",
    "count_transform_ops",
    "note_estimated_work",
]

SCALAR = 8
"""Vectorised additions that run in the time of one step of a scalar loop (about 1 ns)."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with the shapes of its tensors.

    Attributes:
        node: The node.
        graph: Its graph.
    """

    node: Node
    graph: Graph

    def shape(self, position: int) -> tuple[int, ...]:
        """Shape of an input; empty if it is left out or unknown."""
        return self._get_shape(self.node.inputs, position)

    def out(self, position: int = 0) -> tuple[int, ...]:
        """Shape of an output; empty if it is unknown."""
        return self._get_shape(self.node.outputs, position)

    def _get_shape(self, names: Sequence[str], position: int) -> tuple[int, ...]:
        tensor = self.graph.tensors.get(names[position]) if position < len(names) else None
        return () if tensor is None or tensor.shape is None else tensor.shape

    def read(self, position: int = 0) -> int:
        """Elements of an input; 0 if it is left out or unknown."""
        return self._count(self.node.inputs, position)

    def written(self, position: int = 0) -> int:
        """Elements of an output; 0 if it is unknown."""
        return self._count(self.node.outputs, position)

    def _count(self, names: Sequence[str], position: int) -> int:
        tensor = self.graph.tensors.get(names[position]) if position < len(names) and names[position] else None
        return 0 if tensor is None else tensor.elements

    def attribute(self, name: str, default: Any = 0) -> Any:
        """Value of an attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found

    def value(self, position: int, default: float) -> float:
        """Value of a constant input of one element."""
        name = self.node.inputs[position] if position < len(self.node.inputs) else ""
        array = self.graph.values.get(name)
        return default if array is None or np.size(array) != 1 else float(np.reshape(array, -1)[0])


# formulas of single operators ------------------------------------------------------------------------------------

TREE_VISIT = 48
"""One branch of a tree: two dependent loads, a comparison and every second time a misprediction (6 ns)."""

ROTATION = 20
"""One value of a rotary embedding: two products, a sum, and the search for its table's row (2 ns)."""

SCATTER = 10 * SCALAR
"""One update of a ScatterElements, with or without a reduction: the runtime walks a counter over all axes for each
(6 to 12 ns, 15 in a large model; ``CopyScatterData`` in ``core/providers/cpu/tensor/scatter.cc``)."""

BUTTERFLY = 46
"""One butterfly of the runtime's Fourier transform, which works in double precision on scattered pairs (5.5 ns)."""


def count_transform_ops(length: int) -> int:
    """Operations of one discrete Fourier transform in ONNX Runtime (``core/providers/cpu/signal/dft.cc``).

    A power of two is done by radix 2, ``length / 2 x log2(length)`` butterflies. Any other length goes through
    Bluestein's chirp: three transforms of the next power of two from ``2 x length - 1`` on.
    """
    if length < 2:
        return SCALAR
    if length & (length - 1) == 0:
        butterflies = length // 2 * (length.bit_length() - 1)
    else:
        wide = 1 << (2 * length - 2).bit_length()
        butterflies = 3 * (wide // 2 * (wide.bit_length() - 1))
    return BUTTERFLY * butterflies + 4 * SCALAR * length


def _count_dft(view: NodeView) -> float:
    out = view.out() or view.shape(0)
    if len(out) < 2:
        return 0
    since_20 = view.graph.opsets.get("", 17) >= 20
    axis = int(view.value(2, -2)) if since_20 else int(view.attribute("axis", 1))
    length = int(view.value(1, 0)) or view.shape(0)[axis] if view.shape(0) else out[axis]
    return prod(out) / max(out[axis] * out[-1], 1) * count_transform_ops(length)


def _count_stft(view: NodeView) -> float:
    window = view.shape(2)
    length = int(view.value(3, 0)) or (window[0] if window else 0)
    frames = view.out()[:2] or (0,)
    return prod(frames) * count_transform_ops(length)


def _count_tree_ensemble(view: NodeView) -> float:
    size = measure_tree_ensemble(view.node)
    rows = view.shape(0)[0] if len(view.shape(0)) > 1 else 1
    return rows * (size.trees * (size.depth + 1) * TREE_VISIT + size.targets * SCALAR)


def _count_svm(view: NodeView) -> float:
    rows = float(prod(view.shape(0)[:-1]))
    numbers = len(view.attribute("support_vectors", ())) or len(view.attribute("coefficients", ()))
    return rows * (5 * numbers + 20 * len(view.attribute("coefficients", ())))


def _count_linear(view: NodeView) -> float:
    rows = float(prod(view.shape(0)[:-1]))
    return rows * (2 * len(view.attribute("coefficients", ())) + 10 * SCALAR * len(view.attribute("intercepts", (0,))))


def _count_suppression(view: NodeView) -> float:
    """Count non-maximum suppression: a heap of the boxes of each class, and comparisons with those kept before.

    Every box is taken to pass the threshold and to be popped, because the scores are not known. A box popped is
    compared with the boxes kept before it, at most as many as the operator may return.
    """
    boxes, scores = view.shape(0), view.shape(1)
    if len(boxes) < 3 or len(scores) < 3:
        return 0
    count, lists = boxes[1], scores[0] * scores[1]
    kept = min(view.value(2, 0), count)
    per_box = 15 * SCALAR + 6 * SCALAR * log2(count + 1)
    return lists * (count * per_box + SCALAR * kept * kept / 2)


def _count_top_k(view: NodeView) -> float:
    shape = view.shape(0)
    axis = int(view.attribute("axis", -1))
    kept = view.out()[axis] if view.out() else view.value(1, view.attribute("k", 1))
    return prod(shape) * (12 + 4 * log2(kept + 1)) + view.written() * 2 * SCALAR * log2(kept + 1)


def _count_unique(view: NodeView) -> float:
    count = view.read()
    return 20 * count * log2(count + 1)


def _count_matrix_inverse(view: NodeView) -> float:
    shape = view.shape(0)
    n = shape[-1] if shape else 0
    return prod(shape[:-2]) * (n**3 + 50 * n * n) * (1 if view.node.op_type == "Det" else 2.3)


def _count_taps(view: NodeView) -> int:
    """Values that interpolation reads for one result: 2 or 4 in each dimension, or the nearest one."""
    mode, rank = str(view.attribute("mode", "linear")), max(len(view.shape(0)) - 2, 1)
    per_dimension = 1 if mode == "nearest" else 4 if "cubic" in mode else 2
    return int(per_dimension**rank)


def _count_region_taps(view: NodeView) -> float:
    ratio = int(view.attribute("sampling_ratio", 0)) or 2
    return view.written() * ratio * ratio * 4 * 15


def _count_region_pool(view: NodeView) -> float:
    image, pooled = view.shape(0), view.attribute("pooled_shape", (1, 1))
    window = float(ceil(prod(image[2:]) / max(prod(pooled), 1)))
    return view.written() * window * 20


def _count_window(view: NodeView, cost: int) -> float:
    window = int(prod(view.attribute("kernel_shape", (1,))))
    return view.written() * window * cost


def _count_deformable(view: NodeView) -> float:
    # each output position reads every input channel at each place of the window, interpolated
    weight, image, out = view.shape(1), view.shape(0), view.out()
    return image[1] * prod(out[2:]) * out[0] * prod(weight[2:]) * 52 if weight and image and out else 0


def _count_distances(view: NodeView) -> float:
    return view.written() * (view.shape(0)[-1] * 2 if view.shape(0) else 1)


def _count_grams(view: NodeView) -> float:
    lengths = 1 + int(view.attribute("max_gram_length", 1)) - int(view.attribute("min_gram_length", 1))
    return view.read() * 60 * max(lengths, 1) * (1 + int(view.attribute("max_skip_count", 0)))


def _count_experts(view: NodeView) -> float:
    """Count what experts do beside their products: the router's choice, and the activation (a sigmoid or a GELU)."""
    chosen, hidden = int(view.attribute("k", 1)), view.shape(2)
    rows = prod(view.shape(1)[:-1])
    return view.read(1) * 20 + rows * chosen * (16 * hidden[1] if len(hidden) > 1 else 0)


def _count_einsum_copies(view: NodeView) -> float:
    """Count the copies of an Einsum: the runtime transposes operands and result around a batched matrix product."""
    return 4 * (sum(map(view.read, range(len(view.node.inputs)))) + view.written())


def _count_index_rows(view: NodeView) -> float:
    """Count the blocks that are scattered or gathered: one step of scalar code and its copy each."""
    depth = view.shape(1)[-1] if view.shape(1) else 1
    return view.read(1) / max(depth, 1) * 6 * SCALAR + view.read(2)


Formula = Callable[[NodeView], float]

_PER_OUTPUT: dict[str, float] = {
    # copies: the bytes say it all
    **dict.fromkeys((
        "ConstantOfShape", "ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
        "SequenceInsert", "SequenceLength", "Optional", "OptionalGetElement", "OptionalHasElement", "Dropout",
        "BitCast", "ExpandDims", "MemcpyFromHost", "MemcpyToHost", "Crop", "DynamicSlice", "TensorScatter", "Identity",
        "ReorderInput", "ReorderOutput", "GatherPacked",
        "Transpose", "Concat", "Split", "Slice", "Pad", "DepthToSpace", "SpaceToDepth", "Squeeze", "Unsqueeze",
        "Flatten", "Size", "If", "Loop", "Scan",
    ), 0.1),
    "Compress": 2, "EyeLike": 1, "Trilu": 2, "Range": 8, "OneHot": 30, "ReverseSequence": 5, "SplitToSequence": 5,
    "RandomNormal": 95, "RandomNormalLike": 95, "RandomUniform": 46, "RandomUniformLike": 46, "Bernoulli": 46,
    "CumProd": 20, "CumSum": 20, "HannWindow": 75, "HammingWindow": 75, "BlackmanWindow": 140, "MelWeightMatrix": 4,
    "AffineGrid": 10, "Shrink": 60, "Affine": 2, "ImageScaler": 2, "Scale": 1, "ScaledTanh": 15,
    "ParametricSoftplus": 21, "ArrayFeatureExtractor": 7, "FeatureVectorizer": 25, "DictVectorizer": 400,
    "RotaryEmbedding": ROTATION, "MRotaryEmbedding": ROTATION, "GatherBlockQuantized": 5, "EmbedLayerNormalization": 24,
    "QEmbedLayerNormalization": 26, "QLinearSigmoid": 4, "QLinearLeakyRelu": 4, "QLinearSoftmax": 40,
    "QLinearConcat": 2, "QLinearWhere": 20, "QLinearReduceMean": 4, "QLinearReduceMin": 4, "UnfoldTensor": 90,
    "ScaledSiLU": 16, "GatedAdd": 2, "GatedRMSNorm": 20, "BranchwiseRMSNorm": 5, "BiasAdd": 1, "BiasDropout": 2,
    "MurmurHash3": 33, "BiasSoftmax": 16, "BiasSplitGelu": 17, "Swish": 15,
}  # fmt: skip
"""Operations for each element of the first output."""

_PER_INPUT: dict[str, float] = {
    "NonZero": 140, "Scaler": 30, "Normalizer": 50, "Binarizer": 45, "Imputer": 6, "LabelEncoder": 30,
    "CategoryMapper": 480, "CastMap": 480, "OneHotEncoder": 55, "LpNormalization": 5, "GlobalLpPool": 150,
    "ZipMap": 1000, "MaxUnpool": 8, "Col2Im": 5, "BifurcationDetector": 10, "NGramRepeatBlock": 16,
    "StringNormalizer": 1400, "StringConcat": 1500, "StringSplit": 1650, "RegexFullMatch": 950, "Tokenizer": 3500,
    "ImageDecoder": 100,
}  # fmt: skip
"""Operations for each element of the first input (a string is an element; of an encoded image, a byte)."""

_FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(("TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble"), _count_tree_ensemble),
    **dict.fromkeys(("SVMRegressor", "SVMClassifier"), _count_svm),
    **dict.fromkeys(("LinearRegressor", "LinearClassifier"), _count_linear),
    "NonMaxSuppression": _count_suppression, "TopK": _count_top_k, "Unique": _count_unique,
    "STFT": _count_stft, "DFT": _count_dft, "Det": _count_matrix_inverse, "Inverse": _count_matrix_inverse,
    "Multinomial": lambda v: v.read() * SCALAR + v.written() * 60 * SCALAR,
    "GridSample": lambda v: v.written() * 18 * _count_taps(v),
    "RoiAlign": _count_region_taps, "CropAndResize": lambda v: v.written() * 4 * 15, "MaxRoiPool": _count_region_pool,
    "DeformConv": _count_deformable, "LpPool": lambda v: _count_window(v, 160),
    "QLinearAveragePool": lambda v: _count_window(v, 18), "MaxpoolWithMask": lambda v: _count_window(v, 38),
    "Resize": lambda v: v.written() * 11, "Upsample": lambda v: v.written() * 11,
    "NhwcMaxPool": lambda v: _count_window(v, 1), "CDist": _count_distances, "TfIdfVectorizer": _count_grams,
    **dict.fromkeys(("ScatterElements", "Scatter"), lambda v: v.read(1) * SCATTER), "ScatterND": _count_index_rows,
    **dict.fromkeys(("MoE", "QMoE"), _count_experts),
    "Einsum": _count_einsum_copies,
    **dict.fromkeys(("MatMulBnb4", "MatMulFpQ4", "MatMulNBits"), lambda v: v.read(1)),
}  # fmt: skip
"""Operators whose work is no multiple of one tensor's size."""

_TEXT = frozenset((
    "StringNormalizer", "StringConcat", "StringSplit", "RegexFullMatch", "Tokenizer", "ImageDecoder",
))  # fmt: skip
"""Operators on texts and encoded images."""

_BY_INPUT = frozenset((
    "Softmax", "LogSoftmax", "Hardmax", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax",
    "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "ArgMax",
    "ArgMin",
))  # fmt: skip
"""Operators whose cost in ``operator_costs`` is for an element of the input."""


def count_node_ops(node: Node, graph: Graph) -> float:
    """Count the operations of one execution of a node, multiply-accumulates left out.

    1. An operator of this module's tables, by its formula.
    2. One of ``operator_costs``, by its cost for an element.
    3. Any other operator, one step of a scalar loop for each element read and written (see
       :func:`note_estimated_work`).

    Args:
        node: Any node.
        graph: Its graph; a tensor of unknown shape counts as empty.
    """
    view, op = NodeView(node, graph), node.op_type if _is_known_domain(node) else ""
    if op in _FORMULAS:
        return max(_FORMULAS[op](view), 0.0)
    if op in _PER_OUTPUT:
        return view.written() * _PER_OUTPUT[op]
    if op in _PER_INPUT:
        return view.read() * _PER_INPUT[op]
    name = _strip_prefix(op)
    if name in OPERATORS:
        return (view.read() if name in _BY_INPUT else view.written()) * OPERATORS[name].ops
    return SCALAR * (sum(map(view.read, range(len(node.inputs)))) + sum(map(view.written, range(len(node.outputs)))))


_TABLES = {
    "GatherBlockQuantized": slice(0, 1), "EmbedLayerNormalization": slice(2, 5), "QEmbedLayerNormalization": slice(2, 5)
}  # fmt: skip
"""Inputs that are tables, of which a node reads as many elements as it writes."""


def count_bytes_read(node: Node, graph: Graph) -> int:
    """Count the bytes a node reads, each tensor once; of a table it picks rows from, only the rows it picks."""
    view, op = NodeView(node, graph), node.op_type
    tensors = {name: graph.tensors[name] for name in node.inputs if name in graph.tensors}
    tables = node.inputs[_TABLES[op]] if op in _TABLES else ()
    picked = sum(
        int(min(t.elements, view.written()) * DTYPE_BYTES.get(t.dtype, 0))
        for t in (tensors.pop(name) for name in tables if name in tensors)
    )
    found = picked + sum(t.nbytes for t in tensors.values())
    if op in ("TreeEnsembleRegressor", "TreeEnsembleClassifier", "TreeEnsemble"):
        size = measure_tree_ensemble(node)
        rows = view.shape(0)[0] if len(view.shape(0)) > 1 else 1
        found += 24 * min(size.nodes, rows * size.trees * (size.depth + 1))
    return found


def note_estimated_work(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Note, for a user, which operators' work is a rough estimate.

    Args:
        nodes: Nodes of kernels without a family.

    Returns:
        At most two notes: on operators whose work is guessed from sizes alone, because no table has them; and on those
        whose work depends on texts or encoded images, of which a model's file says nothing.
    """
    from deepen.kernels.families.multiply_accumulates import MAC_OPS
    from deepen.kernels.families.registry import map_operators_to_readers

    nodes = list(nodes)
    known = {*_FORMULAS, *_PER_OUTPUT, *_PER_INPUT, *OPERATORS, *MAC_OPS, *map_operators_to_readers()}
    guessed = {n.op_type for n in nodes if not _is_known_domain(n) or _strip_prefix(n.op_type) not in known}
    notes = [
        (guessed, "the work of {} is unknown; it is estimated from the elements read and written"),
        ({n.op_type for n in nodes} & _TEXT, "the work of {} depends on what is read; it is estimated for short texts"),
    ]
    return tuple(text.format(", ".join(sorted(names))) for names, text in notes if names)


def _is_known_domain(node: Node) -> bool:
    return node.domain in ("", "ai.onnx", "ai.onnx.ml") or node.domain.startswith("com.microsoft")


def _strip_prefix(op_type: str) -> str:
    """Operator that an operator on integers stands for."""
    name = op_type.removeprefix("QLinear")
    return name if name in OPERATORS else op_type
