"""Energy of windows of a stored trace, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deepen.errors import ConfigError, MeasureError
from deepen.measure.energy.integrate import MAX_LOSS, WindowEnergy, integrate_power
from deepen.measure.energy.uncertainty_budget import warn_missing_accuracy
from deepen.records import Interval, MeasurementWarning
from deepen.traces import ReportedWindow, TraceFile
from deepen.traces.open import iterate_chunks
from deepen.traces.types import CHUNK

__all__ = ["IDLE", "TraceFileEnergy", "integrate_trace_file"]

IDLE = "idle"
"""Windows of this label are stretches in which nothing ran: they tell idle power, linear in between."""


@dataclass(frozen=True, slots=True)
class TraceFileEnergy:
    """Windows of a stored trace.

    Attributes:
        windows: One entry per window, in the order given.
        reported_j: Energy the file itself reports for each, joules; ``nan`` where it reports none.
        warnings: Remarks on the trace as a whole.
    """

    windows: tuple[WindowEnergy, ...]
    reported_j: tuple[float, ...]
    warnings: tuple[MeasurementWarning, ...]


def integrate_trace_file(
    file: TraceFile,
    windows: Sequence[ReportedWindow] = (),
    *,
    idle_w: float | None = None,
    max_loss: float = MAX_LOSS,
    edge_error_s: float = 0.0,
) -> TraceFileEnergy:
    """Integrate windows of an opened trace, one piece of the file in memory at a time.

    Windows labelled ``idle`` give idle power; all are on the trace's own clock.

    Args:
        file: The trace.
        windows: Stretches to integrate; without any, those the file reports itself, else all of it.
        idle_w: Idle power, watts, taken as exact; instead of windows labelled ``idle``.
        max_loss: Largest share of the trace and of each window that may be lost.
        edge_error_s: Standard uncertainty of where each edge lies on the trace's clock, seconds.

    Raises:
        ConfigError: If idle power is given twice, or a limit is out of its range.
        MeasureError: If the trace is damaged or empty, a window lies outside it, or too much is lost.
    """
    if not 0 <= max_loss <= 1:
        raise ConfigError(f"the share that may be lost lies between 0 and 1, not {max_loss:g}")
    if not edge_error_s >= 0:
        raise ConfigError(f"the error of an edge cannot be {edge_error_s:g} s")
    info = file.info
    if not info.samples:
        raise MeasureError(f"{info.path}: has no samples", cure="record again")
    if info.loss > max_loss:
        raise MeasureError(
            f"{info.path}: {100 * info.loss:.3g} % of the samples are lost, {100 * max_loss:g} % are allowed",
            cure="record again, or raise max_loss",
        )
    chosen = [*windows] or [*file.windows()] or [ReportedWindow(Interval(info.start_s, info.end_s, "all"))]
    intervals = [w.interval for w in chosen]
    if edge_error_s:
        intervals = [replace(i, uncertainty_s=edge_error_s) for i in intervals]
    idle = [i for i in intervals if i.label.strip().lower() == IDLE]
    if idle and idle_w is not None:
        raise ConfigError("idle power is given twice: as a number and as windows labelled 'idle'", cure="leave one out")
    found = integrate_power(
        iterate_chunks(file, CHUNK), intervals, idle_w or 0.0, idle=idle, max_loss=max_loss, gaps=info.gaps
    )
    warnings = [
        *map(MeasurementWarning.of, dict.fromkeys(info.warnings)),
        *warn_missing_accuracy(info.accuracy, info.source, info.meter_id),
    ]
    if info.dropped and not any(w.code == "loss" for w in warnings):
        text = f"{info.dropped} samples ({100 * info.loss:.2g} %) are lost in {len(info.gaps)} gaps"
        warnings.append(MeasurementWarning("loss", text))
    return TraceFileEnergy(found, tuple(w.energy_j for w in chosen), tuple(warnings))
