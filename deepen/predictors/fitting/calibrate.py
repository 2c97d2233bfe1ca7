"""``calibrate``: a base and a few measurements become a predictor for what was measured.

Every kernel's energy is the base's times a factor (:mod:`deepen.predictors.inference.factor_covariance` says what is
believed of factors, :mod:`deepen.predictors.fitting.map_estimate` finds them from sums). Where the measurements hold times
as well, there are two ways to the energies, and the second is taken unless cross-validation speaks clearly against it:

- ``direct``: factors from the base to the measured energies;
- ``time``: factors from the base to the measured times first, then from times to energies. A clock is ten times as
  precise as a power meter, and power differs little from kernel to kernel: the second factors are near each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import utc_now
from deepen.errors import PredictorError
from deepen.predictors.calibration.cases import Cases, make_cases
from deepen.predictors.evaluation import metrics
from deepen.predictors.fitting.map_estimate import Problem, Solution, solve
from deepen.predictors.fitting.physical_base import physical_form
from deepen.predictors.inference.calibration_factors import Bend, Calibration, Term
from deepen.predictors.inference.columns import WORK_TERMS
from deepen.predictors.inference.conformal import NOMINAL
from deepen.predictors.inference.factor_covariance import Belief, covariance, positions
from deepen.predictors.inference.model_overheads import Context
from deepen.predictors.inference.model_uncertainty import MIN_MODELS_FOR_SPREAD, fit_spread, variances
from deepen.predictors.inference.zero_operands import discount_zeros
from deepen.predictors.measured_rows import HasRecords, Rows, data_hash, screen
from deepen.predictors.predictor import Predictor, moved_bytes
from deepen.predictors.predictor_file import FORMAT_VERSION
from deepen.records import EnergyRecord, weakest_source

__all__ = ["MIN_MEASUREMENTS", "calibrate"]

Floats = NDArray[np.float64]

MIN_MEASUREMENTS = 3
_FOLDS = 5
_FREE = (
    Belief(family=0.3, near=0.3), Belief(family=1.0, near=0.5), Belief(family=0.3, near=1.0),
    Belief(family=0.1, near=0.1), Belief(family=0.02, near=0.02),
)  # fmt: skip
"""Beliefs tried for what separates two devices."""
_POWER = (
    Belief(common=0.2, family=0.1, near=0.05), Belief(common=0.2, family=0.2, near=0.1),
    Belief(common=0.2, family=0.03, near=0.03), Belief(common=0.2, family=0.4, near=0.2),
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
_CONDITIONS = ("device", "meter", "runtime", "runtime_build", "threads")


@dataclass(frozen=True, slots=True)
class _Stage:
    """One set of factors: from joules (or seconds) by the base to joules (or seconds) measured.

    Attributes:
        shift: Common log factor.
        belief: The one chosen.
        solution: The factors.
    """

    shift: float
    belief: Belief
    solution: Solution


@dataclass(frozen=True, slots=True)
class _Way:
    """A way from the base to the energies: its stages, one after the other."""

    name: str
    stages: tuple[_Stage, ...]

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
class _Setting:
    """What stays the same while ways are tried.

    Attributes:
        cases: All measurements.
        joules: Of each distinct kernel alone by the base, shape (u,).
        fixed: Of each distinct kernel, what a model adds to it, shape (u,).
        scale: Factor of each distinct kernel inside a model, shape (u,).
        overhead_j: Of a model's run by the base.
        reference: Logarithm of the energy that the bend leaves as it is.
        position: Of each distinct kernel, shape (u, p).
    """

    cases: Cases
    joules: Floats
    fixed: Floats
    scale: Floats
    overhead_j: float
    reference: float
    position: Floats

    def problem(self, rows: NDArray[np.int64], measured: Floats, log_factor: Floats, shift: float) -> Problem:
        """The base times factors found so far, against measured values of some rows."""
        part = self.cases.part(rows)
        inside = part.model[:, None]
        joules = self.joules * np.exp(log_factor[:-2])
        return Problem(
            part.counts * joules * np.where(inside, self.scale, 1.0),
            np.where(part.model, part.counts @ self.fixed * np.exp(shift), 0.0),
            np.where(part.model, self.overhead_j * np.exp(log_factor[-2]), 0.0),
            measured[rows],
            part.relative_sd,
            part.model,
        )

    def total(self, rows: NDArray[np.int64], way: _Way) -> Floats:
        """Energies of some rows by a way."""
        problem = self.problem(rows, self.cases.energy_j, way.log_factor, way.shift)
        bend = np.zeros(len(self.joules) + 2)
        bend[-1] = way.log_factor[-1]
        return np.asarray(np.exp(problem.log_total(bend, self.reference)))


def calibrate(base: Predictor | None, measurements: HasRecords | Sequence[EnergyRecord], seed: int = 0) -> Predictor:
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
    rows = screen(measurements)
    cases = make_cases(rows)
    if len(cases.records) < MIN_MEASUREMENTS:
        raise PredictorError(
            f"{len(cases.records)} usable measurements are too few to calibrate with ({MIN_MEASUREMENTS} needed, "
            "20 to 50 advisable); measure more kernels or models"
        )
    setting, parameters, context = _setting(base, cases)
    everything = np.arange(len(cases.records))
    ways = [_direct(setting, everything)]
    if bool(np.isfinite(cases.latency_s).all()):
        ways.append(_by_time(setting, everything))
    folds = _folds(cases, seed)
    left_out = [_left_out(setting, way, folds) for way in ways]
    scores = {w.name: float(np.mean(np.abs(e))) for w, e in zip(ways, left_out, strict=True)}
    best = len(ways) - 1
    if scores["direct"] < _MUCH_BETTER * scores[ways[best].name]:
        best = 0
    way, errors = ways[best], left_out[best]
    calibration = _calibration(setting, way)
    context = _context(setting, way, calibration, context, errors)
    card = _card(base, rows, cases, way, errors, scores, calibration, context, seed)
    return Predictor(card, parameters, context, calibration)


def _setting(base: Predictor | None, cases: Cases) -> tuple[_Setting, Any, Context]:
    from deepen.kernels.features import FEATURE_NAMES

    names = tuple(FEATURE_NAMES)
    if base is None:
        parameters, context = physical_form(cases, names), Context()
        joules = discount_zeros(parameters.predict(cases.families, cases.raw), cases.raw, names).energy_j
    else:
        if base.calibration is not None:
            raise PredictorError(
                f"{base.id} is calibrated already; calibrate its base ({base.card['calibrated_from'].get('base')}) "
                "with all measurements together"
            )
        parameters, context = base.parameters, base.context
        joules = base.energies(cases.families, cases.raw).energy_j
    weights, activations = moved_bytes(names, cases.raw)
    fixed = context.weight_j_per_byte * weights + context.activation_j_per_byte * activations - context.call_j
    scale = np.array([context.scale.get(f, 1.0) for f in cases.families])
    overhead = context.overhead_j
    if overhead <= 0:
        sums = cases.counts @ joules
        overhead = _OVERHEAD_SHARE * float(np.median(sums))
    reference = float(np.mean(np.log(cases.energy_j[cases.model]))) if cases.model.any() else 0.0
    return _Setting(cases, joules, fixed, scale, overhead, reference, positions(cases.raw, names)), parameters, context


def _stage(
    setting: _Setting,
    rows: NDArray[np.int64],
    measured: Floats,
    before: tuple[_Stage, ...],
    beliefs: Sequence[Belief],
    bend_sd: float = 0.0,
) -> _Stage:
    """Find factors on top of those found before; the belief by the error of measurements left out."""
    u = len(setting.joules)
    factor = _Way("", before).log_factor if before else np.zeros(u + 2)
    shift = sum(s.shift for s in before)
    start = setting.problem(rows, measured, factor, shift)
    common = float(np.median(np.log(measured[rows] / start.sums(np.zeros(u + 2))[0])))
    problem = setting.problem(rows, measured, factor + common, shift + common)
    best: _Stage | None = None
    for belief in beliefs:
        prior = covariance(belief, setting.cases.families, setting.position, setting.cases.families, setting.position)
        solution = solve(problem, prior, _OVERHEAD_SD, bend_sd, setting.reference)
        if best is None or solution.score < (1.0 - _CHANCE / np.sqrt(rows.size)) * best.solution.score:
            best = _Stage(common, belief, solution)
    assert best is not None
    return best


def _direct(setting: _Setting, rows: NDArray[np.int64], beliefs: Sequence[Belief] = _FREE) -> _Way:
    return _Way("direct", (_stage(setting, rows, setting.cases.energy_j, (), beliefs, _bend_sd(setting, rows)),))


def _by_time(
    setting: _Setting, rows: NDArray[np.int64], free: Sequence[Belief] = _FREE, power: Sequence[Belief] = _POWER
) -> _Way:
    time = _stage(setting, rows, setting.cases.latency_s, (), free)
    return _Way("time", (time, _stage(setting, rows, setting.cases.energy_j, (time,), power, _bend_sd(setting, rows))))


def _bend_sd(setting: _Setting, rows: NDArray[np.int64]) -> float:
    return _BEND_SD if int(setting.cases.model[rows].sum()) >= _MODELS_FOR_BEND else 0.0


def _folds(cases: Cases, seed: int) -> list[NDArray[np.int64]]:
    """Rows of each fold; measurements of the same thing are in the same fold."""
    _, group = np.unique(cases.counts, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.random.default_rng(seed).permutation(int(group.max()) + 1)
    count = min(_FOLDS, order.size)
    return [rows for k in range(count) if (rows := np.flatnonzero(np.isin(group, order[k::count]))).size]


def _left_out(setting: _Setting, way: _Way, folds: Sequence[NDArray[np.int64]]) -> Floats:
    """log(predicted / measured) of every measurement by a fit without its fold; beliefs stay as chosen."""
    n = len(setting.cases.records)
    errors = np.zeros(n)
    for fold in folds:
        rows = np.setdiff1d(np.arange(n), fold)
        if not rows.size:
            continue
        beliefs = [(s.belief,) for s in way.stages]
        again = _direct(setting, rows, *beliefs) if len(beliefs) == 1 else _by_time(setting, rows, *beliefs)
        errors[fold] = np.log(setting.total(fold, again) / setting.cases.energy_j[fold])
    return errors


def _calibration(setting: _Setting, way: _Way) -> Calibration:
    families, position = setting.cases.families, setting.position
    terms = []
    for stage in way.stages:
        prior = covariance(stage.belief, families, position, families, position)
        weight = np.asarray(np.linalg.lstsq(prior, stage.solution.theta[:-2], rcond=None)[0], dtype=np.float64)
        terms.append(Term(stage.shift, stage.belief, weight, stage.solution.sd[:-2]))
    return Calibration(families, position, tuple(terms), _bend(setting, way))


def _bend(setting: _Setting, way: _Way) -> Bend:
    exponent = float(way.log_factor[-1])
    if not exponent:
        return Bend()
    log_energy = np.log(setting.cases.energy_j[setting.cases.model])
    low, high = float(log_energy.min()) - _BEND_REACH, float(log_energy.max()) + _BEND_REACH
    return Bend(exponent, setting.reference, low, high)


def _context(setting: _Setting, way: _Way, calibration: Calibration, base: Context, errors: Floats) -> Context:
    """Model-level terms on the new device's scale, and intervals from the measurements left out."""
    cases = setting.cases
    factor = float(np.exp(way.shift))
    context = replace(
        base,
        overhead_j=float(setting.overhead_j * np.exp(way.log_factor[-2]))
        if cases.model.any()
        else base.overhead_j * factor,
        call_j=base.call_j * factor,
        weight_j_per_byte=base.weight_j_per_byte * factor,
        activation_j_per_byte=base.activation_j_per_byte * factor,
        models=int(cases.model.sum()),
        terms="calibrated",
        scores={},
        note=f"calibrated on {int(cases.model.sum())} models and {int((~cases.model).sum())} kernels",
    )
    if int(cases.model.sum()) < MIN_MODELS_FOR_SPREAD:
        return context
    half_width = calibration.half_width(cases.families, setting.position)
    number = {name: i for i, name in enumerate(dict.fromkeys(cases.families))}
    codes = np.array([number[f] for f in cases.families], dtype=np.int64)
    part = cases.part(cases.model)
    joules = setting.joules * np.exp(way.log_factor[:-2])
    totals = part.counts * joules
    # As Context.half_width has it: the overhead has no error of its own.
    kernels = totals.sum(axis=1)
    share = (kernels / (kernels + context.overhead_j)) ** 2
    apart, by_family, together = (share * v for v in variances(totals, half_width, codes))
    own = errors[cases.model]
    spread = fit_spread(own, part.relative_sd, list(zip(apart, by_family, together, strict=True)))
    return replace(
        context,
        correlation=spread.correlation,
        family_correlation=spread.family_correlation,
        floor=spread.floor,
        kernel_variance=spread.kernels,  # small: sums are known better than their parts where only sums were measured
        inflation=spread.inflation,
    )


