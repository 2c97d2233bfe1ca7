"""Families of many nodes: squeeze-and-excitation and channel shuffle."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from deepen.graph.types import Node
from deepen.kernels.families.definition import Anatomy, Group, Layout, Params, Spec, reject
from deepen.kernels.families.fused_activations import follow
from deepen.kernels.families.onnx_parts import write_activation
from deepen.kernels.families.operator_costs import ACTIVATIONS
from deepen.kernels.families.shape_features import axis_dims, shape_dims

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import Writer

__all__ = ["ANATOMIES"]

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_SHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_GATES = {"Sigmoid": "sigmoid", "HardSigmoid": "hardsigmoid"}


def _read_se(group: Group) -> Params | None:
    pools = [n for n in group.compute if n.op_type in ("GlobalAveragePool", "ReduceMean")]
    products = [n for n in group.compute if n.op_type in _PRODUCTS]
    gates = [n for n in group.compute if n.op_type in _GATES]
    if len(pools) != 1 or len(products) != 2 or not gates:
        return None
    pool, gate = pools[0], gates[-1]
    x = pool.inputs[0]
    last = [n for n in group.compute if n.op_type == "Mul" and x in n.inputs]
    if len(last) != 1 or group.shape(last[0].outputs[0]) != group.shape(x):
        return None
    shape = group.shape(x)
    mid = group.shape(products[0].outputs[0])[1]
    taken = {n.name for n in (pool, gate, *products, *last)}
    taken |= {n.name for n in group.compute if n.op_type in _SHAPING}
    between = follow(group, products[0].outputs[0], mid, set(taken))
    after = follow(group, products[1].outputs[0], shape[1], set(taken))
    if {n.name for n in group.compute} - taken - between.used - after.used or between.activation in ("none", "prelu"):
        return None
    bias = between.bias or any(len(n.inputs) > 2 and n.inputs[2] for n in products)
    return {
        "dtype": group.dtype(x), "batch": shape[0], "c": shape[1], "spatial": list(shape[2:]), "mid": mid,
        "bias": bool(bias),
        "activation": between.activation, "gate": _GATES[gate.op_type],
    }  # fmt: skip


def _se_layout(params: Params) -> Layout:
    shape, dtype = (params["batch"], params["c"], *params["spatial"]), params["dtype"]
    ones = (1,) * len(params["spatial"])
    weights = [
        Spec("w1", (params["mid"], params["c"], *ones), dtype), Spec("w2", (params["c"], params["mid"], *ones), dtype)
    ]  # fmt: skip
    if params["bias"]:
        weights += [Spec("b1", (params["mid"],), dtype), Spec("b2", (params["c"],), dtype)]
    return Layout((Spec("x", shape, dtype),), (Spec("y", shape, dtype),), tuple(weights))


def _se_ops(params: Params) -> int:
    elements = params["batch"] * params["c"] * prod(params["spatial"])
    middle = params["batch"] * params["mid"] * (ACTIVATIONS[params["activation"]][1] + params["bias"])
    gate = params["batch"] * params["c"] * (ACTIVATIONS[params["gate"]][1] + params["bias"])
    return int(2 * elements + middle + gate)  # mean and scaling, then the two small layers


def _se_dims(params: Params) -> dict[str, float]:
    return {**shape_dims((params["batch"], params["c"], *params["spatial"])), "k": params["mid"]}


def _se_check(params: Params) -> None:
    if not 1 <= len(params["spatial"]) <= 3:
        raise reject("se", "spatial", f"must have 1 to 3 sizes, not {len(params['spatial'])}")


def _se_write(params: Params, writer: Writer) -> None:
    def layer(x: str, i: int) -> str:
        return writer.node(
            "Conv", [x, f"w{i}", *([f"b{i}"] if params["bias"] else [])], kernel_shape=[1] * len(params["spatial"])
        )

    middle = layer(writer.node("GlobalAveragePool", ["x"]), 1)
    active = writer.fresh()
    write_activation(writer, params["activation"], middle, active, params["dtype"])
    gate = writer.fresh()
    write_activation(writer, params["gate"], layer(active, 2), gate, params["dtype"])
    writer.node("Mul", ["x", gate], "y")


def _read_shuffle(group: Group) -> Params | None:
    if group.op_types != ("Reshape", "Transpose", "Reshape"):
        return None
    first, middle, last = group.compute
    shape, fine = group.shape(first.inputs[0]), group.shape(first.outputs[0])
    perm = group.ints(middle, "perm")
    swapped = [0, 2, 1, *range(3, len(fine))]
    if len(fine) != len(shape) + 1 or perm is None or list(perm) != swapped or not _chained(first, middle, last):
        return None
    if group.shape(last.outputs[0]) != shape or fine[1] * fine[2] != shape[1] or fine[0] != shape[0] or fine[1] < 2:
        return None
    return {
        "dtype": group.dtype(first.inputs[0]), "batch": shape[0], "c": shape[1], "spatial": list(shape[2:]),
        "groups": fine[1]
    }  # fmt: skip


def _chained(*nodes: Node) -> bool:
    return all(b.inputs[0] in a.outputs for a, b in pairwise(nodes))


def _shuffle_layout(params: Params) -> Layout:
    shape = (params["batch"], params["c"], *params["spatial"])
    return Layout((Spec("x", shape, params["dtype"]),), (Spec("y", shape, params["dtype"]),))


def _shuffle_dims(params: Params) -> dict[str, float]:
    shape: tuple[Any, ...] = (params["batch"], params["groups"], params["c"] // params["groups"], *params["spatial"])
    plain = (params["batch"], params["c"], *params["spatial"])
    return {**shape_dims(plain), **axis_dims(shape, 2), "groups": params["groups"]}


def _shuffle_check(params: Params) -> None:
    if params["c"] % params["groups"]:
        raise reject("channelshuffle", "groups", f"must divide the {params['c']} channels")
    if not 1 <= len(params["spatial"]) <= 3:
        raise reject("channelshuffle", "spatial", f"must have 1 to 3 sizes, not {len(params['spatial'])}")


def _shuffle_write(params: Params, writer: Writer) -> None:
    plain = [params["batch"], params["c"], *params["spatial"]]
    fine = [params["batch"], params["groups"], params["c"] // params["groups"], *params["spatial"]]
    split = writer.node("Reshape", ["x", writer.constant(fine, "int64")])
    swapped = writer.node("Transpose", [split], perm=[0, 2, 1, *range(3, len(fine))])
    writer.node("Reshape", [swapped, writer.constant(plain, "int64")], "y")


ANATOMIES = (
    Anatomy("se", _read_se, _se_layout, _se_ops, _se_dims, _se_write, _se_check),
    Anatomy(
        "channelshuffle", _read_shuffle, _shuffle_layout, lambda p: 0, _shuffle_dims, _shuffle_write, _shuffle_check
    ),
)
