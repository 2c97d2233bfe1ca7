"""Baselines that a predictor has to beat, fitted on the same rows and judged on the same rows.

* ``flops``: energy linear in operations; for kernels one line per family, for whole models one line.
* ``flops+bytes``: operations and bytes, coefficients not negative; likewise.
* ``deepen2023``, ``nn-meter``: the published recipes (:mod:`deepen.predictors.evaluation.published_recipes`), whole
  models as the sum of their kernels.
* ``forest-on-nets``: a random forest on the operations and bytes of a whole model, by family.

A family nobody trained on is answered by the fit over all families, which is kinder than leaving it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import make_unknown_name_error
from deepen.predictors.evaluation import published_recipes
from deepen.predictors.kernel_counts import KernelCounts

__all__ = ["BASELINES", "Baseline", "get_baselines"]

Floats = NDArray[np.float64]
Answer = Callable[[KernelCounts], Floats]
"""From n models, or kernels as models of one entry, to joules each, shape (n,)."""
Fit = Callable[[KernelCounts, Floats, bool], Answer]
"""From n models, or kernels, their energies, and whether they ran on a graphics processor, to an answer for others."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """One of them.

    Attributes:
        name: Its name on the command line and in documents.
        title: One line for tables.
        kernels: Fits kernels; ``None`` where it predicts whole models only.
        models: Fits whole models; ``None``: a model is the sum of its kernels.
    """

    name: str
    title: str
    kernels: Fit | None = None
    models: Fit | None = None


def get_baselines(names: Sequence[str]) -> list[Baseline]:
    """Look baselines up.

    Raises:
        ConfigError: If there is none of a name (with the nearest names).
    """
    for name in names:
        if name not in BASELINES:
            raise make_unknown_name_error("baseline", name, BASELINES)
    return [BASELINES[name] for name in names]


def _list_families(kernels: KernelCounts) -> NDArray[np.str_]:
    """Family of each of n kernels, each a model of one entry, shape (n,)."""
    return np.array(kernels.families, dtype=str)[kernels.kernel]


def _fit_by_family(kernels: KernelCounts, energy_j: Floats, fit: Callable[[KernelCounts, Floats], Answer]) -> Answer:
    """Fit each family by itself, and all together for families without rows."""
    families = _list_families(kernels)
    fits = {}
    for name in np.unique(families).tolist():
        rows = np.flatnonzero(families == name)
        fits[name] = fit(kernels.take(rows), energy_j[rows])
    everywhere: list[Answer] = []

    def predict(asked: KernelCounts) -> Floats:
        of = _list_families(asked)
        done = np.empty(of.size)
        for name in np.unique(of).tolist():
            rows = np.flatnonzero(of == name)
            chosen = fits.get(name)
            if chosen is None:
                if not everywhere:
                    everywhere.append(fit(kernels, energy_j))
                chosen = everywhere[0]
            done[rows] = chosen(asked.take(rows))
        return done

    return predict


# --- linear --------------------------------------------------------------------------------------------------------


def _count_operations(kernels: KernelCounts) -> Floats:
    """Operations of each distinct kernel, shape (k,)."""
    return 2.0 * kernels.column("macs") + kernels.column("ops")


def _count_bytes(kernels: KernelCounts) -> Floats:
    """Bytes that each distinct kernel moves, shape (k,)."""
    return kernels.column("bytes_read") + kernels.column("bytes_written")


def _solve_least_squares(design: Floats, energy_j: Floats, positive: bool) -> Floats:
    """Least squares in joules, as a first attempt would have it; columns scaled for the solver only."""
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(design).max(axis=0), 1e-300)
    if positive:
        return np.asarray(nnls(design / scale, energy_j, maxiter=1000)[0] / scale)
    return np.asarray(np.linalg.lstsq(design / scale, energy_j, rcond=None)[0] / scale)


def _fit_line(kernels: KernelCounts, energy_j: Floats, with_bytes: bool) -> Answer:
    """One line through models, or through kernels."""

    def design(asked: KernelCounts) -> Floats:
        columns = [asked.sums(_count_operations(asked))]
        if with_bytes:
            columns.append(asked.sums(_count_bytes(asked)))
        return np.stack([*columns, np.ones(len(asked))], axis=1)

    coefficients = _solve_least_squares(design(kernels), energy_j, with_bytes)
    return lambda asked: np.asarray(design(asked) @ coefficients)


def _make_linear_baseline(name: str, title: str, with_bytes: bool) -> Baseline:
    """One line for each family of kernels, one for all whole models."""

    def one(kernels: KernelCounts, energy_j: Floats) -> Answer:
        return _fit_line(kernels, energy_j, with_bytes)

    return Baseline(
        name,
        title,
        lambda kernels, energy_j, gpu: _fit_by_family(kernels, energy_j, one),
        lambda models, energy_j, gpu: one(models, energy_j),
    )


# --- forests -------------------------------------------------------------------------------------------------------


def _fit_forest(x: Floats, energy_j: Floats, forest: published_recipes.PublishedForestSettings) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    features = min(forest.features, x.shape[1]) or None
    grown = RandomForestRegressor(
        n_estimators=forest.trees,
        max_depth=forest.depth,
        max_features=features,
        random_state=published_recipes.RANDOM_STATE,
    )
    return grown.fit(x, energy_j)


def _make_published_kernel_fit(*, limited: bool, small_pool: bool) -> Fit:
    """Forests per family on published features and the target as it is, in millijoules."""

    def rows_of(family: str, kernels: KernelCounts) -> Floats:
        """Features of some type; a family nobody trained on is asked in the features of the simple types."""
        used, place = np.unique(kernels.kernel, return_inverse=True)
        made = [
            published_recipes.compute_published_features(
                family, dict(zip(kernels.feature_names, kernels.features[k].tolist(), strict=True)), kernels.params[k],
                small_pool,
            )
            for k in used.tolist()
        ]  # fmt: skip
        return np.array(made, dtype=np.float64)[place.reshape(-1)]

    def one(kernels: KernelCounts, energy_j: Floats, gpu: bool) -> Answer:
        target = 1e3 * energy_j
        kept = np.ones(target.size, dtype=bool)
        if limited:
            kept = (target != 0) & (target < published_recipes.NN_METER_LIMIT)
            kept = kept if kept.any() else np.ones(target.size, dtype=bool)
        families = np.unique(_list_families(kernels)).tolist()
        single = families[0] if len(families) == 1 else "other"
        forest = published_recipes.get_published_forest(single, gpu and limited)
        grown = _fit_forest(rows_of(single, kernels)[kept], target[kept], forest)
        return lambda asked: np.asarray(grown.predict(rows_of(single, asked))) / 1e3

    return lambda kernels, energy_j, gpu: _fit_by_family(kernels, energy_j, lambda part, joules: one(part, joules, gpu))


def _fit_forest_on_models(models: KernelCounts, energy_j: Floats, gpu: bool) -> Answer:
    del gpu
    families = sorted(set(models.families))

    def rows_of(asked: KernelCounts) -> Floats:
        of = np.array(asked.families, dtype=str)
        operations = _count_operations(asked)
        columns = [asked.sums(v) for v in (operations, _count_bytes(asked), np.ones(of.size))]
        for family in families:
            columns += [asked.sums(v * (of == family)) for v in (operations, np.ones(of.size))]
        return np.stack(columns, axis=1)

    grown = _fit_forest(rows_of(models), energy_j, published_recipes.PublishedForestSettings(370, 50))
    return lambda asked: np.asarray(grown.predict(rows_of(asked)))


BASELINES: Mapping[str, Baseline] = {
    b.name: b
    for b in (
        _make_linear_baseline("flops", "linear in operations", False),
        _make_linear_baseline("flops+bytes", "operations and bytes", True),
        Baseline("deepen2023", "DeepEn2023 recipe", _make_published_kernel_fit(limited=False, small_pool=True)),
        Baseline("nn-meter", "nn-Meter recipe", _make_published_kernel_fit(limited=True, small_pool=False)),
        Baseline("forest-on-nets", "random forest on whole models", None, _fit_forest_on_models),
    )
}
"""By name, in the order of tables."""