def _card(
    base: Predictor | None,
    rows: Rows,
    cases: Cases,
    way: _Way,
    errors: Floats,
    scores: Mapping[str, float],
    calibration: Calibration,
    context: Context,
    seed: int,
) -> dict[str, Any]:
    from deepen import __version__
    from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION

    conditions = {key: Counter(str(getattr(r, key)) for r in cases.records) for key in _CONDITIONS}
    main = {key: counts.most_common(1)[0][0] for key, counts in conditions.items()}
    digest = data_hash(rows)
    base_id = "none" if base is None else base.id
    identity = hashlib.sha256(f"{digest}/{base_id}/{seed}/{__version__}".encode()).hexdigest()[:8]
    sources = [r.source for r in cases.records]
    if base is not None:
        sources.append(base.source)
    predicted = np.exp(errors) * cases.energy_j
    kernels, models = ~cases.model, cases.model
    inherited = dict(base.card) if base is not None else {}
    warnings = [
        f"measurements of {len(c)} values of {key} were mixed: {', '.join(f'{v} ({n})' for v, n in c.most_common(4))}"
        for key, c in conditions.items()
        if len(c) > 1
    ]
    return inherited | {
        "format": "deepen-predictor",
        "format_version": FORMAT_VERSION,
        "id": f"{main['device']}-{main['runtime']}-{identity}",
        "deepen_version": __version__,
        "created": utc_now(),
        **main,
        "source": weakest_source(sources),
        "sources": dict(Counter[str](r.source for r in cases.records)),
        "features_version": FEATURES_VERSION,
        "feature_names": list(FEATURE_NAMES),
        "work_terms": [*WORK_TERMS, "call"],
        "data_sha256": digest,
        "rows": int(kernels.sum()),
        "models": int(models.sum()),
        "left_out": dict(rows.left_out),
        "recipe": f"calibrate ({way.name})",
        "seed": seed,
        "nominal": NOMINAL,
        "nodes": inherited.get("nodes", 0),
        "families": inherited.get("families", {}),
        "held_out": metrics(cases.energy_j[kernels], predicted[kernels]),
        "context": context.to_json(),
        "calibrated_from": {
            "base": base_id,
            "base_device": None if base is None else base.card.get("device"),
            "base_runtime_build": None if base is None else base.card.get("runtime_build"),
            "kernels": int(kernels.sum()),
            "models": int(models.sum()),
            "way": way.name,
            "scores": dict(scores),
            "factor": float(np.exp(way.shift)),
            "noise": way.stages[-1].solution.noise,
            "left_out_models": metrics(cases.energy_j[models], predicted[models]),
        },
        "calibration": calibration.to_json(),
        "warnings": warnings + [f"{n} records left out: {reason}" for reason, n in rows.left_out.items()],
    }
