"""Softmax and normalisations."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from deepen.graph.types import Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.fused_activations import match_expression, match_fused_tail
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.matrix_product import broadcast_shapes
from deepen.kernels.families.onnx_parts import QUANTISED_DTYPES, write_activation, write_operator
from deepen.kernels.families.operator_costs import ACTIVATIONS, get_operator_code, get_operator_cost
from deepen.kernels.families.shape_features import compute_axis_features, compute_shape_features

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = ["FAMILY_DEFINITIONS"]

_SOFT = ("Softmax", "LogSoftmax", "Hardmax")

_CENTRED = ("Sub", "x", ("ReduceMean", "x"))


def _make_layer_norm_forms() -> tuple[Any, ...]:
    forms: list[Any] = []
    for square in (("Pow", _CENTRED, "c"), ("Mul", _CENTRED, _CENTRED)):
        deviation = ("Sqrt", ("Add", ("ReduceMean", square), "c"))
        for normed in (("Div", _CENTRED, deviation), ("Mul", _CENTRED, ("Reciprocal", deviation))):
            forms += [("Add", ("Mul", normed, "c"), "c"), ("Mul", normed, "c"), normed]
    return tuple(forms)


def _make_rms_norm_forms() -> tuple[Any, ...]:
    forms: list[Any] = []
    for square in (("Pow", "x", "c"), ("Mul", "x", "x")):
        mean = ("Add", ("ReduceMean", square), "c")
        root = ("Sqrt", mean)
        for normed in (("Div", "x", root), ("Mul", "x", ("Reciprocal", root)), ("Mul", "x", ("Div", "c", root)),
                       ("Mul", "x", ("Pow", mean, "c"))):  # fmt: skip
            forms += [("Mul", normed, "c"), normed]
    return tuple(forms)


_LAYER_FORMS, _RMS_FORMS = _make_layer_norm_forms(), _make_rms_norm_forms()
_WITH_BIAS = {form for form in _LAYER_FORMS if form[0] == "Add"}


# softmax ---------------------------------------------------------------------------------------------------------


def _read_softmax(group: NodeGroup) -> Params | None:
    nodes = [n for n in group.compute if n.op_type in _SOFT]
    if len(nodes) != 1:
        return None
    node = nodes[0]
    shape = list(group.shape(node.inputs[0]))
    x, bias = node.inputs[0], []
    if len(group.compute) == 2 and group.compute[0].op_type == "Add" and group.compute[0].outputs[0] == x:
        full = [i for i in group.compute[0].inputs if list(group.shape(i)) == shape and not group.is_const(i)]
        if not full:
            return None
        x = full[0]
        bias = list(group.shape(next((i for i in group.compute[0].inputs if i != x), x)))
    elif len(group.compute) != 1:
        return None
    legacy = group.opset() < 13
    axis = int(node.attributes.get("axis", 1 if legacy else -1)) % max(len(shape), 1)
    if legacy:  # before opset 13 the operator works on a matrix: sizes before the axis by sizes from it on
        shape, axis, bias = [prod(shape[:axis]), prod(shape[axis:])], 1, []
    return {"op": node.op_type, "dtype": group.dtype(x), "shape": shape, "axis": axis, "bias_shape": bias}


def _softmax_layout(params: Params) -> KernelLayout:
    shape, dtype = tuple(params["shape"]), params["dtype"]
    inputs = [TensorSpec("x", shape, dtype)]
    if params["bias_shape"]:
        inputs.append(TensorSpec("z", tuple(params["bias_shape"]), dtype))
    return KernelLayout(tuple(inputs), (TensorSpec("y", shape, dtype),))


def _softmax_check(params: Params) -> None:
    _check_axis(params, "softmax")
    if params["bias_shape"] and params["dtype"] in QUANTISED_DTYPES:
        raise make_param_error("softmax", "bias_shape", "must be empty on integers")
    try:
        wide = broadcast_shapes(params["shape"], params["bias_shape"])
    except ValueError as error:
        raise make_param_error("softmax", "bias_shape", f"must broadcast to shape: {error}") from error
    if wide != tuple(params["shape"]):
        raise make_param_error("softmax", "bias_shape", "must not be larger than shape")


def _softmax_write(params: Params, writer: KernelModelWriter) -> None:
    x = writer.node("Add", ["x", "z"]) if params["bias_shape"] else "x"
    write_operator(writer, params["dtype"], params["op"], [x], axis=params["axis"])


def _check_axis(params: Params, family: str) -> None:
    if params["axis"] >= len(params["shape"]):
        raise make_param_error(family, "axis", f"must be below the rank {len(params['shape'])}, not {params['axis']}")


# layernorm, rmsnorm ----------------------------------------------------------------------------------------------

_LAYER_OPS = (
    "LayerNormalization", "SkipLayerNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm",
    "MeanVarianceNormalization",
)  # fmt: skip
_RMS_OPS = ("RMSNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")


def _find_normalisation(
    group: NodeGroup, ops: tuple[str, ...], forms: tuple[Any, ...]
) -> tuple[str, Node, set[str], bool] | None:
    """Find the normalisation inside a group: its input, its first node, its nodes' names, whether it ends in a bias."""
    single = [n for n in group.compute if n.op_type in ops]
    if len(single) == 1:
        node = single[0]
        position = 3 if node.op_type == "SkipLayerNormalization" else 2
        return node.inputs[0], node, {node.name}, len(node.inputs) > position and bool(node.inputs[position])
    for end in reversed(group.compute):
        for form in forms:
            found = match_expression(group, end.outputs[0], form)
            if found is not None:
                mean = next(n for n in reversed(found[1]) if n.op_type == "ReduceMean")
                return found[0], mean, {n.name for n in found[1]}, form in _WITH_BIAS
    return None


