"""Records that all layers exchange: workloads, traces, intervals and energy records; and the labels of numbers.

All quantities are in SI units and the unit is in the field's name. Energy per inference is net of idle unless the
field says gross. A label, ``source``, travels with every number: ``measured`` (a sensor read it), ``published`` (others
say they measured it), ``modelled`` (computed from activity counters and a documented power profile), ``simulated`` (an
emulated instrument produced it) or ``predicted`` (learnt from numbers with one of the other labels, which
``learnt_from`` names).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar, cast, get_args

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import ClockMap
from deepen.errors import ConfigError, MeasureError

__all__ = [
    "RECORD_SCHEMA",
    "Accuracy",
    "EnergyRecord",
    "FigureLabel",
    "FilledInput",
    "Interval",
    "MeasurementWarning",
    "PowerTrace",
    "RecordLabel",
    "Source",
    "SourceLabel",
    "StoppingRule",
    "TraceWarning",
    "WarningCode",
    "Workload",
    "describe_mixed_labels",
    "find_weakest_label",
    "find_weakest_source",
    "parse_label",
]

Source = Literal["measured", "modelled", "simulated"]
"""Label of a reading: of a meter, a trace, a session."""

RecordLabel = Literal["measured", "published", "modelled", "simulated"]
"""Label of a record: that of its reading, or ``published`` where others measured it and deepen only read their file."""

FigureLabel = Literal["measured", "published", "modelled", "simulated", "predicted"]
"""Label of any number, from the strongest to the weakest."""

WarningCode = Literal["loss", "clipping", "range-switching", "temperature", "trace"]
"""Kinds of warnings about a trace: samples missing or counted twice; at the end of a range; a range that changed; an
instrument that became warmer; anything else."""

RECORD_SCHEMA = 4
"""Version of :class:`EnergyRecord` as stored; a reader refuses a newer one.

