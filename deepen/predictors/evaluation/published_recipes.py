"""Features and forests of two published predictors, as their code has them.

DeepEn2023 (repository amai-gsu/DeepEn2023, ``Prediction/sec23_AIEnergy_onnx.py``) and nn-Meter (microsoft/nn-Meter,
``nn_meter/builder/kernel_predictor_builder/predictor_builder``: ``extract_feature.py`` and ``predictor_lib.py``) see
a kernel's sizes as they are and regress the target as it is with one random forest per kernel type. The forests
published with DeepEn2023 are nn-Meter's of its TFLite CPU. The two differ:

* nn-Meter drops rows whose target is 0 or at least 200 (of its unit, here millijoules) before it trains, and has other
  forests for GPUs;
* DeepEn2023 takes the input of a global average pooling as 1 x 1.

A type neither has is given the features of nn-Meter's simple types and its default forest, which is kinder than the
originals: they count such kernels as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PublishedForestSettings", "compute_published_features", "get_published_forest"]

RANDOM_STATE = 10
"""Of every forest, and of nn-Meter's own split."""

NN_METER_LIMIT = 200.0
"""Targets from which on nn-Meter leaves a row out of training."""


@dataclass(frozen=True, slots=True)
class PublishedForestSettings:
    """Hyper-parameters of a random forest (scikit-learn); leaves of one row, no limit on leaves.

    Attributes:
        trees: Number of trees.
        depth: Greatest depth.
        features: Features looked at in each split; 0: all.
    """

    trees: int
    depth: int
    features: int = 0


_DEFAULT = PublishedForestSettings(370, 50)

_CPU: dict[str, PublishedForestSettings] = {
    name: PublishedForestSettings(*values)
    for name, values in {
        "conv": (320, 70, 6), "dwconv": (240, 50, 6), "fc": (370, 50, 2), "channelshuffle": (370, 50, 2),
        "se": (290, 20, 2), "maxpool": (210, 50, 5), "global-avgpool": (370, 70, 2), "hswish": (190, 50, 2),
        "avgpool": (370, 50, 5), "bnrelu": (370, 50, 2), "relu": (370, 50, 2), "bn": (370, 50, 2),
        "concat": (690, 100, 5), "addrelu": (570, 50, 3), "add": (570, 50, 3), "split": (190, 50, 2),
    }.items()
}  # fmt: skip
_GPU: dict[str, PublishedForestSettings] = _CPU | {
    name: PublishedForestSettings(*values)
    for name, values in {
        "conv": (550, 80, 5), "dwconv": (240, 40, 7), "fc": (330, 70, 4), "se": (190, 50, 2),
        "maxpool": (370, 50, 5), "bnrelu": (190, 50, 2), "relu": (190, 50, 2), "bn": (190, 50, 2),
    }.items()
}  # fmt: skip


def get_published_type(family: str) -> str:
    """Get the published type of a family of ours: all convolutions share one, as do all depthwise ones."""
    for name in ("dwconv", "conv"):
        if family.startswith(name) and family != "convtranspose":
            return name
    return family


def get_published_forest(family: str, gpu: bool) -> PublishedForestSettings:
    """Get the published hyper-parameters for a family."""
    return (_GPU if gpu else _CPU).get(get_published_type(family), _DEFAULT)


def compute_published_features(
    family: str, features: Mapping[str, float], params: Mapping[str, Any], small_pool: bool = False
) -> list[float]:
    """Compute the features of a kernel as published.

    Args:
        family: Our family.
        features: Our features, which hold the sizes.
        params: Our parameters, for the operands of a concatenation.
        small_pool: Take the input of a global average pooling as 1 x 1.
    """
    kind = get_published_type(family)
    hw, c_in, c_out = features["h_in"], features["c_in"], features["c_out"]
    if kind in ("conv", "dwconv"):
        k, stride = features["k_h"], max(features["stride_h"], 1.0)
        weights = c_out * (k * k * (c_in if kind == "conv" else 1.0) + 1.0)
        return [hw, c_in, c_out, k, stride, (hw / stride) ** 2 * weights / 1e6, weights / 1e6]
    if kind == "fc":
        weights = (2.0 * c_in + 1.0) * c_out
        return [c_in, c_out, weights / 2e6, weights / 1e6]
    if kind in ("maxpool", "avgpool"):
        return [hw, c_in, c_in, features["k_h"], features["stride_h"]]
    if kind in ("add", "addrelu"):
        return [hw, c_in, c_in]
    if kind == "concat":
        shapes = [list(s) for s in params.get("in_shapes", ())]
        channels = [float(s[1]) if len(s) > 1 else float(s[0]) if s else 0.0 for s in shapes] or [c_in]
        return [hw, *(channels + [0.0] * 4)[:4]]
    if kind == "global-avgpool" and small_pool:
        return [1.0, c_in]
    return [hw, c_in]
