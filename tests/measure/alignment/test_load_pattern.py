from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deepen.errors import ConfigError, MeasureError, MeterError
from deepen.measure import make_workload
from deepen.measure.alignment.load_pattern import BARKER, SyncPulses, find_load_pattern, synchronise_trace
from deepen.records import Interval, PowerTrace, StoppingRule, TraceWarning
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import RunCost
from deepen.testing.instruments.signal import StepSignal

RULE = StoppingRule(0.2, 0.6, 5, 0.01)


def pattern(start_s: float, chip_s: float, rng: np.random.Generator) -> list[Interval]:
    """When a device worked that takes a little longer or shorter than it should."""
    worked, at = [], start_s
    edges = [0, *(np.flatnonzero(np.diff(BARKER)) + 1).tolist(), len(BARKER)]
    for a, b in pairwise(edges):
        length = (b - a) * chip_s * rng.uniform(0.95, 1.05)
        if BARKER[a]:
            worked.append(Interval(at, at + length, "run"))
        at += length
    return worked


def record(
    worked: list[Interval], rng, *, rate_hz: float, offset_s: float, noise_w: float, drift: float = 0.0, rise=2.0
):
    """A trace in which the pattern shows, its clock off by ``offset_s`` at 0 s and by the drift beyond."""
    edges = np.array([(i.start_s, i.end_s) for i in worked]).ravel()
    levels = np.where(np.arange(edges.size + 1) % 2, 1.0 + rise * rng.uniform(0.9, 1.1, edges.size + 1), 1.0)
    signal = StepSignal(edges, levels)
    bounds = np.arange(edges[0] - 0.3, edges[-1] + 0.3, 1 / rate_hz)
    power = signal.mean_w(bounds[:-1], bounds[1:]) + rng.normal(0, noise_w, bounds.size - 1)
    middles = (bounds[1:] + bounds[:-1]) / 2
    return PowerTrace(middles * (1 + drift) + offset_s, power, rate_hz, "meter", "c", "simulated")


@pytest.mark.parametrize("rate_hz", [1e3, 5e3, 20e3])
@pytest.mark.parametrize("noise_w", [0.0, 0.2])
def test_the_offset_is_found_within_its_stated_error(rate_hz: float, noise_w: float) -> None:
    within, errors = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        worked = pattern(10.0, 0.02, rng)
        offset = rng.uniform(-0.05, 0.05)
        found = find_load_pattern(record(worked, rng, rate_hz=rate_hz, offset_s=offset, noise_w=noise_w), worked, 0.1)
        off = found.trace_s - found.host_s - offset
        within += abs(off) <= 2 * found.error_s
        errors.append(found.error_s)
    assert within >= 56  # 95 % of 60 are 57; one more may fall out by chance
    assert np.median(errors) < 0.3 / rate_hz + 5e-4 * noise_w


def test_patterns_before_and_after_correct_offset_and_drift() -> None:
    rng = np.random.default_rng(5)
    before, after = pattern(10.0, 0.02, rng), pattern(14.0, 0.02, rng)
    trace = record([*before, *after], rng, rate_hz=5e3, offset_s=0.03, noise_w=0.02, drift=80e-6)
    fixed = synchronise_trace(trace, [before, after], 0.1)
    assert fixed.clock is not None
    assert fixed.clock.method == "pulses"
    for at in (10.0, 12.0, 14.2):
        where = float(np.interp(at * (1 + 80e-6) + 0.03, trace.t_s, fixed.t_s))
        assert abs(where - at) <= 2 * fixed.clock.error_s
    assert fixed.clock.error_s < 5e-5


def test_a_trace_without_the_pattern_is_refused() -> None:
    rng = np.random.default_rng(1)
    worked = pattern(10.0, 0.02, rng)
    trace = record(worked, rng, rate_hz=5e3, offset_s=0.0, noise_w=0.1)
    flat = replace(trace, power_w=rng.normal(1.0, 0.1, trace.t_s.size))
    with pytest.raises(MeasureError, match=r"not clear in the trace of meter"):
        find_load_pattern(flat, worked, 0.1)
    still = replace(trace, power_w=np.ones(trace.t_s.size))
    with pytest.raises(MeasureError, match=r"not clear|where they were played"):
        find_load_pattern(still, worked, 0.1)
    beat = replace(trace, power_w=1.0 + (np.sin(2 * np.pi * 25 * trace.t_s) > 0))  # a load as regular as a clock
    with pytest.raises(MeasureError, match=r"not clear|where they were played|known to"):
        find_load_pattern(beat, worked, 0.1)


