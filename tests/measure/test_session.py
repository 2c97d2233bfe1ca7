"""Sessions on a simulated bench: virtual time, known energy, scripted faults."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepen.devices import DeviceState
from deepen.errors import ConfigError, LinkError, MeasureError, MeterError, RunError
from deepen.measure import compute_median_energy_j, make_workload
from deepen.measure.session import Session
from deepen.records import StoppingRule
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import RunCost

BUILT_IN = ("reference", "empty")


def only(cost: RunCost):
    """The cost of workloads under test; the session's own models cost 1 ms at 2 W."""
    return lambda path: RunCost() if path.stem in BUILT_IN else cost


def measure(bench: SimulatedBench, path: Path, rule: StoppingRule | None = None, **options: Any):
    with bench.session(**options) as session:
        return session.measure(make_workload(path, rule=rule))


@pytest.mark.parametrize(
    ("latency_s", "power_w", "idle_w"), [(2e-3, 3.0, 1.0), (2e-5, 0.5, 4.0), (0.4, 12.0, 0.0), (5.0, 2.0, 1.0)]
)
def test_energy_latency_and_idle_come_out_exact_without_noise(
    latency_s: float, power_w: float, idle_w: float, model: Path
) -> None:
    bench = SimulatedBench(only(RunCost(latency_s, power_w)), idle_w=idle_w)
    record = measure(bench, model)
    assert record.energy_j == pytest.approx(latency_s * power_w, rel=1e-6)
    assert record.gross_energy_j == pytest.approx(latency_s * (power_w + idle_w), rel=1e-6)
    assert record.latency_s == pytest.approx(latency_s, rel=1e-9)
    assert record.idle_power_before_w == pytest.approx(idle_w)
    assert record.source == "simulated"
    assert (record.device, record.meter, record.kind, record.name) == ("fake", "simulated", "model", "model")
    assert record.rejected == ()
    assert record.runtime_build.startswith("fake 1.0")
    assert (record.temperature_c, record.frequency_hz, record.governor) == (40.0, 2e9, "performance")


def test_the_stopping_rule_bounds_blocks_and_time(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3, jitter=0.001)))
    rule = StoppingRule(min_duration_s=0.5, max_duration_s=5.0, min_blocks=8, rel_std=0.05)
    record = measure(bench, model, rule)
    assert len(record.trials) >= 8
    assert record.runs * record.latency_s >= 0.5 * 0.99
    assert record.warnings == ()
    loud = SimulatedBench(only(RunCost(1e-3, jitter=0.2)))
    record = measure(loud, model, StoppingRule(0.1, 60.0, 5, 0.02))
    spread = statistics.stdev(record.trials) / math.sqrt(len(record.trials)) / record.energy_j
    assert spread <= 0.02  # it went on until the mean was known
    assert len(record.trials) > 20


def test_a_meter_that_starts_slowly_takes_no_time_from_the_blocks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = SimulatedBench(only(RunCost(1e-3)))
    start = bench.meter.start

    def start_slowly() -> None:
        bench.clock.sleep(3.0)
        start()

    monkeypatch.setattr(bench.meter, "start", start_slowly)
    record = measure(bench, model, StoppingRule(1.0, 2.0, 5, 0.01))
    assert record.runs * record.latency_s >= 1.0
    assert record.warnings == ()


def test_out_of_time_is_said(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3, jitter=0.3)))
    record = measure(bench, model, StoppingRule(0.05, 0.2, 5, 0.001))
    assert any(w.startswith("spread:") for w in record.warnings)
    slow = SimulatedBench(only(RunCost(3.0)))
    record = measure(slow, model, StoppingRule(0.1, 2.0, 5, 0.02))
    assert len(record.trials) == 2  # two blocks always, however slow
    assert any(w == "few-blocks: 2 counted, 5 wanted" for w in record.warnings)


