"""Rotary position embedding (Su et al., 2021): pairs of each head's values turned by the angle of their position."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.operator_work import ROTATION

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]


def _read(group: NodeGroup) -> Params | None:
    """Read ``RotaryEmbedding`` of ONNX (x, cosines, sines, positions) or com.microsoft (x, positions, cosines, sines).

    x is (batch, heads, tokens, head_dim), or packed as (batch, tokens, heads x head_dim); the rows of the table of
    cosines have a value for each pair that is turned.
    """
    node = group.find_single_node(("RotaryEmbedding",))
    if node is None:
        return None
    x, table = group.shape(node.inputs[0]), group.shape(node.inputs[2 if node.domain == "com.microsoft" else 1])
    if len(x) not in (3, 4) or not table:
        return None
    turned = int(node.attributes.get("rotary_embedding_dim", 0)) or 2 * table[-1]
    if len(x) == 4:
        heads, tokens, head_dim = x[1:]
    else:
        heads = int(node.attributes.get("num_heads", 0)) or max(x[2] // max(2 * table[-1], 1), 1)
        tokens, head_dim = x[1], x[2] // heads
    return {
        "dtype": group.dtype(node.inputs[0]), "batch": x[0], "heads": heads, "tokens": tokens, "head_dim": head_dim,
        "turned": turned,
    }  # fmt: skip


def _layout(params: Params) -> KernelLayout:
    shape, dtype = (params["batch"], params["heads"], params["tokens"], params["head_dim"]), params["dtype"]
    table = (params["batch"], params["tokens"], params["turned"] // 2)
    inputs = (TensorSpec("x", shape, dtype), TensorSpec("cos", table, dtype), TensorSpec("sin", table, dtype))
    return KernelLayout(inputs, (TensorSpec("y", shape, dtype),))


def _dims(params: Params) -> dict[str, float]:
    return {
        "batch": params["batch"], "c_in": params["heads"], "c_out": params["heads"], "axis_size": params["turned"],
        "outer_size": params["batch"] * params["heads"] * params["tokens"], "inner_size": params["head_dim"],
    }  # fmt: skip


def _check(params: Params) -> None:
    if params["turned"] % 2 or not 2 <= params["turned"] <= params["head_dim"]:
        raise make_param_error("rotary", "turned", f"must be even and at most head_dim ({params['head_dim']})")


def _write(params: Params, writer: KernelModelWriter) -> None:
    part = params["turned"] if params["turned"] < params["head_dim"] else None
    writer.node("RotaryEmbedding", ["x", "cos", "sin"], "y", rotary_embedding_dim=part)


FAMILY_DEFINITIONS = (
    FamilyDefinition(
        "rotary", _read, _layout, lambda p: ROTATION * prod(_layout(p).outputs[0].shape), _dims, _write, _check,
        lambda p: 23,
    ),
)  # fmt: skip
