from __future__ import annotations

import math
from pathlib import Path

import pytest

from deepen import catalog
from deepen.devices import CpuPower, DeviceProfile, DeviceState, detect_power, list_profile_names, load_profile
from deepen.devices.local import DELEGATES, RUNTIMES
from deepen.errors import ConfigError


def state(cpu: str, machine: str = "x86_64", cores: int = 8) -> DeviceState:
    return DeviceState(cpu, machine, cores, tuple(range(cores)))


CLASSES = [name for name in list_profile_names() if load_profile(name).link == "local"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_machines_loads_and_names_the_source_of_its_power_figures(name: str) -> None:
    profile = load_profile(name, state("AMD EPYC 7B13"))
    assert profile.id == name
    assert profile.power is not None
    assert len(profile.power.source) > 40
    assert "assumption" in profile.power.source
    assert profile.power.per_core_w > 0


@pytest.mark.parametrize(
    ("cpu", "machine", "expected"),
    [
        ("AMD EPYC 7B13", "x86_64", "x86-server-amd"),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "x86_64", "x86-server-intel"),
        ("13th Gen Intel(R) Core(TM) i7-1360P", "x86_64", "x86-client"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "x86_64", "x86-client"),
        ("Raspberry Pi 4 Model B Rev 1.4, BCM2835", "aarch64", "arm-board"),
        ("Neoverse-N1", "aarch64", "arm-server"),
        ("AMD EPYC 7B13", "riscv64", "generic"),  # the name alone does not decide
        ("", "x86_64", "generic"),
    ],
)
def test_the_class_of_a_machine_is_found_from_its_processor(cpu: str, machine: str, expected: str) -> None:
    assert detect_power(state(cpu, machine)).id == expected


def test_power_figures_scale_with_the_number_of_cores() -> None:
    small, large = detect_power(state("EPYC", cores=2)), detect_power(state("EPYC", cores=64))
    assert large.idle_w == pytest.approx(32 * small.idle_w)
    assert large.per_core_w == pytest.approx(small.per_core_w)
    board = detect_power(state("Raspberry Pi 4 Model B", "aarch64", cores=4))
    assert (board.idle_w, board.full_w) == pytest.approx((2.7, 6.4))


def test_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean x86-server-amd"):
        load_profile("x86-server-amb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id = "x"\ncolour = "blue"\n', "unknown field colour"),
        ('id = "x"\nsupply_v = "much"\n', "supply_v|could not convert"),
        ('id = "x"\n[power]\nidle_w = 1\n', "idle_w, full_w, cores and source"),
        ('id = "x"\n[power]\nidle_w = 5\nfull_w = 2\ncores = 1\nsource = "s"\n', "idle_w < full_w"),
        ('id = "x"\ncpu_mask = [1, 1]\n', "different cores"),
        ('id = "', "not valid TOML"),
    ],
)
def test_a_wrong_profile_is_refused_with_the_field(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "devices" / "profiles"
    folder.mkdir(parents=True)
    (folder / "x.toml").write_text(text)
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        load_profile("x", state("EPYC"))


def test_no_class_at_all_is_an_error_not_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    with pytest.raises(ConfigError, match=r"generic\.toml"):
        detect_power(state("EPYC"))


def test_defaults_of_a_profile() -> None:
    profile = DeviceProfile("x")
    assert profile.power is None
    assert math.isinf(profile.max_temperature_c)
    with pytest.raises(ConfigError):
        DeviceProfile("")
    with pytest.raises(ConfigError):
        CpuPower("x", 1.0, 2.0, 0, "s")


def test_the_runner_is_part_of_the_catalog() -> None:
    assert catalog.find_path("devices", "runner", "runner.py").is_file()


@pytest.mark.parametrize("name", list_profile_names())
def test_every_profile_lists_runtimes_that_exist_best_first(name: str) -> None:
    profile = load_profile(name)
    assert set(profile.runtimes) <= set(RUNTIMES)
    assert len(set(profile.runtimes)) == len(profile.runtimes)
    assert not set(profile.runtimes) & set(DELEGATES)  # an accelerator comes with its runtime
    # A phone has no Python, a board has one; runners that stamp their blocks come before tools that do not.
    assert profile.runtimes[0] == ("crunner" if profile.link == "adb" else "onnxruntime")
    assert ("trtexec" in profile.runtimes) == name.startswith("jetson")
    for stamped, tool in (("crunner", "perf_test"), ("crunner-litert", "benchmark_model")):
        assert profile.runtimes.index(stamped) < profile.runtimes.index(tool)