2 added ``alignment`` and ``budget``; 3 added ``serial``, ``settings``, ``temperature_before_c``, ``temperature_max_c``
and ``throttled``; 4 added ``inputs``.
"""

_AnySource = TypeVar("_AnySource", bound=str)


class SourceLabel(NamedTuple):
    """Evidence behind a number: its own label, and that of the data it was learnt from.

    Attributes:
        source: Its label.
        learnt_from: For ``predicted``, the weakest label of the numbers it was learnt from; empty for any other label.
    """

    source: FigureLabel
    learnt_from: RecordLabel | Literal[""] = ""

    def __str__(self) -> str:
        return f"{self.source} (learnt from {self.learnt_from} data)" if self.learnt_from else self.source


def parse_label(source: str, learnt_from: str = "") -> SourceLabel:
    """Read a label as a file or an option gives it.

    Args:
        source: The label; an empty text is ``measured``.
        learnt_from: Label of the training data of a predicted number, else empty.

    Raises:
        ConfigError: If a label is unknown, or ``learnt_from`` is missing where it is needed, or given where it is not.
    """
    source = source or "measured"
    if source not in get_args(FigureLabel):
        raise ConfigError(f"source '{source}' is none of {', '.join(get_args(FigureLabel))}")
    if source == "predicted" and learnt_from not in get_args(RecordLabel):
        raise ConfigError(
            f"a predicted figure needs learnt_from, one of {', '.join(get_args(RecordLabel))}, not '{learnt_from}'"
        )
    if source != "predicted" and learnt_from:
        raise ConfigError(f"learnt_from '{learnt_from}' belongs to predicted figures, this one is {source}; remove it")
    return SourceLabel(cast(FigureLabel, source), cast(Any, learnt_from))


def find_weakest_source(sources: Iterable[_AnySource]) -> _AnySource:
    """Name the label a sum of numbers carries: the weakest of its parts, in the order of :data:`FigureLabel`.

    Raises:
        ValueError: If there are no parts, or one is no label.
    """
    return max(sources, key=get_args(FigureLabel).index)


def find_weakest_label(labels: Iterable[SourceLabel]) -> SourceLabel:
    """Name the label a sum of numbers carries.

    A sum with a predicted part is predicted, and learnt from the weakest label anywhere in it: a simulated part stays
    visible beside a prediction from measurements.

    Raises:
        ValueError: If there are no parts.
    """
    distinct = set(labels)
    weakest = find_weakest_source([label.source for label in distinct])
    if weakest != "predicted":
        return SourceLabel(weakest)
    return SourceLabel(weakest, cast(RecordLabel, find_weakest_source([x.learnt_from or x.source for x in distinct])))


def describe_mixed_labels(labels: Iterable[SourceLabel]) -> str:
    """Count the labels in words, strongest first; empty where all are alike."""
    counts = Counter(labels)
    if len(counts) < 2:
        return ""
    rank = get_args(FigureLabel)
    ordered = sorted(counts.items(), key=lambda item: (rank.index(item[0].source), item[0].learnt_from))
    return ", ".join(f"{n} {label}" for label, n in ordered)


def _check_source(source: str, known: tuple[str, ...]) -> None:
    if source not in known:
        raise ConfigError(f"source must be one of {', '.join(known)}, not '{source}'")


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """Rule that decides when a measurement has enough blocks.

    Attributes:
        min_duration_s: Least time spent in counted blocks.
        max_duration_s: Time after which no further block starts.
        min_blocks: Least number of counted blocks.
        rel_std: Stop once the relative standard error of the mean falls to this (a share, not percent).
    """

    min_duration_s: float = 0.1
    max_duration_s: float = 2.0
    min_blocks: int = 5
    rel_std: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_s <= self.max_duration_s:
            raise ConfigError("a stopping rule needs 0 <= min_duration_s <= max_duration_s")
        if self.min_blocks < 1 or self.rel_std <= 0:
            raise ConfigError("a stopping rule needs min_blocks >= 1 and rel_std > 0")


@dataclass(frozen=True, slots=True, eq=False)
class FilledInput:
    """Values of one input of a model, chosen because random numbers would make no sense there, or given by the user.

    Attributes:
        name: The input.
        role: Meaning of the values: ``given`` (by the user), or a kind of
            :data:`deepen.graph.input_demands.DemandKind`, such as ``length``, ``mask``, ``index`` or ``rounds``.
        values: The values, of the input's shape and type.
        node: Node that gives them their meaning; empty where that is not known or the name does.
        assumed: Whether the energy is proportional to a number that nothing in the model says.
    """

    name: str
    role: str
    values: NDArray[Any]
    node: str = ""
    assumed: bool = False

    def __str__(self) -> str:
        """Render as ``name = value (role)``."""
        if not self.values.size:
            return f"{self.name} empty"
        low, high = self.values.min().item(), self.values.max().item()
        return f"{self.name} = {low:g}{f'..{high:g}' if low != high else ''} ({self.role})"

    def document(self) -> dict[str, Any]:
        """As JSON, for a record: role, shape, and the least and largest value (``None`` where there is none)."""
        some = self.values.size > 0
        return {
            "role": self.role,
            "shape": list(self.values.shape),
            "low": float(self.values.min()) if some else None,
            "high": float(self.values.max()) if some else None,
        }


@dataclass(frozen=True, slots=True)
class Workload:
    """A model or kernel for a runtime to run repeatedly.

    Attributes:
        id: Content hash of the model file and the way it is run (hex, 16 characters).
        path: The model file.
        kind: ``kernel`` or ``model``.
        runtime: Name of the runtime, for example ``onnxruntime``.
        threads: Intra-operator threads.
        warmup_s: Duration of the uncounted runs before the others, seconds.
        shapes: Shapes for symbolic inputs, by input name.
        rule: Rule that ends the measurement.
        inputs: Values of inputs, by name; the device fills others with random numbers (integers with zeros).
        input_warnings: Remarks on these values, for the record.
    """

    id: str
    path: Path
    kind: Literal["kernel", "model"]
    runtime: str = "onnxruntime"
    threads: int = 1
    warmup_s: float = 0.05
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rule: StoppingRule = field(default_factory=StoppingRule)
    inputs: Mapping[str, FilledInput] = field(default_factory=dict)
    input_warnings: tuple[MeasurementWarning, ...] = ()

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {self.threads}")


@dataclass(frozen=True, slots=True)
class Interval:
    """A labelled interval of host time in which a workload ran.

    Attributes:
        start_s: Start on the host's monotonic clock, seconds.
        end_s: End on the same clock, seconds.
        label: Kind of the interval, for example ``run`` or ``idle``.
        runs: Inferences completed in it.
        uncertainty_s: Standard uncertainty of each edge, seconds.
        cpu_s: CPU time of the worker in the interval, seconds; ``nan`` if unknown.
    """

    start_s: float
    end_s: float
    label: str
    runs: int = 0
    uncertainty_s: float = 0.0
    cpu_s: float = math.nan

    def __post_init__(self) -> None:
        if not self.end_s >= self.start_s:
            raise MeasureError(f"interval '{self.label}' ends before it starts")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy of an instrument, as standard uncertainties (a data sheet's limit over the square root of 3).

    Attributes:
        gain: Uncertainty of the gain, as a share of the reading.
        offset_w: Uncertainty of the offset of every reading, watts.
        reference: Source of the figures; empty if there is none. Then both are 0, and the uncertainty of an energy
            leaves the instrument out, with a warning.
    """

    gain: float = 0.0
    offset_w: float = 0.0
    reference: str = ""