def test_pulses_that_cannot_be_resolved_or_lie_at_the_end_are_refused() -> None:
    rng = np.random.default_rng(2)
    worked = pattern(10.0, 0.02, rng)
    slow = record(worked, rng, rate_hz=100.0, offset_s=0.0, noise_w=0.0)
    with pytest.raises(MeasureError, match=r"too short for meter at 100 Hz"):
        find_load_pattern(slow, worked, 0.1)
    trace = record(worked, rng, rate_hz=5e3, offset_s=0.0, noise_w=0.0)
    keep = trace.t_s > 10.01
    with pytest.raises(MeasureError, match=r"too near the ends"):
        find_load_pattern(replace(trace, t_s=trace.t_s[keep], power_w=trace.power_w[keep]), worked, 0.1)
    with pytest.raises(MeasureError, match=r"look further|not clear"):
        find_load_pattern(replace(trace, t_s=trace.t_s + 0.2), worked, 0.02)


def test_a_session_corrects_the_meters_clock_by_pulses(sampled_bench, model: Path) -> None:
    """The clock is off by a quarter of a block, and says so; with pulses the energy is right to half a per cent."""
    cost = RunCost(1e-3, 2.0)
    bench = sampled_bench(cost, offset_s=5e-3, error_s=3e-3)
    with bench.session(reference_every_s=None) as session:
        record_ = session.measure(make_workload(model, rule=RULE))
    assert record_.alignment["method"] == "pulses"
    assert record_.alignment["error_s"] < 1e-4
    assert record_.energy_j == pytest.approx(cost.energy_j, rel=5e-3)
    assert abs(record_.energy_j - cost.energy_j) <= 2 * record_.uncertainty_j
    assert record_.uncertainty_j == pytest.approx(sum(v**2 for v in record_.budget.values()) ** 0.5)
    assert not [w for w in record_.warnings if w.startswith("alignment")]
    bench = sampled_bench(cost, offset_s=5e-3, error_s=3e-3)
    with bench.session(reference_every_s=None, sync="none") as session:
        plain = session.measure(make_workload(model, rule=RULE))
    assert plain.alignment == {"method": "arrival", "error_s": 3e-3}
    assert abs(plain.energy_j - cost.energy_j) > 1.5 * abs(record_.energy_j - cost.energy_j)
    assert abs(plain.energy_j - cost.energy_j) <= 2 * plain.uncertainty_j
    assert plain.budget["alignment"] > 10 * record_.budget["alignment"]


def test_a_runtime_that_brings_its_own_pulses_plays_the_pattern_with_them(sampled_bench, model: Path) -> None:
    """The workload is far too slow to play the pattern with; what the runtime brings is quick."""
    bench = sampled_bench(RunCost(0.5, 2.0), offset_s=5e-3, error_s=3e-3)
    played: list[int] = []

    class Player:
        build, alive, per_run_s, started = "player", True, 1e-3, 0

        def start(self) -> None:
            self.started += 1

        def run(self, n: int) -> Interval:
            assert self.started
            played.append(n)
            return bench.runtime.play(RunCost(1e-3, 2.0), n)

        def close(self) -> None:
            pass

    load = bench.runtime.load

    def load_with_player(*args, **kwargs):
        loaded = load(*args, **kwargs)
        loaded.pulses = Player()
        return loaded

    bench.runtime.load = load_with_player
    rule = StoppingRule(1.0, 3.0, 2, 0.01)
    with bench.session(reference_every_s=None) as session:
        record_ = session.measure(make_workload(model, rule=rule))
    assert record_.alignment["method"] == "pulses"
    assert record_.alignment["error_s"] < 1e-4
    assert len(played) % 4 == 0  # a Barker code has four stretches of work, and begins and ends each round
    assert min(played) >= 20


