"""The main job from end to end on the machine at hand: measure kernels, train, predict unseen models, measure them.

Everything is written below one folder and can be resumed: ``kernels/`` (dataset of kernels and calibration networks),
``models/`` (dataset of the measured models), ``quickstart.deepen`` (the predictor) and ``result.json``.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.clock import monotonic_s
from deepen.errors import ConfigError, DeepenError, MeasureError
from deepen.records import EnergyRecord, Prediction, StoppingRule, Workload

if TYPE_CHECKING:
    from deepen.campaign import CampaignProgress, Item
    from deepen.datasets import Dataset
    from deepen.kernels import Split
    from deepen.kernels.sample import SampledKernel
    from deepen.measure import Session
    from deepen.predictors import Predictor

__all__ = ["ModelResult", "Options", "Progress", "QuickstartResult", "reference_models", "run"]

MODEL_SHARE = 0.23
"""Share of the minutes spent on measuring the models."""

TRAIN_SHARE, TRAIN_LEAST_S = 0.04, 12.0
"""Time kept for training and predicting: a share of the minutes, and the least it takes."""

KERNELS_PER_NETWORK = 28
"""Kernels measured between two calibration networks."""

LEAST_S_PER_KERNEL = 0.08
"""No kernel is measured faster than this: bounds how many a plan needs."""

LEAST_ROWS = 12
"""Kernels of each family the models have that are measured early, so that each gets a regressor."""

MAX_MACS = 3_000_000_000
"""Largest kernel sampled; one run of it takes tens of milliseconds on one core."""

MEMORY_SHARE = 0.4
"""Share of free memory that models kept loaded may take."""

FURTHER_WEIGHT = 0.15
"""Weight in the sample of families that none of the models has, against those they have."""

BLOCK_S = 0.012
KERNEL_RULE = StoppingRule(min_duration_s=0.036, max_duration_s=0.12, min_blocks=3, rel_std=0.04)
WARMUP_S = 0.02
NETWORK_RULE = StoppingRule(min_duration_s=0.4, max_duration_s=1.2, min_blocks=5, rel_std=0.01)

LOAD_S = 1.5
"""Time set aside for loading one model."""

ROUNDS = 3
"""Times each model is measured, far apart, so that its repeatability is known."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to do.

    Attributes:
        out: Folder everything is written to.
        minutes: Time for the whole run.
        models: Further model files to predict and measure.
        device: Device to measure on.
        meter: Power source; ``None`` takes the best one of the device.
        threads: Intra-operator threads.
        seed: Seed of sampling, order and training.
        shapes: Shapes of symbolic inputs of the further models.
    """

    out: Path
    minutes: float = 5.5
    models: tuple[Path, ...] = ()
    device: str = "local"
    meter: str | None = None
    threads: int = 1
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.2 <= self.minutes <= 24 * 60:
            raise ConfigError(f"--minutes must lie between 0.2 and 1440, not {self.minutes:g}")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run is.

    Attributes:
        stage: What is being done.
        detail: What exactly, for example the kernel's name.
        done: Finished parts of the stage.
        total: Parts of the stage; 0 where not countable.
        eta_s: Expected seconds until the whole run ends.
    """

    stage: str
    detail: str = ""
    done: int = 0
    total: int = 0
    eta_s: float = math.nan


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Predicted against measured for one model; all energies net, per inference.

    Attributes:
        name: Readable name.
        prediction: What was predicted before anything of it was measured.
        seen_share: Share of its kernels whose exact configuration was measured for training.
        measured_j: Mean over the rounds; ``nan`` where not measured.
        measured_cv: Standard deviation over the rounds divided by the mean; ``nan`` with one round.
        latency_s: Wall time per inference; ``nan`` where not measured.
        source: Label of the measured figure; empty where not measured.
        failure: Why it was not measured; empty if it was.
    """

    name: str
    prediction: Prediction
    seen_share: float
    measured_j: float = math.nan
    measured_cv: float = math.nan
    latency_s: float = math.nan
    source: str = ""
    failure: str = ""

    @property
    def error(self) -> float:
        """Relative error of the prediction, signed; ``nan`` where not measured."""
        return self.prediction.energy_j / self.measured_j - 1


@dataclass(frozen=True, slots=True)
class QuickstartResult:
    """What a run found and where it lies.

    Attributes:
        models: One entry per model, in the order measured.
        out: Folder with everything.
        device: Device profile id.
        meter: Power source.
        source: Label of all energies.
        runtime_build: Runtime, version, level and provider.
        kernels_measured: Kernels in the dataset.
        networks_measured: Calibration networks in the dataset.
        drift: Relative change of the machine's speed over the run (largest minus smallest, over the mean).
        elapsed_s: Duration of this run.
        interrupted: Whether Ctrl-C cut it short.
        failed: (name, reason) of what could not be measured.
        warnings: What a reader should know.
    """

    models: tuple[ModelResult, ...]
    out: Path
    device: str
    meter: str
    source: str
    runtime_build: str
    kernels_measured: int
    networks_measured: int
    drift: float
    elapsed_s: float
    interrupted: bool
    failed: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


def reference_models() -> tuple[Path, ...]:
    """The nine full architectures inside the ``onnx`` package, by file name.

    Raises:
        ConfigError: If the installed ``onnx`` has none.
    """
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    found = tuple(sorted(folder.glob("light_*.onnx")))
    if not found:
        raise ConfigError(f"{folder} holds no light_*.onnx; install an onnx package that ships its test data")
    return found


@dataclass(frozen=True, slots=True)
class _Target:
    """A model to predict and measure."""

    name: str
    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    split: Split
    weight_bytes: int

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(kernel.key for kernel in self.split.kernels)


def _target(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> _Target:
    from deepen.graph import load
    from deepen.kernels.split import split

    found = split(load(path, shapes or None))
    weights = {w.name: w.nbytes for kernel in found.kernels for w in kernel.weights}
    return _Target(path.stem.removeprefix("light_"), path, shapes, found, sum(weights.values()))


def run(options: Options, on_progress: Callable[[Progress], None] = lambda progress: None) -> QuickstartResult:
    """Measure kernels, train, predict, measure the models, compare.

    Ctrl-C while kernels are measured ends that stage: what there is is trained on and predicted from. Running again on
    the same folder keeps every record and adds to them.

    Args:
        options: What to do.
        on_progress: Called whenever there is something to tell.

    Raises:
        ConfigError: If a device, meter or model cannot be taken as named.
        DatasetError: If the folder holds records of another device, meter or feature version.
        StorageError: If the disk refuses.
        LinkError, MeterError: If device or meter is gone.
    """
    from deepen.datasets import Dataset
    from deepen.measure import open_session

    clock = _Budget(options.minutes * 60)
    on_progress(Progress("splitting the models", eta_s=clock.left_s))
    reference = [_target(path, {}) for path in reference_models()]
    targets = [*reference, *(_target(path, options.shapes) for path in options.models)]
    unseen = frozenset().union(*(target.keys for target in reference))
    with (
        open_session(
            options.device,
            options.meter,
            threads=options.threads,
            seed=options.seed,
            reference_every_s=20.0,
            block_s=BLOCK_S,
        ) as session,
        Dataset.open(options.out / "kernels", create=True) as kernels,
        Dataset.open(options.out / "models", create=True) as models,
    ):
        report = _measure_kernels(options, targets, unseen, session, kernels, clock, on_progress)
        on_progress(Progress("training", f"{len(kernels)} records", eta_s=clock.left_s))
        predictor = _train(kernels, options)
        on_progress(Progress("predicting", eta_s=clock.left_s))
        results = _predict(targets, predictor, kernels.keys())
        interrupted = report.interrupted
        if not interrupted:
            results, interrupted = _measure_models(targets, results, session, models, clock, on_progress)
        found = QuickstartResult(
            models=results,
            out=options.out,
            device=session.device.profile.id,
            meter=session.meter.id,
            source=predictor.source,
            runtime_build=str(predictor.card["runtime_build"]),
            kernels_measured=len(kernels.keys()),
            networks_measured=len(kernels.model_names()),
            drift=_span(session.drift),
            elapsed_s=clock.elapsed_s,
            interrupted=interrupted,
            failed=report.failed,
            warnings=tuple(str(warning) for warning in predictor.card.get("warnings", ())),
        )
    (options.out / "result.json").write_text(json.dumps(document(found), indent=2) + "\n", encoding="utf-8")
    return found


class _Budget:
    """Time of the whole run."""

    def __init__(self, total_s: float) -> None:
        self.total_s = total_s
        self._start_s = monotonic_s()

    @property
    def elapsed_s(self) -> float:
        return monotonic_s() - self._start_s

    @property
    def left_s(self) -> float:
        return max(0.0, self.total_s - self.elapsed_s)

    @property
    def training_s(self) -> float:
        return min(max(TRAIN_LEAST_S, TRAIN_SHARE * self.total_s), 60.0)

    @property
    def models_s(self) -> float:
        return MODEL_SHARE * self.total_s


def _plan(options: Options, targets: Iterable[_Target], unseen: Collection[str], count: int) -> list[Item]:
    """Kernels of the families the models need, most from where energy goes, with a network after every few."""
    from deepen.campaign import KernelItem, MadeItem
    from deepen.kernels.compose import network, network_name
    from deepen.kernels.sample import sample

    wanted = {kernel.family for target in targets for kernel in target.split.kernels}
    sampled = sample(None, count, options.seed, exclude=unseen, max_macs=MAX_MACS, weights=_weights(wanted))
    first, later = _families_first(sampled, wanted)
    items: list[Item] = []
    for index, kernel in enumerate([*first, *later]):
        items.append(KernelItem(kernel.family, kernel.params))
        if index % KERNELS_PER_NETWORK == KERNELS_PER_NETWORK - 1:
            number = index // KERNELS_PER_NETWORK

            def make(number: int = number) -> Any:
                return network(number, options.seed, unseen).model

            items.append(MadeItem(network_name(number), make))
    return items


def _families_first(
    sampled: Sequence[SampledKernel], wanted: Collection[str]
) -> tuple[list[SampledKernel], list[SampledKernel]]:
    """Divide a sample so that its first part has enough of every family in use, and as many others in between."""
    taken: Counter[str] = Counter()
    needed: list[SampledKernel] = []
    rest: list[SampledKernel] = []
    for kernel in sampled:
        early = kernel.family in wanted and taken[kernel.family] < LEAST_ROWS
        taken[kernel.family] += early
        (needed if early else rest).append(kernel)
    mixed = [kernel for pair in zip(needed, rest, strict=False) for kernel in pair]
    return [*mixed, *needed[len(rest) :]], rest[len(needed) :]


def _measure_kernels(
    options: Options,
    targets: Iterable[_Target],
    unseen: Collection[str],
    session: Session,
    kernels: Dataset,
    clock: _Budget,
    on_progress: Callable[[Progress], None],
) -> Any:
    from deepen.campaign import Plan, Settings
    from deepen.campaign import run as run_campaign

    budget_s = max(1.0, clock.left_s - clock.training_s - clock.models_s)
    count = len(kernels.keys()) + max(200, int(budget_s / LEAST_S_PER_KERNEL))
    plan = Plan.make(_plan(options, targets, unseen, count), options.seed)

    def tell(state: CampaignProgress) -> None:
        detail = state.last if not state.error else f"{state.last}: {state.error}"
        on_progress(Progress("measuring kernels", detail, state.done, state.total, clock.left_s))

    settings = Settings(threads=options.threads, warmup_s=WARMUP_S, kernel_rule=KERNEL_RULE, model_rule=NETWORK_RULE)
    return run_campaign(plan, session, kernels, budget_s=budget_s, on_progress=tell, settings=settings)


def _predict(targets: Iterable[_Target], predictor: Predictor, measured: Collection[str]) -> tuple[ModelResult, ...]:
    results = []
    for target in targets:
        seen = sum(kernel.key in measured for kernel in target.split.kernels)
        prediction = predictor.predict_split(target.split, str(target.path))
        results.append(ModelResult(target.name, prediction, seen / max(1, len(target.split.kernels))))
    return tuple(results)


def _train(kernels: Dataset, options: Options) -> Predictor:
    from deepen.predictors import train

    predictor = train(kernels, seed=options.seed)
    predictor.save(options.out / "quickstart.deepen")
    return predictor


def _weights(wanted: Collection[str]) -> dict[str, float]:
    from deepen.kernels import load_families

    return {
        name: float(family.sampling.get("weight", 0.0)) * (1.0 if name in wanted else FURTHER_WEIGHT)
        for name, family in load_families().items()
        if family.sampling
    }


def _loads(targets: Sequence[_Target]) -> list[list[_Target]]:
    """Divide models into groups that fit into memory together; large ones first to come, first to go."""
    limit = MEMORY_SHARE * _free_bytes()
    groups: list[list[_Target]] = [[]]
    used = 0.0
    for target in targets:
        needed = 3.0 * target.weight_bytes + 100e6  # weights as read, as laid out for the machine, and activations
        if groups[-1] and used + needed > limit:
            groups.append([])
            used = 0.0
        groups[-1].append(target)
        used += needed
    return groups


def _free_bytes() -> float:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 2e9


def _measure_models(
    targets: Sequence[_Target],
    results: tuple[ModelResult, ...],
    session: Session,
    models: Dataset,
    clock: _Budget,
    on_progress: Callable[[Progress], None],
) -> tuple[tuple[ModelResult, ...], bool]:
    """Measure every model in several rounds; returns the completed results and whether Ctrl-C ended it."""
    found = {result.name: result for result in results}
    groups = _loads(targets)
    total = len(targets) * ROUNDS
    each_s = max(0.3, (clock.left_s - LOAD_S * len(targets)) / total)
    rule = StoppingRule(min_duration_s=each_s * 0.6, max_duration_s=each_s, min_blocks=3, rel_std=0.01)
    done = 0
    try:
        for group in groups:
            with ExitStack() as stack:
                held: dict[str, Callable[[bool], EnergyRecord]] = {}
                records: dict[str, list[EnergyRecord]] = {target.name: [] for target in group}
                for target in group:
                    on_progress(Progress("loading models", target.name, done, total, clock.left_s))
                    try:
                        held[target.name] = stack.enter_context(session.hold(_workload(target, session, rule)))
                    except DeepenError as error:
                        found[target.name] = replace(found[target.name], failure=str(error))
                for turn in range(ROUNDS):
                    for target in group:
                        on_progress(Progress("measuring models", target.name, done, total, clock.left_s))
                        done += 1
                        if target.name not in held:
                            continue
                        try:
                            records[target.name].append(held[target.name](turn == ROUNDS - 1))
                        except MeasureError as error:
                            found[target.name] = replace(found[target.name], failure=str(error))
                for target in group:
                    if records[target.name]:
                        record = _combine(target, records[target.name])
                        models.append(record)
                        found[target.name] = _measured(found[target.name], record, records[target.name])
    except KeyboardInterrupt:
        return tuple(found.values()), True
    return tuple(found.values()), False


def _workload(target: _Target, session: Session, rule: StoppingRule) -> Workload:
    from deepen.measure import make_workload

    return make_workload(target.path, threads=session.threads, shapes=target.shapes, warmup_s=0.1, rule=rule)


def _combine(target: _Target, rounds: Sequence[EnergyRecord]) -> EnergyRecord:
    """One record of several rounds: the mean of the rounds, whose spread is the uncertainty."""
    from deepen.kernels import FEATURES_VERSION, features

    values = [record.energy_j for record in rounds]
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    kernels = tuple(
        {"family": k.family, "params": dict(k.params), "features": features(k), "multiplicity": k.multiplicity}
        for k in target.split.kernels
    )
    return replace(
        rounds[-1],
        name=target.name,
        energy_j=statistics.fmean(values),
        uncertainty_j=max(spread, statistics.fmean(record.uncertainty_j for record in rounds)),
        gross_energy_j=statistics.fmean(record.gross_energy_j for record in rounds),
        latency_s=statistics.fmean(record.latency_s for record in rounds),
        idle_power_before_w=rounds[0].idle_power_before_w,
        runs=sum(record.runs for record in rounds),
        trials=tuple(trial for record in rounds for trial in record.trials),
        rejected=tuple(entry for record in rounds for entry in record.rejected),
        warnings=tuple(dict.fromkeys(warning for record in rounds for warning in record.warnings)),
        kernels=kernels,
        features_version=FEATURES_VERSION,
    )


def _measured(result: ModelResult, record: EnergyRecord, rounds: Sequence[EnergyRecord]) -> ModelResult:
    values = [r.energy_j for r in rounds]
    return replace(
        result,
        measured_j=record.energy_j,
        measured_cv=statistics.stdev(values) / record.energy_j if len(values) > 1 else math.nan,
        latency_s=record.latency_s,
        source=record.source,
        failure="",
    )


def _span(drift: Sequence[tuple[float, float]]) -> float:
    shares = [share for _, share in drift]
    return max(shares) - min(shares) if shares else 0.0


def document(found: QuickstartResult) -> dict[str, Any]:
    """The JSON contract's document."""
    errors = [abs(m.error) for m in found.models if math.isfinite(m.error)]
    return {
        "models": [
            {
                "name": m.name,
                "predicted_j": m.prediction.energy_j,
                "interval_j": list(m.prediction.interval_j),
                "measured_j": m.measured_j,
                "measured_cv": m.measured_cv,
                "error": m.error,
                "latency_s": m.latency_s,
                "coverage": m.prediction.coverage,
                "uncovered": list(m.prediction.uncovered),
                "extrapolated": m.prediction.extrapolated,
                "seen_share": m.seen_share,
                "overhead_j": m.prediction.overhead_j,
                "source": m.source,
                "failure": m.failure,
                "kernels": [
                    {"name": k.name, "family": k.family, "energy_j": k.energy_j, "interval_j": list(k.interval_j)}
                    for k in m.prediction.kernels
                ],
            }
            for m in found.models
        ],
        "median_error": statistics.median(errors) if errors else math.nan,
        "within_15_percent": sum(error <= 0.15 for error in errors),
        "measured": len(errors),
        "source": found.source,
        "device": found.device,
        "meter": found.meter,
        "runtime_build": found.runtime_build,
        "kernels_measured": found.kernels_measured,
        "networks_measured": found.networks_measured,
        "drift": found.drift,
        "elapsed_s": found.elapsed_s,
        "interrupted": found.interrupted,
        "failed": [list(pair) for pair in found.failed],
        "warnings": list(found.warnings),
        "out": str(found.out),
        "dataset": str(found.out / "kernels"),
        "predictor": str(found.out / "quickstart.deepen"),
    }
