"""A measuring session: one device, one meter, one worker, many workloads.

The energy of a workload is the **mean** over the blocks that count, not the median: energies of blocks add up to the
energy of a long run, and only means add; what would pull a mean away (interrupted blocks, outliers) is rejected by a
stated rule and listed in the record. The blocks themselves are in ``EnergyRecord.trials``, so the median is one call
away (:func:`compute_median_energy_j`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from deepen.devices.protocols import Device, LoadedModel, Runtime
from deepen.devices.runtimes.sync_load import ShellLoad
from deepen.errors import LinkError, MeasureError, MeterError, RunError
from deepen.measure.alignment.load_pattern import Sync, SyncPulses, check_sync, choose_sync_pulses
from deepen.measure.blocks import (
    MeasuredBlocks,
    SessionClock,
    choose_runs_per_block,
    measure_blocks,
    measure_idle_power,
    warm_up_model,
)
from deepen.measure.conditions.device_conditions import DeviceConditions, get_device_serial
from deepen.measure.conditions.drift_reference import DriftSeries, ReferencePoint
from deepen.measure.conditions.runtime_choice import write_session_model
from deepen.measure.conditions.thermal_watch import ThermalWatch
from deepen.measure.energy.idle_power import IdlePower
from deepen.measure.energy.integrate import MAX_LOSS
from deepen.measure.energy_record import RecordBuilder, RecordedMeter
from deepen.measure.workload import list_loaded_inputs, load_workload, make_workload
from deepen.meters.types import Meter
from deepen.records import Accuracy, EnergyRecord, MeasurementWarning, StoppingRule, Workload
from deepen.storage.temporary_folders import TemporaryFolder

__all__ = ["Session", "compute_median_energy_j"]

_LONGEST_PATTERN_S = 1.0  # a sync pattern that is not required
_REFERENCE_TRIES = 3
_CLEAR_RISE = 4.0  # standard uncertainties by which the reference must raise power above idle
_REFERENCE_RULE = StoppingRule(min_duration_s=0.05, max_duration_s=0.3, min_blocks=5, rel_std=0.02)
_EMPTY_RULE = StoppingRule(min_duration_s=0.1, max_duration_s=1.0, min_blocks=5, rel_std=0.02)


def compute_median_energy_j(record: EnergyRecord) -> float:
    """Median of the accepted blocks' net energy per run, joules (the record's own figure is the mean)."""
    return statistics.median(record.trials)


def _is_hidden_in_idle_power(rises_w: list[float], idle: IdlePower) -> bool:
    """Tell whether the power that blocks add to idle power may be nothing at all."""
    spread = statistics.stdev(rises_w) / math.sqrt(len(rises_w)) if len(rises_w) > 1 else 0.0
    return statistics.fmean(rises_w) <= _CLEAR_RISE * math.hypot(spread, idle.std_w)


class Session:
    """Measures workloads one after the other.

    Use it as a context manager; leaving it ends the worker, also after Ctrl-C::

        with Session(device, meter) as session:
            record = session.measure(make_workload("model.onnx"))
    """

    def __init__(
        self,
        device: Device,
        meter: Meter,
        *,
        threads: int = 1,
        seed: int = 0,
        runtime: str = "onnxruntime",
        cpu_mask: tuple[int, ...] | None = None,
        block_s: float = 0.02,
        idle_s: float | None = None,
        idle_every_s: float = 60.0,
        reference_every_s: float | None = 20.0,
        max_rejected: float = 0.5,
        sync: Sync = "auto",
        max_loss: float | None = None,
        conditions: DeviceConditions | None = None,
        clock: SessionClock | None = None,
    ) -> None:
        """Describe the session; nothing runs before it is entered.

        Args:
            device: The device that runs the workloads. The session does not close it.
            meter: Power source. The session does not close it.
            threads: Threads of the reference workloads (each measured workload carries its own).
            seed: Seed of input values.
            runtime: Runtime opened on the device.
            cpu_mask: Cores to run on; ``None`` for the device's choice.
            block_s: Least length of a block, seconds.
            idle_s: Length of an idle measurement; ``None`` for 0.5 s, or 0.02 s where the meter sees the worker alone
                (then idle power is a constant).
            idle_every_s: Idle power is measured again once it is older than this.
            reference_every_s: Same for the reference workload; ``None`` never measures it by itself.
            max_rejected: Share of blocks that may be rejected.
            sync: Way from the meter's time to the host's. ``pulses`` plays a load pattern before and after the blocks
                and finds it in the trace; ``none`` trusts the meter's own clock map; ``auto`` plays the pattern where
                the meter has a clock of its own and the pattern takes no more than a second.
            max_loss: Largest share of samples that may be lost from a trace or a block; ``None`` for what the meter was
                told to allow, else 0.1 %.
            conditions: Settings the device was brought under; they go into every record.
            clock: Time; for stand-ins.

        Raises:
            ConfigError: If ``sync`` is none of these.
        """
        check_sync(sync)
        self.device = device
        self.meter = meter
        self.threads = threads
        self.seed = seed
        self.drift_series = DriftSeries()
        self.idles: list[IdlePower] = []
        self._runtime_name = runtime
        self._cpu_mask = cpu_mask
        self._block_s = block_s
        self._idle_s = (0.02 if meter.scope == "process" else 0.5) if idle_s is None else idle_s
        self._idle_every_s = idle_every_s
        self._reference_every_s = reference_every_s
        self._max_rejected = max_rejected
        self._sync: Sync = sync
        self._max_loss: float = getattr(meter, "max_loss", MAX_LOSS) if max_loss is None else max_loss
        self._own_clock = False  # whether the meter's samples are timed by a clock of its own
        self._accuracy = Accuracy()
        self._conditions = conditions or DeviceConditions(get_device_serial(device))
        self._clock = clock or SessionClock()
        self._runtime: Runtime | None = None
        self._folder: Path | None = None
        self._scratch: TemporaryFolder | None = None
        self._reference_loaded: LoadedModel | None = None
        self._reference_runs = 0
        self._reference_run_s = 0.0
        self._notes: tuple[MeasurementWarning, ...] = ()  # for every record of this session
        self._empty: EnergyRecord | None = None

    def __enter__(self) -> Session:
        """Open the runtime and measure idle power."""
        if self._runtime is not None:
            raise MeasureError("this session is open already", cure="open another one")
        self._scratch = TemporaryFolder("deepen-session-")
        self._folder = self._scratch.path
        try:
            self._runtime = self.device.runtime(self._runtime_name, self._cpu_mask)
            if self._reference_every_s is not None:
                # This starts the worker, so idle power is that of a machine with a waiting worker.
                self._start_drift_series()
            if not self.idles:
                self.idle()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the worker."""
        self.close()

    def close(self) -> None:
        """End the worker and remove the session's files; harmless when closed."""
        runtime, self._runtime = self._runtime, None
        self._folder = None
        scratch, self._scratch = self._scratch, None
        self._reference_loaded = None
        try:
            if runtime is not None:
                runtime.close()
        finally:
            if scratch is not None:
                scratch.close()

    # ---- idle, drift, overhead ------------------------------------------------------------------------------------

    @property
    def runtime(self) -> str:
        """Name of the runtime this session was asked for; workloads carry it."""
        return self._runtime_name

    def idle(self) -> IdlePower:
        """Measure idle power now and remember it."""
        self._open_runtime()
        found, trace = measure_idle_power(self.meter, self._idle_s, self._clock, max_loss=self._max_loss)
        self._own_clock = trace.clock is not None and trace.clock.method == "arrival"
        self._accuracy = trace.accuracy
        self.idles.append(found)
        return found

    def reference(self) -> ReferencePoint:
        """Measure the reference workload now and append it to the drift series.

        It is an ONNX model, or the same arithmetic as a ``.tflite`` model where the runtime takes no ONNX.

        Raises:
            RunError: If the runtime does not run it (an accelerator that takes no such operators).
            LinkError, MeterError: If the device or the meter is gone, or the meter sees nothing of the first one.
        """
        runtime = self._open_runtime()
        if self._reference_loaded is None or not self._reference_loaded.alive:
            path = self._write_own_model("reference")
            self._reference_loaded = runtime.load(path, threads=self.threads, seed=self.seed)
            self._reference_run_s = warm_up_model(self._reference_loaded, 0.05)
            self._reference_runs = choose_runs_per_block(
                self._reference_run_s, self._block_s / 2, self.meter.update_s, _REFERENCE_RULE
            )
        idle = self._get_recent_idle_power()
        loaded = self._reference_loaded
        if self.drift_series.points or not self._own_clock:
            found = self._measure_blocks(loaded, _REFERENCE_RULE, self._reference_runs, idle, self.threads)
        else:
            found = self._measure_first_reference(loaded, idle)
        kept = found.selection.accepted or found.trials
        point = ReferencePoint(
            t_s=(kept[0].interval.start_s + kept[-1].interval.end_s) / 2,
            latency_s=statistics.median(t.latency_s for t in kept),
            energy_j=statistics.fmean(t.net_j for t in kept),
        )
        self.drift_series.points.append(point)
        return point

    @property
    def drift(self) -> tuple[tuple[float, float], ...]:
        """Change of the reference workload's energy since the session began, as ``(t_s, share)``."""
        return self.drift_series.relative()

    def speed_at(self, t_s: float) -> float:
        """Speed of the device at a moment over its usual speed in this session (see ``DriftSeries.speed_at``)."""
        return self.drift_series.speed_at(t_s)

    def empty_run(self) -> EnergyRecord:
        """Measure one run of a model that does nothing (once per session): the cost of a call."""
        if self._empty is None:
            path = self._write_own_model("empty")
            work = make_workload(path, kind="model", runtime=self._runtime_name, threads=self.threads, rule=_EMPTY_RULE)
            self._empty = self.measure(work)
        return self._empty

    def empty_run_j(self) -> float:
        """Net energy of one run of a model that does nothing, joules."""
        return self.empty_run().energy_j

    # ---- workloads ------------------------------------------------------------------------------------------------

    def measure(self, workload: Workload, *, idle_after: bool = False) -> EnergyRecord:
        """Measure one workload.

        Args:
            workload: Model and stopping rule.
            idle_after: Measure idle power again afterwards; else the record's ``idle_power_after_w`` is the latest
                one known (idle power is measured every ``idle_every_s``, not per kernel).

        Returns:
            The record; name is the file's stem, family and features are for the caller to fill in.

        Raises:
            ConfigError: If the file is missing or an input needs a shape.
            RunError: If the model cannot be run here.
            MeasureError: If too many blocks had to be rejected.
            LinkError, MeterError: If the device or the meter is gone.
        """
        with self.hold(workload) as measure:
            return measure(idle_after)

    def list_inputs(self, workload: Workload) -> list[Mapping[str, Any]]:
        """List name, shape and type of every input of a workload, as the runtime states them; loads it once.

        Raises:
            ConfigError: If the runtime does not state its inputs, and so takes no values of them.
            RunError, LinkError: If the model cannot be run, or the device is gone.
        """
        loaded = self._open_runtime().load(
            workload.path, threads=workload.threads, shapes=workload.shapes, seed=self.seed
        )
        try:
            return list_loaded_inputs(loaded, workload.runtime)
        finally:
            self._unload(loaded)

    @contextmanager
    def hold(self, workload: Workload) -> Iterator[Callable[[bool], EnergyRecord]]:
        """Keep a workload loaded, so that it can be measured several times with other work in between.

        Yields:
            A function that measures it now; its argument and what it returns and raises are those of :meth:`measure`.
        """
        runtime = self._open_runtime()
        if workload.runtime not in (self._runtime_name, runtime.name):
            raise MeasureError(
                f"this session runs {self._runtime_name}", cure=f"open another one for {workload.runtime}"
            )
        self._update_drift_series()
        loaded, loaded_workload = load_workload(runtime, workload, self.seed)

        def measure(idle_after: bool = False) -> EnergyRecord:
            # 1. Before: drift and idle power where they are old, warm-up, settings read back.
            self._update_drift_series()
            before = self._get_recent_idle_power()
            per_run = warm_up_model(loaded, workload.warmup_s)
            n = choose_runs_per_block(per_run, self._block_s, self.meter.update_s, workload.rule)
            self._conditions.check(self._clock.now())
            # 2. The blocks, with the device watched.
            pulses = self._choose_pulses(loaded, per_run)
            watch = ThermalWatch(self.device, self._clock.now)
            found = self._measure_blocks(loaded, workload.rule, n, before, workload.threads, pulses, watch.read_if_due)
            seen = watch.end()
            # 3. After: idle power where it is asked for or old, and the record.
            after = self.idle() if idle_after or self._is_due(self.idles, self._idle_every_s) else before
            return self._make_record_builder().record(loaded_workload, found, before, after, loaded.build, seen)

        try:
            yield measure
        finally:
            self._unload(loaded)

    def _start_drift_series(self) -> None:
        """Measure the reference for the first time; drift is not watched if the runtime cannot run it."""
        try:
            self.reference()
        except RunError as error:
            self._reference_every_s = None
            text = f"not watched, because the runtime does not run the reference workload ({error})"
            self._notes = (MeasurementWarning("drift", text),)

    def _measure_first_reference(self, loaded: LoadedModel, idle: IdlePower) -> MeasuredBlocks:
        """Measure the reference for the first time, and check that the meter is connected to this device.

        A meter on another device shows power as well, and where that one works too, even a rise. The sync pattern
        tells them apart; where the meter is too slow for one, the rise has to do.

        Raises:
            MeterError: If the power it shows does not follow what this device did.
        """
        pulses = self._choose_pulses(loaded, self._reference_run_s)
        if pulses is not None:
            pulses = replace(pulses, required=True)
        for _ in range(_REFERENCE_TRIES):
            try:
                found = self._measure_blocks(loaded, _REFERENCE_RULE, self._reference_runs, idle, self.threads, pulses)
            except MeasureError as error:
                why = error.cause
                continue
            kept = found.selection.accepted or found.trials
            if not _is_hidden_in_idle_power([t.net_j / t.latency_s for t in kept], idle):
                return found
            why = "power does not rise with it"
        raise MeterError(
            f"what {self.meter.id} shows does not follow the reference workload ({why})",
            cure=f"is it connected to this device ({self.device.profile.id})? Name the meter that is, or "
            "stop other programs there",
        )

    def _update_drift_series(self) -> None:
        if self._reference_every_s is not None and self._is_due(self.drift_series.points, self._reference_every_s):
            self.reference()

    def _choose_pulses(self, loaded: LoadedModel, per_run_s: float) -> SyncPulses | None:
        """Fit the sync pattern to a loaded model; ``None`` where none is to be played.

        Raises:
            LinkError: If the device is gone.
        """
        if self._sync == "none" or (self._sync == "auto" and not self._own_clock):
            return None
        player: ShellLoad | None = getattr(loaded, "pulses", None)  # of runtimes whose own runs make no clear edges
        if player is not None:
            player.start()
            per_run_s = player.per_run_s
        return choose_sync_pulses(
            self._sync, per_run_s, self.meter.update_s, longest_s=_LONGEST_PATTERN_S, player=player
        )

    def _make_record_builder(self) -> RecordBuilder:
        """Make the builder of this session's records, as things are now."""
        return RecordBuilder(
            self.device.profile,
            RecordedMeter.of(self.meter, self._accuracy),
            self._conditions,
            self.drift_series,
            self._max_rejected,
            self._notes,
        )

    # ---- helpers --------------------------------------------------------------------------------------------------

    def _measure_blocks(
        self,
        loaded: LoadedModel,
        rule: StoppingRule,
        n: int,
        idle: IdlePower,
        threads: int,
        pulses: SyncPulses | None = None,
        between_blocks: Callable[[], None] = lambda: None,
    ) -> MeasuredBlocks:
        return measure_blocks(
            loaded,
            self.meter,
            rule,
            n,
            idle=idle,
            threads=threads,
            max_rejected=self._max_rejected,
            max_loss=self._max_loss,
            clock=self._clock,
            pulses=pulses,
            between_blocks=between_blocks,
        )

    @staticmethod
    def _unload(loaded: LoadedModel) -> None:
        if loaded.alive:
            loaded.close()

    def _open_runtime(self) -> Runtime:
        if self._runtime is None:
            raise LinkError("the session is closed", cure="open it with 'with Session(...) as session'")
        return self._runtime

    def _write_own_model(self, name: str) -> Path:
        """Write one of our own models, in a form this session's runtime takes."""
        runtime = self._open_runtime()
        assert self._folder is not None
        return write_session_model(self._folder, name, getattr(runtime, "suffixes", (".onnx",)))

    def _is_due(self, series: list[IdlePower] | list[ReferencePoint], every_s: float) -> bool:
        """Tell whether the last measurement of a series is older than ``every_s``, or there is none."""
        return not series or self._clock.now() - series[-1].t_s >= every_s

    def _get_recent_idle_power(self) -> IdlePower:
        """Get the last idle power, measured anew where it is old."""
        return self.idle() if self._is_due(self.idles, self._idle_every_s) else self.idles[-1]
