"""What a predictor has to beat, fitted on the same rows and judged on the same rows.

* ``flops``: energy linear in operations; for kernels one line per family, for whole models one line.
* ``flops+bytes``: operations and bytes, coefficients not negative; likewise.
* ``deepen2023``, ``nn-meter``: the published recipes (:mod:`deepen.predictors.evaluation.published_recipes`), whole
models as
  the sum of their kernels.
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
from deepen.predictors.tally import SparseKernelCounts

__all__ = ["BASELINES", "Baseline", "KernelTable", "get_baselines"]

Floats = NDArray[np.float64]
Sources = Callable[["KernelTable"], Floats]
"""From kernels to joules each, shape (n,)."""


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Kernels to fit or predict.

    Attributes:
        families: Their families.
        features: Their features.
        params: Their parameters.
    """

    families: tuple[str, ...]
    features: tuple[Mapping[str, float], ...]
    params: tuple[Mapping[str, Any], ...]

    def column(self, *names: str) -> Floats:
        """Sum of some features, shape (n,)."""
        return np.array([sum(f[n] for n in names) for f in self.features], dtype=np.float64)

    def take(self, rows: NDArray[np.int64]) -> KernelTable:
        """Some of the kernels."""
        chosen = rows.tolist()
        return KernelTable(
            tuple(self.families[i] for i in chosen),
            tuple(self.features[i] for i in chosen),
            tuple(self.params[i] for i in chosen),
        )


@dataclass(frozen=True, slots=True)
class Baseline:
    """One of them.

    Attributes:
        name: How it is called.
        title: One line for tables.
        kernels: Fits kernels; ``None`` where it predicts whole models only.
        models: Fits whole models; ``None``: a model is the sum of its kernels.
    """

    name: str
    title: str
    kernels: Callable[[KernelTable, Floats, bool], Sources] | None = None
    models: Callable[[SparseKernelCounts, Floats, bool], Callable[[SparseKernelCounts], Floats]] | None = None


def get_baselines(names: Sequence[str]) -> list[Baseline]:
    """Look baselines up.

    Raises:
        ConfigError: If there is none of a name (with the nearest names).
    """
    for name in names:
        if name not in BASELINES:
            raise make_unknown_name_error("baseline", name, BASELINES)
    return [BASELINES[name] for name in names]


def _fit_by_family(table: KernelTable, energy_j: Floats, fit: Callable[[KernelTable, Floats], Sources]) -> Sources:
    """Fit each family by itself, and all together for families without rows."""
    families = np.array(table.families, dtype=str)
    fits = {}
    for name in sorted(set(table.families)):
        rows = np.flatnonzero(families == name)
        fits[name] = fit(table.take(rows), energy_j[rows])
    everywhere: list[Sources] = []

    def predict(asked: KernelTable) -> Floats:
        of = np.array(asked.families, dtype=str)
        done = np.empty(of.size)
        for name in sorted(set(asked.families)):
            rows = np.flatnonzero(of == name)
            chosen = fits.get(name)
            if chosen is None:
                if not everywhere:
                    everywhere.append(fit(table, energy_j))
                chosen = everywhere[0]
            done[rows] = chosen(asked.take(rows))
        return done

    return predict


# --- linear --------------------------------------------------------------------------------------------------------


def _count_operations(table: KernelTable) -> Floats:
    return 2.0 * table.column("macs") + table.column("ops")


def _make_design_matrix(operations: Floats, moved: Floats | None) -> Floats:
    columns = [operations, np.ones(operations.size)]
    return np.stack(columns if moved is None else [operations, moved, np.ones(operations.size)], axis=1)


def _solve_least_squares(design: Floats, energy_j: Floats, positive: bool) -> Floats:
    """Least squares in joules, as a first attempt would have it; columns scaled for the solver only."""
    from scipy.optimize import nnls

    scale = np.maximum(np.abs(design).max(axis=0), 1e-300)
    if positive:
        return np.asarray(nnls(design / scale, energy_j, maxiter=1000)[0] / scale)
    return np.asarray(np.linalg.lstsq(design / scale, energy_j, rcond=None)[0] / scale)


