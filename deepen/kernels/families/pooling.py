"""Pooling (windowed and global) and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING

from deepen.kernels.families.convolution import check_geometry, read_conv_geometry, read_leading_pads
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.onnx_parts import QUANTISED_DTYPES, write_operator
from deepen.kernels.families.operator_costs import get_operator_code, get_operator_cost
from deepen.kernels.families.shape_features import (
    compute_lane_waste,
    compute_shape_features,
    compute_spatial_features,
    compute_window_features,
)

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS", "REDUCTIONS"]

_POOL = {"maxpool": "MaxPool", "avgpool": "AveragePool"}
_AVERAGE = {7: "AveragePool", 19: "AveragePool19"}
"""Operator by version: ONNX Runtime runs the one of opset 19, which may be dilated, through other code."""
_GLOBAL = ("GlobalAveragePool", "GlobalMaxPool")
_ARG = ("ArgMax", "ArgMin")
REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp", *_ARG,
)  # fmt: skip


def _count_windows_rounded_up(params: Params, i: int) -> int:
    """Count windows in one direction with the size rounded up, including one that starts in the end padding."""
    rank = len(params["spatial"])
    free = params["spatial"][i] + params["pads"][i] + params["pads"][rank + i]
    steps: int = -(-(free - params["dilation"][i] * (params["kernel"][i] - 1) - 1) // params["stride"][i])
    return steps + 1


def _compute_pooled_size(params: Params) -> tuple[int, ...]:
    """Compute the output size; with ``ceil``, a window that would start in the end padding is left out.

    ONNX Runtime does so for every opset, the shape inference of the onnx package from opset 22 on.
    """
    rank = len(params["spatial"])
    out = []
    for i, size in enumerate(params["spatial"]):
        begin, end = params["pads"][i], params["pads"][rank + i]
        free = size + begin + end - params["dilation"][i] * (params["kernel"][i] - 1) - 1
        stride = params["stride"][i]
        count = (-(-free // stride) if params["ceil"] else free // stride) + 1
        if params["ceil"] and (count - 1) * stride >= size + begin:
            count -= 1
        out.append(count)
    return tuple(out)


def _read_pool(group: NodeGroup, family: str) -> Params | None:
    anchors = [n for n in group.compute if n.op_type == _POOL[family]]
    if len(anchors) != 1:
        return None
    node = anchors[0]
    rank = len(group.shape(node.inputs[0])) - 2
    extra, data, before = read_leading_pads(group, node, rank)
    if len(group.compute) != 1 + len(before):
        return None
    x = group.shape(data)
    kernel = [int(v) for v in node.attributes["kernel_shape"]]
    geometry = read_conv_geometry(node, [s + extra[i] + extra[rank + i] for i, s in enumerate(x[2:])], kernel)
    geometry["pads"] = [a + b for a, b in zip(geometry["pads"], extra, strict=True)]
    found = {
        "dtype": group.dtype(node.inputs[0]), "batch": x[0], "c": x[1], "spatial": list(x[2:]),
        "kernel": kernel, **geometry,
        "ceil": False,
    }  # fmt: skip
    asked = bool(node.attributes.get("ceil_mode", 0))
    found["ceil"] = asked and _compute_pooled_size({**found, "ceil": True}) != _compute_pooled_size(found)
    if family == "avgpool":
        found["count_include_pad"] = bool(node.attributes.get("count_include_pad", 0)) and any(geometry["pads"])
        found["version"] = 19 if group.opset() >= 19 else 7
    else:
        found["indices"] = len(node.outputs) > 1 and bool(node.outputs[1])
    return found


def _pool_layout(params: Params) -> KernelLayout:
    shape = (params["batch"], params["c"], *params["spatial"])
    y = TensorSpec("y", (params["batch"], params["c"], *_compute_pooled_size(params)), params["dtype"])
    outputs = (y, TensorSpec("index", y.shape, "int64")) if params.get("indices") else (y,)
    return KernelLayout((TensorSpec("x", shape, params["dtype"]),), outputs)


def _pool_ops(params: Params) -> int:
    # one comparison or addition per window element, and one division per output for the average
    return _pool_layout(params).outputs[0].elements * (prod(params["kernel"]) + ("count_include_pad" in params) * 4)


def _pool_dims(params: Params) -> dict[str, float]:
    return {
        "batch": params["batch"], "c_in": params["c"], "c_out": params["c"], **compute_spatial_features("{}_in",
        params["spatial"]),
        **compute_spatial_features("{}_out", _compute_pooled_size(params)), **compute_window_features(params),
        "waste_c_in_16": compute_lane_waste(params["c"], 16),
        "op_code": get_operator_code(_AVERAGE[params["version"]]) if "version" in params else 0,
    }  # fmt: skip


def _pool_opset(params: Params) -> int:
    return 17 if params.get("version") == 7 else 22


def _pool_check(params: Params, family: str) -> None:
    check_geometry(family, params)
    rank = len(params["spatial"])
    for i, k in enumerate(params["kernel"]):
        if max(params["pads"][i], params["pads"][rank + i]) >= k:
            raise make_param_error(
                family, "pads", f"must be smaller than the kernel ({k}), or a window sees padding only"
            )
    if any(size < 1 for size in (*_compute_pooled_size(params), *_compute_pooled_size({**params, "ceil": False}))):
        raise make_param_error(
            family, "spatial", f"{params['spatial']} is too small for kernel and pads: nothing comes out"
        )
    if params["ceil"] and _compute_pooled_size(params) == _compute_pooled_size({**params, "ceil": False}):
        raise make_param_error(family, "ceil", "makes no difference for these sizes; leave it false")
    if params.get("version") == 7:
        if any(d > 1 for d in params["dilation"]):
            raise make_param_error(family, "version", "must be 19 for a dilated window")
        if params["ceil"] and _compute_pooled_size(params) != tuple(
            _count_windows_rounded_up(params, i) for i in range(rank)
        ):
            raise make_param_error(
                family, "ceil", "gives another size in shape inference than at run time before opset 22"
            )
    if params.get("count_include_pad") and not any(params["pads"]):
        raise make_param_error(family, "count_include_pad", "makes no difference without pads; leave it false")


def _pool_write(params: Params, writer: KernelModelWriter) -> None:
    common = {
        "kernel_shape": params["kernel"], "strides": params["stride"], "pads": params["pads"],
        "ceil_mode": int(params["ceil"]), "dilations": params["dilation"],
    }  # fmt: skip
    if "indices" in params:
        writer.node("MaxPool", ["x"], ["y", "index"] if params["indices"] else "y", **common)
    else:
        if params["version"] == 7:
            del common["dilations"]
        common["count_include_pad"] = int(params["count_include_pad"])
        write_operator(writer, params["dtype"], "AveragePool", ["x"], **common)


def _read_global(group: NodeGroup) -> Params | None:
    node = group.find_single_node(_GLOBAL)
    if node is None:
        return None
    x = group.shape(node.inputs[0])
    dtype = group.dtype(node.inputs[0])
    return {"op": node.op_type, "dtype": dtype, "batch": x[0], "c": x[1], "spatial": list(x[2:])}


def _global_layout(params: Params) -> KernelLayout:
    head, rank = (params["batch"], params["c"]), len(params["spatial"])
    x = TensorSpec("x", (*head, *params["spatial"]), params["dtype"])
    return KernelLayout((x,), (TensorSpec("y", (*head, *[1] * rank), params["dtype"]),))


def _global_dims(params: Params) -> dict[str, float]:
    window = prod(params["spatial"])
    return {
        **compute_shape_features(_global_layout(params).inputs[0].shape, prefix_out=False), "c_out": params["c"],
        "axis_size": window, "outer_size": params["batch"] * params["c"], "inner_size": 1,
        "op_code": get_operator_code(params["op"]),
    }  # fmt: skip


def _global_write(params: Params, writer: KernelModelWriter) -> None:
    write_operator(writer, params["dtype"], params["op"], ["x"])


def _global_check(params: Params) -> None:
    if params["dtype"] in QUANTISED_DTYPES and params["op"] != _GLOBAL[0]:
        raise make_param_error("global-avgpool", "dtype", f"of {params['op']} may not be {params['dtype']}")


def _normalise_axes(group_axes: Sequence[int] | None, rank: int) -> list[int]:
    return sorted(a % rank for a in group_axes) if group_axes else list(range(rank))


def _read_reduce(group: NodeGroup) -> Params | None:
    node = group.find_single_node(REDUCTIONS)
    if node is None:
        return None
    x = group.shape(node.inputs[0])
    if node.op_type in _ARG:
        axes = [int(node.attributes.get("axis", 0)) % len(x)]
    else:
        given = group.ints(node, "axes", 1)
        if given is None and len(node.inputs) > 1 and node.inputs[1]:
            return None  # axes known only at run time
        if not given and node.attributes.get("noop_with_empty_axes", 0):
            return None
        axes = _normalise_axes(given, len(x))
    return {
        "op": node.op_type, "dtype": group.dtype(node.inputs[0]), "shape": list(x), "axes": axes,
        "keepdims": bool(node.attributes.get("keepdims", 1)),
    }  # fmt: skip


def _reduce_layout(params: Params) -> KernelLayout:
    axes = set(params["axes"])
    keep = [1 if i in axes else s for i, s in enumerate(params["shape"]) if params["keepdims"] or i not in axes]
    dtype = "int64" if params["op"] in _ARG else params["dtype"]
    return KernelLayout(
        (TensorSpec("x", tuple(params["shape"]), params["dtype"]),), (TensorSpec("y", tuple(keep), dtype),)
    )


def _reduce_dims(params: Params) -> dict[str, float]:
    axes = params["axes"]
    shape = params["shape"]
    return {
        **compute_shape_features(shape, prefix_out=False), "op_code": get_operator_code(params["op"]),
        "axis_size": prod(shape[a] for a in axes),
        "outer_size": prod(shape[: axes[0]]) if axes else 1, "inner_size": prod(shape[axes[-1] + 1 :]) if axes else 1,
    }  # fmt: skip


def _reduce_check(params: Params) -> None:
    rank, axes = len(params["shape"]), params["axes"]
    if rank and (not axes or axes != sorted(set(axes)) or axes[-1] >= rank):
        raise make_param_error("reduce", "axes", f"must be distinct, ascending and below the rank {rank}, not {axes}")
    if params["op"] in _ARG and len(axes) != 1:
        raise make_param_error("reduce", "axes", f"of {params['op']} must be exactly one")


def _reduce_write(params: Params, writer: KernelModelWriter) -> None:
    keep = int(params["keepdims"])
    if params["op"] in _ARG:
        writer.node(params["op"], ["x"], "y", axis=params["axes"][0], keepdims=keep)
    else:
        writer.node(params["op"], ["x", writer.constant(params["axes"], "int64")], "y", keepdims=keep)


FAMILY_DEFINITIONS = (
    *(
        FamilyDefinition(
            name, partial(_read_pool, family=name), _pool_layout, _pool_ops, _pool_dims, _pool_write,
            partial(_pool_check, family=name), _pool_opset,
        )
        for name in _POOL
    ),
    FamilyDefinition(
        "global-avgpool", _read_global, _global_layout, lambda p: _global_layout(p).inputs[0].elements, _global_dims,
        _global_write, _global_check,
    ),
    FamilyDefinition(
        "reduce", _read_reduce, _reduce_layout,
        lambda p: _reduce_layout(p).inputs[0].elements * get_operator_cost(p["op"]),
        _reduce_dims, _reduce_write, _reduce_check, lambda p: 18,
    ),
)  # fmt: skip
