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
from deepen.records import Accuracy, EnergyRecord, Source, Workload

if TYPE_CHECKING:
    from deepen.meters.types import Meter

__all__ = ["RecordBuilder", "RecordedMeter"]

_DRIFT = 0.05
_TREND = 0.05
_IDLE_CHANGE = 0.1


@dataclass(frozen=True, slots=True)
class RecordedMeter:
    """What a record takes from the meter.

    Attributes:
        id: Kind of power source.
        source: Label of its numbers.
        resolution_j: Smallest step of its energies, joules.
        update_s: Time between its readings, seconds.
        accuracy: How far it may be off.
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
    """What records of one session have in common.

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
    notes: tuple[str, ...] = ()

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

        Args:
            workload: What was run.
            found: Its blocks, judged with the idle power before.
            before: Idle power before them.
            after: Idle power after them.
            build: What the runtime says of itself.
            seen: The device meanwhile.

        Raises:
            MeasureError: If too many blocks had to be rejected, or the meter saw nothing of them.
        """
        judged, rule = found.selection, workload.rule
        accepted = judged.accepted
        if not accepted or judged.rejected_share > self.max_rejected:
            where = "on this machine" if self.device.link == "local" else "on the device"
            raise MeasureError(
                f"{workload.path.name}: {len(judged.rejected)} of {len(found.trials)} blocks were rejected "
                f"({judged.rejected[-1]['reason']}); stop other programs {where} and measure again"
            )
        idle = IdlePowerLine.through([before, after])
        starts = np.array([t.interval.start_s for t in accepted])
        ends = np.array([t.interval.end_s for t in accepted])
        # The blocks were judged with the idle power before; what is known now is linear in between.
        idle_w = idle.energy_j(starts, ends) / (ends - starts)
        net = [t.net_j - (w - before.power_w) * t.latency_s for t, w in zip(accepted, idle_w.tolist(), strict=True)]
        accepted = tuple(replace(t, net_j=value) for t, value in zip(accepted, net, strict=True))
        energy_j = statistics.fmean(net)
        terms = combine_trials(
            accepted,
            resolution_j=self.meter.resolution_j,
            update_s=self.meter.update_s,
            idle_std_w=float(idle.standard_w(starts, ends).mean()),
        )
        if energy_j <= 2 * terms.standard_j and any(c.code == "alignment" for c in found.cautions):
            raise MeasureError(
                f"{workload.path.name}: neither its runs nor the sync pattern can be told from idle power in the trace "
                f"of {self.meter.id}; is it connected to this device ({self.device.id})? Name the meter that is, or "
                "measure for longer"
            )
        warnings = list(judged.warnings)
        if len(accepted) < rule.min_blocks:
            warnings.append(f"few blocks: {len(accepted)} counted, {rule.min_blocks} wanted")
        warnings += self._spread(net, rule.rel_std) + self._doubts(accepted, before, after, terms, energy_j)
        warnings += map(
            str, [*found.cautions, *warn_missing_accuracy(self.meter.accuracy, self.meter.source, self.meter.id)]
        )
        warnings += seen.warnings(self.device.max_temperature_c) + self.conditions.warnings
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
            warnings=tuple(warnings),
            alignment=found.alignment,
            budget=terms.terms(),
            serial=self.conditions.serial,
            settings=self.conditions.settings,
            temperature_before_c=seen.before.temperature_c,
            temperature_max_c=seen.hottest_c,
            throttled=seen.throttled,
        )

    @staticmethod
    def _spread(values: list[float], wanted: float) -> list[str]:
        """What the blocks say of each other."""
        warnings = []
        error = compute_relative_error(values)
        if len(values) > 1 and error > wanted:
            warnings.append(f"spread: relative standard error {100 * error:.1f} %, {100 * wanted:.1f} % wanted")
        change = estimate_trend(values)
        if abs(change) > _TREND:
            warnings.append(f"trend: energy changed by {100 * change:+.1f} % while it was measured")
        return warnings

    def _doubts(
        self,
        accepted: tuple[Trial, ...],
        before: IdlePower,
        after: IdlePower,
        terms: UncertaintyBudget,
        energy_j: float,
    ) -> list[str]:
        """What meter, idle power and reference workload say of them."""
        warnings = []
        block_s = accepted[0].interval.duration_s
        if block_s < 100 * self.meter.update_s * (1 - 1e-6):
            warnings.append(
                f"short blocks: {block_s:.3f} s span {block_s / self.meter.update_s:.0f} updates of {self.meter.id}, "
                "100 wanted"
            )
        if before.power_w > 0 and abs(after.power_w / before.power_w - 1) > _IDLE_CHANGE:
            warnings.append(f"idle power changed from {before.power_w:.3f} W to {after.power_w:.3f} W")
        if energy_j <= 2 * terms.standard_j:
            warnings.append("the workload's energy cannot be told from idle power")
        drift = self.drift.change_at(accepted[-1].interval.end_s)
        if abs(drift) > _DRIFT:
            warnings.append(f"drift: the reference workload takes {100 * drift:+.1f} % energy since the session began")
        return warnings + list(self.notes)
