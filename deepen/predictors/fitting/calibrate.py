"""``calibrate_predictor``: a base and a few measurements become a predictor for what was measured.

Every kernel's energy is the base's times a factor (:mod:`deepen.predictors.inference.factor_covariance` says what is
believed of factors, :mod:`deepen.predictors.fitting.map_estimate` finds them from sums). Where the measurements hold
times as well, there are two ways to the energies, and the second is taken unless cross-validation speaks clearly
against it:

- ``direct``: factors from the base to the measured energies;
- ``time``: factors from the base to the measured times first, then from times to energies. A clock is ten times as
  precise as a power meter, and power differs little from kernel to kernel: the second factors are near each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import PredictorError
from deepen.predictors.fitting.calibration_cases import CalibrationCases, make_calibration_cases
from deepen.predictors.fitting.fit_uncertainty import MIN_MODELS_FOR_SPREAD, fit_model_uncertainty
from deepen.predictors.fitting.map_estimate import FactorEstimate, FactorProblem, estimate_factors
from deepen.predictors.fitting.physical_base import fit_physical_base
from deepen.predictors.fitting.predictor_card import make_card
from deepen.predictors.inference.calibration_factors import CalibrationFactors, FactorTerm, LengthCorrection
from deepen.predictors.inference.factor_covariance import FactorPrior, compute_factor_covariance, compute_log_positions
from deepen.predictors.inference.family_regressors import PredictorParameters
from deepen.predictors.inference.model_overheads import ModelOverheads
from deepen.predictors.inference.moved_bytes import compute_cold_share, compute_moved_bytes
from deepen.predictors.inference.zero_operands import apply_zero_operand_factor
from deepen.predictors.measured_rows import RecordSource, select_usable_rows
from deepen.predictors.metrics import compute_metrics
from deepen.predictors.predictor import Predictor
from deepen.records import EnergyRecord

__all__ = ["MIN_MEASUREMENTS", "calibrate_predictor"]

Floats = NDArray[np.float64]

MIN_MEASUREMENTS = 3
_FOLDS = 5
_FREE = (
    FactorPrior(family=0.3, near=0.3), FactorPrior(family=1.0, near=0.5), FactorPrior(family=0.3, near=1.0),
    FactorPrior(family=0.1, near=0.1), FactorPrior(family=0.02, near=0.02),
)  # fmt: skip
"""Beliefs tried for what separates two devices."""
_POWER = (
    FactorPrior(common=0.2, family=0.1, near=0.05), FactorPrior(common=0.2, family=0.2, near=0.1),
    FactorPrior(common=0.2, family=0.03, near=0.03), FactorPrior(common=0.2, family=0.4, near=0.2),
)  # fmt: skip
"""Beliefs tried for power: it differs by some 10 % from kernel to kernel."""
_CHANCE = 0.7
"""A later belief has to lower the error of the best one before it by this share over the root of the measurements."""
_MUCH_BETTER = 0.8
"""The direct way has to have this share of the error of the way by time: on few measurements less is chance."""
_OVERHEAD_SHARE = 0.02
_OVERHEAD_SD = 1.0
_BEND_SD = 0.03
_MODELS_FOR_BEND = 10
_BEND_REACH = float(np.log(2.0))
"""The bend is held beyond this distance from the measured models, in units of natural logarithms."""


@dataclass(frozen=True, slots=True)
class _FactorFit:
    """One set of factors: from joules (or seconds) by the base to joules (or seconds) measured.

    Attributes:
        shift: Common log factor.
        belief: The one chosen.
        solution: The factors.
    """

    shift: float
    belief: FactorPrior
    solution: FactorEstimate


@dataclass(frozen=True, slots=True)
class _CalibrationRoute:
    """A way from the base to the energies: its stages, one after the other."""

    name: str
    stages: tuple[_FactorFit, ...]

    @property
    def log_factor(self) -> Floats:
        """Of every kernel and of the overhead, and the bend, shape (u + 2,)."""
        theta = np.array([s.solution.theta for s in self.stages]).sum(axis=0)
        return np.append(theta[:-1] + self.shift, theta[-1])  # the bend has no shift

    @property
    def shift(self) -> float:
        """Common to all kernels."""
        return float(sum(s.shift for s in self.stages))


@dataclass(frozen=True, slots=True)
class _CalibrationSetup:
    """The measurements, and the base's answers for them: all that stays the same while ways are tried.

    Attributes:
        cases: All measurements.
        joules: Of each distinct kernel alone by the base, shape (u,).
        fixed: Joules that each measured model adds to its kernels, 0 for kernels alone, shape (n,).
        scale: Factor of each distinct kernel inside a model, shape (u,).
        overhead_j: Of a model's run by the base.
        reference: Logarithm of the energy that the bend leaves as it is.
        position: Of each distinct kernel, shape (u, p).
    """

    cases: CalibrationCases
    joules: Floats
    fixed: Floats
    scale: Floats
    overhead_j: float
    reference: float
    position: Floats

    def make_problem(
        self, rows: NDArray[np.int64], measured: Floats, log_factor: Floats, shift: float
    ) -> FactorProblem:
        """Set the base times the factors found so far against measured values of some rows."""
        counts, model = self.cases.counts[rows], self.cases.model[rows]
        joules = self.joules * np.exp(log_factor[:-2])
        return FactorProblem(
            counts * joules * np.where(model[:, None], self.scale, 1.0),
            self.fixed[rows] * np.exp(shift),
            np.where(model, self.overhead_j * np.exp(log_factor[-2]), 0.0),
            measured[rows],
            self.cases.relative_sd[rows],
            model,
        )

    def total(self, rows: NDArray[np.int64], way: _CalibrationRoute) -> Floats:
        """Predict the energies of some rows by a way."""
        problem = self.make_problem(rows, self.cases.energy_j, way.log_factor, way.shift)
        bend = np.zeros(len(self.joules) + 2)
        bend[-1] = way.log_factor[-1]
        return np.asarray(np.exp(problem.log_total(bend, self.reference)))


def calibrate_predictor(
    base: Predictor | None, measurements: RecordSource | Sequence[EnergyRecord], seed: int = 0
) -> Predictor:
    """Calibrate a predictor with measurements of kernels, of whole models, or both.

    Args:
        base: The predictor to start from, of any device and runtime; ``None``: the physical form.
        measurements: A dataset or records from one device and runtime.
        seed: Seed of the folds.

    Returns:
        A predictor like any other; its card says what it was calibrated from.

    Raises:
        PredictorError: If there are fewer than :data:`MIN_MEASUREMENTS` usable measurements, too many distinct
            kernels, or features have another version.
    """
    rows = select_usable_rows(measurements)
    cases = make_calibration_cases(rows)
    if len(cases.records) < MIN_MEASUREMENTS:
        raise PredictorError(
            f"{len(cases.records)} usable measurements are too few to calibrate with ({MIN_MEASUREMENTS} needed, "
            "20 to 50 advisable); measure more kernels or models"
        )
    # 1. The base's answer for every distinct kernel.
    setting, parameters, context = _prepare_setup(base, cases)
    # 2. Each way to the energies, fitted to all measurements and to all but each fold.
    everything = np.arange(len(cases.records))
    ways = [_fit_direct_route(setting, everything)]
    if bool(np.isfinite(cases.latency_s).all()):
        ways.append(_fit_time_route(setting, everything))
    folds = _make_folds(cases, seed)
    left_out = [_cross_validate_route(setting, way, folds) for way in ways]
    scores = {w.name: float(np.mean(np.abs(e))) for w, e in zip(ways, left_out, strict=True)}
    # 3. The way by time, unless the direct one is clearly better.
    best = len(ways) - 1
    if scores["direct"] < _MUCH_BETTER * scores[ways[best].name]:
        best = 0
    way, errors = ways[best], left_out[best]
    # 4. Factors of kernels, and model-level terms on the new device's scale.
    calibration = _make_calibration_factors(setting, way)
    context = _calibrate_overheads(setting, way, calibration, context, errors)
    # 5. The card: what the base's says and this does not change stays.
    card = {"nodes": 0, "families": {}} if base is None else dict(base.card)
    made_by, source = ("none", None) if base is None else (base.id, base.learnt_from)
    card |= make_card(rows, f"calibrate ({way.name})", seed, context, made_by, source)
    card |= _describe_calibration(base, cases, way, errors, scores, calibration)
    return Predictor(card, parameters, context, calibration)


def _prepare_setup(
    base: Predictor | None, cases: CalibrationCases
) -> tuple[_CalibrationSetup, PredictorParameters, ModelOverheads]:
    kernels = cases.kernels
    families, features, names = kernels.families, kernels.features, kernels.feature_names
    if base is None:
        parameters, context = fit_physical_base(cases), ModelOverheads()
        joules = apply_zero_operand_factor(parameters.predict(families, features), features, names).energy_j
    else:
        if base.calibration is not None:
            raise PredictorError(
                f"{base.id} is calibrated already; calibrate its base ({base.card['calibrated_from'].get('base')}) "
                "with all measurements together"
            )
        parameters, context = base.parameters, base.context
        joules = base.energies(families, features).energy_j
    weights, activations = compute_moved_bytes(kernels)
    cold = context.weight_j_per_byte * compute_cold_share(kernels, context.cache_bytes)
    added = cold * kernels.sums(weights) + kernels.sums(context.activation_j_per_byte * activations - context.call_j)
    fixed = np.where(cases.model, added, 0.0)
    scale = np.array([context.scale.get(f, 1.0) for f in families])
    overhead = context.overhead_j
    if overhead <= 0:
        sums = cases.counts @ joules
        overhead = _OVERHEAD_SHARE * float(np.median(sums))
    reference = float(np.mean(np.log(cases.energy_j[cases.model]))) if cases.model.any() else 0.0
    position = compute_log_positions(features, names)
    return _CalibrationSetup(cases, joules, fixed, scale, overhead, reference, position), parameters, context


def _fit_factors(
    setting: _CalibrationSetup,
    rows: NDArray[np.int64],
    measured: Floats,
    before: tuple[_FactorFit, ...],
    beliefs: Sequence[FactorPrior],
    bend_sd: float = 0.0,
) -> _FactorFit:
    """Find factors on top of those found before.

    1. The median ratio of measured and predicted values becomes the common factor.
    2. Each belief is tried; a later one has to be clearly better than the best before it, by the error of measurements
       left out.
    """
    u = len(setting.joules)
    factor = _CalibrationRoute("", before).log_factor if before else np.zeros(u + 2)
    shift = sum(s.shift for s in before)
    start = setting.make_problem(rows, measured, factor, shift)
    common = float(np.median(np.log(measured[rows] / start.sums(np.zeros(u + 2))[0])))
    problem = setting.make_problem(rows, measured, factor + common, shift + common)
    best: _FactorFit | None = None
    for belief in beliefs:
        prior = compute_factor_covariance(
            belief, setting.cases.kernels.families, setting.position, setting.cases.kernels.families, setting.position
        )
        solution = estimate_factors(problem, prior, _OVERHEAD_SD, bend_sd, setting.reference)
        if best is None or solution.score < (1.0 - _CHANCE / np.sqrt(rows.size)) * best.solution.score:
            best = _FactorFit(common, belief, solution)
    assert best is not None
    return best


def _fit_direct_route(
    setting: _CalibrationSetup, rows: NDArray[np.int64], beliefs: Sequence[FactorPrior] = _FREE
) -> _CalibrationRoute:
    return _CalibrationRoute(
        "direct",
        (_fit_factors(setting, rows, setting.cases.energy_j, (), beliefs, _choose_length_prior_sd(setting, rows)),),
    )


def _fit_time_route(
    setting: _CalibrationSetup,
    rows: NDArray[np.int64],
    free: Sequence[FactorPrior] = _FREE,
    power: Sequence[FactorPrior] = _POWER,
) -> _CalibrationRoute:
    time = _fit_factors(setting, rows, setting.cases.latency_s, (), free)
    return _CalibrationRoute(
        "time",
        (
            time,
            _fit_factors(setting, rows, setting.cases.energy_j, (time,), power, _choose_length_prior_sd(setting, rows)),
        ),
    )


def _choose_length_prior_sd(setting: _CalibrationSetup, rows: NDArray[np.int64]) -> float:
    return _BEND_SD if int(setting.cases.model[rows].sum()) >= _MODELS_FOR_BEND else 0.0


def _make_folds(cases: CalibrationCases, seed: int) -> list[NDArray[np.int64]]:
    """Rows of each fold; measurements of the same thing are in the same fold."""
    _, group = np.unique(cases.counts, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.random.default_rng(seed).permutation(int(group.max()) + 1)
    count = min(_FOLDS, order.size)
    return [rows for k in range(count) if (rows := np.flatnonzero(np.isin(group, order[k::count]))).size]


def _cross_validate_route(
    setting: _CalibrationSetup, way: _CalibrationRoute, folds: Sequence[NDArray[np.int64]]
) -> Floats:
    """log(predicted / measured) of every measurement by a fit without its fold; beliefs stay as chosen."""
    n = len(setting.cases.records)
    errors = np.zeros(n)
    for fold in folds:
        rows = np.setdiff1d(np.arange(n), fold)
        if not rows.size:
            continue
        beliefs = [(s.belief,) for s in way.stages]
        again = (
            _fit_direct_route(setting, rows, *beliefs)
            if len(beliefs) == 1
            else _fit_time_route(setting, rows, *beliefs)
        )
        errors[fold] = np.log(setting.total(fold, again) / setting.cases.energy_j[fold])
    return errors


def _make_calibration_factors(setting: _CalibrationSetup, way: _CalibrationRoute) -> CalibrationFactors:
    families, position = setting.cases.kernels.families, setting.position
    terms = []
    for stage in way.stages:
        prior = compute_factor_covariance(stage.belief, families, position, families, position)
        weight = np.asarray(np.linalg.lstsq(prior, stage.solution.theta[:-2], rcond=None)[0], dtype=np.float64)
        terms.append(FactorTerm(stage.shift, stage.belief, weight, stage.solution.sd[:-2]))
    return CalibrationFactors(families, position, tuple(terms), _make_length_correction(setting, way))


def _make_length_correction(setting: _CalibrationSetup, way: _CalibrationRoute) -> LengthCorrection:
    exponent = float(way.log_factor[-1])
    if not exponent:
        return LengthCorrection()
    log_energy = np.log(setting.cases.energy_j[setting.cases.model])
    low, high = float(log_energy.min()) - _BEND_REACH, float(log_energy.max()) + _BEND_REACH
    return LengthCorrection(exponent, setting.reference, low, high)


def _calibrate_overheads(
    setting: _CalibrationSetup,
    way: _CalibrationRoute,
    calibration: CalibrationFactors,
    base: ModelOverheads,
    errors: Floats,
) -> ModelOverheads:
    """Model-level terms on the new device's scale, and intervals from the measurements left out."""
    cases = setting.cases
    factor = float(np.exp(way.shift))
    context = replace(
        base,
        overhead_j=float(setting.overhead_j * np.exp(way.log_factor[-2]))
        if cases.model.any()
        else base.overhead_j * factor,
        call_j=base.call_j * factor,
        node_j=base.node_j * factor,
        weight_j_per_byte=base.weight_j_per_byte * factor,
        activation_j_per_byte=base.activation_j_per_byte * factor,
        models=int(cases.model.sum()),
        terms="calibrated",
        scores={},
        note=f"calibrated on {int(cases.model.sum())} models and {int((~cases.model).sum())} kernels",
    )
    if int(cases.model.sum()) < MIN_MODELS_FOR_SPREAD:
        return context
    half_width = calibration.half_width(cases.kernels.families, setting.position)
    joules = setting.joules * np.exp(way.log_factor[:-2])
    models = cases.kernels.take(cases.model)
    variances = context.compute_variances(models, joules[models.kernel], half_width)
    spread = fit_model_uncertainty(
        errors[cases.model], cases.relative_sd[cases.model], list(zip(*variances, strict=True))
    )
    # The kernels' share is small: sums are known better than their parts where only sums were measured.
    return context.with_uncertainty(spread)


def _describe_calibration(
    base: Predictor | None,
    cases: CalibrationCases,
    way: _CalibrationRoute,
    errors: Floats,
    scores: Mapping[str, float],
    calibration: CalibrationFactors,
) -> dict[str, Any]:
    """The calibration on the card: its base, its way, its factors, and errors of the measurements left out."""
    predicted = np.exp(errors) * cases.energy_j
    kernels, models = ~cases.model, cases.model
    return {
        "held_out": compute_metrics(cases.energy_j[kernels], predicted[kernels]),
        "calibrated_from": {
            "base": "none" if base is None else base.id,
            "base_device": None if base is None else base.card.get("device"),
            "base_runtime_build": None if base is None else base.card.get("runtime_build"),
            "kernels": int(kernels.sum()),
            "models": int(models.sum()),
            "way": way.name,
            "scores": dict(scores),
            "factor": float(np.exp(way.shift)),
            "noise": way.stages[-1].solution.noise,
            "left_out_models": compute_metrics(cases.energy_j[models], predicted[models]),
        },
        "calibration": calibration.to_json(),
    }
