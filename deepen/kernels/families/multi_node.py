"""Families of many nodes: squeeze-and-excitation and channel shuffle."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from deepen.graph.types import Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.fused_activations import match_fused_tail
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.onnx_parts import write_activation
from deepen.kernels.families.operator_costs import ACTIVATIONS
from deepen.kernels.families.shape_features import compute_axis_features, compute_shape_features

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_SHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_GATES = {"Sigmoid": "sigmoid", "HardSigmoid": "hardsigmoid"}


def _read_se(group: NodeGroup) -> Params | None:
    """Read squeeze-and-excitation (Hu et al., 2018).

    1. A mean over the image, two products, and a gate.
    2. One multiplication of the input of the mean; its result has the input's shape.
    3. All other nodes are reshapes, or follow one of the products as bias and activation.
    """
    # 1
    pools = [n for n in group.compute if n.op_type in ("GlobalAveragePool", "ReduceMean")]
    products = [n for n in group.compute if n.op_type in _PRODUCTS]
    gates = [n for n in group.compute if n.op_type in _GATES]
    if len(pools) != 1 or len(products) != 2 or not gates:
        return None
    pool, gate = pools[0], gates[-1]
    # 2
    x = pool.inputs[0]
    last = [n for n in group.compute if n.op_type == "Mul" and x in n.inputs]
    if len(last) != 1 or group.shape(last[0].outputs[0]) != group.shape(x):
        return None
    shape = group.shape(x)
    # 3
    mid = group.shape(products[0].outputs[0])[1]
    taken = {n.name for n in (pool, gate, *products, *last)}
    taken |= {n.name for n in group.compute if n.op_type in _SHAPING}
    between = match_fused_tail(group, products[0].outputs[0], mid, set(taken))
    after = match_fused_tail(group, products[1].outputs[0], shape[1], set(taken))
    if {n.name for n in group.compute} - taken - between.used - after.used or between.activation in ("none", "prelu"):
        return None
    bias = between.bias or any(len(n.inputs) > 2 and n.inputs[2] for n in products)
    return {
        "dtype": group.dtype(x), "batch": shape[0], "c": shape[1], "spatial": list(shape[2:]), "mid": mid,
        "bias": bool(bias),
        "activation": between.activation, "gate": _GATES[gate.op_type],
    }  # fmt: skip


def _se_layout(params: Params) -> KernelLayout:
    shape, dtype = (params["batch"], params["c"], *params["spatial"]), params["dtype"]
    ones = (1,) * len(params["spatial"])
    weights = [
        TensorSpec("w1", (params["mid"], params["c"], *ones), dtype), TensorSpec("w2", (params["c"], params["mid"],
        *ones), dtype)
    ]  # fmt: skip
    if params["bias"]:
        weights += [TensorSpec("b1", (params["mid"],), dtype), TensorSpec("b2", (params["c"],), dtype)]
    return KernelLayout((TensorSpec("x", shape, dtype),), (TensorSpec("y", shape, dtype),), tuple(weights))


def _se_ops(params: Params) -> int:
    elements = params["batch"] * params["c"] * prod(params["spatial"])
    middle = params["batch"] * params["mid"] * (ACTIVATIONS[params["activation"]][1] + params["bias"])
    gate = params["batch"] * params["c"] * (ACTIVATIONS[params["gate"]][1] + params["bias"])
    return int(2 * elements + middle + gate)  # mean and scaling, then the two small layers


def _se_dims(params: Params) -> dict[str, float]:
    return {**compute_shape_features((params["batch"], params["c"], *params["spatial"])), "k": params["mid"]}


def _se_check(params: Params) -> None:
    if not 1 <= len(params["spatial"]) <= 3:
        raise make_param_error("se", "spatial", f"must have 1 to 3 sizes, not {len(params['spatial'])}")


def _se_write(params: Params, writer: KernelModelWriter) -> None:
    def write_layer(x: str, i: int) -> str:
        return writer.node(
            "Conv", [x, f"w{i}", *([f"b{i}"] if params["bias"] else [])], kernel_shape=[1] * len(params["spatial"])
        )

    middle = write_layer(writer.node("GlobalAveragePool", ["x"]), 1)
    active = writer.fresh()
    write_activation(writer, params["activation"], middle, active, params["dtype"])
    gate = writer.fresh()
    write_activation(writer, params["gate"], write_layer(active, 2), gate, params["dtype"])
    writer.node("Mul", ["x", gate], "y")


def _read_shuffle(group: NodeGroup) -> Params | None:
    """Read a channel shuffle (Zhang et al., 2018): split channels into groups, swap groups and channels, join."""
    if group.op_types != ("Reshape", "Transpose", "Reshape"):
        return None
    first, middle, last = group.compute
    shape, fine = group.shape(first.inputs[0]), group.shape(first.outputs[0])
    perm = group.ints(middle, "perm")
    swapped = [0, 2, 1, *range(3, len(fine))]
    if (
        len(fine) != len(shape) + 1
        or perm is None
        or list(perm) != swapped
        or not _are_consecutive(first, middle, last)
    ):
        return None
    if group.shape(last.outputs[0]) != shape or fine[1] * fine[2] != shape[1] or fine[0] != shape[0] or fine[1] < 2:
        return None
    return {
        "dtype": group.dtype(first.inputs[0]), "batch": shape[0], "c": shape[1], "spatial": list(shape[2:]),
        "groups": fine[1]
    }  # fmt: skip


def _are_consecutive(*nodes: Node) -> bool:
    return all(b.inputs[0] in a.outputs for a, b in pairwise(nodes))


def _shuffle_layout(params: Params) -> KernelLayout:
    shape = (params["batch"], params["c"], *params["spatial"])
    return KernelLayout((TensorSpec("x", shape, params["dtype"]),), (TensorSpec("y", shape, params["dtype"]),))


def _shuffle_dims(params: Params) -> dict[str, float]:
    shape: tuple[Any, ...] = (params["batch"], params["groups"], params["c"] // params["groups"], *params["spatial"])
    plain = (params["batch"], params["c"], *params["spatial"])
    return {**compute_shape_features(plain), **compute_axis_features(shape, 2), "groups": params["groups"]}


def _shuffle_check(params: Params) -> None:
    if params["c"] % params["groups"]:
        raise make_param_error("channelshuffle", "groups", f"must divide the {params['c']} channels")
    if not 1 <= len(params["spatial"]) <= 3:
        raise make_param_error("channelshuffle", "spatial", f"must have 1 to 3 sizes, not {len(params['spatial'])}")


def _shuffle_write(params: Params, writer: KernelModelWriter) -> None:
    plain = [params["batch"], params["c"], *params["spatial"]]
    fine = [params["batch"], params["groups"], params["c"] // params["groups"], *params["spatial"]]
    split = writer.node("Reshape", ["x", writer.constant(fine, "int64")])
    swapped = writer.node("Transpose", [split], perm=[0, 2, 1, *range(3, len(fine))])
    writer.node("Reshape", [swapped, writer.constant(plain, "int64")], "y")


FAMILY_DEFINITIONS = (
    FamilyDefinition("se", _read_se, _se_layout, _se_ops, _se_dims, _se_write, _se_check),
    FamilyDefinition(
        "channelshuffle", _read_shuffle, _shuffle_layout, lambda p: 0, _shuffle_dims, _shuffle_write, _shuffle_check
    ),
)
