"""Features of stored kernels: computed when a record is read, so that measurements do not expire.

Features follow from family and parameters, and what follows is not stored: a new definition of the features concerns
predictor files only. Stored is what the parameters do not say: ``zero_operand``, and all features of a kernel of
family ``other`` or without full parameters.

Thousands of networks of one search space consist of a few dozen kernels; equal kernels that were read are one object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from deepen.errors import DatasetError, DeepenError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import FEATURES_VERSION, compute_features
from deepen.kernels.types import Kernel

__all__ = [
    "ModelKernelEntry",
    "depends_on_version",
    "list_underivable_features",
    "make_model_kernel",
    "restore_entries",
    "restore_features",
]

_LASTING = frozenset({"zero_operand"})
"""Features that are facts about the kernel and not about their definition."""


class ModelKernelEntry(dict[str, Any]):
    """A kernel of a model, ``{"family", "params", "features", "multiplicity"}``, not changed once made.

    Attributes:
        underivable: Its features that are stored; ``None`` until asked for.
    """

    underivable: dict[str, float] | None = None


def make_model_kernel(kernel: Kernel, count: float = 1.0) -> ModelKernelEntry:
    """A kernel as a model's record lists it.

    Args:
        kernel: The kernel.
        count: Times the model executes it.
    """
    return ModelKernelEntry(
        family=kernel.family,
        params=kernel.params,
        features=compute_features(kernel),
        multiplicity=float(count) * kernel.multiplicity,
    )


def list_underivable_features(
    family: str, params: Mapping[str, Any], features: Mapping[str, float], version: int
) -> dict[str, float]:
    """Features of a kernel that do not follow from its family and parameters.

    Args:
        family: Its family.
        params: Its parameters (JSON values).
        features: Its features; may be empty.
        version: Version of their definition.
    """
    computed = _compute(family, params)
    if computed is None:
        return dict(features)
    if version != FEATURES_VERSION:
        features = {name: features[name] for name in _LASTING & features.keys()}
    return {name: value for name, value in features.items() if computed.get(name) != value}


def depends_on_version(underivable: Mapping[str, float]) -> bool:
    """Return true if stored features depend on the version of their definition."""
    return not underivable.keys() <= _LASTING


def restore_features(
    family: str, params: Mapping[str, Any], stored: Mapping[str, float], version: int
) -> tuple[dict[str, float], int]:
    """Complete the features of a stored kernel.

    Args:
        family: Its family.
        params: Its parameters.
        stored: What :func:`list_underivable_features` kept.
        version: Version of the definition of those.

    Returns:
        The features and the version of their definition: this deepen's, but for features that cannot be computed.
    """
    computed = _compute(family, params)
    if computed is None:
        return dict(stored), version
    names = computed.keys() & (stored.keys() if version == FEATURES_VERSION else _LASTING & stored.keys())
    return computed | {name: stored[name] for name in names}, FEATURES_VERSION


def restore_entries(
    parts: tuple[Mapping[str, Any], ...], version: int, where: str
) -> tuple[tuple[Mapping[str, Any], ...], int]:
    """Complete the features of the kernels of a stored model.

    Args:
        parts: As stored.
        version: Version of the features stored with them.
        where: File and place, for messages.

    Returns:
        The kernels and the version of their features.

    Raises:
        DatasetError: If a kernel has neither features nor the parameters they follow from.
    """
    try:
        entries = tuple(_restore_entry(_StoredEntry(part), version) for part in parts)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{where}: a kernel of the model cannot be described ({error}); import it again") from error
    if not entries:
        return (), version
    current = all(entry_version == FEATURES_VERSION for _, entry_version in entries)
    return tuple(entry for entry, _ in entries), FEATURES_VERSION if current else version


class _StoredEntry:
    """A stored kernel, compared by its text, so that equal ones are described once."""

    __slots__ = ("part", "text")

    def __init__(self, part: Mapping[str, Any]) -> None:
        self.part = part
        self.text = repr(part)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StoredEntry) and self.text == other.text


@lru_cache(maxsize=65536)
def _restore_entry(key: _StoredEntry, version: int) -> tuple[ModelKernelEntry, int]:
    part = key.part
    stored = {name: math.nan if v is None else float(v) for name, v in part.get("features", {}).items()}
    features, found = restore_features(part["family"], part["params"], stored, version)
    if not features:
        raise ValueError(f"'{part['family']}' has neither features nor full parameters")
    return ModelKernelEntry(part, features=features), found


def _compute(family: str, params: Mapping[str, Any]) -> dict[str, float] | None:
    """Features that follow from family and parameters; ``None`` where these do not say enough."""
    if not family or not params:
        return None
    try:
        return _compute_from_text(family, json.dumps(params, default=list))
    except (TypeError, ValueError, RecursionError):
        return None


@lru_cache(maxsize=65536)
def _compute_from_text(family: str, params: str) -> dict[str, float] | None:
    try:
        return compute_features(make_kernel_from_params(family, json.loads(params)))
    except (DeepenError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        return None
