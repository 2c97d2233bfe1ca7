"""Stations in virtual time for the tests of fleets: devices and meters that vanish, heat up and drift.

Loaded by its path, also from processes that are killed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepen.campaign import DeviceWithMeter, Station
from deepen.errors import LinkError, MeterError
from deepen.testing import FakeRuntime, RunCost, SimulatedBench

POWER_W = 2.0


def energy_j(k: int) -> float:
    """True energy of one run of the fully connected kernel with ``k`` inputs."""
    return POWER_W * 1e-5 * k


def cost(path: Path) -> RunCost:
    """Cost of a model file: told by its first input where it is one of ours, else that of a reference workload."""
    import onnx

    inputs = onnx.load(path, load_external_data=False).graph.input
    size = inputs[0].type.tensor_type.shape.dim[-1].dim_value if inputs else 1
    return RunCost(latency_s=1e-5 * size, power_w=POWER_W)


class CampaignRig:
    """A device and a meter in virtual time, opened anew after each loss.

    Attributes:
        lost: Error that every use of the device raises until ``back_s``; ``None`` while all is well.
        lose: What happens at which block, by its number: ``device`` or ``meter`` vanishes for so many seconds.
        temperature_c: Told by the device.
        speed: Factor on every duration.
        throttled: What slows the device down, as it tells.
        news: Told whenever the station is opened.
        opened: Times the station was opened.
    """

    def __init__(self, name: str, *, profile: str = "phone", seed: int = 0, **limits: Any) -> None:
        self.name, self.profile, self.limits = name, profile, limits
        self.lose: dict[int, tuple[str, float]] = {}
        self.lost: Exception | None = None
        self.back_s = 0.0
        self.temperature_c = 40.0
        self.speed = 1.0
        self.throttled: tuple[str, ...] = ()
        self.news: tuple[str, ...] = ()
        self.opened = 0
        self.blocks = 0
        self.serial = f"S-{name}"
        self.meter_serial = f"M-{name}"
        self.on_open: Callable[[], None] = lambda: None
        self.bench = SimulatedBench(cost, seed=seed, id=profile, **limits)

    def check(self) -> None:
        """Raise while something is gone."""
        if self.lost is not None and self.bench.clock.now() < self.back_s:
            raise self.lost
        self.lost = None

    def vanish(self, what: str, duration_s: float) -> None:
        """Let the device or the meter be gone."""
        self.lost = (
            LinkError(f"{self.name} is gone") if what == "device" else MeterError(f"meter of {self.name} is gone")
        )
        self.back_s = self.bench.clock.now() + duration_s

    def thermal(self):
        """What its sensors tell."""
        from deepen.devices.types import TemperatureReading, ThermalState

        self.check()
        if self.temperature_c != self.temperature_c:
            return ThermalState()
        return ThermalState((TemperatureReading("cpu0", "cpu", self.temperature_c, "thermal zone"),))

    @contextmanager
    def open_session(self, device="local", meter=None, *, claim, runtime, tell, **options):
        """What a station calls."""
        from types import SimpleNamespace

        from deepen.devices.types import DeviceState, ThermalState
        from deepen.testing import FakeDevice, SimulatedMeter

        self.on_open()
        self.check()
        self.opened += 1
        for text in self.news:
            tell(text)
        state = DeviceState("Fake CPU", "fake64", 4, (0, 1, 2, 3), "performance", 2e9, self.temperature_c, 0.1)
        rig = self

        class CampaignDevice(FakeDevice):
            identity = SimpleNamespace(serial=self.serial)

            def state(self):
                from dataclasses import replace

                thermal = ThermalState(throttled=rig.throttled)
                return replace(self.current, temperature_c=rig.temperature_c, thermal=thermal)

            def cool_down(self, **options):
                from deepen.devices.state.cool_down import wait_for_cool_down

                now = rig.bench.clock.now
                return wait_for_cool_down(rig.thermal, self.profile.cool_to_c, now=now, settled_s=1e9, **options)

        opened = CampaignDevice(CampaignRuntime(self, runtime), state=state, id=self.profile, **self.limits)
        bench = self.bench

        class CampaignMeter(SimulatedMeter):
            instrument = SimpleNamespace(serial=self.meter_serial)

            def mark(self):
                rig.check()
                super().mark()

            def stop(self):
                rig.check()
                return super().stop()

        from deepen.measure import Session

        with claim(opened):
            source = CampaignMeter(bench.timeline, bench.clock.now, name="simulated")
            with Session(opened, source, clock=bench.clock.as_clock(), **{**options, "runtime": runtime}) as session:
                yield session

    def station(self, **options: Any) -> Station:
        """The station of this rig."""
        return Station(
            DeviceWithMeter(self.name, None), open_session=self.open_session, sleep=self.bench.clock.sleep, **options
        )


class CampaignRuntime(FakeRuntime):
    """A runtime on a rig: fails while something is gone, and makes it vanish in the middle of a block."""

    def __init__(self, rig: CampaignRig, name: str = "onnxruntime") -> None:
        super().__init__(rig.bench.clock, rig.bench.timeline, cost, slow_down=lambda t_s: rig.speed)
        self.rig = rig
        self.name = name

    def load(self, path, **options):
        self.rig.check()
        return super().load(path, **options)

    def play(self, cost, n):
        self.rig.check()
        self.rig.blocks += 1
        played = super().play(cost, n)
        if self.rig.blocks in self.rig.lose:
            self.rig.vanish(*self.rig.lose.pop(self.rig.blocks))
        self.rig.check()
        return played


def true_energy_j(record: Any) -> float:
    """What a record of one copy must say."""
    return energy_j(int(record.params["k"]))


def wrong(records: Any) -> list[str]:
    """Records that do not say the truth."""
    return [r.name for r in records if not math.isclose(r.energy_j * r.copies, true_energy_j(r), rel_tol=1e-6)]
