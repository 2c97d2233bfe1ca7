"""Training runs: energy over segments, laps, crashes, failing meters, and instruments that stream."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepen
from deepen.errors import ConfigError, MeasureError, MeterError
from deepen.measure.energy.long_term_energy import StreamEnergyTotal, TraceEnergyTotal, make_energy_total
from deepen.measure.training_energy import TrainingRun
from deepen.meters.energy_counter import CounterMeter
from deepen.meters.polled_meter import PolledMeter
from deepen.meters.stream.meter import StreamMeter
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy, Interval, PowerTrace, TraceWarning
from deepen.scoring.lifecycle import read_candidates
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.signal import StepSignal
from tests.support.fault_rigs import make_fault_rigs


class Counter(CounterMeter):
    """A counter that rises by so many watts, by the clock of the machine; fails while ``broken``."""

    def __init__(self, power_w: float, name: str = "rapl") -> None:
        self.power_w = power_w
        self.broken = False
        self.closed = 0
        self._t0 = time.monotonic()
        super().__init__(name, f"{name} fake", self._read, update_s=1e-3, resolution_j=1e-6, poll_s=0.02)

    def _read(self) -> float:
        if self.broken:
            raise MeterError("gone", subject=self.id, cure="plug it in")
        return self.power_w * (time.monotonic() - self._t0)

    def close(self) -> None:
        self.closed += 1
        super().close()


class ByHand:
    """A meter in a test's own time: the power is a function of it, marks are the samples; for accounts."""

    id, source, calibration_id, scope, update_s, resolution_j = "hand", "measured", "c", "machine", 1.0, 0.0

    def __init__(self, power_w: Any) -> None:
        self.power_w, self.now_s = power_w, 0.0
        self.failing = False
        self._t: list[float] = []
        self.held = 0

    def start(self) -> None:
        self._t = [self.now_s]

    def mark(self) -> None:
        if self.now_s > self._t[-1]:
            self._t.append(self.now_s)

    def observe(self, interval: Interval) -> None: ...

    def stop(self) -> PowerTrace:
        if self.failing:
            raise MeterError("hand: gone")
        self.mark()
        self.held = max(self.held, len(self._t))
        t_s = np.array(self._t)
        accuracy = Accuracy(0.01, 0.0, "sheet")
        hot = (TraceWarning("temperature", "hot"),)
        return PowerTrace(
            t_s,
            self.power_w(t_s),
            1.0,
            "hand",
            "c",
            "measured",
            accuracy=accuracy,
            warnings=hot,
        )

    def close(self) -> None: ...


def run_of(*meters: Any, **options: Any) -> TrainingRun:
    return TrainingRun([make_energy_total(m) for m in meters], **{"tick_s": 0.01, "segment_s": 0.05, **options})


# ---- accounts --------------------------------------------------------------------------------------------------------


def test_segments_add_up_to_the_integral_and_memory_stays_bounded() -> None:
    """A ramp over 10,000 s, in segments of 10 s: the trapezoid of a straight line is exact."""
    meter = ByHand(lambda t: 100 + 0.01 * t)
    account = TraceEnergyTotal(meter)
    account.start()
    for second in range(1, 10_001):
        meter.now_s = float(second)
        account.tick()
        if second % 10 == 0:
            account.roll()
    account.finish()
    assert account.counted.covered_s == pytest.approx(10_000)
    assert account.counted.energy_j == pytest.approx(100 * 10_000 + 0.01 * 10_000**2 / 2, rel=1e-9)
    assert meter.held <= 11
    assert account.counted.linear_j == pytest.approx(0.01 * account.counted.energy_j, rel=1e-6)  # gain adds up
    assert account.counted.random_j < 1e-3 * account.counted.energy_j
    assert account.notes == ["hand: hot"]