def _find_added_input(group: NodeGroup, x: str, core: set[str]) -> tuple[str, bool] | None:
    """Find the sum in front of a normalisation: (tensor of the full shape, whether it has a residual), or None."""
    rest = {n.name: n for n in group.compute if n.name not in core}
    residual = False
    while rest:
        node = next((n for n in rest.values() if x in n.outputs), None)
        if node is None or node.op_type != "Add":
            return None
        del rest[node.name]
        data = [i for i in node.inputs if not group.is_const(i)]
        if len(data) == 2:
            if residual:
                return None
            residual = True
            x = next((i for i in data if any(i in n.outputs for n in rest.values())), data[0])
        else:
            x = data[0]
    return x, residual


def _find_first_normalised_axis(group: NodeGroup, node: Node, rank: int) -> int | None:
    """Return the first of the normalised axes, if they are the last ones."""
    if node.op_type == "ReduceMean":
        axes = group.ints(node, "axes", 1)
        if axes is None:
            return None
        given = sorted(a % rank for a in axes)
        return given[0] if given == list(range(given[0], rank)) else None
    if node.op_type.startswith("Skip"):
        return rank - 1
    return int(node.attributes.get("axis", -1)) % rank


def _read_norm(group: NodeGroup, family: str) -> Params | None:
    """Read a normalisation of family ``layernorm`` or ``rmsnorm``.

    1. One operator, or a known chain of nodes.
    2. All other nodes add a residual or constants in front of it; operators named ``Skip...`` do so themselves.
    3. Normalised axes are the last ones, or all after the channels.
    4. A second output of the input's shape is the sum in front of the normalisation.
    """
    # 1
    layer = family == "layernorm"
    found = _find_normalisation(group, _LAYER_OPS if layer else _RMS_OPS, _LAYER_FORMS if layer else _RMS_FORMS)
    if found is None:
        return None
    x, node, names, bias = found
    # 2
    ahead = _find_added_input(group, x, names)
    if ahead is None:
        return None
    contrib = node.op_type.startswith("Skip")
    x, residual = ahead[0], ahead[1] or contrib
    # 3
    shape = list(group.shape(x))
    channels = node.op_type in ("InstanceNormalization", "GroupNormalization", "GroupNorm", "MeanVarianceNormalization")
    axis = 1 if channels else _find_first_normalised_axis(group, node, max(len(shape), 1))
    if axis is None or not shape:
        return None
    # 4
    written = [o for o in group.outputs if o.shape == tuple(shape)]
    common = {"dtype": group.dtype(x), "shape": shape, "axis": axis, "skip": residual,
              "skip_output": residual and len(written) > 1}  # fmt: skip
    if not layer:
        return common
    op = {"GroupNorm": "GroupNormalization"}.get(node.op_type, node.op_type)
    groups = int(node.attributes.get("num_groups", node.attributes.get("groups", 0)))
    if not channels:
        op = "LayerNormalization"
    elif residual:
        return None
    own_bias = op in ("InstanceNormalization", "GroupNormalization")
    return {"op": op, **common, "groups": groups, "bias": own_bias or (bias and op == "LayerNormalization")}


