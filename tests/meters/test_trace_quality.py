from __future__ import annotations

import threading

import numpy as np
import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters.record import record_trace
from deepen.meters.sampling_thread import SamplingThread
from deepen.meters.trace_quality import check_trace_quality
from deepen.records import PowerTrace
from deepen.testing.clock import VirtualClock
from deepen.testing.power import PowerTimeline, SimulatedMeter


def trace(power: list[float], source: str = "measured", **fields: object) -> PowerTrace:
    t = 10.0 + np.arange(len(power)) / 10
    return PowerTrace(t, np.array(power, dtype=float), 10.0, "m", "cal", source, **fields)  # type: ignore[arg-type]


def test_recording_reads_at_the_rate_for_the_time_asked() -> None:
    clock, line = VirtualClock(), PowerTimeline(2.0)
    line.add(1000.5, 1001.0, 6.0)
    meter = SimulatedMeter(line, clock.now)
    found = record_trace(meter, 2.0, 50.0, now=clock.now, sleep=clock.sleep).trace
    assert found is not None
    assert meter.marks == 101  # the first one is start()'s
    assert clock.now() == pytest.approx(1002.0)
    summary = check_trace_quality(found)
    assert summary.mean_w == pytest.approx((2 * 2.0 + 0.5 * 6.0) / 2)
    assert (summary.min_w, summary.max_w) == pytest.approx((2.0, 8.0))
    assert summary.source == "simulated"


@pytest.mark.parametrize(("seconds", "rate"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 5.0)])
def test_recording_needs_a_time_and_a_rate(seconds: float, rate: float) -> None:
    with pytest.raises(ConfigError):
        record_trace(SimulatedMeter(PowerTimeline()), seconds, rate)


def test_check_reports_noise_losses_and_labels() -> None:
    quiet = check_trace_quality(trace([3.0] * 11))
    assert quiet.noise_w == pytest.approx(0.0, abs=1e-9)
    assert any("never changed" in w for w in quiet.warnings)
    noisy = check_trace_quality(trace([1.0, -1.0] * 6, "modelled", dropped=4, gaps=((10.1, 10.2),)))
    assert noisy.updates == 11
    assert any("negative" in w for w in noisy.warnings)
    assert any("4 samples lost, 1 gaps" in w for w in noisy.warnings)
    assert any("modelled, not measured" in w for w in noisy.warnings)
    with pytest.raises(MeterError, match="no samples"):
        check_trace_quality(trace([1.0]))


def test_the_sampler_samples_until_stopped_and_can_start_again() -> None:
    enough = threading.Event()
    calls: list[int] = []

    def sample() -> None:
        calls.append(1)
        if len(calls) >= 3:
            enough.set()

    sampler = SamplingThread(sample, 1e-3)
    sampler.stop()  # harmless
    for _ in range(2):
        calls.clear()
        enough.clear()
        sampler.start()
        assert enough.wait(30)
        sampler.stop()
        assert len(calls) >= 3
        assert not any(t.name == "deepen-sampler" for t in threading.enumerate())  # nothing comes after stop


@pytest.mark.parametrize("error", [ValueError("odd reading"), MeterError("unplugged; plug it in")])
def test_an_error_while_sampling_reaches_the_caller_once(error: Exception) -> None:
    happened = threading.Event()

    def sample() -> None:
        happened.set()
        raise error

    sampler = SamplingThread(sample, 1e-3)
    sampler.start()
    assert happened.wait(30)
    with pytest.raises(MeterError, match=str(error).split(";")[0]):
        sampler.stop()
    sampler.stop()
