"""Cross-validation: train on a part of a dataset, predict the rest, and set baselines beside it on the same parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.predictors.evaluation.baselines import BASELINES, Baseline, KernelTable, get_baselines
from deepen.predictors.evaluation.measures import MEASURES, confidence, metrics
from deepen.predictors.evaluation.splits import Fold, Options, make_folds
from deepen.predictors.rows import HasRecords, Rows, screen
from deepen.predictors.tally import Tally, predict_models, tally
from deepen.records import EnergyRecord

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["OWN", "Fit", "cross_validate", "fit_records"]

Floats = NDArray[np.float64]
Fit = Callable[[Sequence[EnergyRecord], int], "Predictor"]
"""From training records and a seed to a predictor."""

OWN = "deepen"
_FEW_MODELS = 3
"""Fewer whole models than this fit no line."""


@dataclass(slots=True)
class _Pool:
    """Held-out predictions of one method, over all folds."""

    row: list[NDArray[np.int64]] = field(default_factory=list)
    fold: list[NDArray[np.int64]] = field(default_factory=list)
    predicted: list[Floats] = field(default_factory=list)
    inside: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, rows: NDArray[np.int64], fold: int, predicted: Floats, inside: NDArray[np.bool_] | None) -> None:
        """Add the predictions of a fold."""
        self.row.append(rows)
        self.fold.append(np.full(rows.size, fold, dtype=np.int64))
        self.predicted.append(predicted)
        if inside is not None:
            self.inside.append(inside)


@dataclass(frozen=True, slots=True)
class _Side:
    """Kernels or models of a dataset, as results are grouped."""

    measured: Floats
    keys: tuple[str, ...]
    group: NDArray[np.str_]


def fit_records(recipe: str = "auto") -> Fit:
    """Train by a recipe; where there are whole models only, calibrate the physical form to them."""

    def fit(records: Sequence[EnergyRecord], seed: int) -> Predictor:
        from deepen.predictors.training import train

        if any(r.kind == "kernel" for r in records):
            return train(records, recipe, seed)
        from deepen.predictors.calibration.fit import calibrate

        return calibrate(None, records)

    return fit


def cross_validate(
    dataset: HasRecords | Sequence[EnergyRecord],
    split: str = "random",
    options: Options | None = None,
    recipe: str = "auto",
    baselines: Sequence[str] = tuple(BASELINES),
    fit: Fit | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Train and evaluate on every fold of a split.

    Args:
        dataset: Kernels, whole models, or both.
        split: A name of :data:`deepen.predictors.evaluation.splits.SPLITS`.
        options: Share, repeats and seed; the seed is that of training, too.
        recipe: Recipe of the predictor.
        baselines: Names of :data:`deepen.predictors.evaluation.baselines.BASELINES` to set beside it.
        fit: Trains instead of the recipe.
        on_progress: Called with (folds done, folds, what was held out).

    Returns:
        ``overall``, ``families`` and ``models`` as :func:`deepen.predictors.evaluation.evaluate` has them, each with
        ``confidence`` (95 % bootstrap intervals) and, where the split is repeated, medians over the repeats and their
        ``range``; ``baselines`` with the same three by name; ``folds``, ``left_out`` and ``warnings``.

    Raises:
        ConfigError: If a split, recipe or baseline is unknown.
        PredictorError: If nothing can be trained on or held out.
    """
    chosen = options or Options()
    beside = get_baselines(baselines)
    rows = screen(dataset)
    folds = make_folds(rows, split, chosen)
    learn = fit or fit_records(recipe)
    gpu = any("gpu" in r.runtime.lower() or "gpu" in r.device.lower() for r in rows.kernels[:1])
    kernels = {name: _Pool() for name in (OWN, *(b.name for b in beside))}
    models = {name: _Pool() for name in kernels}
    everything = KernelTable(
        tuple(r.family for r in rows.kernels),
        tuple(r.features for r in rows.kernels),
        tuple(r.params for r in rows.kernels),
    )
    for number, fold in enumerate(folds):
        train = [r for r, t in zip(rows.kernels, fold.train_kernels, strict=True) if t]
        train += [r for r, t in zip(rows.models, fold.train_models, strict=True) if t]
        predictor = learn(train, chosen.seed)
        tests = np.flatnonzero(fold.test_models)
        counted = tally([rows.models[i] for i in tests.tolist()])
        _predict_own(predictor, rows, fold, number, counted, kernels[OWN], models[OWN])
        for baseline in beside:
            _predict_baseline(
                baseline, rows, everything, fold, number, counted, gpu, kernels[baseline.name], models[baseline.name]
            )
        if on_progress:
            on_progress(number + 1, len(folds), fold.name)
    repeated = split == "random"
    sides = (
        _Side(rows.energy_j, rows.keys, np.array(everything.families, dtype=str)),
        _Side(
            np.array([r.energy_j for r in rows.models]),
            tuple(r.name for r in rows.models),
            np.array([""] * len(rows.models), dtype=str),
        ),
    )
    reports = {
        name: _report(kernels[name], models[name], sides, len(folds) if repeated else 0, chosen.seed)
        for name in kernels
    }
    own = reports.pop(OWN)
    if not repeated:
        own["models"]["rows"] = _listed(models[OWN], rows.models)
    return {
        "split": split,
        "share": chosen.share if split != "leave-family-out" else None,
        "repeats": len(folds) if repeated else 1,
        "seed": chosen.seed,
        "recipe": recipe,
        "folds": [f.name for f in folds],
        **own,
        "baselines": {b.name: {"title": b.title, **reports[b.name]} for b in beside},
        "left_out": dict(rows.left_out),
        "warnings": _warnings(rows),
    }