def _norm_layout(params: Params) -> KernelLayout:
    shape, dtype = tuple(params["shape"]), params["dtype"]
    op = params.get("op", "RMSNormalization")
    wide = (shape[1],) if op in ("InstanceNormalization", "GroupNormalization") else shape[params["axis"] :]
    weights = [] if op == "MeanVarianceNormalization" else [TensorSpec("scale", wide, dtype)]
    if params.get("bias"):
        weights.append(TensorSpec("b", wide, dtype))
    x, y = TensorSpec("x", shape, dtype), TensorSpec("y", shape, dtype)
    inputs = (x, TensorSpec("z", shape, dtype)) if params["skip"] else (x,)
    return KernelLayout(inputs, (y, TensorSpec("sum", shape, dtype)) if params["skip_output"] else (y,), tuple(weights))


def _norm_dims(params: Params) -> dict[str, float]:
    shape, axis = params["shape"], params["axis"]
    op = params.get("op", "RMSNormalization")
    if op in ("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization"):
        groups = params["groups"] or (1 if op == "MeanVarianceNormalization" else shape[1])
        sizes = {
            "axis_size": prod(shape[1:]) / max(1, groups),
            "outer_size": float(shape[0] * groups),
            "inner_size": 1.0,
        }
    else:
        sizes = {"axis_size": float(prod(shape[axis:])), "outer_size": float(prod(shape[:axis])), "inner_size": 1.0}
    return {
        **compute_shape_features(shape),
        **sizes,
        "op_code": get_operator_code(op),
        "groups": params.get("groups", 0),
    }


def _norm_check(params: Params, family: str) -> None:
    _check_axis(params, family)
    op = params.get("op", "RMSNormalization")
    if params["skip_output"] and not params["skip"]:
        raise make_param_error(family, "skip_output", "needs skip")
    if op in ("LayerNormalization", "RMSNormalization"):
        if params.get("groups"):
            raise make_param_error(family, "groups", f"must be 0 for {op}")
        return
    if params["skip"]:
        raise make_param_error(family, "skip", f"is not known of {op}")
    if params["axis"] != 1 or len(params["shape"]) < 3:
        raise make_param_error(family, "axis", f"of {op} must be 1, with a shape of rank 3 or more")
    if params["bias"] != (op != "MeanVarianceNormalization"):
        raise make_param_error(family, "bias", f"is always {str(op != 'MeanVarianceNormalization').lower()} for {op}")
    if op == "GroupNormalization":
        if not params["groups"] or params["shape"][1] % params["groups"]:
            raise make_param_error(family, "groups", f"must divide the {params['shape'][1]} channels")
    elif params["groups"]:
        raise make_param_error(family, "groups", f"must be 0 for {op}")


def _norm_write(params: Params, writer: KernelModelWriter) -> None:
    op = params.get("op", "RMSNormalization")
    x = "x"
    if params["skip"]:
        x = writer.node("Add", ["x", "z"], "sum" if params["skip_output"] else None)
    weights = [spec.name for spec in writer.layout.weights]
    special: dict[str, dict[str, Any]] = {
        "GroupNormalization": {"num_groups": params.get("groups")},
        "InstanceNormalization": {}, "MeanVarianceNormalization": {"axes": [0, *range(2, len(params["shape"]))]},
    }  # fmt: skip
    writer.node(op, [x, *weights], "y", **special.get(op, {"axis": params["axis"]}))


def _norm_opset(params: Params) -> int:
    return {"RMSNormalization": 23, "GroupNormalization": 21}.get(params.get("op", "RMSNormalization"), 17)


def _norm_ops(params: Params, op: str | None) -> int:
    return int(prod(params["shape"]) * (get_operator_cost(op or params["op"]) + params["skip"]))


# lrn, bn, bnrelu -------------------------------------------------------------------------------------------------


