from __future__ import annotations

import itertools

import numpy as np
import pytest

from deepen.errors import MeterError
from deepen.meters import Meter
from deepen.meters.onboard.timestamped_counter import TimestampedCounterMeter
from deepen.records import PowerTrace, TraceWarning
from deepen.testing.clock import VirtualClock


class CounterPhone:
    """Counters that advance in steps, on a clock of their own, behind a slow link; it knows the true energy.

    Power is 2 W, and 5 W from 10 s to 20 s after the start; two counters share it 1 to 3.
    """

    def __init__(
        self, clock: VirtualClock, *, ppm: float = 0.0, step_s: float = 0.05, jitter_s: float = 0.0, seed: int = 0
    ) -> None:
        self.clock = clock
        self.start_s = clock.now()
        self.ppm = ppm
        self.step_s = step_s
        self.jitter_s = jitter_s
        self.rng = np.random.default_rng(seed)
        self.boot_s = 350.0

    def energy_j(self, host_s: float) -> float:
        t = host_s - self.start_s
        return 100.0 + 2.0 * t + 3.0 * min(max(t - 10.0, 0.0), 10.0)

    def device_s(self, host_s: float) -> float:
        return self.boot_s + (host_s - self.start_s) * (1 + self.ppm * 1e-6)

    def read(self) -> list[tuple[float, float]]:
        self.clock.sleep(float(self.rng.uniform(0.005, 0.03)))
        ticks = []
        for share, phase in ((0.25, 0.0), (0.75, 0.37)):
            device = (np.floor(self.device_s(self.clock.now()) / self.step_s - phase) + phase) * self.step_s
            tick = round(float(device) / self.step_s * 1e3)
            device += self.jitter_s * (
                float(np.random.default_rng(tick).random()) - 1.0
            )  # the same whenever it is read
            host = self.start_s + (device - self.boot_s) / (1 + self.ppm * 1e-6)
            ticks.append((round(float(device), 3), share * self.energy_j(host)))
        self.clock.sleep(float(self.rng.uniform(0.005, 0.2)))
        return ticks


def record(phone: CounterPhone, seconds: float, period_s: float = 0.5) -> tuple[PowerTrace, float]:
    clock = phone.clock
    meter = TimestampedCounterMeter(
        "odpm", "test", phone.read, update_s=0.05, resolution_j=1e-6, poll_s=1e6, now=clock.now, sleep=clock.sleep
    )
    meter.start()
    end = clock.now() + seconds
    while clock.now() < end:
        clock.sleep(period_s)
        meter.mark()
    asked = clock.now()
    return meter.stop(), asked


def energy_between(trace: PowerTrace, start_s: float, end_s: float) -> float:
    grid = np.unique(np.concatenate([trace.t_s[(trace.t_s > start_s) & (trace.t_s < end_s)], [start_s, end_s]]))
    power = np.interp(grid, trace.t_s, trace.power_w)
    return float(np.sum(np.diff(grid) * (power[1:] + power[:-1]) / 2))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ppm", [0.0, 80.0, -80.0])
def test_a_slow_link_does_not_shift_the_energy(ppm: float, seed: int) -> None:
    phone = CounterPhone(VirtualClock(), ppm=ppm, seed=seed)
    trace, asked = record(phone, 30.0)
    start = phone.start_s
    # The step at 10 s lies between two readings; windows well off it are exact to a clock error of some 20 ms.
    for a, b in ((2.0, 8.0), (11.0, 19.0), (3.0, 27.0)):
        truth = phone.energy_j(start + b) - phone.energy_j(start + a)
        assert energy_between(trace, start + a, start + b) == pytest.approx(truth, abs=5.0 * 0.03)
    assert trace.t_s[-1] >= asked  # the trace covers the moment at which it was stopped
    assert trace.clock is not None
    assert trace.clock.method == "ping"
    assert 0 < trace.clock.error_s < 0.05


