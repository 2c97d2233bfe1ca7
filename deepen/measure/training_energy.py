"""Measure what a training run costs, so that it need not be guessed.

::

    with deepen.measure_training(out="run.json") as run:
        for epoch in range(epochs):
            train()
            run.lap(f"epoch {epoch}")
    print(run.energy_j, run.mean_power_w, run.source)

Energy is what the meters saw from entry to exit, idle power included: a machine that trains is there for training. The
PUE of the building and the carbon intensity of the grid are applied apart, and only where they are given. A run of
weeks needs no more memory than one of minutes. Whatever ends it, the energy so far is known: an exception leaves it in
``run`` and in the file, and after ``kill -9`` or a power cut the file holds what it was some seconds before.

A meter that fails does not end the training: the stretch without it is told, and counted nowhere.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deepen.clock.host_clock import monotonic_s, utc_now
from deepen.errors import ConfigError, DeepenError, MeasureError, MeterError, StorageError
from deepen.measure.energy.long_term_energy import EnergyTotal, add_note, make_energy_total
from deepen.meters import Meter, open_meter
from deepen.meters.registry import load_driver
from deepen.meters.types import MeterContext
from deepen.records import Source, find_weakest_source
from deepen.storage.atomic import replace_file

__all__ = ["TrainingLap", "TrainingRun", "measure_training", "open_training_meters"]

TRAINING_SCHEMA = 1
"""Version of the document :meth:`TrainingRun.document` makes."""

J_PER_KWH = 3.6e6
_TICK_S = 1.0
_SEGMENT_S = 10.0
_UNMEASURED = 0.01
"""Share of a run that may be without a meter before it counts as incomplete."""
_EDGES_S = 0.1
"""Time that entry and exit may take of a short run."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingLap:
    """A part of a run, for example an epoch.

    Attributes:
        label: Name of the part.
        energy_j: Energy of all meters in it, joules.
        duration_s: Its duration, seconds.
    """

    label: str
    energy_j: float
    duration_s: float


def open_training_meters() -> tuple[list[Meter], list[str]]:
    """Open what sees a training run on this machine: processor and GPU counters, else the best source there is.

    Returns:
        The meters, and notes on what they do not see.

    Raises:
        MeterError: If there is no power source.
    """
    found: list[Meter] = []
    notes = []
    for name in ("rapl", "nvml"):
        available = load_driver(name).probe(MeterContext())
        if available.available:
            found.append(open_meter(name))
        elif available.cause:
            notes.append(
                f"{name} does not count: {available.cause}" + (f"; {available.cure}" if available.cure else "")
            )
    if found:
        return found, notes if len(found) == 1 else []
    from deepen.devices import detect_power
    from deepen.devices.state.read_state import read_state

    return [open_meter(power=detect_power(read_state()))], notes


