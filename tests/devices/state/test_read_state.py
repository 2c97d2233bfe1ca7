from __future__ import annotations

import math
from pathlib import Path

import pytest

from deepen.devices import open_device
from deepen.devices.local import LocalDevice
from deepen.devices.state.read_state import get_usable_cores, read_cpu_model, read_state
from deepen.errors import ConfigError


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_everything_absent_reads_as_unknown(tmp_path: Path) -> None:
    state = read_state(tmp_path)
    assert state.governor == ""
    assert math.isnan(state.frequency_hz)
    assert math.isnan(state.temperature_c)
    assert state.usable_cores == get_usable_cores()


def test_reads_governor_frequency_and_the_hottest_processor_sensor(tmp_path: Path) -> None:
    cores = get_usable_cores()
    for i, core in enumerate(cores):
        write(
            tmp_path,
            {
                f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "schedutil\n",
                f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": f"{1_000_000 + 200_000 * i}\n",
            },
        )
    write(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": "48500",
            "sys/class/thermal/thermal_zone1/type": "battery",
            "sys/class/thermal/thermal_zone1/temp": "99000",
            "sys/class/thermal/thermal_zone2/type": "soc-thermal",
            "sys/class/thermal/thermal_zone2/temp": "0",  # an absent sensor
            "sys/class/hwmon/hwmon0/name": "k10temp",
            "sys/class/hwmon/hwmon0/temp1_input": "51250",
        },
    )
    state = read_state(tmp_path)
    assert state.governor == "schedutil"
    assert state.frequency_hz == pytest.approx(1e9 + 2e8 * (len(cores) - 1) / 2)
    assert state.temperature_c == 51.25


def test_throttling_of_this_machine_is_read(tmp_path: Path) -> None:
    zone = tmp_path / "sys/class/thermal"
    write(zone, {"cooling_device0/type": "Processor", "cooling_device0/cur_state": "0"})
    write(zone, {"cooling_device1/type": "LCD", "cooling_device1/cur_state": "5"})
    count = "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count"
    write(tmp_path, {count: "7"})
    thermal = read_state(tmp_path).thermal
    assert thermal is not None
    assert (thermal.throttled, thermal.counters) == ((), {f"/{count}": 7})
    write(zone, {"cooling_device0/cur_state": "2"})
    later = read_state(tmp_path).thermal
    assert later is not None
    assert later.throttled == ("Processor at state 2",)


def test_clock_comes_from_cpuinfo_where_there_is_no_cpufreq(tmp_path: Path) -> None:
    lines = "".join(f"processor : {i}\ncpu MHz\t\t: {2000 + i}.5\n" for i in range(max(get_usable_cores()) + 1))
    write(tmp_path, {"proc/cpuinfo": lines})
    assert 2000.5e6 <= read_state(tmp_path).frequency_hz <= (2000.5 + max(get_usable_cores())) * 1e6


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/cpuinfo": "model name\t: AMD EPYC\n"}, "AMD EPYC"),
        ({"proc/device-tree/model": "Raspberry Pi 4 Model B\0", "proc/cpuinfo": "Hardware : BCM2835\n"},
         "Raspberry Pi 4 Model B, BCM2835"),
        ({"proc/device-tree/model": "ODROID-N2\0"}, "ODROID-N2"),
    ],
)  # fmt: skip
def test_processor_name(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    write(tmp_path, files)
    assert read_cpu_model(tmp_path) == expected


@pytest.mark.parametrize(("governor", "ok"), [("performance", True), ("powersave", False)])
def test_prepare_reports_the_governor_with_a_cure_and_changes_nothing(governor: str, ok: bool, tmp_path: Path) -> None:
    file = f"sys/devices/system/cpu/cpu{get_usable_cores()[0]}/cpufreq/scaling_governor"
    write(tmp_path, {file: governor})
    device = LocalDevice(root=tmp_path)
    found = {s.name: s for s in device.prepare()}
    assert found["governor"].ok is ok
    assert found["governor"].actual == governor
    assert ("scaling_governor" in found["governor"].cure) is not ok
    assert (tmp_path / file).read_text() == governor


def test_prepare_reports_a_hot_processor(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"sys/class/thermal/thermal_zone0/type": "x86_pkg_temp", "sys/class/thermal/thermal_zone0/temp": "97000"},
    )
    found = {s.name: s for s in LocalDevice(root=tmp_path).prepare()}
    assert not found["temperature"].ok
    assert "97.0" in found["temperature"].actual


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adb:", "device 'adb:': say which one"),
        ("adb:a b", "neither a serial number nor HOST:PORT"),
        ("ssh:me@", "not USER@HOST"),
        ("local:1", "'local' is this machine"),
        ("lokal", "did you mean local"),
        ("x86-servr-amd", "did you mean x86-server-amd"),
        ("", "unknown device ''"),
    ],
)
def test_wrong_device_names(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_device(spec)


def test_a_profile_name_opens_this_machine_with_its_figures() -> None:
    device = open_device("arm-board")
    assert device.profile.id == "arm-board"
    assert device.profile.power is not None
    assert device.profile.power.id == "arm-board"
    device.close()


def test_a_profile_with_a_link_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"devices/profiles/probe.toml": 'id = "probe"\nlink = "jtag"\n'})
    write(tmp_path, {"devices/profiles/board.toml": 'id = "board"\nlink = "ssh"\n'})
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    with pytest.raises(ConfigError, match="reached over 'jtag', which is not here; links: adb, local, ssh"):
        open_device("probe")
    with pytest.raises(ConfigError, match="profile 'board' does not say where its device is"):
        open_device("board")


def test_unknown_runtime_and_runtime_the_profile_does_not_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device("local")
    with pytest.raises(ConfigError, match="did you mean onnxruntime"):
        device.runtime("onnxruntme")
    write(tmp_path, {"devices/profiles/bare.toml": 'id = "bare"\nruntimes = []\n'})
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    with pytest.raises(ConfigError, match="has no runtime 'onnxruntime'"):
        open_device("bare").runtime()
