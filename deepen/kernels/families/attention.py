"""Attention run as one kernel: the ONNX operator, or the operators into which a runtime fuses its parts."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from deepen.graph.types import Graph, Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, UnknownShapeError, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.operator_costs import get_operator_code, get_operator_cost

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS", "read_attention_params"]

OPS = ("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "DecoderMaskedMultiHeadAttention")


def read_attention_params(node: Node, graph: Graph) -> dict[str, Any] | None:
    """Read the parameters of a node that is a whole attention.

    1. ``QAttention`` and ``Attention`` of ``com.microsoft`` read one input and project it to queries, keys and values:
       x is (batch, tokens, hidden), the weight (hidden, q + k + v), earlier keys and values (2, batch, heads, tokens,
       head_dim).
    2. The other operators read queries, keys and values: (batch, heads, tokens, head_dim), or packed as (batch, tokens,
       heads x head_dim). Contributed ones may pack keys and values, or all three, in one tensor.
    3. Keys and values of earlier tokens, if given, add to the key length. Where the node states all keys as an output,
       their length is that of the output: a cache may be written in place.

    Sources: https://onnx.ai/onnx/operators/onnx__Attention.html and ``docs/ContribOperators.md`` of ONNX Runtime.

    Returns:
        The parameters, or ``None`` if a shape is unknown or the operator is used in another form.
    """
    given = [name for name in node.inputs if name]
    if any(graph.tensors[name].shape is None for name in given if name in graph.tensors):
        return None

    def shape(i: int) -> tuple[int, ...]:
        tensor = graph.tensors.get(node.inputs[i]) if i < len(node.inputs) and node.inputs[i] else None
        return () if tensor is None or tensor.shape is None else tensor.shape

    def has_input(*positions: int) -> bool:
        return any(i < len(node.inputs) and bool(node.inputs[i]) for i in positions)

    first = graph.tensors.get(node.inputs[0])
    attributes = node.attributes
    base: dict[str, Any] = {"dtype": first.dtype if first else "", "hidden_in": 0}
    # 1
    if node.op_type == "QAttention" or (node.op_type == "Attention" and node.domain == "com.microsoft"):
        x, w, heads = shape(0), shape(1), int(attributes["num_heads"])
        if len(x) != 3 or len(w) != 2:
            return None
        sizes = attributes.get("qkv_hidden_sizes") or (w[1] // 3,) * 3
        past = shape(8 if node.op_type == "QAttention" else 4)
        return {
            "op": "ProjectedAttention", **base, "batch": x[0], "heads": heads, "kv_heads": heads, "q_len": x[1],
            "kv_len": x[1] + (past[3] if len(past) == 5 else 0), "head_dim": int(sizes[0]) // heads,
            "v_head_dim": int(sizes[2]) // heads, "hidden_in": x[2],
            "mask": has_input(3, 5), "causal": bool(attributes.get("unidirectional", 0)),
        }  # fmt: skip
    # 2
    q, k, v = shape(0), shape(1), shape(2)
    heads = int(attributes.get("q_num_heads", attributes.get("num_heads", 0))) or (q[1] if len(q) == 4 else 0)
    kv_heads = int(attributes.get("kv_num_heads", 0)) or (k[1] if len(k) == 4 else heads)
    if not heads or not kv_heads:
        return None
    q, k, v = _unpack_operands(q, k, v, heads, kv_heads)
    if not (q and k and v):
        return None
    packed = len(q) == 3

    def get_head_size(tensor: tuple[int, ...], count: int) -> int:
        return tensor[-1] if len(tensor) == 4 else tensor[-1] // count

    # 3
    earlier = shape(_PAST_KEYS[node.op_type])
    present = graph.tensors.get(node.outputs[1]) if len(node.outputs) > 1 else None
    if present is not None and present.shape is not None and len(present.shape) == 4:
        kv_len = present.shape[2]
    else:
        kv_len = (k[2] if len(k) == 4 else k[1]) + (earlier[2] if len(earlier) == 4 else 0)
    return {
        "op": "Attention" if node.op_type in ("Attention", "GroupQueryAttention") else "MultiHeadAttention", **base,
        "batch": q[0], "heads": heads, "kv_heads": kv_heads, "q_len": q[1] if packed else q[2], "kv_len": kv_len,
        "head_dim": get_head_size(q, heads), "v_head_dim": get_head_size(v, kv_heads),
        "mask": has_input(3) if node.op_type == "Attention"
        else has_input(4, 5) and node.op_type == "MultiHeadAttention",
        "causal": node.op_type == "GroupQueryAttention"
        or bool(attributes.get("is_causal", attributes.get("unidirectional", 0))),
    }  # fmt: skip


_PAST_KEYS = {"Attention": 4, "MultiHeadAttention": 6, "GroupQueryAttention": 3, "DecoderMaskedMultiHeadAttention": 5}
"""Position of the earlier keys among the inputs."""


def _unpack_operands(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], heads: int, kv_heads: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of queries, keys and values where some share a tensor.

    1. All three in one of five dimensions, (batch, tokens, heads, 3, head_dim).
    2. All three side by side, (batch, tokens, (heads + 2 kv_heads) x head_dim).
    3. Keys and values in one of five dimensions, (batch, tokens, heads, 2, head_dim).
    """
    if len(q) == 5:  # 1
        return (whole := (q[0], q[1], heads * q[4])), whole, whole
    if len(q) == 3 and not k:  # 2
        size = q[2] // (heads + 2 * kv_heads)
        keys = (q[0], q[1], kv_heads * size)
        return (q[0], q[1], heads * size), keys, keys
    if len(k) == 5:  # 3
        keys = (k[0], k[1], kv_heads * k[4])
        return q, keys, keys
    return q, k, v


