"""Training: a dataset of measured kernels (and a few whole models) becomes a :class:`Predictor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.extras import require_packages
from deepen.predictors.fitting.choose_learner import FamilyFit, fit_family
from deepen.predictors.fitting.fit_overheads import ModelMeasurements, fit_overheads
from deepen.predictors.fitting.fit_roofline import fit_roofline
from deepen.predictors.fitting.folds import FamilyData, FamilyPlan, RooflineTerms, plan_family
from deepen.predictors.fitting.pack_arrays import PooledRoofline, pack_parameters
from deepen.predictors.fitting.predictor_card import make_card
from deepen.predictors.fitting.recipes import Recipe, load_recipe
from deepen.predictors.fitting.shared_gaussian_process import fit_shared_process
from deepen.predictors.inference.columns import (
    compute_work_terms,
    make_columns,
    select_base_roofline_terms,
    select_size_columns,
)
from deepen.predictors.inference.conformal import compute_conformal_quantile
from deepen.predictors.inference.family_regressors import PredictorParameters
from deepen.predictors.inference.model_overheads import ModelOverheads
from deepen.predictors.inference.roofline import compute_log_roofline
from deepen.predictors.kernel_counts import KernelCounts
from deepen.predictors.measured_rows import (
    MeasuredRows,
    RecordSource,
    compute_relative_sd,
    select_usable_rows,
)
from deepen.predictors.metrics import compute_metrics
from deepen.predictors.predictor import Predictor
from deepen.records import EnergyRecord

__all__ = ["train_predictor"]

Floats = NDArray[np.float64]

_UNBUILDABLE = "other"
"""Kernels of this family have nothing in common; they are always answered by the roofline."""
_UNKNOWN_HALF_WIDTH = float(np.log(3.0))
"""Half-width for the roofline where a single family is all there is to judge it by."""


def train_predictor(
    dataset: RecordSource | Sequence[EnergyRecord],
    recipe: str | Recipe = "auto",
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Predictor:
    """Train a predictor; equal data, recipe and seed give an equal predictor.

    Args:
        dataset: Measured kernels and models: anything with ``records()``, or the records.
        recipe: Name of a recipe in the catalog, or a recipe.
        seed: Seed of folds and learners.
        on_progress: Called with (families done, families, family just fitted).

    Raises:
        PredictorError: If no kernel record is usable, or features have another version.
        ConfigError: If the recipe is unknown.
    """
    require_packages("training", "lightgbm", "scipy", "sklearn", "threadpoolctl")
    # Loaded first: the limit reaches only libraries that are there when it is set. Small matrices gain nothing from
    # threads, lose much on a busy machine, and sums in a fixed order are equal from run to run.
    import lightgbm  # noqa: F401
    import scipy.linalg  # noqa: F401
    import sklearn.tree  # noqa: F401
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    chosen = load_recipe(recipe) if isinstance(recipe, str) else recipe
    rows = select_usable_rows(dataset)
    if not rows.kernels:
        reasons = ", ".join(f"{n} x {r}" for r, n in rows.left_out.items()) or "the dataset has no kernel records"
        raise PredictorError(f"nothing to train on: {reasons}; measure kernels with 'deepen dataset build'")
    with threadpool_limits(1):
        return _train_on_rows(rows, chosen, seed, on_progress)


def _train_on_rows(
    rows: MeasuredRows, recipe: Recipe, seed: int, on_progress: Callable[[int, int, str], None] | None
) -> Predictor:
    """Train; the rules by which it is done stand in the modules named at each step."""
    from deepen.kernels.features import FEATURE_NAMES

    names = tuple(FEATURE_NAMES)
    # 1. Terms of the roofline and columns of the regressors (columns); the roofline over all families.
    terms = compute_work_terms(rows.raw, names)
    x = make_columns(rows.raw, names)
    family_of = np.array([r.family for r in rows.kernels])
    families = tuple(sorted(set(family_of.tolist())))
    pooled, forms = _fit_pooled(terms, rows, family_of, families)
    sizes = select_size_columns(names)
    # 2. Each family's folds, with roofline and trend inside and outside of them (folds).
    data: list[FamilyData] = []
    plans: dict[str, FamilyPlan] = {}
    for i, name in enumerate(families):
        mask = family_of == name
        weight = rows.weight[mask] / rows.weight[mask].mean()
        keys = tuple(k for k, m in zip(rows.keys, mask, strict=True) if m)
        data.append(FamilyData(name, terms[mask], x[mask], rows.energy_j[mask], weight, keys))
        if len(set(keys)) >= _minimum_rows(recipe) and name != _UNBUILDABLE and recipe.learners:
            plans[name] = plan_family(data[-1], recipe, forms, names, seed + 101 * i)
    # 3. One process for the families with few rows (shared_gaussian_process).
    shared = fit_shared_process(list(plans.values()), sizes, recipe)
    # 4. The learners of each family compete (choose_learner).
    fits: list[FamilyFit | None] = []
    for i, name in enumerate(families):
        # A tree of n leaves has 2 n nodes, and four forests may be blended, two kinds of them with all their trees.
        leaves = int(recipe.max_nodes * np.mean(family_of == name) / (4 * max(recipe.trees, 1)))
        plan = plans.get(name)
        able = plan is not None and (len(set(plan.data.keys)) >= recipe.min_rows or name in shared)
        fits.append(
            fit_family(plan, recipe, names, shared.get(name), max(leaves, 8), seed + 101 * i)
            if plan is not None and able
            else None
        )
        if on_progress:
            on_progress(i + 1, len(families), name)
    # 5. All families in one set of arrays (pack_arrays), whole models on top (fit_overheads), and the card.
    held_out = np.empty(len(rows.kernels))
    for name, fit in zip(families, fits, strict=True):
        mask = family_of == name
        held_out[mask] = pooled.held_out[mask] if fit is None else fit.held_out
    parameters = pack_parameters(families, names, data, fits, pooled, held_out - np.log(rows.energy_j), family_of)
    context = _fit_model_overheads(rows, parameters, held_out)
    card = make_card(rows, recipe.name, seed, context, made_by=recipe)
    card |= _describe_families(rows, families, fits, held_out, parameters, family_of)
    return Predictor(card, parameters, context)


def _minimum_rows(recipe: Recipe) -> int:
    """Rows below which a family is certainly answered by the roofline."""
    return min(recipe.min_rows, recipe.share_min_rows) if "shared-gaussian" in recipe.learners else recipe.min_rows


def _fit_pooled(
    terms: Floats, rows: MeasuredRows, family_of: NDArray[np.str_], families: Sequence[str]
) -> tuple[PooledRoofline, tuple[RooflineTerms, ...]]:
    """Fit rooflines on all families, each with the same weight, and judge the plain one by leaving each family out.

    Returns:
        The plain one, for families without data: what loops cost differs most between families; and what families may
        choose from, the one with the fewest terms first.
    """
    energy = rows.energy_j
    counts = Counter(family_of.tolist())
    weight = np.array([1.0 / counts[f] for f in family_of.tolist()])
    plain, every = select_base_roofline_terms(), np.ones(terms.shape[1], dtype=bool)
    forms = tuple(RooflineTerms(used, fit_roofline(terms * used, energy, weight)) for used in (plain, every))
    work = forms[0].prior
    held_out = np.empty(len(energy))
    for family in families:
        out = family_of == family
        others = fit_roofline(terms[~out] * plain, energy[~out], weight[~out]) if len(families) > 1 else work
        held_out[out] = compute_log_roofline(terms[out], others)
    residual = held_out - np.log(energy)
    width = _UNKNOWN_HALF_WIDTH
    if len(families) > 1:
        # The median absolute error of each family, so that large families do not decide.
        per_family = np.array([np.median(np.abs(residual[family_of == f])) for f in families])
        width = max(compute_conformal_quantile(per_family), compute_conformal_quantile(residual))
    return PooledRoofline(work, held_out, width), forms


def _fit_model_overheads(rows: MeasuredRows, parameters: PredictorParameters, held_out: Floats) -> ModelOverheads:
    """Fit the model-level terms; kernels that were trained on count with their held-out prediction."""
    counts = KernelCounts.from_records((*rows.kernels, *rows.models))
    alone = parameters.predict(counts.families, counts.features)
    covered = {f for f, r in zip(parameters.families, parameters.regressor, strict=True) if r}
    trained = counts.kernel[: len(rows.kernels)]  # each kernel record is a model of one entry
    energy = alone.energy_j.copy()
    energy[trained] = np.exp(held_out)
    energy = np.where([f in covered for f in counts.families], energy, alone.energy_j)
    cases = ModelMeasurements(
        counts.take(np.arange(len(rows.kernels), len(counts))),
        np.array([r.energy_j for r in rows.models]),
        np.array([compute_relative_sd(r) for r in rows.models]),
        energy,
        alone.half_width,
    )
    return fit_overheads(cases, float(np.quantile(rows.energy_j, 0.05)))


def _describe_families(
    rows: MeasuredRows,
    families: Sequence[str],
    fits: Sequence[FamilyFit | None],
    held_out: Floats,
    parameters: PredictorParameters,
    family_of: NDArray[np.str_],
) -> dict[str, Any]:
    """The families on the card: rows, learner and held-out errors of each, and of all with a regressor together."""
    predicted = np.exp(held_out)
    by_family: dict[str, Any] = {}
    for i, (name, fit) in enumerate(zip(families, fits, strict=True)):
        mask = family_of == name
        by_family[name] = {
            "rows": int(mask.sum()),
            "method": "roofline" if fit is None else "regressor",
            "learner": "roofline" if fit is None else fit.learner,
            "half_width": float(parameters.half_width[i]),
            "scores": {} if fit is None else {k: round(v, 5) for k, v in fit.scores.items()},
            "held_out": compute_metrics(rows.energy_j[mask], predicted[mask]),
        }
    regressed = np.isin(family_of, [n for n, fit in zip(families, fits, strict=True) if fit is not None])
    return {
        "nodes": int(parameters.forest.feature.size),
        "families": by_family,
        "held_out": compute_metrics(rows.energy_j[regressed], predicted[regressed]),
    }