def test_drift_is_fitted_over_long_recordings() -> None:
    phone = CounterPhone(VirtualClock(), ppm=100.0, seed=5)
    trace, _ = record(phone, 1200.0, 1.0)
    assert trace.clock is not None
    assert trace.clock.rate == pytest.approx(1 - 100e-6, abs=30e-6)
    late = phone.start_s + 1100.0
    assert trace.clock.to_host(phone.device_s(late)) == pytest.approx(late, abs=0.03)


@pytest.mark.parametrize(("step_s", "jitter_s"), [(0.001, 0.0), (0.05, 0.0), (0.05, 0.004), (0.5, 0.0), (0.5, 0.004)])
def test_the_stated_clock_error_covers_the_true_one(step_s: float, jitter_s: float) -> None:
    errors, stated = [], []
    for seed in range(40):
        phone = CounterPhone(VirtualClock(), step_s=step_s, jitter_s=jitter_s, ppm=20.0, seed=seed)
        trace, _ = record(phone, 20.0)
        assert trace.clock is not None
        off = trace.clock.to_host(phone.device_s(phone.start_s + 10.0)) - (phone.start_s + 10.0)
        errors.append(abs(off))
        stated.append(trace.clock.error_s)
    assert np.mean(np.array(errors) <= 2 * np.array(stated)) >= 0.95
    assert np.median(stated) < 0.1  # and it is no blank cheque


def test_counters_that_stand_still_are_an_error() -> None:
    clock = VirtualClock()
    meter = TimestampedCounterMeter(
        "odpm", "t", lambda: [(5.0, 1.0)], update_s=0.1, resolution_j=0, poll_s=1e6, now=clock.now, sleep=clock.sleep
    )
    meter.start()
    clock.sleep(10.0)
    with pytest.raises(MeterError, match="did not advance while recording"):
        meter.stop()
    assert clock.now() < 1100.0  # it waits for fresh values, not for ever


@pytest.mark.parametrize("readings", [[(5.0, 9.0), (6.0, 2.0)], [(50.0, 1.0), (3.0, 2.0)]])
def test_a_restart_is_an_error(readings: list[tuple[float, float]]) -> None:
    clock = VirtualClock()
    answers = itertools.chain(readings, itertools.repeat(readings[-1]))
    meter = TimestampedCounterMeter(
        "odpm", "t", lambda: [next(answers)], update_s=0.1, resolution_j=0, poll_s=1e6, now=clock.now, sleep=clock.sleep
    )
    meter.start()
    clock.sleep(1.0)
    with pytest.raises(MeterError, match="went back, so the device restarted"):
        meter.stop()
    meter.close()


def test_a_step_of_the_devices_clock_is_an_error() -> None:
    phone = CounterPhone(VirtualClock())
    clock = phone.clock
    meter = TimestampedCounterMeter(
        "odpm", "t", phone.read, update_s=0.05, resolution_j=0, poll_s=1e6, now=clock.now, sleep=clock.sleep
    )
    meter.start()
    clock.sleep(5.0)
    meter.mark()
    phone.boot_s += 3600.0
    clock.sleep(5.0)
    with pytest.raises(MeterError, match=r"clock jumped ahead by 3\.6e\+03 s; measure again"):
        meter.stop()
    meter.close()


def test_it_is_a_meter_and_can_start_again() -> None:
    phone = CounterPhone(VirtualClock())
    clock = phone.clock
    meter = TimestampedCounterMeter(
        "odpm", "t", phone.read, update_s=0.05, resolution_j=1e-6, poll_s=1e6, now=clock.now, sleep=clock.sleep,
        warnings=[TraceWarning("trace", "partial sum")],
    )  # fmt: skip
    assert isinstance(meter, Meter)
    for _ in range(2):
        meter.start()
        clock.sleep(1.0)
        trace = meter.stop()
        assert trace.warnings == ("partial sum",)
        assert np.all(np.diff(trace.t_s) > 0)
    assert trace.t_s[0] > phone.start_s + 0.9
    meter.close()
    meter.close()
