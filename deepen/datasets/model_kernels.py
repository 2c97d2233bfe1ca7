"""The kernels of a whole model inside its record: stored by parameters alone where those say everything.

Thousands of networks of one search space consist of a few dozen kernels. Their features follow from the parameters, so
they are not written with every network; they are computed when the record is read, and equal kernels are one object.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from deepen.errors import ConfigError, DatasetError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.features import compute_features
from deepen.kernels.types import Kernel

__all__ = ["ModelKernelEntry", "make_model_kernel", "restore_features"]


class ModelKernelEntry(dict[str, Any]):
    """A kernel of a model, ``{"family", "params", "features", "multiplicity"}``, stored without its features."""

    def without_features(self) -> dict[str, Any]:
        """What is written."""
        return {name: value for name, value in self.items() if name != "features"}


def make_model_kernel(kernel: Kernel, count: float = 1.0) -> dict[str, Any]:
    """A kernel as a model's record lists it.

    Args:
        kernel: The kernel.
        count: Times the model executes it.
    """
    part = {
        "family": kernel.family,
        "params": kernel.params,
        "features": compute_features(kernel),
        "multiplicity": float(count) * kernel.multiplicity,
    }
    return part if kernel.family == "other" else ModelKernelEntry(part)


def restore_features(parts: tuple[Mapping[str, Any], ...], where: str) -> tuple[Mapping[str, Any], ...]:
    """Give the kernels of a stored record their features where they were left out.

    Args:
        parts: As stored.
        where: File and place, for messages.

    Raises:
        DatasetError: If a kernel has neither features nor the parameters they follow from.
    """
    if all("features" in part for part in parts):
        return parts
    try:
        return tuple(part if "features" in part else _compute_features(_ModelKernelKey(part)) for part in parts)
    except (ConfigError, KeyError, TypeError) as error:
        raise DatasetError(f"{where}: a kernel of the model cannot be described ({error}); import it again") from error


class _ModelKernelKey:
    """A stored kernel, compared by its text, so that equal ones are described once."""

    __slots__ = ("part", "text")

    def __init__(self, part: Mapping[str, Any]) -> None:
        self.part = part
        self.text = repr(part)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ModelKernelKey) and self.text == other.text


@lru_cache(maxsize=65536)
def _compute_features(key: _ModelKernelKey) -> ModelKernelEntry:
    part = key.part
    kernel = make_kernel_from_params(part["family"], part["params"])
    complete = ModelKernelEntry(part)
    complete["features"] = compute_features(kernel)
    return complete
