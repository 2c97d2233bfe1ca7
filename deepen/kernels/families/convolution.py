"""Convolutions: dense, depthwise, grouped and transposed, with the operators the runtime fuses into them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from deepen.graph.types import DTYPE_BYTES, Node
from deepen.kernels.families.definition import FamilyDefinition, NodeGroup, Params, make_param_error
from deepen.kernels.families.fused_activations import match_fused_tail
from deepen.kernels.families.kernel_layout import KernelLayout, TensorSpec
from deepen.kernels.families.onnx_parts import write_activation
from deepen.kernels.families.operator_costs import ACTIVATIONS
from deepen.kernels.families.shape_features import compute_lane_waste, compute_spatial_features, compute_window_features

if TYPE_CHECKING:
    from deepen.kernels.families.onnx_writer import KernelModelWriter

__all__ = [
    "FAMILY_DEFINITIONS",
    "compute_conv_features",
    "compute_conv_output_size",
    "read_conv_geometry",
    "read_leading_pads",
    "resolve_pads",
]

CONV_OPS = ("Conv", "FusedConv")
_RUNTIME_ACTIVATION = {
    "Relu": "relu", "Clip": "clip", "LeakyRelu": "leakyrelu", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "HardSigmoid": "hardsigmoid",
}  # fmt: skip


def resolve_pads(
    auto_pad: str, pads: Sequence[int] | None, spatial: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:  # fmt: skip
    """Resolve ``auto_pad`` to explicit pads (begin..., end...), as the ONNX operator specification defines it."""
    rank = len(spatial)
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return list(pads) if pads and auto_pad in ("", "NOTSET") else [0] * (2 * rank)
    begin, end = [], []
    for size, k, s, d in zip(spatial, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto_pad == "SAME_UPPER" else large)
        end.append(large if auto_pad == "SAME_UPPER" else small)
    return begin + end


def _decode_text(value: Any, default: str = "") -> str:
    return value.decode() if isinstance(value, bytes) else str(value or default)


def read_conv_geometry(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> dict[str, list[int]]:
    """Read stride, dilation and explicit pads (begin..., end...) of a convolution or pooling node."""
    rank = len(spatial)
    stride = [int(v) for v in node.attributes.get("strides") or [1] * rank]
    dilation = [int(v) for v in node.attributes.get("dilations") or [1] * rank]
    pads = resolve_pads(
        _decode_text(node.attributes.get("auto_pad"), "NOTSET"),
        node.attributes.get("pads"),
        spatial,
        kernel,
        stride,
        dilation,
    )
    return {"stride": stride, "dilation": dilation, "pads": [int(p) for p in pads]}


def compute_conv_output_size(params: Params) -> tuple[int, ...]:
    """Output spatial size of a convolution: ``floor((in + pads - dilation*(kernel-1) - 1)/stride) + 1``."""
    rank = len(params["spatial"])
    return tuple(
        (size + params["pads"][i] + params["pads"][rank + i] - params["dilation"][i] * (k - 1) - 1)
        // params["stride"][i]
        + 1
        for i, (size, k) in enumerate(zip(params["spatial"], params["kernel"], strict=True))
    )


def _compute_transposed_output_size(params: Params) -> tuple[int, ...]:
    rank = len(params["spatial"])
    return tuple(
        (size - 1) * params["stride"][i] + params["output_padding"][i] + params["dilation"][i] * (k - 1) + 1
        - params["pads"][i] - params["pads"][rank + i]
        for i, (size, k) in enumerate(zip(params["spatial"], params["kernel"], strict=True))
    )  # fmt: skip


def read_leading_pads(group: NodeGroup, anchor: Node, rank: int) -> tuple[list[int], str, set[str]]:
    """Read the Pad node in front of a convolution or pooling node.

    Returns:
        Pads it adds (begin..., end...), the tensor before it, and its name in a set; zeros, the node's own input and an
        empty set if there is no such node or it pads other axes too.
    """
    data = anchor.inputs[0]
    node = next((n for n in group.compute if n.op_type == "Pad" and data in n.outputs), None)
    if node is None:
        return [0] * (2 * rank), data, set()
    pads = group.ints(node, "pads", 1)
    if pads is None or len(pads) != 2 * (rank + 2) or any((*pads[:2], *pads[rank + 2 : rank + 4])):
        return [0] * (2 * rank), data, set()
    return [*pads[2 : rank + 2], *pads[rank + 4 :]], node.inputs[0], {node.name}


def _read_conv(group: NodeGroup, transposed: bool) -> dict[str, Any] | None:
    """Read a convolution of any family, or ``None``.

    1. The group has exactly one convolution, the anchor.
    2. A Pad in front of it adds to its pads.
    3. All other nodes follow the anchor as bias, residual and activation.
    4. Of a transposed convolution, the output size decides the pads.
    """
    # 1
    wanted = ("ConvTranspose",) if transposed else CONV_OPS
    anchors = [n for n in group.compute if n.op_type in wanted]
    if len(anchors) != 1:
        return None
    anchor = anchors[0]
    weight = group.shape(anchor.inputs[1])
    rank = len(weight) - 2
    # 2
    extra, data, before = read_leading_pads(group, anchor, rank)
    x = group.shape(data)
    padded = [s + extra[i] + extra[rank + i] for i, s in enumerate(x[2:])]
    groups = int(anchor.attributes.get("group", 1))
    kernel = list(weight[2:])
    geometry = read_conv_geometry(anchor, padded, kernel)
    geometry["pads"] = [a + b for a, b in zip(geometry["pads"], extra, strict=True)]
    # 3
    c_out = weight[1] * groups if transposed else weight[0]
    taken = {anchor.name} | before
    tail = match_fused_tail(group, anchor.outputs[0], c_out, taken)
    if {n.name for n in group.compute} - taken - tail.used:
        return None
    bias = tail.bias or (len(anchor.inputs) > 2 and bool(anchor.inputs[2]))
    own = _RUNTIME_ACTIVATION.get(_decode_text(anchor.attributes.get("activation")), "none")
    found: dict[str, Any] = {
        "dtype": group.dtype(data), "batch": x[0], "c_in": x[1], "c_out": c_out, "spatial": list(x[2:]),
        "kernel": kernel,
        **geometry, "groups": groups, "bias": bias,
        "activation": tail.activation if tail.activation != "none" else own,
        "residual": tail.residual or _adds_residual(anchor),
    }  # fmt: skip
    # 4
    if transposed:
        found["output_padding"] = list(anchor.attributes.get("output_padding") or [0] * rank)
        out = group.shape(anchor.outputs[0])[2:]
        _resolve_transposed(found, out, _decode_text(anchor.attributes.get("auto_pad"), "NOTSET"))
    return found


def _adds_residual(node: Node) -> bool:
    """Return whether a FusedConv (com.microsoft) adds a fourth input, the residual."""
    return node.op_type == "FusedConv" and len(node.inputs) > 3 and bool(node.inputs[3])


def _resolve_transposed(found: dict[str, Any], out: Sequence[int], auto_pad: str) -> None:
    """Set the pads that give the output size ``out``, if ``output_shape`` or ``auto_pad`` decided them."""
    rank = len(out)
    found["pads"] = found["pads"] if auto_pad in ("NOTSET", "") else [0] * (2 * rank)
    if _compute_transposed_output_size(found) == tuple(out):
        return
    found["pads"] = [0] * (2 * rank)
    for i, (size, full) in enumerate(zip(out, _compute_transposed_output_size(found), strict=True)):
        total = full - size
        if total < 0:  # the requested output is larger than the kernel reaches
            found["output_padding"][i] -= total
            total = 0
        small, large = total // 2, total - total // 2
        found["pads"][i], found["pads"][rank + i] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def _choose_conv_family(params: Params) -> str:
    if params["groups"] == 1:
        return "conv-bn-relu"
    return "dwconv-bn-relu" if params["groups"] == params["c_in"] else "groupconv"


def _read(group: NodeGroup, family: str) -> Params | None:
    found = _read_conv(group, transposed=family == "convtranspose")
    if found is None or (family != "convtranspose" and _choose_conv_family(found) != family):
        return None
    return found


def _compute_output_size(params: Params) -> tuple[int, ...]:
    return _compute_transposed_output_size(params) if "output_padding" in params else compute_conv_output_size(params)


def _layout(params: Params) -> KernelLayout:
    dtype, groups = params["dtype"], params["groups"]
    x = TensorSpec("x", (params["batch"], params["c_in"], *params["spatial"]), dtype)
    y = TensorSpec("y", (params["batch"], params["c_out"], *_compute_output_size(params)), dtype)
    if "output_padding" in params:
        shape = (params["c_in"], params["c_out"] // groups, *params["kernel"])
    else:
        shape = (params["c_out"], params["c_in"] // groups, *params["kernel"])
    weights = [TensorSpec("w", shape, dtype)]
    if params["bias"]:
        weights.append(TensorSpec("b", (params["c_out"],), dtype))
    if params["activation"] == "prelu":
        weights.append(TensorSpec("slope", (params["c_out"], *[1] * len(params["spatial"])), dtype))
    inputs = (x, TensorSpec("z", y.shape, dtype)) if params["residual"] else (x,)
    return KernelLayout(inputs, (y,), tuple(weights))


def _ops(params: Params) -> int:
    elements = _layout(params).outputs[0].elements
    return int(elements * (ACTIVATIONS[params["activation"]][1] + params["bias"] + params["residual"]))


def compute_conv_features(params: Params) -> dict[str, float]:
    """Compute the features of a convolution: shapes, window, and the matrix product it amounts to per group."""
    out = _compute_output_size(params)
    groups, positions = params["groups"], prod(out)
    k = params["c_in"] // groups * prod(params["kernel"])
    m, n = params["batch"] * positions, params["c_out"] // groups
    pointwise = (
        all(v == 1 for v in params["kernel"]) and all(v == 1 for v in params["stride"]) and not any(params["pads"])
    )
    if "output_padding" in params:  # the GEMM runs on input positions and its result is scattered
        k, n = params["c_in"] // groups, params["c_out"] // groups * prod(params["kernel"])
        m = params["batch"] * prod(params["spatial"])
        scratch = m * n * groups
    else:
        scratch = 0 if pointwise else m * k * groups
    return {
        "batch": params["batch"], "c_in": params["c_in"], "c_out": params["c_out"], "groups": groups,
        **compute_spatial_features("{}_in", params["spatial"]), **compute_spatial_features("{}_out", out),
        **compute_window_features(params),
        "m": m, "n": n, "k": k, "gemm_batch": groups, "is_1x1": float(all(v == 1 for v in params["kernel"])),
        "im2col_bytes": scratch * DTYPE_BYTES.get(params["dtype"], 0),
        "waste_c_in_16": compute_lane_waste(params["c_in"] // groups, 16),
        "waste_c_out_16": compute_lane_waste(params["c_out"] // groups, 16),
        "waste_m_16": compute_lane_waste(m, 16), "waste_n_16": compute_lane_waste(n, 16),
        "waste_k_16": compute_lane_waste(k, 16),
    }  # fmt: skip


def check_geometry(family: str, params: Params) -> None:
    """Check that all lists of spatial parameters have the length that the rank demands.

    Raises:
        ConfigError: Naming the parameter.
    """
    rank = len(params["spatial"])
    if not 1 <= rank <= 3:
        raise make_param_error(family, "spatial", f"must have 1 to 3 sizes, not {rank}")
    for name, length in (("kernel", rank), ("stride", rank), ("dilation", rank), ("pads", 2 * rank)):
        if name in params and len(params[name]) != length:
            raise make_param_error(
                family, name, f"must have {length} values for {rank} spatial sizes, not {len(params[name])}"
            )


def _check(params: Params, family: str) -> None:
    check_geometry(family, params)
    groups = params["groups"]
    for name in ("c_in", "c_out"):
        if params[name] % groups:
            raise make_param_error(family, name, f"must be a multiple of groups ({groups}), not {params[name]}")
    if family != "convtranspose" and _choose_conv_family(params) != family:
        raise make_param_error(
            family, "groups", f"of {groups} with c_in {params['c_in']} is family {_choose_conv_family(params)}"
        )
    if family == "convtranspose" and len(params["output_padding"]) != len(params["spatial"]):
        raise make_param_error(family, "output_padding", "must have one value per spatial size")
    if family == "convtranspose" and any(
        p >= max(s, d) for p, s, d in zip(params["output_padding"], params["stride"], params["dilation"], strict=True)
    ):
        raise make_param_error(family, "output_padding", "must be smaller than stride or dilation")
    if any(size < 1 for size in _compute_output_size(params)):
        raise make_param_error(
            family, "spatial", f"{params['spatial']} is too small for kernel, dilation and pads: nothing comes out"
        )


def _write(params: Params, writer: KernelModelWriter) -> None:
    op = "ConvTranspose" if "output_padding" in params else "Conv"
    plain = params["activation"] == "none" and not params["residual"]
    inputs = ["x", "w", *(["b"] if params["bias"] else [])]
    out = writer.node(
        op, inputs, "y" if plain else None, kernel_shape=params["kernel"], strides=params["stride"],
        dilations=params["dilation"], pads=params["pads"], group=params["groups"],
        output_padding=params["output_padding"] if op == "ConvTranspose" else None,
    )  # fmt: skip
    if params["residual"]:
        out = writer.node("Add", [out, "z"], "y" if params["activation"] == "none" else None)
    if params["activation"] != "none":
        write_activation(writer, params["activation"], out, "y", params["dtype"], slope="slope")


def _define_family(family: str) -> FamilyDefinition:
    return FamilyDefinition(
        family, partial(_read, family=family), _layout, _ops, compute_conv_features, _write, partial(_check,
            family=family)
    )  # fmt: skip


FAMILY_DEFINITIONS = tuple(
    _define_family(name) for name in ("conv-bn-relu", "dwconv-bn-relu", "groupconv", "convtranspose")
)
