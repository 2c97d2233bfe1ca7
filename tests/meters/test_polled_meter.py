"""Meters that are asked instead of streaming: a fault is right, a gap, told, or an error, here as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.errors import MeterError
from deepen.measure import integrate_power
from deepen.meters.instruments.scpi import ScpiMeter, ScpiProfile
from deepen.meters.onboard import hwmon
from deepen.meters.types import MeterContext, MeterSpec
from deepen.records import Interval, PowerTrace
from deepen.testing.clock import VirtualClock
from deepen.testing.instruments.faults import (
    FAULT_MAKERS,
    BadChecksum,
    CorruptBytes,
    DuplicateBytes,
    Fault,
    LoseBytes,
    LoseFrames,
    Stall,
)
from deepen.testing.instruments.scpi import ScpiAnalyzer
from deepen.testing.instruments.signal import StepSignal
from deepen.testing.instruments.virtual import VirtualPort
from tests.support.fault_acceptance import COVERAGE_FACTOR, FAULTS, find_new_warnings

PROFILE = """
[scpi]
identity = "ACME,PA1"
query = "MEAS:POW?"
unit = "W"
ranges = ["RANGE?"]
update_s = 0.1
accuracy = { reading = 0.001, reference = "its data sheet" }
"""

SEVERAL: dict[str, Callable[[float, int], Fault]] = {
    "lost byte": lambda at_s, k: LoseBytes(at_s, 1, skip=3 * k),
    "lost bytes": lambda at_s, k: LoseBytes(at_s, 5 + k, skip=2 * k),
    "duplicated byte": lambda at_s, k: DuplicateBytes(at_s, 1, skip=3 * k),
    "duplicated bytes": lambda at_s, k: DuplicateBytes(at_s, 4 + k, skip=2 * k),
    "corrupted byte": lambda at_s, k: CorruptBytes(at_s, 1, skip=3 * k, seed=k),
    "corrupted bytes": lambda at_s, k: CorruptBytes(at_s, 4 + k, skip=k, seed=k),
    "bad checksums": lambda at_s, k: BadChecksum(at_s, 1 + k),
    "lost frames": lambda at_s, k: LoseFrames(at_s, 1 + k),
    "stall with burst": lambda at_s, k: Stall(at_s, 0.3 * k, lossy=False),
}


class Analyser:
    """A SCPI meter in virtual time; this does what its thread would do."""

    def __init__(self, path: Path, faults: tuple[Fault, ...], seed: int) -> None:
        rng = np.random.default_rng(seed)
        edges = 1000.0 + np.cumsum(rng.uniform(0.5, 1.5, 30))
        self.emulator = ScpiAnalyzer(StepSignal(edges, rng.uniform(1.0, 8.0, 31)))
        self.clock = VirtualClock()
        port = VirtualPort(self.emulator, self.clock, latency_s=3e-3, jitter_s=1e-3, seed=seed, faults=faults)
        profile = ScpiProfile.load(MeterSpec("scpi", "", {"profile": str(path)}))
        self.meter = ScpiMeter(port, profile, "simulated", now=self.clock.now)
        self.meter._sampler.start = lambda: None  # type: ignore[method-assign]

    def record(self, seconds: float) -> PowerTrace:
        self.meter.start()
        end_s = self.clock.now() + seconds
        while self.clock.now() < end_s:
            self.clock.sleep(0.1)
            self.meter.mark()
        return self.meter.stop()


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "acme.toml"
    path.write_text(PROFILE)
    return path


def _wrong(trace: PowerTrace, emulator: Any, struck_s: float) -> list[str]:
    """Windows that are wrong and have no gap in them."""
    first, last = float(trace.t_s[0]) + 0.3, float(trace.t_s[-1]) - 0.3
    found = []
    for a, b in ((first, last), (struck_s - 1.5, struck_s + 1.5), (struck_s - 3.0, struck_s - 0.5), (last - 2.0, last)):
        start, end = max(a, first), min(b, last)
        (window,) = integrate_power(trace, [Interval(start, end, "w")], max_loss=1.0)
        off_j = window.gross_j - emulator.energy_j(start, end)
        gap = any(x <= end and y >= start for x, y in trace.gaps)
        if abs(off_j) > COVERAGE_FACTOR * window.gross_budget.expanded_j and not gap:
            found.append(f"{start:.2f} to {end:.2f}: {off_j:.3g} J")
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_of_an_analyser_yields_a_wrong_energy_without_a_word(name: str, profile: Path) -> None:
    clean = Analyser(profile, (), 0)
    warnings = clean.record(8.0).warnings
    assert [w.split(":")[0] for w in warnings] == ["unchecked"]
    for seed in range(6):
        fault = SEVERAL[name](4.0, seed) if name in SEVERAL else FAULT_MAKERS[name](4.0)
        bench = Analyser(profile, (fault,), seed)
        try:
            trace = bench.record(8.0)
        except MeterError:
            assert name not in ("split reads", "voltage droop", "clock step", "counter jump")
            continue
        assert name not in ("endless stall", "unplug")
        wrong = _wrong(trace, bench.emulator, 1004.0)
        if wrong and not find_new_warnings(trace, warnings):
            # A digit that became another one: only the standing warning tells of it.
            assert name in ("lost byte", "duplicated byte", "corrupted byte", "corrupted bytes", "lost bytes",
                            "duplicated bytes"), (seed, wrong)  # fmt: skip
            assert any(w.startswith("unchecked:") for w in trace.warnings)


@pytest.mark.parametrize("wrong", ["", "12x4", "nan", "inf", "1 2", "0x10", None])
def test_a_sensor_that_goes_wrong_ends_in_an_error_that_names_it(tmp_path: Path, wrong: str | None) -> None:
    folder = tmp_path / "sys/class/hwmon/hwmon0"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina226")
    (folder / "power1_input").write_text("1250000")
    meter = hwmon.DRIVER.open(MeterSpec("hwmon", "", {}), MeterContext(root=tmp_path))
    meter.mark()
    if wrong is None:  # its driver is unloaded
        (folder / "power1_input").unlink()
    else:
        (folder / "power1_input").write_text(wrong)
    with pytest.raises(MeterError, match=r"power1_input"):
        meter.mark()
    meter.close()