def test_pulses_lost_in_noise_are_a_caution_or_an_error(sampled_bench, model: Path) -> None:
    weak = RunCost(1e-3, 0.06)
    bench = sampled_bench(weak, sample_noise_w=0.5)
    with bench.session(reference_every_s=None) as session:
        record_ = session.measure(make_workload(model, rule=RULE))
    assert record_.alignment["method"] == "arrival"
    assert any(w.startswith("alignment: sync pulses") for w in record_.warnings)
    bench = sampled_bench(weak, sample_noise_w=0.5)
    with (
        bench.session(reference_every_s=None, sync="pulses") as session,
        pytest.raises(MeasureError, match=r"sync pulses"),
    ):
        session.measure(make_workload(model, rule=RULE))


def test_a_meter_on_another_device_is_an_error(sampled_bench, model: Path) -> None:
    def swapped() -> SimulatedBench:
        bench, other = sampled_bench(RunCost(1e-3, 2.0)), sampled_bench(RunCost(1e-3, 2.0))
        bench.meter._timeline = other.timeline  # where nothing runs
        return bench

    with (
        swapped().session(reference_every_s=None) as session,
        pytest.raises(MeasureError, match=r"model.onnx: neither its runs nor the sync pattern .*connected to this dev"),
    ):
        session.measure(make_workload(model, rule=RULE))
    with (
        pytest.raises(MeterError, match=r"does not follow the reference workload .*\(fake\)\? Name"),
        swapped().session(),
    ):
        pass
    # Where the other device works too, its power rises now and then, but not with our pattern.
    bench = swapped()
    begin_s = bench.clock.now()
    for number in range(400):
        bench.meter._timeline.add(begin_s + 0.13 * number, begin_s + 0.13 * number + 0.07, 2.0)
    with pytest.raises(MeterError, match=r"reference workload \(.*sync pulses"), bench.session():
        pass
    slow = swapped()
    slow.meter.update_s = 0.1  # too slow for a pattern
    with pytest.raises(MeterError, match="power does not rise"), slow.session():
        pass


def test_meters_that_the_host_reads_need_no_pulses_and_slow_models_get_none(sampled_bench, model: Path) -> None:
    bench = SimulatedBench(lambda path: RunCost(1e-3, 2.0))
    with bench.session(reference_every_s=None) as session:
        counted = session.measure(make_workload(model, rule=RULE))
        blocks = bench.runtime.blocks
    assert counted.alignment == {"method": "host", "error_s": None}
    slow = sampled_bench(RunCost(0.5, 2.0))
    with slow.session(reference_every_s=None) as session:
        assert session.measure(make_workload(model, rule=RULE)).alignment["method"] == "arrival"
    assert blocks < 60
    with pytest.raises(ConfigError, match=r"sync must be one of auto, pulses, none"):
        slow.session(sync="maybe")


def test_what_the_trace_says_and_a_change_of_temperature_reach_the_record(sampled_bench, model: Path) -> None:
    bench = sampled_bench(RunCost(1e-3, 2.0))
    bench.meter.trace_warnings = (
        TraceWarning("clipping", "12 samples clipped at 1 A"),
        TraceWarning("range-switching", "range switched 3 times"),
    )
    states = iter([40.0, 52.0])
    plain = bench.device.state
    bench.device.state = lambda: replace(plain(), temperature_c=next(states))
    with bench.session(reference_every_s=None) as session:
        record_ = session.measure(make_workload(model, rule=RULE))
    assert "clipping: 12 samples clipped at 1 A" in record_.warnings
    assert "temperature: it went from 40 to 52 °C meanwhile" in record_.warnings
    assert sum(w.startswith("clipping") for w in record_.warnings) == 1


def test_a_pattern_lasts_as_long_as_said() -> None:
    assert SyncPulses(0.02, 1e-3).duration_s == pytest.approx(17 * 0.02 + 0.05)
    assert SyncPulses(0.02, 1.0).duration_s == pytest.approx(9 * 1.0 + 8 * 0.02 + 0.05)