def test_noise_stays_within_the_stated_uncertainty(model: Path) -> None:
    """True energy within two standard uncertainties in at least 90 of 100 seeded runs (95 expected)."""
    cost = RunCost(1e-3, 2.0, jitter=0.02)
    inside = 0
    for seed in range(100):
        bench = SimulatedBench(only(cost), seed=seed, meter={"noise_w": 0.05})
        record = measure(bench, model, StoppingRule(0.4, 0.4, 20, 0.001), reference_every_s=None)
        inside += abs(record.energy_j - cost.energy_j) <= 2 * record.uncertainty_j
        assert record.uncertainty_j < 0.05 * cost.energy_j
    assert inside >= 90


def test_interrupted_blocks_are_rejected_and_listed(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3)), runtime={"stretch": lambda block: 1.7 if block % 5 == 0 else 1.0})
    record = measure(bench, model)
    assert record.rejected
    assert all("preempted: 59 % of a core" in r["reason"] for r in record.rejected)
    assert record.latency_s == pytest.approx(1e-3)
    assert record.energy_j == pytest.approx(2e-3)


def test_a_busy_machine_is_an_error_for_a_meter_that_sees_everything(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3)), runtime={"stretch": lambda block: 1.5})
    with pytest.raises(MeasureError, match=r"model.onnx: \d+ of \d+ blocks were rejected \(preempted.*stop other"):
        measure(bench, model)


def test_a_busy_machine_is_a_warning_for_a_meter_that_sees_the_worker_alone(model: Path) -> None:
    bench = SimulatedBench(
        only(RunCost(1e-3)), runtime={"stretch": lambda block: 1.5}, meter={"scope": "process"}
    )  # fmt: skip
    record = measure(bench, model)
    assert record.energy_j == pytest.approx(2e-3)
    assert any("interrupted by other work and kept" in w for w in record.warnings)


def test_rising_energy_is_reported_as_a_trend(model: Path) -> None:
    start: list[float] = []

    def slower(t_s: float) -> float:
        start.append(t_s)
        return 1.0 + 0.3 * (t_s - start[0])

    bench = SimulatedBench(only(RunCost(1e-3)), runtime={"slow_down": slower})
    record = measure(bench, model, StoppingRule(1.0, 1.5, 5, 0.001), reference_every_s=None)
    assert any(w.startswith("trend: energy changed by +") for w in record.warnings)


def test_drift_of_the_device_is_tracked_and_reported(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3)), runtime={"slow_down": lambda t_s: 1.0 + 0.1 * (t_s - 1000.0) / 100.0})
    with bench.session(reference_every_s=10.0) as session:
        first = session.measure(make_workload(model))
        assert not any(w.startswith("drift") for w in first.warnings)
        moments = []
        for _ in range(10):
            bench.clock.sleep(10.0)
            last = session.measure(make_workload(model))
            moments.append(bench.clock.now())
        assert any(w.startswith("drift: the reference workload takes +") for w in last.warnings)
        series = session.drift
        assert len(series) == 11
        assert [t for t, _ in series] == sorted(t for t, _ in series)
        assert series[0][1] == 0.0
        assert series[-1][1] == pytest.approx(0.1, abs=0.015)
        # Slower than usual at the end, faster at the beginning; rescaling by it removes the drift.
        assert session.speed_at(moments[0]) > 1.0 > session.speed_at(moments[-1])
        corrected = [first.latency_s * session.speed_at(1000.5), last.latency_s * session.speed_at(moments[-1])]
        assert corrected[0] == pytest.approx(corrected[1], rel=0.01)


def test_without_references_speed_is_one(model: Path) -> None:
    with SimulatedBench().session(reference_every_s=None) as session:
        assert session.drift == ()
        assert session.speed_at(5.0) == 1.0
        session.measure(make_workload(model))
        assert session.drift == ()
        assert session.reference().latency_s > 0  # still there when asked for
        assert len(session.drift) == 1


def test_idle_is_measured_at_the_start_and_again_when_old_not_per_kernel(model: Path) -> None:
    bench = SimulatedBench()
    with bench.session(idle_every_s=60.0, reference_every_s=None) as session:
        for _ in range(5):
            session.measure(make_workload(model))
        assert len(session.idles) == 1
        bench.clock.sleep(61.0)
        session.measure(make_workload(model))
        assert len(session.idles) == 2
        record = session.measure(make_workload(model), idle_after=True)
        assert len(session.idles) == 3
        assert record.idle_power_after_w == pytest.approx(1.0)