def _read(group: NodeGroup) -> Params | None:
    node = group.find_single_node(OPS)
    if node is not None:
        return read_attention_params(node, group.graph)
    return _read_chain(group)


def _read_chain(group: NodeGroup) -> Params | None:
    """Read attention that is written as products and a softmax, softmax(q k^T) v, and grouped by the runtime.

    1. There is one softmax, and two products of activations: the scores (q k^T) and the weighted sum of values.
    2. Other products project a common input; they belong to the kernel only if the runtime executes its projected
       attention.
    3. A mask is added to the scores, selected with ``Where``, or made by ``Trilu`` (then it is causal).
    """
    # 1
    softmax = [n for n in group.compute if n.op_type == "Softmax"]
    products = [n for n in group.compute if n.op_type in ("MatMul", "Gemm")]
    plain = [n for n in products if not any(group.is_const(i) for i in n.inputs[:2])]
    if len(softmax) != 1 or len(plain) != 2:
        return None
    scores, mixed = sorted(plain, key=group.compute.index)
    s, v = group.shape(scores.outputs[0]), group.shape(mixed.inputs[1])
    if len(s) < 3 or len(v) < 2:
        return None
    head_dim = group.shape(scores.inputs[0])[-1]
    # 2
    projected = [n for n in products if n not in plain]
    hidden = group.shape(projected[0].inputs[0])[-1] if projected else 0
    if projected and (
        not group.runtime_executes("com.microsoft.Attention") or len({n.inputs[0] for n in projected}) != 1
    ):
        return None
    # 3
    between = {n.op_type for n in group.compute}
    batch, heads = (s[0], s[1]) if len(s) == 4 else (1, s[0])
    mask = any(_is_mask(group, n, scores, s[-2:]) for n in group.compute)
    op = (
        "ProjectedAttention"
        if projected
        else ("MultiHeadAttention" if group.runtime_executes("com.microsoft.MultiHeadAttention") else "Attention")
    )
    return {
        "op": op, "dtype": group.dtype(scores.inputs[0]), "batch": batch * prod(s[2:-2]), "heads": heads,
        "kv_heads": heads,
        "q_len": s[-2], "kv_len": s[-1], "head_dim": head_dim, "v_head_dim": v[-1], "hidden_in": hidden,
        "mask": mask or "Where" in between, "causal": "Trilu" in between,
    }  # fmt: skip


def _is_mask(group: NodeGroup, node: Node, scores: Node, size: tuple[int, ...]) -> bool:
    """Return whether a node adds a mask, a tensor with the scores' last two sizes, to the scores."""
    if node.op_type != "Add":
        return False
    return any(group.shape(i)[-2:] == size and not _is_scaled_from(group, i, scores) for i in node.inputs)


def _is_scaled_from(group: NodeGroup, tensor: str, source: Node) -> bool:
    """Return whether a tensor is the source's output after nothing but element-wise scaling."""
    for _ in range(4):
        node = group.producer(tensor)
        if node is None:
            return False
        if node.name == source.name:
            return True
        if node.op_type not in ("Mul", "Div", "Cast", "Identity"):
            return False
        tensor = node.inputs[0]
    return False