def _make_linear_kernel_fit(with_bytes: bool) -> Callable[[KernelTable, Floats, bool], Sources]:
    def design(table: KernelTable) -> Floats:
        return _make_design_matrix(
            _count_operations(table), table.column("bytes_read", "bytes_written") if with_bytes else None
        )

    def one(table: KernelTable, energy_j: Floats) -> Sources:
        coefficients = _solve_least_squares(design(table), energy_j, with_bytes)
        return lambda asked: np.asarray(design(asked) @ coefficients)

    return lambda table, energy_j, gpu: _fit_by_family(table, energy_j, one)


def _make_linear_model_fit(
    with_bytes: bool,
) -> Callable[[SparseKernelCounts, Floats, bool], Callable[[SparseKernelCounts], Floats]]:
    def design(counted: SparseKernelCounts) -> Floats:
        operations = counted.sums(2.0 * counted.column("macs") + counted.column("ops"))
        moved = counted.sums(counted.column("bytes_read") + counted.column("bytes_written"))
        return _make_design_matrix(operations, moved if with_bytes else None)

    def fit(counted: SparseKernelCounts, energy_j: Floats, gpu: bool) -> Callable[[SparseKernelCounts], Floats]:
        del gpu
        coefficients = _solve_least_squares(design(counted), energy_j, with_bytes)
        return lambda asked: np.asarray(design(asked) @ coefficients)

    return fit


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


def _make_published_kernel_fit(*, limited: bool, small_pool: bool) -> Callable[[KernelTable, Floats, bool], Sources]:
    """Forests per family on published features and the target as it is, in millijoules."""

    def rows_of(family: str, table: KernelTable) -> Floats:
        """Features of some type; a family nobody trained on is asked in the features of the simple types."""
        made = [
            published_recipes.compute_published_features(family, f, p, small_pool)
            for f, p in zip(table.features, table.params, strict=True)
        ]
        return np.array(made, dtype=np.float64)

    def fit(table: KernelTable, energy_j: Floats, gpu: bool) -> Sources:
        def one(part: KernelTable, joules: Floats) -> Sources:
            target = 1e3 * joules
            kept = (
                (target != 0) & (target < published_recipes.NN_METER_LIMIT)
                if limited
                else np.ones(target.size, dtype=bool)
            )
            kept = kept if kept.any() else np.ones(target.size, dtype=bool)
            single = part.families[0] if len(set(part.families)) == 1 else "other"
            x = rows_of(single, part)
            grown = _fit_forest(x[kept], target[kept], published_recipes.get_published_forest(single, gpu and limited))
            return lambda asked: np.asarray(grown.predict(rows_of(single, asked))) / 1e3

        return _fit_by_family(table, energy_j, one)

    return fit


def _fit_forest_on_models(
    counted: SparseKernelCounts, energy_j: Floats, gpu: bool
) -> Callable[[SparseKernelCounts], Floats]:
    del gpu
    families = sorted(set(counted.families))

    def rows_of(asked: SparseKernelCounts) -> Floats:
        of = np.array(asked.families, dtype=str)
        operations = 2.0 * asked.column("macs") + asked.column("ops")
        moved = asked.column("bytes_read") + asked.column("bytes_written")
        columns = [asked.sums(v) for v in (operations, moved, np.ones(of.size))]
        for family in families:
            columns += [asked.sums(v * (of == family)) for v in (operations, np.ones(of.size))]
        return np.stack(columns, axis=1)

    grown = _fit_forest(rows_of(counted), energy_j, published_recipes.PublishedForestSettings(370, 50))
    return lambda asked: np.asarray(grown.predict(rows_of(asked)))


BASELINES: Mapping[str, Baseline] = {
    b.name: b
    for b in (
        Baseline("flops", "linear in operations", _make_linear_kernel_fit(False), _make_linear_model_fit(False)),
        Baseline("flops+bytes", "operations and bytes", _make_linear_kernel_fit(True), _make_linear_model_fit(True)),
        Baseline("deepen2023", "DeepEn2023 recipe", _make_published_kernel_fit(limited=False, small_pool=True)),
        Baseline("nn-meter", "nn-Meter recipe", _make_published_kernel_fit(limited=True, small_pool=False)),
        Baseline("forest-on-nets", "random forest on whole models", None, _fit_forest_on_models),
    )
}
"""By name, in the order of tables."""