def test_a_change_of_idle_power_is_split_between_both_sides_and_said(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-2, 2.0)))
    with bench.session(reference_every_s=None) as session:
        # From now on something else draws another watt: after, but (by its luck) not during the runs.
        workload = make_workload(model)
        original = session.idle

        def later() -> Any:
            bench.timeline.add(bench.clock.now(), bench.clock.now() + 100.0, 1.0)
            return original()

        session.idle = later  # type: ignore[method-assign]
        record = session.measure(workload, idle_after=True)
    assert record.idle_power_before_w == pytest.approx(1.0)
    assert record.idle_power_after_w == pytest.approx(2.0)
    assert record.energy_j == pytest.approx(1e-2 * (2.0 - 0.5), rel=0.1)  # linear in time, and the blocks in the middle
    assert abs(record.energy_j - 1e-2 * 2.0) <= 2 * record.uncertainty_j
    assert record.budget["idle"] == pytest.approx(record.uncertainty_j, rel=0.01)
    assert any("idle power changed from 1.000 W to 2.000 W" in w for w in record.warnings)


def test_blocks_grow_with_the_meters_update_interval_or_the_record_says_so(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3)), meter={"update_s": 1e-3})
    record = measure(bench, model)
    assert record.runs / len(record.trials) * record.latency_s >= 0.1 * 0.99
    assert record.warnings == ()
    slow = SimulatedBench(only(RunCost(1e-3)), meter={"update_s": 1.0})
    record = measure(slow, model)
    assert any(w.startswith("short-blocks:") for w in record.warnings)
    assert record.uncertainty_j > measure(bench, model).uncertainty_j


def test_energy_lost_in_the_noise_of_idle_is_said(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(1e-3, 1e-4)), meter={"noise_w": 1.0})
    record = measure(bench, model)
    assert any("cannot be told from idle" in w for w in record.warnings)


def test_too_hot_is_said(model: Path) -> None:
    bench = SimulatedBench(max_temperature_c=80.0)
    bench.device.current = DeviceState("Fake CPU", "fake64", 4, (0,), temperature_c=91.0)
    assert any("91 °C is above the profile's 80 °C" in w for w in measure(bench, model).warnings)


def test_the_cost_of_a_call_is_measured_once(model: Path) -> None:
    bench = SimulatedBench(lambda path: RunCost(5e-6, 2.0) if path.stem == "empty" else RunCost())
    with bench.session() as session:
        assert session.empty_run_j() == pytest.approx(1e-5, rel=1e-6)
        loads = len(bench.runtime.loads)
        assert session.empty_run_j() == session.empty_run().energy_j
        assert len(bench.runtime.loads) == loads


def test_models_are_unloaded_also_after_a_failure_and_the_session_goes_on(model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"x")
    crash = RunCost(run_error=RunError("bad.onnx: the runtime crashed"))
    bench = SimulatedBench(lambda path: crash if path.stem == "bad" else RunCost())
    with bench.session() as session:
        kept = bench.runtime.open_models
        with pytest.raises(RunError, match="crashed"):
            session.measure(make_workload(bad))
        session.measure(make_workload(model))
        assert bench.runtime.open_models <= kept + 1  # the crashed one went with its worker
    assert bench.runtime.closed


def test_a_reference_whose_worker_died_is_loaded_again(model: Path) -> None:
    bench = SimulatedBench()
    with bench.session() as session:
        assert session._reference_loaded is not None
        session._reference_loaded.close()
        session.reference()
        assert len(session.drift) == 2


@pytest.mark.parametrize("at", [1, 8, 25])
def test_an_unplugged_meter_ends_the_session_cleanly(at: int, model: Path) -> None:
    bench = SimulatedBench(meter={"fail_at_mark": at})
    with pytest.raises(MeterError, match="unplugged"):
        measure(bench, model)
    assert bench.runtime.closed