def test_the_moment_between_segments_is_bridged() -> None:
    meter = ByHand(lambda t: 50 + 0 * t)
    account = TraceEnergyTotal(meter)
    account.start()
    for second in range(1, 11):
        meter.now_s += 1
        stopped = meter.stop
        if second == 5:  # it takes half a second to stop and start
            account._close_segment()
            meter.now_s += 0.5
            account.roll()
        else:
            account.tick()
        assert stopped == meter.stop
    account.finish()
    assert account.counted.covered_s == pytest.approx(10.5)
    assert account.counted.energy_j == pytest.approx(525)
    assert account.counted.bridged_s == pytest.approx(0.5)


def test_a_segment_that_failed_is_counted_nowhere() -> None:
    meter = ByHand(lambda t: 50 + 0 * t)
    account = TraceEnergyTotal(meter)
    account.start()
    meter.now_s = 10.0
    account.roll()
    meter.now_s, meter.failing = 20.0, True
    with pytest.raises(MeterError, match="gone"):
        account.roll()
    meter.failing = False
    meter.now_s = 30.0
    account.roll()
    account.finish()
    assert account.counted.energy_j == pytest.approx(50 * 20)  # 0..10 and 20..30
    assert account.counted.covered_s == pytest.approx(20)
    assert account.counted.bridged_s == 0


@pytest.mark.parametrize("name", ["ppk2", "lvpm"])
def test_an_instrument_that_streams_keeps_only_its_sum(name: str, tmp_path: Path) -> None:
    rig = make_fault_rigs(tmp_path)[name]
    clock = VirtualClock()
    rng = np.random.default_rng(4)
    edges = 1000.0 + np.cumsum(rng.uniform(0.05, 0.2, 200))
    load = StepSignal(edges, rng.uniform(rig.least_w, rig.most_w, edges.size + 1))
    port = rig.port(rig.emulator(load, 1), clock, latency_s=5e-4, jitter_s=1e-3, seed=1, faults=())
    instrument = rig.make(port, MeterSpec("meter", "port", dict(rig.options)), "simulated")
    meter = StreamMeter(instrument, port, now=clock.now, max_loss=1.0, threaded=False)
    account = make_energy_total(meter)
    assert isinstance(account, StreamEnergyTotal)
    account.start()
    for _ in range(2):
        meter.run_until(clock.now() + 2.0)
        account.tick()
        account.roll()
    so_far = account.counted
    assert 3.5 < so_far.covered_s < 4.6
    meter.run_until(clock.now() + 2.0)
    account.finish()
    ending = meter.ending
    assert ending is not None
    true_j = load.energy_j(ending.start_s, ending.end_s)
    assert account.counted.energy_j == pytest.approx(true_j, rel=5e-3)
    assert account.counted.covered_s == pytest.approx(ending.end_s - ending.start_s)
    assert account.counted.energy_j > so_far.energy_j
    account.roll()  # begins again, and adds up
    meter.run_until(clock.now() + 1.0)
    account.finish()
    assert account.counted.covered_s > 6.9
    meter.close()


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.serial
def test_energy_duration_and_power_of_a_run(tmp_path: Path) -> None:
    cpu, gpu = Counter(40.0), Counter(300.0, "nvml")
    out = tmp_path / "run.json"
    with run_of(cpu, gpu, pue=1.5, grid_g_per_kwh=360.0, out=out, label="toy") as run:
        time.sleep(0.3)
        assert run.ended == "running"
        assert run.energy_j > 0
    covered_s = [m["covered_s"] for m in run.document()["meters"]]
    assert run.energy_j == pytest.approx(40 * covered_s[0] + 300 * covered_s[1], rel=1e-3)
    assert min(covered_s) >= run.duration_s
    assert run.mean_power_w == pytest.approx(340, rel=1e-3)
    assert run.facility_energy_j == 1.5 * run.energy_j
    assert run.carbon_g == pytest.approx(1.5 * run.energy_j * 1e-4)
    assert run.source == "measured"
    assert run.complete
    assert math.isnan(run.uncertainty_j)  # nobody states the accuracy of a counter
    assert cpu.closed == gpu.closed == 1
    document = json.loads(out.read_text())
    assert document["energy_j"] == run.energy_j
    assert document["ended"] == "finished"
    assert [m["meter"] for m in document["meters"]] == ["rapl", "nvml"]
    assert document["uncertainty_j"] is None


