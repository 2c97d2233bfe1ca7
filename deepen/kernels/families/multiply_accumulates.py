"""Counts the multiply-accumulates of a node; there is no other count of them in deepen.

Counted are convolution, transposed convolution, matrix product and gemm, their integer, quantised and contributed
twins, and operators specified as compositions of those (attention, recurrent layers, Einsum, mixtures of experts). One
multiply-accumulate is one multiplication and one addition; the batch is included, the addition of a bias is not.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from deepen.graph.types import Graph, Node
from deepen.kernels.families.definition import UnknownShapeError

__all__ = ["MAC_OPS", "are_node_macs_known", "count_node_macs"]


def _get_shape(graph: Graph, name: str) -> tuple[int, ...]:
    """Shape of a tensor; of an omitted one, that of a scalar.

    Raises:
        UnknownShapeError: If it is not known.
    """
    if not name:
        return ()
    tensor = graph.tensors.get(name)
    if tensor is None or tensor.shape is None:
        raise UnknownShapeError(name)
    return tensor.shape


def _find_weight_position(node: Node) -> int:
    return 3 if node.op_type in ("QLinearConv", "QLinearMatMul") else 1


def _count_conv(node: Node, graph: Graph) -> int:
    # every output element is a dot product over c_in/groups x kernel; W is (c_out, c_in/groups, *kernel)
    weight = _get_shape(graph, node.inputs[_find_weight_position(node)])
    return prod(_get_shape(graph, node.outputs[0])) * prod(weight[1:]) if weight else 0


def _count_conv_transpose(node: Node, graph: Graph) -> int:
    # every input element is scattered into c_out/groups x kernel; W is (c_in, c_out/groups, *kernel)
    weight = _get_shape(graph, node.inputs[1])
    return prod(_get_shape(graph, node.inputs[0])) * prod(weight[1:]) if weight else 0


def _count_gemm(node: Node, graph: Graph) -> int:
    a = _get_shape(graph, node.inputs[0])
    out = _get_shape(graph, node.outputs[0])
    if len(a) < 2:
        return 0
    return prod(out) * (a[0] if node.attributes.get("transA", 0) else a[-1])


def _count_matmul(node: Node, graph: Graph) -> int:
    # the output holds every broadcast batch, row and column; each element is a dot product over k
    a = _get_shape(graph, node.inputs[0])
    out = _get_shape(graph, node.outputs[0])
    if not a:
        return 0
    if node.attributes.get("transA", 0) and len(a) > 1:
        k = a[-3] if node.attributes.get("transBatchA", 0) else a[-2]
        k = a[0] if node.attributes.get("transBatchA", 0) and len(a) > 2 else k
    else:
        k = a[-1]
    return prod(out) * k


def _count_matmul_n_bits(node: Node, graph: Graph) -> int:
    return prod(_get_shape(graph, node.outputs[0])) * int(node.attributes.get("K", 0))


def _count_deformable(node: Node, graph: Graph) -> int:
    # W is (c_out, c_in/groups, *kernel), as of a convolution; sampling its input is no product of matrices
    return prod(_get_shape(graph, node.outputs[0])) * prod(_get_shape(graph, node.inputs[1])[1:])


def _count_experts(node: Node, graph: Graph) -> int:
    # every row goes through the k experts it chose: rows x k x (hidden x inner of each of the expert's matrices); in
    # QMoE 8 / expert_weight_bits values share a byte, in both matrices alike
    rows = prod(_get_shape(graph, node.inputs[0])[:-1])
    quantised = node.op_type == "QMoE"
    positions = (2, 5, 8) if quantised else (2, 4, 6)
    names = [node.inputs[i] for i in positions if i < len(node.inputs)]
    packed = 8 // int(node.attributes.get("expert_weight_bits", 4)) if quantised else 1
    chosen = int(node.attributes.get("k", 1))
    return rows * chosen * packed * sum(prod(_get_shape(graph, name)[1:]) for name in names if name)


def _count_einsum(node: Node, graph: Graph) -> int:
    # two operands: every index runs once (what a matmul does); one operand moves or sums data, three or more are
    # contracted pairwise in an order the runtime chooses, counted as the full index space
    if len(node.inputs) < 2:
        return 0
    equation = node.attributes.get("equation", "")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    terms = text.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.inputs, strict=False):
        shape = _get_shape(graph, name)
        if "..." in term:
            head, tail = term.split("...")
            middle = shape[len(head) : len(shape) - len(tail)]
            for i, size in enumerate(reversed(middle)):
                sizes[f"...{i}"] = max(sizes.get(f"...{i}", 1), size)
            pairs = [*zip(head, shape, strict=False), *zip(reversed(tail), reversed(shape), strict=False)]
        else:
            pairs = list(zip(term, shape, strict=False))
        for letter, size in pairs:
            sizes[letter] = max(sizes.get(letter, 1), size)
    return prod(sizes.values())


def _count_recurrent(node: Node, graph: Graph) -> int:
    # W (directions, gates*hidden, input) and R (directions, gates*hidden, hidden), applied at every step of every row
    x, w, r = (_get_shape(graph, name) for name in node.inputs[:3])
    return x[0] * x[1] * (prod(w) + prod(r)) if len(x) == 3 else 0


def count_attention_macs(batch: int, heads: int, q_len: int, kv_len: int, head_dim: int, v_head_dim: int) -> int:
    """Count products with keys and with values: ``batch x heads x q_len x kv_len x (head_dim + v_head_dim)``."""
    return batch * heads * q_len * kv_len * (head_dim + v_head_dim)


def _count_attention(node: Node, graph: Graph) -> int:
    from deepen.kernels.families.attention import read_attention_params

    params = read_attention_params(node, graph)
    if params is None:
        raise UnknownShapeError(node.outputs[0] if node.outputs else node.name)
    batch, heads, q_len = params["batch"], params["heads"], params["q_len"]
    total = count_attention_macs(batch, heads, q_len, params["kv_len"], params["head_dim"], params["v_head_dim"])
    if params["hidden_in"]:
        width = heads * (2 * params["head_dim"] + params["v_head_dim"])
        total += batch * q_len * params["hidden_in"] * width
    return total


MAC_OPS: dict[str, Callable[[Node, Graph], int]] = {
    **dict.fromkeys(("Conv", "FusedConv", "QLinearConv", "ConvInteger", "NhwcConv", "NhwcFusedConv"), _count_conv),
    **dict.fromkeys(("ConvTranspose", "ConvTransposeWithDynamicPads"), _count_conv_transpose),
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _count_gemm),
    **dict.fromkeys(
        ("MatMul", "FusedMatMul", "TransposeMatMul", "FusedMatMulActivation", "MatMulInteger", "QLinearMatMul",
         "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger16", "GemmFloat8", "GemmFastGelu",
         "MatMulFpQ4"),
        _count_matmul,
    ),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4"), _count_matmul_n_bits),
    "DeformConv": _count_deformable,
    **dict.fromkeys(("MoE", "QMoE"), _count_experts),
    "Einsum": _count_einsum,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _count_recurrent),
    **dict.fromkeys(
        ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "DecoderMaskedMultiHeadAttention"),
        _count_attention,
    ),
}  # fmt: skip
"""Operator type -> its formula. Names are exact; domains other than ONNX and com.microsoft are not counted."""

_COUNTED_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc"})

UNCOUNTED_PRODUCTS = frozenset({
    "AttnLSTM", "BeamSearch", "DecoderAttention", "DynamicSparseAttention", "GatedDeltaNet", "GreedySearch",
    "LongformerAttention", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention", "QOrderedAttention",
    "QOrderedLongformerAttention", "QOrderedMatMul", "Sampling", "SparseAttention", "SparsePagedAttention",
    "SparseToDenseMatMul", "WhisperBeamSearch", "WordConvEmbedding",
})  # fmt: skip
"""Operators of ``com.microsoft`` that multiply matrices and have no formula here: their work is unknown, not zero."""


def _find_formula(node: Node) -> Callable[[Node, Graph], int] | None:
    return MAC_OPS.get(node.op_type) if node.domain in _COUNTED_DOMAINS else None


def are_node_macs_known(node: Node, graph: Graph) -> bool:
    """Return whether :func:`count_node_macs` counts all multiply-accumulates of a node.

    They are unknown if a shape they depend on is, or if the operator multiplies matrices and has no formula.
    """
    formula = _find_formula(node)
    if formula is None:
        return not (node.domain == "com.microsoft" and node.op_type in UNCOUNTED_PRODUCTS)
    try:
        formula(node, graph)
    except UnknownShapeError:
        return False
    return True


def count_node_macs(node: Node, graph: Graph) -> int:
    """Count the multiply-accumulates of one execution of a node.

    Args:
        node: Any node; those that multiply no matrices count zero.
        graph: The graph with its tensors' shapes.

    Returns:
        Multiply-accumulates; 0 also if they are unknown (:func:`are_node_macs_known`).
    """
    formula = _find_formula(node)
    if formula is None:
        return 0
    try:
        return int(formula(node, graph))
    except UnknownShapeError:
        return 0
