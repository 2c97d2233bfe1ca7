from __future__ import annotations

import ctypes
from typing import Any

import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters import MeterContext, MeterSpec
from deepen.meters.onboard import nvml
from deepen.meters.onboard.nvml import NvmlLibrary, NvmlMeter
from deepen.meters.sensor_files import CommandFiles, CommandOutput


class FakeNvml:
    """libnvidia-ml with two GPUs; ``codes`` makes calls fail."""

    def __init__(self, energy_mj: tuple[int, ...] = (1000, 5000), codes: dict[str, int] | None = None) -> None:
        self.energy_mj = list(energy_mj)
        self.codes = codes or {}

    def nvmlInit_v2(self) -> int:
        return self.codes.get("init", 0)

    def nvmlDeviceGetCount_v2(self, out: Any) -> int:
        out._obj.value = len(self.energy_mj)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, out: Any) -> int:
        out._obj.value = index.value + 1
        return 0

    def nvmlDeviceGetName(self, handle: ctypes.c_void_p, text: Any, size: ctypes.c_uint) -> int:
        text.value = f"GPU {handle.value}".encode()
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, out: Any) -> int:
        out._obj.value = self.energy_mj[(handle.value or 0) - 1]
        return self.codes.get("energy", 0)


def open_nvml(fake: FakeNvml, spec: str = "nvml") -> NvmlMeter:
    meter = nvml._open(MeterSpec.parse(spec), MeterContext(), lambda: fake)
    assert isinstance(meter, NvmlMeter)
    return meter


def energy_j(meter: NvmlMeter) -> float:
    trace = meter.stop()
    steps = trace.t_s[1:] - trace.t_s[:-1]
    return float((steps * (trace.power_w[1:] + trace.power_w[:-1]) / 2).sum())


def test_counters_are_millijoules_and_all_gpus_add_up() -> None:
    fake = FakeNvml()
    meter = open_nvml(fake)
    meter.start()
    fake.energy_mj = [3500, 6000]
    assert energy_j(meter) == pytest.approx(3.5, rel=1e-6)
    assert meter.calibration_id == "nvml GPU 1, GPU 2"


def test_one_gpu_can_be_named() -> None:
    fake = FakeNvml()
    meter = open_nvml(fake, "nvml:1")
    meter.start()
    fake.energy_mj = [99_000, 5500]
    assert energy_j(meter) == pytest.approx(0.5, rel=1e-6)
    with pytest.raises(ConfigError, match="GPUs 0 to 1"):
        open_nvml(fake, "nvml:2")
    with pytest.raises(ConfigError, match="GPUs 0 to 1"):
        open_nvml(fake, "nvml:first")


@pytest.mark.parametrize(
    ("codes", "message"),
    [({"init": 9}, "driver is not loaded"), ({"energy": 3}, "Volta or later"), ({"init": 77}, "code 77")],
)
def test_errors_are_named(codes: dict[str, int], message: str) -> None:
    fake = FakeNvml(codes=codes)
    with pytest.raises(MeterError, match=message):
        open_nvml(fake)
    found = nvml._probe(MeterContext(), lambda: fake)
    assert not found.available
    assert message in found.cause
    assert "nvidia-smi" in found.cure


def test_no_gpu() -> None:
    fake = FakeNvml(energy_mj=())
    assert not nvml._probe(MeterContext(), lambda: fake).available
    with pytest.raises(MeterError, match="no NVIDIA GPU"):
        open_nvml(fake)


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    found = nvml.DRIVER.probe(MeterContext())
    assert not found.available
    assert "not installed" in found.cause
    assert "driver" in found.cure


def test_never_chosen_by_itself() -> None:
    assert nvml.DRIVER.automatic is False
    assert NvmlLibrary(FakeNvml()).name(ctypes.c_void_p(2)) == "GPU 2"


def test_a_driver_that_was_loaded_anew_is_an_error_not_negative_energy() -> None:
    fake = FakeNvml()
    meter = open_nvml(fake)
    meter.start()
    fake.energy_mj = [10, 20]
    with pytest.raises(MeterError, match=r"went back.*loaded anew"):
        meter.stop()
    meter.close()


def test_it_never_stands_in_for_a_device_across_a_link() -> None:
    link = CommandFiles(lambda argv, timeout_s: CommandOutput(127, ""))
    found = nvml._probe(MeterContext(link=link), FakeNvml)
    assert not found.available
    assert "this machine" in found.cause
    with pytest.raises(MeterError, match="not those of a device across a link; use"):
        nvml._open(MeterSpec("nvml"), MeterContext(link=link), FakeNvml)