@pytest.mark.serial
def test_laps_add_up_to_the_run() -> None:
    meter = Counter(100.0)
    with run_of(meter) as run:
        for epoch in range(3):
            time.sleep(0.06)
            lap = run.lap(f"epoch {epoch}")
            assert lap.energy_j > 0
        so_far = run.energy_j
    assert sum(lap.energy_j for lap in run.laps) == pytest.approx(so_far)
    assert [lap.label for lap in run.laps] == ["epoch 0", "epoch 1", "epoch 2"]
    with pytest.raises(MeasureError, match="the run is not going on"):
        run.lap("late")


@pytest.mark.serial
@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), KeyboardInterrupt()])
def test_a_crash_of_the_training_still_gives_the_energy_so_far(error: BaseException, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    run = run_of(Counter(100.0), out=out)
    with pytest.raises(type(error)), run:
        time.sleep(0.1)
        raise error
    assert run.energy_j >= 100 * 0.1
    assert not run.complete
    assert run.ended.startswith(f"failed: {type(error).__name__}")
    assert json.loads(out.read_text())["energy_j"] == run.energy_j


@pytest.mark.serial
def test_a_meter_that_fails_does_not_end_the_training() -> None:
    good, bad = Counter(100.0), Counter(50.0, "nvml")
    with run_of(good, bad, tick_s=0.01) as run:
        time.sleep(0.12)
        bad.broken = True
        time.sleep(0.3)
    part = {a.meter.id: a.counted for a in run._accounts}
    assert part["rapl"].covered_s >= run.duration_s
    assert 0 < part["nvml"].covered_s < run.duration_s - 0.25
    assert run.unmeasured_s > 0.25
    assert run.mean_power_w == pytest.approx(150, rel=0.02)  # over the time each was measured
    warnings = run.document()["warnings"]
    assert "nvml: gone; plug it in" in warnings
    assert len(warnings) < 10
    assert bad.closed == 1


@pytest.mark.serial
def test_a_run_without_half_of_its_time_is_not_complete() -> None:
    meter = Counter(50.0)
    with run_of(meter, tick_s=0.001, segment_s=0.02) as run:
        time.sleep(0.1)
        meter.broken = True
        time.sleep(0.2)
    assert not run.complete
    assert any("were not measured by every meter" in n for n in run.notes)


def test_a_run_with_no_energy_at_all_says_so() -> None:
    meter = Counter(50.0)
    run = run_of(meter, segment_s=10.0)
    with pytest.raises(MeasureError, match="it has not begun"):
        _ = run.energy_j
    with run:
        meter.broken = True
    with pytest.raises(MeasureError, match="the run has no energy"):
        _ = run.energy_j
    assert run.document()["energy_j"] is None
    assert not run.complete


def test_a_meter_that_does_not_start_is_told_at_once_and_all_are_closed() -> None:
    good, bad = Counter(1.0), Counter(1.0, "nvml")
    bad.broken = True
    with pytest.raises(MeterError, match="nvml: gone"), run_of(good, bad):
        pytest.fail("the training must not begin")
    assert good.closed == bad.closed == 1


def test_a_run_is_measured_once() -> None:
    run = run_of(Counter(1.0))
    with run:
        pass
    with pytest.raises(MeasureError, match="measured once"), run:
        pass


@pytest.mark.serial
def test_sampling_meters_state_their_uncertainty() -> None:
    meter = PolledMeter(
        "scpi", "c", lambda: 20.0, update_s=0.0, resolution_j=0.0, poll_s=0.005, accuracy=Accuracy(0.01, 0.1, "sheet")
    )
    with run_of(meter) as run:
        time.sleep(0.2)
    covered_s = run.document()["meters"][0]["covered_s"]
    assert run.energy_j == pytest.approx(20 * covered_s)
    assert run.uncertainty_j >= 0.999 * math.hypot(0.01 * run.energy_j, 0.1 * covered_s)


@pytest.mark.serial
def test_a_full_disk_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with run_of(Counter(1.0), out=tmp_path / "run.json") as run:
        time.sleep(0.1)
    assert run.complete
    assert sum("No space left" in n for n in run.notes) == 1


@pytest.mark.serial
def test_after_kill_9_the_file_holds_the_energy_so_far(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from deepen.measure.energy.long_term_energy import make_energy_total\n"
        "from deepen.measure.training_energy import TrainingRun\n"
        "from deepen.meters.energy_counter import CounterMeter\n"
        "meter = CounterMeter('rapl', 'c', lambda: 100 * time.monotonic(), update_s=1e-3, "
        "resolution_j=0, poll_s=0.05)\n"
        "with TrainingRun([make_energy_total(meter)], out=Path(sys.argv[1]), tick_s=0.02, segment_s=0.05):\n"
        "    print('on', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        deadline = time.monotonic() + 60
        while not (out.exists() and json.loads(out.read_text())["energy_j"]) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    document = json.loads(out.read_text())
    assert document["ended"] == "running"
    assert document["complete"] is False
    assert document["energy_j"] == pytest.approx(100 * document["meters"][0]["covered_s"], rel=1e-3)


# ---- the front door --------------------------------------------------------------------------------------------------


def test_measure_training_with_the_modelled_source(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    with deepen.measure_training("cpu-model", out=out, label="toy") as run:
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            sum(range(1000))
    assert run.source == "modelled"
    assert run.energy_j > 0
    table = tmp_path / "c.csv"
    table.write_text("name,accuracy,training_run,inference_J\ntoy,0.5,run.json,1\n")
    found = read_candidates(table)
    assert found.training_j[0] == run.energy_j
    assert found.sources == ("modelled",)


@pytest.mark.serial
def test_without_a_name_it_takes_what_there_is() -> None:
    with deepen.measure_training() as run:
        time.sleep(0.05)
    assert run.energy_j > 0
    assert run.source in ("measured", "modelled")


@pytest.mark.serial
def test_open_meters_are_added_and_overlap_is_told() -> None:
    with deepen.measure_training([Counter(10.0), Counter(20.0, "wall")]) as run:
        time.sleep(0.05)
    assert run.mean_power_w == pytest.approx(30, rel=0.05)
    assert any("the energies of rapl, wall are added" in n for n in run.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pue": 0.5}, "a PUE of 0.5 is impossible"),
        ({"grid_g_per_kwh": -1.0}, "carbon intensity of -1"),
        ({"out": "/nowhere/at/all/run.json"}, "its folder does not exist"),
        ({"meter": "nvm"}, "unknown meter 'nvm'"),
        ({"meter": []}, "no meter is named"),
    ],
)
def test_wrong_settings_are_told_before_the_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        deepen.measure_training(**options)
    assert message in str(caught.value)


@pytest.mark.serial
def test_an_incomplete_run_is_not_taken_for_a_training_energy(tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    with pytest.raises(ZeroDivisionError), run_of(Counter(100.0), out=out):
        time.sleep(0.06)
        _ = 1 / 0
    table = tmp_path / "c.csv"
    table.write_text("name,accuracy,training_run,inference_J\ntoy,0.5,run.json,1\n")
    with pytest.raises(deepen.errors.DatasetError, match=r"is not complete \(failed: ZeroDivisionError"):
        read_candidates(table)


@pytest.mark.serial
def test_nothing_is_left_running() -> None:
    import threading

    with run_of(Counter(1.0)):
        time.sleep(0.05)
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name in ("deepen-training", "deepen-sampler")]
