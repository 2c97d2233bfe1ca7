"""From a dataset's records to what training and evaluation work on."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deepen.kernels.types import hash_params
from deepen.records import EnergyRecord

__all__ = ["MeasuredRows", "RecordSource", "hash_training_data", "select_usable_rows"]

_NOISE_FLOOR = 0.1
"""Relative error of a single kernel that no care in measuring removes (drift, placement, and what a regressor cannot
express of it); limits the weights. Kernels of microseconds with an uncertainty of 30 % then still say something where
nothing else does."""


class RecordSource(Protocol):
    """A dataset: anything that hands out its records."""

    def records(self) -> Iterable[EnergyRecord]:
        """All records."""
        ...


@dataclass(frozen=True, slots=True)
class MeasuredRows:
    """Usable records.

    Attributes:
        kernels: Kernel records.
        models: Whole-model records.
        raw: Features of the kernel records, float64, shape (n, features).
        keys: Configuration of each kernel record.
        weight: Of each kernel record, from its uncertainty, shape (n,).
        left_out: Reason -> number of records not used.
    """

    kernels: tuple[EnergyRecord, ...]
    models: tuple[EnergyRecord, ...]
    raw: NDArray[np.float64]
    keys: tuple[str, ...]
    weight: NDArray[np.float64]
    left_out: Mapping[str, int]

    @property
    def energy_j(self) -> NDArray[np.float64]:
        """Energies of the kernel records, shape (n,)."""
        return np.array([r.energy_j for r in self.kernels])


def select_usable_rows(dataset: RecordSource | Sequence[EnergyRecord]) -> MeasuredRows:
    """Take the usable records of a dataset and count the others with reasons."""
    from deepen.kernels.features import FEATURE_NAMES, build_feature_matrix

    records = list(dataset.records() if hasattr(dataset, "records") else dataset)
    left_out: Counter[str] = Counter()
    kernels: list[EnergyRecord] = []
    models: list[EnergyRecord] = []
    for record in records:
        reason = _find_rejection_reason(record)
        if reason:
            left_out[reason] += 1
            continue
        (kernels if record.kind == "kernel" else models).append(record)
    raw = np.zeros((0, len(FEATURE_NAMES)))
    if kernels:
        raw = np.asarray(build_feature_matrix([r.features for r in kernels]), dtype=np.float64)
    return MeasuredRows(
        tuple(kernels),
        tuple(models),
        raw,
        tuple(hash_params(r.family, r.params) if r.params else r.id for r in kernels),
        np.array([1.0 / (_NOISE_FLOOR**2 + compute_relative_sd(r) ** 2) for r in kernels]),
        dict(left_out),
    )


def compute_relative_sd(record: EnergyRecord) -> float:
    """Relative standard uncertainty of a record's energy; zero where unknown."""
    sd = record.uncertainty_j
    return sd / record.energy_j if math.isfinite(sd) and sd > 0 else 0.0


def hash_training_data(rows: MeasuredRows) -> str:
    """SHA-256 over what training uses of the records, whatever their order."""
    lines = sorted(
        json.dumps(_list_training_content(r), sort_keys=True, separators=(",", ":"), default=list)
        for r in (*rows.kernels, *rows.models)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _list_training_content(record: EnergyRecord) -> list[Any]:
    parts = [[k.get("family"), dict(k.get("features") or {}), k.get("multiplicity", 1.0)] for k in record.kernels]
    return [
        record.kind,
        record.family,
        dict(record.features),
        parts,
        record.energy_j,
        record.uncertainty_j,
        record.source,
    ]


def _find_rejection_reason(record: EnergyRecord) -> str:
    """Reason for which a record cannot be used; empty if it can."""
    from deepen.kernels.features import FEATURES_VERSION

    if math.isnan(record.energy_j):
        return "no energy"
    if record.energy_j <= 0:
        return "net energy not positive"
    if record.kind == "kernel" and not (record.family and record.features):
        return "kernel without family or features"
    if record.kind == "model" and not record.kernels:
        return "model without kernels"
    if record.features_version != FEATURES_VERSION:  # what a dataset can compute again, it has
        return "features of another version, without the parameters to compute them again"
    return ""
