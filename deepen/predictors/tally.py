"""Whole-model records as counts of distinct kernels, so that each is predicted once however many models run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.predictor import Predictor
from deepen.records import EnergyRecord

__all__ = ["SparseKernelCounts", "count_record_kernels", "predict_models"]

Floats = NDArray[np.float64]

_CHUNK_ELEMENTS = 20_000_000


@dataclass(frozen=True, slots=True)
class SparseKernelCounts:
    """Kernels of models; e entries, k distinct kernels.

    Attributes:
        families: Family of each distinct kernel.
        features: Its features.
        params: Its parameters; empty where a record has none.
        model: Number of the model of each entry, shape (e,).
        kernel: Number of its kernel, shape (e,).
        times: Executions per inference, shape (e,).
        models: Number of models.
    """

    families: tuple[str, ...]
    features: tuple[Mapping[str, float], ...]
    params: tuple[Mapping[str, Any], ...]
    model: NDArray[np.int64]
    kernel: NDArray[np.int64]
    times: Floats
    models: int

    def sums(self, values: Floats) -> Floats:
        """Sum of a value per execution of each kernel over each model, shape (models,)."""
        weights = self.times * values[self.kernel]
        return np.bincount(self.model, weights=weights, minlength=self.models).astype(np.float64)

    def column(self, name: str) -> Floats:
        """A feature of the distinct kernels, shape (k,)."""
        return np.array([float(f[name]) for f in self.features], dtype=np.float64)


def count_record_kernels(records: Sequence[EnergyRecord]) -> SparseKernelCounts:
    """Count the kernels of whole-model records."""
    number: dict[tuple[str, tuple[float, ...]], int] = {}
    features: list[Mapping[str, float]] = []
    params: list[Mapping[str, Any]] = []
    entries: list[tuple[int, int, float]] = []
    for i, record in enumerate(records):
        for kernel in record.kernels:
            key = (str(kernel["family"]), tuple(kernel["features"].values()))
            if key not in number:
                number[key] = len(features)
                features.append(kernel["features"])
                params.append(kernel.get("params") or {})
            entries.append((i, number[key], float(kernel.get("multiplicity", 1.0))))
    table = np.array(entries, dtype=np.float64).reshape(-1, 3)
    return SparseKernelCounts(
        tuple(family for family, _ in number),
        tuple(features),
        tuple(params),
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        table[:, 2],
        len(records),
    )


def predict_models(predictor: Predictor, counted: SparseKernelCounts) -> tuple[Floats, Floats, Floats, Floats]:
    """Predict whole models.

    Returns:
        Energy, low and high end of the nominal 90 % interval, and the share of kernels answered by a regressor; each of
        shape (models,).
    """
    raw = predictor.matrix(counted.features)
    done = np.empty((4, counted.models))
    order = np.argsort(counted.model, kind="stable")
    step = max(_CHUNK_ELEMENTS // max(len(counted.families), 1), 1)
    for start in range(0, counted.models, step):
        stop = min(start + step, counted.models)
        first, last = np.searchsorted(counted.model[order], [start, stop])
        entries = order[first:last]
        used, column = np.unique(counted.kernel[entries], return_inverse=True)
        counts = np.zeros((stop - start, used.size))
        np.add.at(counts, (counted.model[entries] - start, column), counted.times[entries])
        found = predictor.predict_counts([counted.families[j] for j in used.tolist()], raw[used], counts)
        done[:, start:stop] = found.energy_j, found.low_j, found.high_j, found.coverage
    return done[0], done[1], done[2], done[3]