class TraceWarning(str):
    """One line about a trace for people, with a code for programs; it prints and is stored in JSON as its text.

    Attributes:
        code: The kind of warning.
    """

    code: WarningCode

    def __new__(cls, code: WarningCode, text: str) -> Self:  # noqa: D102
        if code not in get_args(WarningCode):
            raise ConfigError(f"a warning's code must be one of {', '.join(get_args(WarningCode))}, not '{code}'")
        made = super().__new__(cls, text)
        made.code = code
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # copies and other processes get the code too
        return type(self), (self.code, str(self))


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """A remark on a measured energy.

    Attributes:
        code: Stable name: that of a :class:`TraceWarning`; of a window ``short-window``, ``gap`` or ``idle-drift``; of
            the whole measurement ``alignment``, ``accuracy``, ``preempted``, ``few-blocks``, ``short-blocks``,
            ``spread``, ``trend``, ``drift``, ``undetected``, ``throttled``, ``settings`` or ``inputs``.
        text: One line for people.
    """

    code: str
    text: str

    @classmethod
    def of(cls, warning: TraceWarning) -> MeasurementWarning:
        """Take over a warning of the trace."""
        return cls(warning.code, str(warning))

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"

    def document(self) -> Mapping[str, str]:
        """As JSON."""
        return {"code": self.code, "text": self.text}


@dataclass(frozen=True, slots=True)
class PowerTrace:
    """Power over time.

    Attributes:
        t_s: Sample times, seconds; float64, shape (n,), strictly increasing. On the host's monotonic clock if a meter
            made the trace; a trace read from a file keeps the file's own clock.
        power_w: Power at those times; float64, shape (n,).
        rate_hz: Nominal sample rate.
        gaps: Open intervals (start_s, end_s) without trustworthy samples, from the last good sample to the next good
            one; samples strictly inside must not be used.
        dropped: Samples known to be lost.
        meter_id: Name of the power source.
        calibration_id: Name of the calibration or power profile applied.
        source: measured, modelled or simulated.
        sampling: ``point`` if a sample is the power at its time (linear in between); ``mean`` if it is the mean over
            the sample period that ends at its time (instruments that report energy per sample).
        logic: Digital inputs sampled with the power; uint8, shape (n,), bit k is input k; ``None`` without inputs.
        clock: Map from the instrument's clock to host time, with its error; ``None`` if the host stamped the samples.
        accuracy: Accuracy stated for the instrument.
        warnings: Remarks on the trace (loss, clipping, range switches, resynchronisation).
    """

    t_s: NDArray[np.float64]
    power_w: NDArray[np.float64]
    rate_hz: float
    meter_id: str
    calibration_id: str
    source: Source
    gaps: tuple[tuple[float, float], ...] = ()
    dropped: int = 0
    sampling: Literal["point", "mean"] = "point"
    logic: NDArray[np.uint8] | None = None
    clock: ClockMap | None = None
    accuracy: Accuracy = field(default_factory=Accuracy)
    warnings: tuple[TraceWarning, ...] = ()

    @property
    def loss(self) -> float:
        """Share of the samples that were lost, 0..1."""
        return self.dropped / (self.dropped + self.t_s.size) if self.dropped else 0.0

    def __post_init__(self) -> None:
        _check_source(self.source, get_args(Source))
        if self.logic is not None and self.logic.shape != self.t_s.shape:
            raise MeasureError(f"trace has {self.t_s.size} samples and {self.logic.size} of its logic inputs")
        if self.t_s.shape != self.power_w.shape or self.t_s.ndim != 1:
            raise MeasureError(f"trace arrays must be 1-D and alike, not {self.t_s.shape} and {self.power_w.shape}")
        if self.t_s.size > 1 and not bool(np.all(np.diff(self.t_s) > 0)):
            raise MeasureError("trace times must increase strictly")


