"""Converts configurations in the notation of nn-Meter's builder to kernels.

nn-Meter (Zhang et al., MobiSys 2021) measures kernels made by TensorFlow Keras layers; DeepEn2023 uses its builder. A
configuration names sizes only, the rest follows from the layers (``nn_meter/builder/nn_modules/tf_networks``):
convolutions and poolings pad "same", have a bias or a folded batch normalisation, and read one square image; an
addition adds a tensor to itself; a split is in two halves of the channels, a channel shuffle in two groups, a
squeeze-and-excitation block goes through a quarter of the channels. Pixels and channels are given as height, width,
channels and written here as channels, height, width, as every kernel of deepen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepen.errors import ConfigError
from deepen.kernels.families.convolution import resolve_pads

__all__ = ["KERNELS", "convert_configuration"]

_ACTIVATIONS = {"relu": "relu", "relu6": "clip", "hswish": "hardswish"}
_CONVOLUTIONS = ("conv", "dwconv")
_OTHERS = (
    "add", "addrelu", "avgpool", "bn", "bnrelu", "channelshuffle", "concat", "fc", "global-avgpool", "hswish",
    "maxpool", "relu", "se", "split",
)  # fmt: skip
_VARIANTS = ("", "-bn", "-bn-relu", "-bn-relu6", "-bn-hswish", "-relu", "-relu6", "-hswish", "-block")

KERNELS: tuple[str, ...] = (*(kind + variant for kind in _CONVOLUTIONS for variant in _VARIANTS), *_OTHERS)
"""Kernel types by the builder's names."""


def convert_configuration(kernel: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Convert a configuration to family and parameters.

    1. Convolutions.
    2. Fully connected layers, which have no height and width.
    3. Concatenations, with any number of inputs.
    4. Kernels with one number of channels: all others.

    Args:
        kernel: Type, for example ``conv-bn-relu``.
        config: Sizes, as ``{"HW": 28, "CIN": 96, ...}``.

    Raises:
        ConfigError: If the type is unknown, or a size is missing, not an integer or not positive.
    """
    # 1. Convolutions.
    kind, _, variant = kernel.partition("-")
    if kind in _CONVOLUTIONS and kernel in KERNELS:
        return _convert_convolution(kind, variant, config)
    if kernel not in _OTHERS:
        raise ConfigError(f"no kernel type '{kernel}'")
    # 2. Fully connected layers, which have no height and width.
    if kernel == "fc":
        return "fc", {
            "m": 1,
            "k": _parse_size(config, "CIN"),
            "n": _parse_size(config, "COUT"),
            "bias": True,
            "trans_b": True,
        }
    # 3. Concatenations, with any number of inputs.
    side = _parse_size(config, "HW")
    if kernel == "concat":
        parts = [_parse_size(config, name, least=0) for name in sorted(config) if name.startswith("CIN")]
        shapes = [[1, channels, side, side] for channels in parts if channels]
        return "concat", {"in_shapes": shapes, "sources": list(range(len(shapes))), "axis": 1}
    # 4. Kernels with one number of channels.
    channels = _parse_size(config, "CIN")
    shape = [1, channels, side, side]
    square = {"c": channels, "spatial": [side, side]}
    match kernel:
        case "add":
            return kernel, {"in_shapes": [shape, shape], "sources": [0, 0]}
        case "addrelu":
            return kernel, {"in_shapes": [shape, shape], "sources": [0, 0], "activation": "relu"}
        case "avgpool" | "maxpool":
            return kernel, square | _convert_window(
                config, side, "POOL_STRIDES" if "POOL_STRIDES" in config else "STRIDES"
            )
        case "global-avgpool":
            return kernel, square
        case "bnrelu":
            return kernel, {"shape": shape, "activation": "relu"}
        case "channelshuffle":
            return kernel, square | {"groups": 2}
        case "se":
            return kernel, square | {"mid": max(channels // 4, 1), "activation": "relu", "gate": "hardsigmoid"}
        case "split":
            if channels % 2:
                raise ConfigError(f"{channels} channels cannot be split in two halves")
            return kernel, {"shape": shape, "axis": 1, "sizes": [channels // 2, channels // 2]}
        case _:
            return kernel, {"shape": shape}


def _convert_convolution(kind: str, variant: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    side, c_in = _parse_size(config, "HW"), _parse_size(config, "CIN")
    depthwise = kind == "dwconv"
    c_out = c_in if depthwise else _parse_size(config, "COUT")
    last = "relu" if variant == "block" else variant.rpartition("-")[2]
    params = {
        "c_in": c_in, "c_out": c_out, "spatial": [side, side], "groups": c_in if depthwise else 1, "bias": True,
        "activation": _ACTIVATIONS.get(last, "none"), **_convert_window(config, side, "STRIDES"),
    }  # fmt: skip
    return "dwconv-bn-relu" if depthwise and c_in > 1 else "conv-bn-relu", params


def _convert_window(config: Mapping[str, Any], side: int, stride_name: str) -> dict[str, list[int]]:
    """Convert kernel, stride and "same" padding, to explicit pads."""
    kernel, stride = [_parse_size(config, "KERNEL_SIZE")] * 2, [_parse_size(config, stride_name)] * 2
    pads: Sequence[int] = resolve_pads("SAME_UPPER", None, [side, side], kernel, stride, [1, 1])
    return {"kernel": kernel, "stride": stride, "dilation": [1, 1], "pads": list(pads)}


def _parse_size(config: Mapping[str, Any], name: str, least: int = 1) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < least:
        raise ConfigError(f"{name} is {value!r}, not a whole number of at least {least}")
    return int(value)