def _make_plain_layout(params: Params, weights: tuple[TensorSpec, ...] = ()) -> KernelLayout:
    shape, dtype = tuple(params["shape"]), params["dtype"]
    return KernelLayout((TensorSpec("x", shape, dtype),), (TensorSpec("y", shape, dtype),), weights)


def _compute_channel_features(params: Params) -> dict[str, float]:
    return {
        **compute_shape_features(params["shape"]),
        **compute_axis_features(params["shape"], 1),
        "k_d": float(params.get("size", 0)),
    }


def _check_rank(params: Params, family: str, least: int) -> None:
    if len(params["shape"]) < least:
        raise make_param_error(family, "shape", f"must have rank {least} or more, not {len(params['shape'])}")


def _read_lrn(group: NodeGroup) -> Params | None:
    node = group.find_single_node(("LRN",))
    if node is None:
        return None
    x = node.inputs[0]
    return {"dtype": group.dtype(x), "shape": list(group.shape(x)), "size": int(node.attributes.get("size", 1))}


def _lrn_write(params: Params, writer: KernelModelWriter) -> None:
    writer.node("LRN", ["x"], "y", size=params["size"])


_BN = ("scale", "b", "mean", "var")


def _bn_layout(params: Params) -> KernelLayout:
    shape = tuple(params["shape"])
    return _make_plain_layout(params, tuple(TensorSpec(name, (shape[1],), params["dtype"]) for name in _BN))


def _read_bn(group: NodeGroup, family: str) -> Params | None:
    node = group.compute[0]
    if node.op_type != "BatchNormalization":
        return None
    shape = list(group.shape(node.inputs[0]))
    if len(shape) < 2:
        return None
    tail = match_fused_tail(group, node.outputs[0], shape[1], {node.name})
    if {n.name for n in group.compute} - tail.used - {node.name} or tail.residual or tail.activation == "prelu":
        return None
    if (family == "bn") != (tail.activation == "none"):
        return None
    found = {"dtype": group.dtype(node.inputs[0]), "shape": shape}
    return found if family == "bn" else {**found, "activation": tail.activation}


def _bn_write(params: Params, writer: KernelModelWriter) -> None:
    activation = params.get("activation", "none")
    writer.constant(np.ones(params["shape"][1]), params["dtype"], "var")
    out = writer.node("BatchNormalization", ["x", *_BN], "y" if activation == "none" else None)
    if activation != "none":
        write_activation(writer, activation, out, "y", params["dtype"])


def _bn_ops(params: Params) -> int:
    return prod(params["shape"]) * (
        get_operator_cost("BatchNormalization") + ACTIVATIONS[params.get("activation", "none")][1]
    )


FAMILY_DEFINITIONS = (
    FamilyDefinition(
        "softmax", _read_softmax, _softmax_layout,
        lambda p: prod(p["shape"]) * (get_operator_cost(p["op"]) + bool(p["bias_shape"])),
        lambda p: {**compute_shape_features(p["shape"]), **compute_axis_features(p["shape"], p["axis"]),
            "op_code": get_operator_code(p["op"])},
        _softmax_write, _softmax_check,
    ),
    FamilyDefinition(
        "layernorm", partial(_read_norm, family="layernorm"), _norm_layout, partial(_norm_ops, op=None), _norm_dims,
        _norm_write, partial(_norm_check, family="layernorm"), _norm_opset,
    ),
    FamilyDefinition(
        "rmsnorm", partial(_read_norm, family="rmsnorm"), _norm_layout,
        partial(_norm_ops, op="RMSNormalization"), _norm_dims,
        _norm_write, partial(_norm_check, family="rmsnorm"), _norm_opset,
    ),
    FamilyDefinition(
        "lrn", _read_lrn, _make_plain_layout,
        lambda p: prod(p["shape"]) * (2 * p["size"] + get_operator_cost("Pow") + get_operator_cost("Div")),
        _compute_channel_features, _lrn_write,
        partial(_check_rank, family="lrn", least=3),
    ),
    *(
        FamilyDefinition(
            name, partial(_read_bn, family=name), _bn_layout, _bn_ops, _compute_channel_features, _bn_write,
            partial(_check_rank, family=name, least=2),
        )
        for name in ("bn", "bnrelu")
    ),
)  # fmt: skip