def test_a_gap_in_the_trace_is_an_error_not_a_smaller_number(model: Path) -> None:
    bench = SimulatedBench()
    with bench.session(reference_every_s=None) as session:
        now = bench.clock.now()
        bench.meter.gaps = ((now, now + 100.0),)
        with pytest.raises(MeasureError, match="0 trustworthy samples; all others lie in gaps"):
            session.measure(make_workload(model))


def lossy(bench: SimulatedBench) -> SimulatedBench:
    """A bench whose meter loses ten samples in the middle of every trace."""
    whole = bench.meter.stop

    def stop() -> Any:
        trace = whole()
        middle = trace.t_s.size // 2
        return replace(trace, gaps=((float(trace.t_s[middle]), float(trace.t_s[middle + 11])),), dropped=10)

    bench.meter.stop = stop  # type: ignore[method-assign]
    return bench


def test_a_session_allows_the_loss_its_meter_was_told_to_allow(sampled_bench, model: Path) -> None:
    bench = lossy(sampled_bench(RunCost(1e-3, 2.0)))
    with pytest.raises(MeasureError, match=r"samples, 0\.1 % are allowed"), bench.session(reference_every_s=None):
        pytest.fail("idle power must not be taken from such a trace")
    bench.meter.max_loss = 0.5  # type: ignore[attr-defined]
    with bench.session(reference_every_s=None) as session:
        record = session.measure(make_workload(model))
    assert [w.partition(":")[0] for w in record.warnings].count("gap") == 1
    assert record.budget["gaps"] > 0
    with pytest.raises(MeasureError, match="are allowed"), bench.session(reference_every_s=None, max_loss=0.0):
        pytest.fail("what the session is told counts more")


def test_misuse_is_refused(model: Path, tmp_path: Path) -> None:
    bench = SimulatedBench()
    session = bench.session()
    with pytest.raises(LinkError, match="with Session"):
        session.measure(make_workload(model))
    with session:
        with pytest.raises(MeasureError, match="open already"):
            session.__enter__()
        with pytest.raises(MeasureError, match="this session runs onnxruntime"):
            session.measure(make_workload(model, runtime="litert"))
        folder = session._folder
        assert folder is not None
        assert folder.is_dir()
    assert not folder.exists()
    session.close()
    with pytest.raises(ConfigError, match="No such file"):
        make_workload(tmp_path / "absent.onnx")
    with pytest.raises(ConfigError, match="Is a directory"):
        make_workload(tmp_path)


def test_a_failure_while_opening_closes_what_was_opened() -> None:
    bench = SimulatedBench(lambda path: RunCost(load_error=LinkError("the device is gone; plug it in")))
    with pytest.raises(LinkError, match="device is gone"), bench.session():
        pytest.fail("the session must not open")
    assert bench.runtime.closed


def test_workload_ids_name_content_shapes_and_threads(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(model.read_bytes())
    assert make_workload(copy).id == make_workload(model).id
    ids = {
        make_workload(model).id,
        make_workload(model, threads=2).id,
        make_workload(model, shapes={"x": (1, 2)}).id,
        make_workload(model, shapes={"x": (2, 1)}).id,
        make_workload(model, runtime="other").id,
    }
    assert len(ids) == 5
    model.write_bytes(b"other weights")
    assert make_workload(model).id not in ids


def test_shapes_and_threads_reach_the_runtime_and_the_median_is_at_hand(model: Path) -> None:
    bench = SimulatedBench(only(RunCost(jitter=0.01)))
    with bench.session(reference_every_s=None) as session:
        record = session.measure(make_workload(model, threads=3, shapes={"x": (1, 4)}))
    assert bench.runtime.loads[-1] == (model, 3, {"x": (1, 4)})
    assert record.threads == 3
    assert compute_median_energy_j(record) == statistics.median(record.trials)


def test_sessions_are_typed_for_stand_ins() -> None:
    bench = SimulatedBench()
    assert isinstance(bench.session(), Session)