def _layout(params: Params) -> KernelLayout:
    dtype, batch, heads, kv = params["dtype"], params["batch"], params["heads"], params["kv_heads"]
    lq, lk, d, dv = params["q_len"], params["kv_len"], params["head_dim"], params["v_head_dim"]
    weights: tuple[TensorSpec, ...] = ()
    kept: tuple[TensorSpec, ...] = ()
    mask_shape: tuple[int, ...] = (1, 1, lq, lk)
    y = TensorSpec("y", (batch, lq, heads * dv), dtype)
    if params["op"] == "ProjectedAttention":
        wide = heads * (2 * d + dv)
        inputs = [TensorSpec("x", (batch, lq, params["hidden_in"]), dtype)]
        weights = (TensorSpec("w", (params["hidden_in"], wide), dtype), TensorSpec("b", (wide,), dtype))
        if lk > lq:
            inputs.append(TensorSpec("past", (2, batch, heads, lk - lq, d), dtype))
            kept = (TensorSpec("present", (2, batch, heads, lk, d), dtype),)
    elif params["op"] == "MultiHeadAttention":
        sizes = (("q", lq, heads * d), ("k", lk, heads * d), ("v", lk, heads * dv))
        inputs = [TensorSpec(name, (batch, length, width), dtype) for name, length, width in sizes]
    else:
        inputs = [
            TensorSpec("q", (batch, heads, lq, d), dtype), TensorSpec("k", (batch, kv, lk, d), dtype),
            TensorSpec("v", (batch, kv, lk, dv), dtype)
        ]  # fmt: skip
        y = TensorSpec("y", (batch, heads, lq, dv), dtype)
        mask_shape = (lq, lk)
    if params["mask"]:
        inputs.append(TensorSpec("mask", mask_shape, dtype))
    return KernelLayout(tuple(inputs), (y, *kept), weights)


def _dims(params: Params) -> dict[str, float]:
    return {
        "batch": params["batch"], "m": params["q_len"], "n": params["kv_len"], "k": params["head_dim"],
        "gemm_batch": params["batch"] * params["heads"], "groups": params["heads"] // max(1, params["kv_heads"]),
        "axis_size": params["kv_len"], "c_in": params["hidden_in"], "c_out": params["heads"] * params["v_head_dim"],
        "op_code": get_operator_code(params["op"]), "has_bias": float(params["mask"]),
    }  # fmt: skip


def _ops(params: Params) -> int:
    scores = params["batch"] * params["heads"] * params["q_len"] * params["kv_len"]
    return int(scores * (get_operator_cost("Softmax") + 1 + params["mask"]))  # scaling, mask, softmax


def _check(params: Params) -> None:
    op, projected = params["op"], params["op"] == "ProjectedAttention"
    if params["heads"] % params["kv_heads"] or (op != "Attention" and params["heads"] != params["kv_heads"]):
        raise make_param_error(
            "attention", "kv_heads", f"must divide heads, and equal them for any op but Attention, not {op}"
        )
    if bool(params["hidden_in"]) != projected:
        raise make_param_error(
            "attention", "hidden_in", "must be positive for ProjectedAttention and 0 for any other op"
        )
    if projected and params["q_len"] > params["kv_len"]:
        raise make_param_error("attention", "kv_len", "must be at least q_len for ProjectedAttention")
    if projected and params["q_len"] != params["kv_len"] and params["head_dim"] != params["v_head_dim"]:
        raise make_param_error("attention", "v_head_dim", "must equal head_dim where keys and values are kept in one")


def _write(params: Params, writer: KernelModelWriter) -> None:
    names = [spec.name for spec in writer.layout.inputs if spec.name != "mask"]
    mask = "mask" if params["mask"] else ""
    if params["op"] == "Attention":
        writer.node("Attention", [*names, *([mask] if mask else [])], "y", is_causal=int(params["causal"]))
        return
    causal = {"num_heads": params["heads"], "unidirectional": int(params["causal"])}
    if params["op"] == "MultiHeadAttention":
        inputs = [*names, "", "", mask] if mask else names
        writer.node("MultiHeadAttention", inputs, "y", domain="com.microsoft", **causal)
        return
    d, dv = params["heads"] * params["head_dim"], params["heads"] * params["v_head_dim"]
    past = "past" if "past" in names else ""
    inputs = ["x", "w", "b", "", past, mask]
    while not inputs[-1]:
        inputs.pop()
    writer.node(
        "Attention",
        inputs,
        ["y", "present"] if past else "y",
        domain="com.microsoft",
        qkv_hidden_sizes=[d, d, dv],
        **causal,
    )


def _read_if_known(group: NodeGroup) -> Params | None:
    try:
        return _read(group)
    except (UnknownShapeError, KeyError):
        return None


FAMILY_DEFINITIONS = (
    FamilyDefinition(
        "attention",
        _read_if_known,
        _layout,
        _ops,
        _dims,
        _write,
        _check,
        lambda p: 23 if p["op"] == "Attention" else 17,
    ),
)