class TrainingRun:
    """A training run under measurement; :func:`measure_training` makes it, ``with`` starts and ends it.

    Attributes:
        label: Name of the model in training.
        pue: PUE of the building.
        grid_g_per_kwh: Carbon intensity of the grid, gCO2e/kWh; ``nan`` where not given.
        ended: ``running``, ``finished``, or ``failed: ...`` with what ended it.
        started_at: UTC, ISO-8601; empty before it starts.
        laps: Parts marked with :meth:`lap`.
        notes: Remarks for the reader.
    """

    def __init__(
        self,
        accounts: Sequence[EnergyTotal],
        *,
        label: str = "",
        pue: float = 1.0,
        grid_g_per_kwh: float = math.nan,
        out: Path | None = None,
        notes: Sequence[str] = (),
        tick_s: float = _TICK_S,
        segment_s: float = _SEGMENT_S,
        now: Callable[[], float] = monotonic_s,
    ) -> None:
        """Describe a run; nothing is measured before it is entered. The meters are closed when it ends."""
        self.label = label
        self.pue = pue
        self.grid_g_per_kwh = grid_g_per_kwh
        self.ended = "not started"
        self.started_at = ""
        self.laps: list[TrainingLap] = []
        self.notes = list(notes)
        self._accounts = list(accounts)
        self._out = out
        self._tick_s, self._segment_s, self._now = tick_s, segment_s, now
        self._start_s = self._end_s = self._rolled_s = math.nan
        self._lap_s, self._lap_j = math.nan, 0.0
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # ---- what was measured -------------------------------------------------------------------------------------------

    @property
    def duration_s(self) -> float:
        """Time from entry to exit, or to now, seconds."""
        return (self._now() if math.isnan(self._end_s) else self._end_s) - self._start_s

    @property
    def energy_j(self) -> float:
        """Energy of all meters so far, as of the last ten seconds while it runs; idle power included, no PUE.

        Raises:
            MeasureError: If nothing was measured.
        """
        if not any(a.counted.covered_s > 0 for a in self._accounts):
            raise MeasureError("the run has no energy: " + (self.notes[0] if self.notes else "it has not begun"))
        return sum(a.counted.energy_j for a in self._accounts)

    @property
    def uncertainty_j(self) -> float:
        """Standard uncertainty of the energy; ``nan`` where the accuracy of one of the meters is not stated."""
        if not all(a.states_accuracy for a in self._accounts):
            return math.nan
        return math.hypot(*(a.counted.uncertainty_j for a in self._accounts))

    @property
    def mean_power_w(self) -> float:
        """Mean power over the time that was measured, watts."""
        return sum(a.counted.energy_j / a.counted.covered_s for a in self._accounts if a.counted.covered_s > 0)

    @property
    def unmeasured_s(self) -> float:
        """Time in which at least one meter counted nothing, seconds."""
        least = min((a.counted.covered_s for a in self._accounts), default=0.0)
        return max(0.0, self.duration_s - least)

    @property
    def complete(self) -> bool:
        """True if the run ended by itself and was measured for all of its time (but 1 %)."""
        measured = any(a.counted.covered_s > 0 for a in self._accounts)
        return self.ended == "finished" and measured and self.unmeasured_s <= self._tolerated_s

    @property
    def _tolerated_s(self) -> float:
        return max(_UNMEASURED * self.duration_s, _EDGES_S)

    @property
    def source(self) -> Source:
        """The weakest label among the meters."""
        return find_weakest_source([a.meter.source for a in self._accounts])

    @property
    def facility_energy_j(self) -> float:
        """Energy with the building's share: energy times PUE, joules."""
        return self.energy_j * self.pue

    @property
    def carbon_g(self) -> float:
        """CO2e of the energy with the building's share, grams; ``nan`` without a carbon intensity."""
        return self.facility_energy_j / J_PER_KWH * self.grid_g_per_kwh

    def document(self) -> dict[str, Any]:
        """Everything as one JSON document, which ``deepen lifecycle`` reads as ``training_run``."""
        measured = any(a.counted.covered_s > 0 for a in self._accounts)
        return {
            "schema": TRAINING_SCHEMA,
            "label": self.label,
            "energy_j": self.energy_j if measured else None,
            "uncertainty_j": _nan_to_none(self.uncertainty_j),
            "duration_s": self.duration_s,
            "unmeasured_s": self.unmeasured_s,
            "mean_power_w": self.mean_power_w if measured else None,
            "source": self.source,
            "complete": self.complete,
            "ended": self.ended,
            "pue": self.pue,
            "facility_energy_j": self.facility_energy_j if measured else None,
            "grid_g_per_kwh": _nan_to_none(self.grid_g_per_kwh),
            "carbon_g": _nan_to_none(self.carbon_g) if measured else None,
            "meters": [
                {
                    "meter": a.meter.id,
                    "calibration": a.meter.calibration_id,
                    "source": a.meter.source,
                    "energy_j": a.counted.energy_j,
                    "covered_s": a.counted.covered_s,
                    "bridged_s": a.counted.bridged_s,
                }
                for a in self._accounts
            ],
            "laps": [{"label": x.label, "energy_j": x.energy_j, "duration_s": x.duration_s} for x in self.laps],
            "warnings": [*self.notes, *(n for a in self._accounts for n in a.notes)],
            "started_at": self.started_at,
        }

    # ---- while it runs -----------------------------------------------------------------------------------------------

    def lap(self, label: str) -> TrainingLap:
        """End a part of the run and begin the next one.

        Args:
            label: Name of the part.

        Raises:
            MeasureError: If the run is not going on.
        """
        with self._lock:
            if self.ended != "running":
                raise MeasureError(f"lap '{label}': the run is not going on", cure="call it inside the with block")
            self._roll()
            now_s, energy_j = self._now(), sum(a.counted.energy_j for a in self._accounts)
            done = TrainingLap(label, energy_j - self._lap_j, now_s - self._lap_s)
            self._lap_s, self._lap_j = now_s, energy_j
            self.laps.append(done)
            return done

    def __enter__(self) -> Self:
        if self.ended != "not started":
            raise MeasureError("a training run is measured once", cure="make another one with measure_training")
        with ExitStack() as undo:
            for account in self._accounts:
                undo.callback(account.meter.close)
            for account in self._accounts:
                account.start()
            undo.pop_all()
        self._start_s = self._rolled_s = self._lap_s = self._now()
        self.started_at = utc_now()
        self.ended = "running"
        self._thread = threading.Thread(target=self._watch, name="deepen-training", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            detail = f": {error}" if str(error) else ""
            self.ended = "finished" if kind is None else f"failed: {kind.__name__}{detail}"
            self._end_s = self._now()
            for account in self._accounts:
                self._try(account, account.finish)
            for account in self._accounts:
                self._try(account, account.meter.close)
            if self.unmeasured_s > self._tolerated_s:
                add_note(
                    self.notes, f"{self.unmeasured_s:.3g} s of {self.duration_s:.3g} s were not measured by every meter"
                )
            self._save()

    def _watch(self) -> None:
        """Read the meters about once a second, and bring the accounts up to date every ten."""
        while not self._stop.wait(self._tick_s):
            with self._lock:
                for account in self._accounts:
                    self._try(account, account.tick)
                if self._now() - self._rolled_s >= self._segment_s:
                    self._roll()

    def _roll(self) -> None:
        for account in self._accounts:
            self._try(account, account.roll)
        self._rolled_s = self._now()
        self._save()

    def _try(self, account: EnergyTotal, action: Callable[[], None]) -> None:
        """Let no meter end a training run: what fails becomes a note."""
        try:
            action()
        except Exception as error:  # whatever a driver raises
            known = error if isinstance(error, DeepenError) else MeterError(f"{type(error).__name__}: {error}")
            text = str(known.with_subject(account.meter.id))
            if text not in account.notes:
                _log.warning("training: %s", text)
            add_note(account.notes, text)

    def _save(self) -> None:
        if self._out is None:
            return
        try:
            with replace_file(self._out) as part:
                part.write_text(json.dumps(self.document(), indent=2) + "\n", encoding="utf-8")
        except StorageError as error:
            if str(error) not in self.notes:
                _log.warning("training: %s", error)
            add_note(self.notes, str(error))


def measure_training(
    meter: str | Meter | Sequence[str | Meter] | None = None,
    *,
    label: str = "",
    pue: float = 1.0,
    grid_g_per_kwh: float = math.nan,
    out: str | Path | None = None,
) -> TrainingRun:
    """Measure a training run on this machine: ``with deepen.measure_training() as run: ...``.

    Args:
        meter: ``NAME[:PORT][?key=value]`` (``nvml:0``, ``rapl``, ``ppk2``, ...), an open meter, or several of them
            whose energies add up; ``None`` for the counters of processor and GPUs, else the best source here.
        label: Name of the model in training.
        pue: Power usage effectiveness of the building, for ``facility_energy_j`` and ``carbon_g``.
        grid_g_per_kwh: Carbon intensity of the grid, gCO2e/kWh.
        out: JSON file that always holds the energy so far, and is read by ``deepen lifecycle`` as ``training_run``.

    Returns:
        The run; enter it with ``with``. Its meters are closed at the end.

    Raises:
        ConfigError: If a meter is unknown, the PUE is below 1, or the folder of ``out`` does not exist.
        MeterError: If a meter does not answer.
    """
    if not 1 <= pue < math.inf:
        raise ConfigError(f"a PUE of {pue:g} is impossible: it is the building's energy over the machines', 1 or more")
    if grid_g_per_kwh < 0 or math.isinf(grid_g_per_kwh):
        raise ConfigError(f"a carbon intensity of {grid_g_per_kwh:g} gCO2e/kWh is not a number from 0 up")
    file = None if out is None else Path(out)
    if file is not None and not file.absolute().parent.is_dir():
        raise ConfigError(f"{file}: its folder does not exist", cure="make it first")
    notes: list[str] = []
    with ExitStack() as undo:
        if meter is None:
            meters, notes = open_training_meters()
        else:
            given = [meter] if isinstance(meter, str) or not isinstance(meter, Sequence) else list(meter)
            if not given:
                raise ConfigError("no meter is named", cure="leave it out for the best source here")
            meters = []
            for one in given:
                meters.append(_open_meter_by_name(one) if isinstance(one, str) else one)
                undo.callback(meters[-1].close)
        undo.pop_all()
    if len(meters) > 1 and any(m.id not in ("rapl", "nvml") for m in meters):
        names = ", ".join(m.id for m in meters)
        notes.append(f"the energies of {names} are added: none of them may see what another one counts already")
    accounts = [make_energy_total(m) for m in meters]
    return TrainingRun(accounts, label=label, pue=pue, grid_g_per_kwh=grid_g_per_kwh, out=file, notes=notes)


def _open_meter_by_name(spec: str) -> Meter:
    """Open a meter by name; the modelled one gets the power figures of this machine."""
    if spec.partition("?")[0].partition(":")[0] != "cpu-model":
        return open_meter(spec)
    from deepen.devices import detect_power
    from deepen.devices.state.read_state import read_state

    return open_meter(spec, power=detect_power(read_state()))


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value