@dataclass(frozen=True, slots=True)
class EnergyRecord:
    """One kernel or model measured once: a row of a dataset.

    Attributes:
        id: The workload's id.
        kind: ``kernel`` or ``model``.
        name: Readable name (family and parameters, or the model's file name).
        family: Kernel family; empty for a model.
        params: Kernel parameters (JSON values); empty for a model.
        features: Feature name -> value for a kernel (see ``features_version``); empty for a model.
        features_version: Version of the feature definition; stored records have that of the deepen that reads them.
        kernels: For a model, its kernels as ``{"family", "params", "features"}``; empty for a kernel.
        energy_j: Net energy per inference; ``nan`` in imported records without an energy.
        uncertainty_j: Standard uncertainty of ``energy_j``.
        gross_energy_j: Energy per inference including idle power.
        latency_s: Wall time per inference; ``nan`` in imported records without a latency.
        idle_power_before_w: Idle power before the runs.
        idle_power_after_w: Idle power after the runs.
        temperature_c: Device temperature at the end; ``nan`` if unknown.
        frequency_hz: CPU frequency at the end; ``nan`` if unknown.
        governor: CPU governor; empty if unknown.
        threads: Intra-operator threads.
        runtime: Runtime name.
        runtime_build: Runtime version, optimisation level and provider.
        device: Device profile id.
        meter: Power source.
        source: measured, published, modelled or simulated.
        runs: Inferences counted.
        trials: Net energy per inference of each accepted block, joules.
        rejected: Blocks left out, as ``{"reason", "energy_j"}``.
        warnings: Remarks on the measurement, each ``code: text`` (see :class:`MeasurementWarning`).
        trace_sha256: Hash of the stored trace; empty if none was kept.
        copies: Copies of the kernel in the model that was run; energies and latency are per copy.
        recorded_at: Time of the measurement, UTC, ISO-8601.
        alignment: Alignment of the trace with host time, ``{"method", "error_s"}``: a method of
            :class:`~deepen.clock.host_clock.ClockMap`, or ``host`` if the host stamped the samples; empty if unknown.
        budget: Standard uncertainty of ``energy_j`` by term, joules (``repeats``, ``idle``,
            ``alignment``, ...); ``uncertainty_j`` is the root of the sum of their squares. Empty if no terms were kept.
        serial: Serial number of the device; empty if unknown.
        settings: Requested settings of the device, by name: ``{"wanted", "actual", "ok", "cause"}``.
        temperature_before_c: Device temperature before the runs; ``nan`` if unknown.
        temperature_max_c: Highest temperature seen before, during and after the runs; ``nan`` if unknown.
        throttled: Known causes that slowed the device down during the runs, in words.
        inputs: Inputs that were not random numbers, by name: ``{"role", "shape", "low", "high"}``.
        schema: :data:`RECORD_SCHEMA`, or the smaller version of the older deepen that wrote the record.
    """

    id: str
    kind: Literal["kernel", "model"]
    name: str
    energy_j: float
    uncertainty_j: float
    gross_energy_j: float
    latency_s: float
    idle_power_before_w: float
    idle_power_after_w: float
    threads: int
    runtime: str
    runtime_build: str
    device: str
    meter: str
    source: RecordLabel
    runs: int
    trials: tuple[float, ...]
    recorded_at: str
    family: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    features_version: int = 0
    kernels: tuple[Mapping[str, Any], ...] = ()
    temperature_c: float = math.nan
    frequency_hz: float = math.nan
    governor: str = ""
    rejected: tuple[Mapping[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    trace_sha256: str = ""
    copies: int = 1
    alignment: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    serial: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    temperature_before_c: float = math.nan
    temperature_max_c: float = math.nan
    throttled: tuple[str, ...] = ()
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema: int = RECORD_SCHEMA

    def __post_init__(self) -> None:
        _check_source(self.source, get_args(RecordLabel))
        if self.kind not in ("kernel", "model"):
            raise MeasureError(f"record kind must be kernel or model, not '{self.kind}'")
        known = math.isfinite(self.energy_j), math.isfinite(self.latency_s)
        if math.isinf(self.energy_j) or math.isinf(self.latency_s) or not (any(known) if self._foreign else all(known)):
            raise MeasureError(f"record '{self.name}' has no finite energy and latency")

    @property
    def _foreign(self) -> bool:
        """True if others measured it: then either its energy or its latency may be unknown."""
        return not self.trials and not self.runs
