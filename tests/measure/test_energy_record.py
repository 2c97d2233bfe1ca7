"""Records made of blocks that were run elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepen.devices.types import DeviceProfile, DeviceState
from deepen.errors import MeasureError
from deepen.measure.blocks import MeasuredBlocks
from deepen.measure.conditions.device_conditions import DeviceConditions
from deepen.measure.conditions.drift_reference import DriftSeries
from deepen.measure.conditions.thermal_watch import ThermalHistory
from deepen.measure.energy.idle_power import IdlePower
from deepen.measure.energy_record import RecordBuilder, RecordedMeter
from deepen.measure.trials import Trial, TrialSelection
from deepen.records import Accuracy, EnergyRecord, Interval, MeasurementWarning, StoppingRule, Workload

METER = RecordedMeter("ppk2", "measured", 0.0, 1e-5, Accuracy())
STATE = DeviceState("", "aarch64", 8, (0,))


def made(link: str, rejected: int = 0, notes: tuple[str, ...] = ()) -> EnergyRecord:
    trials = tuple(Trial(Interval(t, t + 0.1, "run", runs=10), 12e-3, 2e-3) for t in (1.0, 1.1, 1.2))
    reasons = tuple({"reason": "outlier", "energy_j": 9.0} for _ in range(rejected))
    found = MeasuredBlocks(TrialSelection(trials, reasons, 0, ()), trials * 4, 10, True)
    books = RecordBuilder(DeviceProfile("d", link=link), METER, DeviceConditions("S"), DriftSeries(), 0.5, notes)
    work = Workload("w", Path("m.onnx"), "model", "onnxruntime", 1, {}, rule=StoppingRule(0.1, 0.2, 3, 0.01))
    # Idle power fell meanwhile: the blocks were judged with 1 W, and the middle one saw 0.9 W.
    return books.record(
        work,
        found,
        IdlePower(0.65, 1.0, 0.0),
        IdlePower(1.65, 0.8, 0.0),
        "fake 1",
        ThermalHistory(STATE, STATE, 40.0, ()),
    )


def test_net_energy_follows_idle_power_as_it_was_known_at_last() -> None:
    record = made("adb", notes=(MeasurementWarning("drift", "not watched"),))
    assert record.energy_j == pytest.approx(2e-3 + 0.1 * 0.01)
    assert (record.device, record.serial, record.meter, record.runs) == ("d", "S", "ppk2", 30)
    assert any(w.startswith("idle-drift: idle power changed from 1.000 W to 0.800 W") for w in record.warnings)
    assert "drift: not watched" in record.warnings
    assert any(w.startswith("accuracy") for w in record.warnings)  # nobody states the meter's


@pytest.mark.parametrize(("link", "where"), [("local", "on this machine"), ("adb", "on the device")])
def test_too_many_rejected_blocks_name_the_machine_that_is_busy(link: str, where: str) -> None:
    with pytest.raises(MeasureError, match=rf"m.onnx: 9 of 12 blocks .*stop other programs {where} and"):
        made(link, rejected=9)
