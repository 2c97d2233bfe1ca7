"""Division of records into training and held-out sets, by configuration.

Which side a record falls on follows from its configuration and a seed alone: repeats of one configuration never
straddle the two sides, and a dataset that grows keeps the sides of the records it had.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from deepen.errors import ConfigError
from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord

__all__ = ["TrainTestSplit", "make_approximate_key", "make_configuration_key", "split_records"]


@dataclass(frozen=True, slots=True)
class TrainTestSplit:
    """Two sets of records that share no configuration.

    Attributes:
        train: What to train on.
        held_out: What to evaluate on.
    """

    train: tuple[EnergyRecord, ...]
    held_out: tuple[EnergyRecord, ...]


def make_configuration_key(record: EnergyRecord) -> str:
    """Return the name of what was measured: the kernel's key, or the model's name."""
    return hash_params(record.family, record.params) if record.kind == "kernel" else f"model:{record.name}"


def make_approximate_key(record: EnergyRecord) -> str:
    """Return a coarse name of what was measured: integers of the parameters in steps of the square root of two.

    Configurations a few channels apart share a name, so that holding out by it asks for more than a look at the
    nearest neighbour.
    """
    if record.kind != "kernel":
        return make_configuration_key(record)
    return hash_params(record.family, {name: _round_to_half_octaves(value) for name, value in record.params.items()})


def _round_to_half_octaves(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | list | tuple | Mapping):
        return value
    if isinstance(value, int | float):
        return round(2 * math.log2(value)) if value > 0 else value
    if isinstance(value, Mapping):
        return {name: _round_to_half_octaves(part) for name, part in value.items()}
    return [_round_to_half_octaves(part) for part in value]


def split_records(
    records: Iterable[EnergyRecord],
    held_out: float = 0.2,
    seed: int = 0,
    key: Callable[[EnergyRecord], str] = make_configuration_key,
) -> TrainTestSplit:
    """Divide records by the hash of their configuration.

    Args:
        records: What to divide; order is kept.
        held_out: Share of configurations to hold out, 0..1 (each is drawn on its own, so a small family's share
            varies).
        seed: Another seed, another division.
        key: What records are kept together by; :func:`make_approximate_key` for groups of similar configurations.

    Raises:
        ConfigError: If the share is outside 0..1.
    """
    if not 0 <= held_out <= 1:
        raise ConfigError(f"the held-out share must lie between 0 and 1, not {held_out:g}")
    train: list[EnergyRecord] = []
    out: list[EnergyRecord] = []
    for record in records:
        text = json.dumps([seed, key(record)])
        draw = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        (out if draw < held_out else train).append(record)
    return TrainTestSplit(tuple(train), tuple(out))
