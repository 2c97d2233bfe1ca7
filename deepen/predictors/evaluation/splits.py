"""Divisions of a dataset into a part to train on and a part held out.

In all of them a configuration measured several times never lies on both sides. The same folds serve the predictor
and every baseline beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, PredictorError, make_unknown_name_error
from deepen.kernels.types import hash_params
from deepen.predictors.measured_rows import MeasuredRows
from deepen.records import EnergyRecord

__all__ = ["SPLITS", "Fold", "SplitOptions", "infer_architecture", "make_folds"]

Mask = NDArray[np.bool_]

_LEADING = re.compile(r"[a-z]+?(?=v?\d|[^a-z]|$)")


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """Share, repeats and seed of a division.

    Attributes:
        share: Share of the configurations to train on, between 0 and 1.
        repeats: Random divisions.
        seed: Seed of the divisions.
    """

    share: float = 0.7
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"the share to train on must lie between 0 and 1, not {self.share:g}")
        if self.repeats < 1:
            raise ConfigError(f"repeats must be at least 1, not {self.repeats}")


@dataclass(frozen=True, slots=True)
class Fold:
    """One division.

    Attributes:
        name: Name of the part held out.
        train_kernels: Rows of kernels to train on, bool, shape (kernels,).
        test_kernels: Held out, bool, shape (kernels,); a row may be on neither side.
        train_models: As above for whole models, shape (models,).
        test_models: As above.
    """

    name: str
    train_kernels: Mask
    test_kernels: Mask
    train_models: Mask
    test_models: Mask


def make_folds(rows: MeasuredRows, split: str, options: SplitOptions) -> list[Fold]:
    """Divide.

    Args:
        rows: Usable records.
        split: A name of :data:`SPLITS`.
        options: Share, repeats and seed.

    Raises:
        ConfigError: If the split is unknown.
        PredictorError: If the dataset has too little to be divided so.
    """
    if split not in SPLITS:
        raise make_unknown_name_error("split", split, SPLITS)
    folds = [f for f in SPLITS[split](rows, options) if f.test_kernels.any() or f.test_models.any()]
    if not folds:
        raise PredictorError(f"the dataset cannot be divided by '{split}': nothing would be held out; measure more")
    return folds


def infer_architecture(record: EnergyRecord) -> str:
    """Architecture a whole model belongs to: its family where the record has one, else what its name begins with.

    ``resnet50`` and ``ResNet-18`` are both ``resnet``, ``mobilenet_v2`` and ``mobilenetv3`` both ``mobilenet``.
    """
    if record.family:
        return record.family
    name = record.name.lower()
    match = _LEADING.match(name)
    return match[0] if match else name


def list_kernel_keys(record: EnergyRecord) -> set[str]:
    """Configurations of a whole model's kernels, as :class:`MeasuredRows` names those measured alone."""
    return {hash_params(str(k["family"]), k["params"]) for k in record.kernels if k.get("params")}


def _split_at_random(rows: MeasuredRows, options: SplitOptions) -> list[Fold]:
    """Configurations of each family, and models, at random, several times."""
    families = np.array([r.family for r in rows.kernels], dtype=str)
    everywhere = np.zeros(len(rows.kernels), dtype=bool)
    folds = []
    for repeat in range(options.repeats):
        rng = np.random.default_rng([options.seed, repeat])
        test = everywhere.copy()
        for family in np.unique(families):
            members = np.flatnonzero(families == family)
            test[members] = _draw_held_out([rows.keys[i] for i in members], options.share, rng)
        models = _draw_held_out([r.name for r in rows.models], options.share, rng)
        folds.append(Fold(f"repeat {repeat + 1}", ~test, test, ~models, models))
    return folds


def _draw_held_out(keys: Sequence[str], share: float, rng: np.random.Generator) -> Mask:
    """Draw the rows to hold out: ``1 - share`` of the distinct keys, at least one of two or more."""
    distinct = sorted(set(keys))
    count = len(distinct) - round(share * len(distinct))
    if len(distinct) > 1:
        count = min(max(count, 1), len(distinct) - 1)
    out = {distinct[i] for i in rng.permutation(len(distinct))[:count]} if len(distinct) > 1 else set()
    return np.array([k in out for k in keys], dtype=bool)


def _leave_families_out(rows: MeasuredRows, options: SplitOptions) -> list[Fold]:
    """Each family of kernels in turn; and each architecture with every kernel configuration that occurs in it."""
    del options
    families = np.array([r.family for r in rows.kernels], dtype=str)
    architectures = np.array([infer_architecture(r) for r in rows.models], dtype=str)
    no_kernels, no_models = np.zeros(families.size, dtype=bool), np.zeros(architectures.size, dtype=bool)
    folds = []
    if len(set(families)) > 1:
        for family in sorted(set(families)):
            out = families == family
            folds.append(Fold(f"kernels {family}", ~out, out, ~no_models, no_models))
    if len(set(architectures)) > 1:
        for name in sorted(set(architectures)):
            out = architectures == name
            own = set().union(*(list_kernel_keys(r) for r, o in zip(rows.models, out, strict=True) if o))
            apart = np.array([k not in own for k in rows.keys], dtype=bool)
            folds.append(Fold(f"models {name}", apart, no_kernels, ~out, out))
    return folds


def _leave_sizes_out(rows: MeasuredRows, options: SplitOptions) -> list[Fold]:
    """The largest configurations of each family, and the largest models."""
    families = np.array([r.family for r in rows.kernels], dtype=str)
    test = np.zeros(families.size, dtype=bool)
    size = np.array([_count_operations(r.features) for r in rows.kernels])
    for family in np.unique(families):
        members = families == family
        test[members] = _select_largest(size[members], options.share)
    total = np.array(
        [
            sum(float(k.get("multiplicity", 1.0)) * _count_operations(k["features"]) for k in r.kernels)
            for r in rows.models
        ]
    )
    models = _select_largest(total, options.share)
    return [Fold("largest", ~test, test, ~models, models)]


def _select_largest(size: NDArray[np.float64], share: float) -> Mask:
    """Select the rows above the quantile ``share``; equal sizes stay together, below."""
    if not size.size:
        return np.zeros(0, dtype=bool)
    return np.asarray(size > np.quantile(size, share, method="lower"))


def _count_operations(features: Mapping[str, float]) -> float:
    """Operations, and for what has none the bytes it moves."""
    operations = 2.0 * features["macs"] + features["ops"]
    return operations or features["bytes_read"] + features["bytes_written"]


SPLITS: Mapping[str, Callable[[MeasuredRows, SplitOptions], list[Fold]]] = {
    "random": _split_at_random,
    "leave-family-out": _leave_families_out,
    "leave-size-out": _leave_sizes_out,
}
"""Names of splits: random divisions, repeated; each family in turn; the largest configurations."""
