"""Cross-validation: train on a part of a dataset, predict the rest, and set baselines beside it on the same parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.kernels.splitting.runtime_names import resolve_engine
from deepen.predictors.evaluation.baselines import BASELINES, Baseline, get_baselines
from deepen.predictors.evaluation.held_out_predictions import (
    HeldOutPredictions,
    collect_measured_values,
    report_metrics,
)
from deepen.predictors.evaluation.splits import Fold, SplitOptions, make_folds
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.measured_rows import MeasuredRows, RecordSource, select_usable_rows
from deepen.records import EnergyRecord

if TYPE_CHECKING:
    from deepen.predictors.predictor import Predictor

__all__ = ["OWN", "Fit", "cross_validate", "evaluate_baselines", "make_recipe_fit"]

Floats = NDArray[np.float64]
Fit = Callable[[Sequence[EnergyRecord], int], "Predictor"]
"""From training records and a seed to a predictor."""

OWN = "deepen"
_FEW_MODELS = 3
"""Fewer whole models than this fit no line."""


def make_recipe_fit(recipe: str = "auto") -> Fit:
    """Make a fit that trains by a recipe; whole models alone calibrate the physical form."""

    def fit(records: Sequence[EnergyRecord], seed: int) -> Predictor:
        from deepen.predictors.fitting.train import train_predictor

        if any(r.kind == "kernel" for r in records):
            return train_predictor(records, recipe, seed)
        from deepen.predictors.fitting.calibrate import calibrate_predictor

        return calibrate_predictor(None, records)

    return fit


def cross_validate(
    dataset: RecordSource | Sequence[EnergyRecord],
    split: str = "random",
    options: SplitOptions | None = None,
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
    # 1. The usable records, and the folds they are divided into.
    chosen = options or SplitOptions()
    beside = get_baselines(baselines)
    rows = select_usable_rows(dataset)
    folds = make_folds(rows, split, chosen)
    # 2. On every fold: train on one side, predict the other, and do the same with each baseline.
    learn = fit or make_recipe_fit(recipe)
    gpu = _is_on_gpu(rows)
    kernels = {name: HeldOutPredictions() for name in (OWN, *(b.name for b in beside))}
    models = {name: HeldOutPredictions() for name in kernels}
    everything = KernelCounts.from_records(rows.kernels)
    for number, fold in enumerate(folds):
        train = [r for r, t in zip(rows.kernels, fold.train_kernels, strict=True) if t]
        train += [r for r, t in zip(rows.models, fold.train_models, strict=True) if t]
        predictor = learn(train, chosen.seed)
        tests = np.flatnonzero(fold.test_models)
        counted = KernelCounts.from_records([rows.models[i] for i in tests.tolist()])
        _predict_own(predictor, rows, fold, number, counted, kernels[OWN], models[OWN])
        for baseline in beside:
            _predict_baseline(
                baseline, rows, everything, fold, number, counted, gpu, kernels[baseline.name], models[baseline.name]
            )
        if on_progress:
            on_progress(number + 1, len(folds), fold.name)
    # 3. Measures over all folds; of random divisions, which repeat one experiment, medians and ranges.
    repeated = split == "random"
    times = len(folds) if repeated else 1
    sides = collect_measured_values(rows)
    reports = {name: report_metrics(kernels[name], models[name], sides, times, chosen.seed) for name in kernels}
    own = reports.pop(OWN)
    if not repeated:
        own["models"]["rows"] = _list_model_errors(models[OWN], rows.models)
    return {
        "split": split,
        "share": chosen.share if split != "leave-family-out" else None,
        "repeats": times,
        "seed": chosen.seed,
        "recipe": recipe,
        "folds": [f.name for f in folds],
        **own,
        "baselines": {b.name: {"title": b.title, **reports[b.name]} for b in beside},
        "left_out": dict(rows.left_out),
        "warnings": _list_warnings(rows),
    }


def evaluate_baselines(
    train: RecordSource | Sequence[EnergyRecord],
    test: RecordSource | Sequence[EnergyRecord],
    baselines: Sequence[str] = tuple(BASELINES),
) -> dict[str, Any]:
    """Fit baselines to one dataset and judge them on another, as a trained predictor is.

    Returns:
        By name: ``title``, ``overall``, ``families`` and ``models``.

    Raises:
        ConfigError: If a baseline is unknown.
        PredictorError: If features have another version.
    """
    given, asked = select_usable_rows(train), select_usable_rows(test)
    rows = select_usable_rows([*given.kernels, *asked.kernels, *given.models, *asked.models])
    kernels = np.arange(len(rows.kernels)) >= len(given.kernels)
    models = np.arange(len(rows.models)) >= len(given.models)
    fold = Fold("test", ~kernels, kernels, ~models, models)
    counted, everything, sides = (
        KernelCounts.from_records(asked.models),
        KernelCounts.from_records(rows.kernels),
        collect_measured_values(rows),
    )
    done = {}
    for baseline in get_baselines(baselines):
        pools = HeldOutPredictions(), HeldOutPredictions()
        _predict_baseline(baseline, rows, everything, fold, 0, counted, _is_on_gpu(rows), *pools)
        done[baseline.name] = {"title": baseline.title, **report_metrics(*pools, sides, 1, 0)}
    return done


def _is_on_gpu(rows: MeasuredRows) -> bool:
    return any("gpu" in r.runtime.lower() or "gpu" in r.device.lower() for r in rows.kernels[:1])


def _predict_own(
    predictor: Predictor,
    rows: MeasuredRows,
    fold: Fold,
    number: int,
    counted: KernelCounts,
    kernels: HeldOutPredictions,
    models: HeldOutPredictions,
) -> None:
    tests = np.flatnonzero(fold.test_kernels)
    if tests.size:
        found = predictor.energies([rows.kernels[i].family for i in tests.tolist()], rows.raw[tests])
        off = np.abs(np.log(rows.energy_j[tests]) - np.log(found.energy_j))
        kernels.add(tests, number, found.energy_j, off <= found.half_width)
    tests = np.flatnonzero(fold.test_models)
    if tests.size:
        whole = predictor.predict_counts(counted)
        measured = np.array([rows.models[i].energy_j for i in tests.tolist()])
        models.add(tests, number, whole.energy_j, (whole.low_j <= measured) & (measured <= whole.high_j))


def _predict_baseline(
    baseline: Baseline,
    rows: MeasuredRows,
    everything: KernelCounts,
    fold: Fold,
    number: int,
    counted: KernelCounts,
    gpu: bool,
    kernels: HeldOutPredictions,
    models: HeldOutPredictions,
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
        predict = baseline.models(KernelCounts.from_records(records), np.array([r.energy_j for r in records]), gpu)
        models.add(whole, number, predict(counted), None)
    elif source is not None:
        models.add(whole, number, counted.sums(source(counted.take_each_kernel())), None)


def _list_model_errors(pool: HeldOutPredictions, records: Sequence[EnergyRecord]) -> list[dict[str, Any]]:
    """List each held-out model; each is held out once."""
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


def _list_warnings(rows: MeasuredRows) -> list[str]:
    devices = sorted({f"{r.device}, {resolve_engine(r.runtime)}" for r in (*rows.kernels, *rows.models)})
    if len(devices) > 1:
        return [f"records of {len(devices)} devices or runtimes were mixed: {'; '.join(devices[:4])}"]
    return []