def _predict_own(
    predictor: Predictor, rows: Rows, fold: Fold, number: int, counted: Tally, kernels: _Pool, models: _Pool
) -> None:
    tests = np.flatnonzero(fold.test_kernels)
    if tests.size:
        found = predictor.energies([rows.kernels[i].family for i in tests.tolist()], rows.raw[tests])
        off = np.abs(np.log(rows.energy_j[tests]) - np.log(found.energy_j))
        kernels.add(tests, number, found.energy_j, off <= found.half_width)
    tests = np.flatnonzero(fold.test_models)
    if tests.size:
        energy, low, high, _ = predict_models(predictor, counted)
        measured = np.array([rows.models[i].energy_j for i in tests.tolist()])
        models.add(tests, number, energy, (low <= measured) & (measured <= high))


def _predict_baseline(
    baseline: Baseline,
    rows: Rows,
    everything: KernelTable,
    fold: Fold,
    number: int,
    counted: Tally,
    gpu: bool,
    kernels: _Pool,
    models: _Pool,
) -> None:
    """Fit and predict one baseline; what it cannot be fitted to is left out."""
    train, tests = np.flatnonzero(fold.train_kernels), np.flatnonzero(fold.test_kernels)
    whole = np.flatnonzero(fold.test_models)
    source = None
    if baseline.kernels and train.size and (tests.size or (whole.size and not baseline.models)):
        source = baseline.kernels(everything.take(train), rows.energy_j[train], gpu)
        if tests.size:
            kernels.add(tests, number, source(everything.take(tests)), None)
    if not whole.size:
        return
    given = np.flatnonzero(fold.train_models)
    if baseline.models and given.size >= _FEW_MODELS:
        records = [rows.models[i] for i in given.tolist()]
        predict = baseline.models(tally(records), np.array([r.energy_j for r in records]), gpu)
        models.add(whole, number, predict(counted), None)
    elif source is not None:
        distinct = KernelTable(counted.families, counted.features, counted.params)
        models.add(whole, number, counted.sums(source(distinct)), None)


def _report(kernels: _Pool, models: _Pool, sides: tuple[_Side, _Side], repeats: int, seed: int) -> dict[str, Any]:
    side, whole = sides
    families = {}
    if kernels.row:
        of = side.group[np.concatenate(kernels.row)]
        for name in sorted(set(of.tolist())):
            families[str(name)] = _measure(kernels, side, repeats, seed, of == name)
    return {
        "overall": _measure(kernels, side, repeats, seed),
        "families": families,
        "models": _measure(models, whole, repeats, seed),
    }


def _measure(
    pool: _Pool, side: _Side, repeats: int, seed: int, mask: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    """Measures of a pool, or of a part of it."""
    if not pool.row or (mask is not None and not mask.any()):
        return metrics(np.zeros(0), np.zeros(0)) | {"in_interval": None}
    row, fold = np.concatenate(pool.row), np.concatenate(pool.fold)
    predicted = np.concatenate(pool.predicted)
    inside = np.concatenate(pool.inside) if pool.inside else None
    if mask is not None:
        row, fold, predicted = row[mask], fold[mask], predicted[mask]
        inside = None if inside is None else inside[mask]
    measured = side.measured[row]
    done = metrics(measured, predicted)
    done["in_interval"] = None if inside is None else 100.0 * float(inside.mean())
    if repeats > 1:
        each = [metrics(measured[fold == i], predicted[fold == i]) for i in np.unique(fold)]
        if inside is not None:
            for one, i in zip(each, np.unique(fold), strict=True):
                one["in_interval"] = 100.0 * float(inside[fold == i].mean())
        done["range"] = {}
        for name in (*MEASURES, "in_interval"):
            values = [v for one in each if (v := one.get(name)) is not None]
            if values:
                done[name] = float(np.median(values))
                done["range"][name] = [float(min(values)), float(max(values))]
        done["n"] = round(row.size / len(each))
    done["confidence"] = confidence(measured, predicted, [side.keys[i] for i in row.tolist()], inside, seed)
    return done


def _listed(pool: _Pool, records: Sequence[EnergyRecord]) -> list[dict[str, Any]]:
    """Each held-out model, where each is held out once."""
    if not pool.row:
        return []
    inside = np.concatenate(pool.inside)
    return [
        {
            "name": records[i].name,
            "measured_j": records[i].energy_j,
            "predicted_j": predicted,
            "error": 100.0 * (predicted / records[i].energy_j - 1.0),
            "inside": bool(within),
        }
        for i, predicted, within in zip(
            np.concatenate(pool.row).tolist(), np.concatenate(pool.predicted).tolist(), inside, strict=True
        )
    ]


def _warnings(rows: Rows) -> list[str]:
    devices = sorted({f"{r.device}, {r.runtime}" for r in (*rows.kernels, *rows.models)})
    if len(devices) > 1:
        return [f"records of {len(devices)} devices or runtimes were mixed: {'; '.join(devices[:4])}"]
    return []
