"""From blocks that were run to the record of a workload, wherever and by whom they were run."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from deepen.clock.host_clock import utc_now
from deepen.devices.types import DeviceProfile
from deepen.errors import MeasureError
from deepen.measure.blocks import MeasuredBlocks
from deepen.measure.conditions.device_conditions import DeviceConditions
from deepen.measure.conditions.drift_reference import DriftSeries
from deepen.measure.conditions.thermal_watch import ThermalHistory
from deepen.measure.energy.idle_power import IdlePower, IdlePowerLine
from deepen.measure.energy.uncertainty_budget import UncertaintyBudget, warn_missing_accuracy
from deepen.measure.trials import Trial, combine_trials, compute_relative_error, estimate_trend
from deepen.records import Accuracy, EnergyRecord, MeasurementWarning, Source, Workload

if TYPE_CHECKING:
    from deepen.meters.types import Meter

__all__ = ["RecordBuilder", "RecordedMeter"]

_DRIFT = 0.05
_TREND = 0.05
_IDLE_CHANGE = 0.1


@dataclass(frozen=True, slots=True)
class RecordedMeter:
    """Facts of a meter that go into a record.

    Attributes:
        id: Kind of power source.
        source: Label of its numbers.
        resolution_j: Smallest step of its energies, joules.
        update_s: Time between its readings, seconds.
        accuracy: Its stated accuracy.
    """

    id: str
    source: Source
    resolution_j: float
    update_s: float
    accuracy: Accuracy

    @classmethod
    def of(cls, meter: Meter, accuracy: Accuracy) -> RecordedMeter:
        """Facts of a meter whose traces state an accuracy."""
        return cls(meter.id, meter.source, meter.resolution_j, meter.update_s, accuracy)


@dataclass(frozen=True, slots=True)
class RecordBuilder:
    """Makes the records of one session.

    Attributes:
        device: Profile of the device.
        meter: The meter.
        conditions: Settings the device was brought under.
        drift: Reference series of the session.
        max_rejected: Share of blocks that may be rejected.
        notes: Warnings that go into every record.
    """

    device: DeviceProfile
    meter: RecordedMeter
    conditions: DeviceConditions
    drift: DriftSeries
    max_rejected: float
    notes: tuple[MeasurementWarning, ...] = ()

    def record(
        self,
        workload: Workload,
        found: MeasuredBlocks,
        before: IdlePower,
        after: IdlePower,
        build: str,
        seen: ThermalHistory,
    ) -> EnergyRecord:
        """Make a workload's record.

        1. Too many rejected blocks are no result.
        2. Idle power is subtracted once and for all: the blocks were chosen net of the idle power before, and their
           gross energies are netted here with the line through the idle power before and after.
        3. The energy is the mean, its uncertainty that of :func:`~deepen.measure.trials.combine_trials`.
        4. An energy hidden in its uncertainty while the sync pattern was not found either means that the meter is
           connected to something else.
        5. Remarks on blocks, idle power, drift, the traces, the meter, the device and the inputs go with it.

        Args:
            workload: The workload.
            found: Its blocks, judged with the idle power before.
            before: Idle power before them.
            after: Idle power after them.
            build: Version, provider and settings of the runtime, as it states them.
            seen: Temperatures and throttling meanwhile.

        Raises:
            MeasureError: If too many blocks had to be rejected, or the meter saw nothing of them.
        """
        judged, rule = found.selection, workload.rule
        accepted = judged.accepted
        # 1. Enough blocks?
        if not accepted or judged.rejected_share > self.max_rejected:
            where = "on this machine" if self.device.link == "local" else "on the device"
            raise MeasureError(
                f"{workload.path.name}: {len(judged.rejected)} of {len(found.trials)} blocks were "
                f"rejected ({judged.rejected[-1]['reason']})",
                cure=f"stop other programs {where} and measure again",
            )
        # 2. Net energy.
        idle = IdlePowerLine.through([before, after])
        starts = np.array([t.interval.start_s for t in accepted])
        ends = np.array([t.interval.end_s for t in accepted])
        idle_w = idle.energy_j(starts, ends) / (ends - starts)
        net = [t.gross_j - w * t.latency_s for t, w in zip(accepted, idle_w.tolist(), strict=True)]
        accepted = tuple(replace(t, net_j=value) for t, value in zip(accepted, net, strict=True))
        # 3. The mean and its uncertainty.
        energy_j = statistics.fmean(net)
        terms = combine_trials(
            accepted,
            resolution_j=self.meter.resolution_j,
            update_s=self.meter.update_s,
            idle_std_w=float(idle.standard_w(starts, ends).mean()),
        )
        # 4. The right device?
        if energy_j <= 2 * terms.standard_j and any(w.code == "alignment" for w in found.warnings):
            raise MeasureError(
                f"{workload.path.name}: neither its runs nor the sync pattern can be told from idle power "
                f"in the trace of {self.meter.id}",
                cure=f"is it connected to this device ({self.device.id})? Name the meter that is, or measure "
                "for longer",
            )
        # 5. Remarks.
        warnings = list(judged.warnings)
        if len(accepted) < rule.min_blocks:
            text = f"{len(accepted)} counted, {rule.min_blocks} wanted"
            warnings.append(MeasurementWarning("few-blocks", text))
        warnings += self._warn_of_scatter(net, rule.rel_std) + self._warn_of_surroundings(
            accepted, before, after, terms, energy_j
        )
        warnings += [*found.warnings, *warn_missing_accuracy(self.meter.accuracy, self.meter.source, self.meter.id)]
        warnings += seen.warnings(self.device.max_temperature_c) + self.conditions.warnings
        warnings += workload.input_warnings
        return EnergyRecord(
            id=workload.id,
            kind=workload.kind,
            name=workload.path.stem,
            energy_j=energy_j,
            uncertainty_j=terms.standard_j,
            gross_energy_j=statistics.fmean(t.gross_j for t in accepted),
            latency_s=statistics.fmean(t.latency_s for t in accepted),
            idle_power_before_w=before.power_w,
            idle_power_after_w=after.power_w,
            threads=workload.threads,
            runtime=workload.runtime,
            runtime_build=build,
            device=self.device.id,
            meter=self.meter.id,
            source=self.meter.source,
            runs=len(accepted) * found.runs_per_block,
            trials=tuple(net),
            recorded_at=utc_now(),
            temperature_c=seen.after.temperature_c,
            frequency_hz=seen.after.frequency_hz,
            governor=seen.after.governor,
            rejected=judged.rejected,
            warnings=tuple(map(str, warnings)),
            alignment=found.alignment,
            budget=terms.terms(),
            serial=self.conditions.serial,
            settings=self.conditions.settings,
            temperature_before_c=seen.before.temperature_c,
            temperature_max_c=seen.hottest_c,
            throttled=seen.throttled,
            inputs={name: found.document() for name, found in workload.inputs.items()},
        )

    @staticmethod
    def _warn_of_scatter(values: list[float], wanted: float) -> list[MeasurementWarning]:
        """List the remarks that follow from the blocks alone."""
        warnings = []
        error = compute_relative_error(values)
        if len(values) > 1 and error > wanted:
            text = f"relative standard error {100 * error:.1f} %, {100 * wanted:.1f} % wanted"
            warnings.append(MeasurementWarning("spread", text))
        change = estimate_trend(values)
        if abs(change) > _TREND:
            text = f"energy changed by {100 * change:+.1f} % while it was measured"
            warnings.append(MeasurementWarning("trend", text))
        return warnings

    def _warn_of_surroundings(
        self,
        accepted: tuple[Trial, ...],
        before: IdlePower,
        after: IdlePower,
        terms: UncertaintyBudget,
        energy_j: float,
    ) -> list[MeasurementWarning]:
        """List the remarks that follow from meter, idle power and reference workload."""
        warnings = []
        block_s = accepted[0].interval.duration_s
        if block_s < 100 * self.meter.update_s * (1 - 1e-6):
            text = f"{block_s:.3f} s span {block_s / self.meter.update_s:.0f} updates of {self.meter.id}, 100 wanted"
            warnings.append(MeasurementWarning("short-blocks", text))
        if before.power_w > 0 and abs(after.power_w / before.power_w - 1) > _IDLE_CHANGE:
            text = f"idle power changed from {before.power_w:.3f} W to {after.power_w:.3f} W"
            warnings.append(MeasurementWarning("idle-drift", text))
        if energy_j <= 2 * terms.standard_j:
            text = "the workload's energy cannot be told from idle power"
            warnings.append(MeasurementWarning("undetected", text))
        drift = self.drift.change_at(accepted[-1].interval.end_s)
        if abs(drift) > _DRIFT:
            text = f"the reference workload takes {100 * drift:+.1f} % energy since the session began"
            warnings.append(MeasurementWarning("drift", text))
        return [*warnings, *self.notes]
