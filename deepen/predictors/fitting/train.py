"""Training: a dataset of measured kernels (and a few whole models) becomes a :class:`Predictor`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import utc_now
from deepen.errors import PredictorError
from deepen.predictors.evaluation import compute_metrics
from deepen.predictors.fitting.choose_learner import FamilyFit, fit_family
from deepen.predictors.fitting.fit_overheads import MeasuredModel, fit_overheads
from deepen.predictors.fitting.folds import FamilyData, FamilyPlan, RooflineTerms, plan_family
from deepen.predictors.fitting.pack_arrays import PooledRoofline, pack_parameters
from deepen.predictors.fitting.recipes import Recipe, load_recipe
from deepen.predictors.fitting.shared_gaussian_process import fit_shared_process
from deepen.predictors.inference.columns import (
    WORK_TERMS,
    compute_work_terms,
    make_columns,
    select_base_roofline_terms,
    select_size_columns,
)
from deepen.predictors.inference.conformal import NOMINAL, compute_conformal_quantile
from deepen.predictors.inference.family_regressors import PredictorParameters
from deepen.predictors.inference.model_overheads import ModelOverheads
from deepen.predictors.inference.roofline import compute_log_roofline, fit_roofline
from deepen.predictors.measured_rows import (
    MeasuredRows,
    RecordSource,
    compute_relative_sd,
    hash_training_data,
    select_usable_rows,
)
from deepen.predictors.predictor import Predictor, compute_moved_bytes, find_distinct_kernels
from deepen.predictors.predictor_file import FORMAT_VERSION
from deepen.records import EnergyRecord, find_weakest_source

__all__ = ["train_predictor"]

Floats = NDArray[np.float64]

_UNBUILDABLE = "other"
"""Kernels of this family have nothing in common; they are always answered by the roofline."""
_CONDITIONS = ("device", "meter", "runtime", "runtime_build", "threads")
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
    from deepen.kernels.features import FEATURE_NAMES

    names = tuple(FEATURE_NAMES)
    terms = compute_work_terms(rows.raw, names)
    x = make_columns(rows.raw, names)
    family_of = np.array([r.family for r in rows.kernels])
    families = tuple(sorted(set(family_of.tolist())))
    pooled, forms = _fit_pooled(terms, rows, family_of, families)
    sizes = select_size_columns(names)
    data: list[FamilyData] = []
    plans: dict[str, FamilyPlan] = {}
    for i, name in enumerate(families):
        mask = family_of == name
        weight = rows.weight[mask] / rows.weight[mask].mean()
        keys = tuple(k for k, m in zip(rows.keys, mask, strict=True) if m)
        data.append(FamilyData(name, terms[mask], x[mask], rows.energy_j[mask], weight, keys))
        if len(set(keys)) >= _minimum_rows(recipe) and name != _UNBUILDABLE and recipe.learners:
            plans[name] = plan_family(data[-1], recipe, forms, names, seed + 101 * i)
    shared = fit_shared_process(list(plans.values()), sizes, recipe)
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
    held_out = np.empty(len(rows.kernels))
    for name, fit in zip(families, fits, strict=True):
        mask = family_of == name
        held_out[mask] = pooled.held_out[mask] if fit is None else fit.held_out
    parameters = pack_parameters(families, names, data, fits, pooled, held_out - np.log(rows.energy_j), family_of)
    context = _fit_model_overheads(rows, parameters, held_out)
    card = _make_card(rows, recipe, seed, families, fits, held_out, parameters, context, family_of)
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
    from deepen.kernels.features import build_feature_matrix

    known: dict[tuple[str, bytes], float] = {}
    for record, raw, value in zip(rows.kernels, rows.raw, held_out, strict=True):
        known[(record.family, raw.tobytes())] = float(np.exp(value))
    covered = {f for f, r in zip(parameters.families, parameters.regressor, strict=True) if r}
    cases = []
    for record in rows.models:
        families = tuple(str(k["family"]) for k in record.kernels)
        raw = np.asarray(build_feature_matrix([k["features"] for k in record.kernels]), dtype=np.float64)
        first, group = find_distinct_kernels(families, raw)
        alone = parameters.predict([families[i] for i in first], raw[first])
        energy = alone.energy_j.copy()
        for j, i in enumerate(first):
            if families[i] in covered:
                energy[j] = known.get((families[i], raw[i].tobytes()), energy[j])
        weights, activations = compute_moved_bytes(parameters.feature_names, raw)
        times = np.array([float(k.get("multiplicity", 1.0)) for k in record.kernels])
        cases.append(
            MeasuredModel(
                record.name,
                record.energy_j,
                compute_relative_sd(record),
                families,
                energy[group],
                alone.half_width[group],
                group,
                times,
                weights,
                activations,
            )
        )
    return fit_overheads(cases, float(np.quantile(rows.energy_j, 0.05)))


def _make_card(
    rows: MeasuredRows,
    recipe: Recipe,
    seed: int,
    families: Sequence[str],
    fits: Sequence[FamilyFit | None],
    held_out: Floats,
    parameters: PredictorParameters,
    context: ModelOverheads,
    family_of: NDArray[np.str_],
) -> dict[str, Any]:
    from deepen import __version__
    from deepen.kernels.features import FEATURES_VERSION

    records = (*rows.kernels, *rows.models)
    digest = hash_training_data(rows)
    conditions = {key: Counter(str(getattr(r, key)) for r in records) for key in _CONDITIONS}
    main = {key: counts.most_common(1)[0][0] for key, counts in conditions.items()}
    identity = hashlib.sha256(f"{digest}/{recipe}/{seed}/{__version__}".encode()).hexdigest()[:8]
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
    sources = Counter[str](r.source for r in records)
    return {
        "format": "deepen-predictor",
        "format_version": FORMAT_VERSION,
        "id": f"{main['device']}-{main['runtime']}-{identity}",
        "deepen_version": __version__,
        "created": utc_now(),
        "device": main["device"],
        "meter": main["meter"],
        "runtime": main["runtime"],
        "runtime_build": main["runtime_build"],
        "threads": main["threads"],
        "source": find_weakest_source([r.source for r in records]),
        "sources": dict(sources),
        "features_version": FEATURES_VERSION,
        "feature_names": list(parameters.feature_names),
        "work_terms": [*WORK_TERMS, "call"],
        "data_sha256": digest,
        "rows": len(rows.kernels),
        "models": len(rows.models),
        "left_out": dict(rows.left_out),
        "recipe": recipe.name,
        "seed": seed,
        "nominal": NOMINAL,
        "nodes": int(parameters.forest.feature.size),
        "families": by_family,
        "held_out": compute_metrics(rows.energy_j[regressed], predicted[regressed]),
        "context": context.to_json(),
        "warnings": _list_warnings(conditions, sources, rows.left_out),
    }


def _list_warnings(
    conditions: Mapping[str, Counter[str]], sources: Mapping[str, int], left_out: Mapping[str, int]
) -> list[str]:
    warnings = []
    for key, counts in conditions.items():
        if len(counts) > 1:
            listed = ", ".join(f"{name} ({n})" for name, n in counts.most_common(4))
            warnings.append(f"records of {len(counts)} values of {key} were mixed: {listed}")
    if len(sources) > 1:
        warnings.append("labels were mixed: " + ", ".join(f"{n} {s}" for s, n in sources.items()))
    warnings += [f"{n} records left out: {reason}" for reason, n in left_out.items()]
    return warnings
