from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import ConfigError, MeterError
from deepen.meters import Meter, MeterContext, open_meter
from deepen.meters.onboard.odpm import (
    DRIVER,
    OdpmReading,
    choose_rail_names,
    parse_energy_value,
    parse_hal_dump,
    parse_powerstats,
)
from deepen.meters.onboard.timestamped_counter import TimestampedCounterMeter
from deepen.meters.sensor_files import CommandFiles
from deepen.testing.clock import VirtualClock

Write = Callable[[dict[str, str]], Path]
Program = Callable[..., Path]
Energy = Callable[[Meter], float]
IIO = "sys/bus/iio/devices"

RAILS = {  # a Pixel 6: rail -> (device, subsystem, microwatt-seconds)
    "S10M_VDD_TPU": (0, "TPU", 5_578_756),
    "VSYS_PWR_MODEM": (0, "Modem", 29_110_940),
    "S2M_VDD_CPUCL2": (0, "CPU(BIG)", 30_203_502),
    "S4M_VDD_CPUCL0": (0, "CPU(LITTLE)", 46_356_942),
    "L2S_VDD_AOC_RET": (1, "AOC", 2_822_928),
    "S9S_VDD_AOC": (1, "AOC", 6_923_706),
    "VSYS_PWR_DISPLAY": (1, "Display", 81_221_665),
}
SUMMED_J = sum(uws for name, (_, _, uws) in RAILS.items() if not name.startswith("L")) / 1e6


def iio(ms: int, extra_uws: int = 0, rails: dict[str, tuple[int, str, int]] | None = None) -> dict[str, str]:
    """The files of both monitors at a time; every rail has used ``extra_uws`` more than in ``RAILS``."""
    files = {}
    for device in (0, 1):
        own = [(n, s, e) for n, (d, s, e) in (rails or RAILS).items() if d == device]
        t = ms + 7 * device  # the monitors are read one after the other
        base = f"{IIO}/iio:device{device}"
        files[f"{base}/name"] = f"s2mpg1{device}-odpm\n"
        files[f"{base}/enabled_rails"] = "".join(f"CH{i}[{n}]:{s}\n" for i, (n, s, _) in enumerate(own))
        files[f"{base}/energy_value"] = f"t={t}\n" + "".join(
            f"CH{i}(T={t})[{n}], {e + extra_uws}\n" for i, (n, _, e) in enumerate(own)
        )
    return files


def hal(extra_uws: int = 0, delta: bool = False) -> str:
    rows = [
        f"  {f'[{n}]:{s}':>32}   {(e + extra_uws) / 1000:14.2f} mWs" + ("(          1.00)" if delta else "")
        for n, (_, s, e) in RAILS.items()
    ]
    return "\n".join([
        "",
        "============= PowerStats HAL 2.0 state residencies ==============",
        "  Entity              State         Total time     Total entries   Last entry tstamp",
        "     CPU               DOWN           123456 ms              789            12345 ms",
        "========== End of PowerStats HAL 2.0 state residencies ==========",
        "",
        "============= PowerStats HAL 2.0 energy consumers ==============",
        "CPUCL0       :       46356.94 mWs",
        "       10123 -          12.00 mWs",
        "========== End of PowerStats HAL 2.0 energy consumers ==========",
        "",
        "============= PowerStats HAL 2.0 energy meter ==============",
        f"  {'Channel':>32}   {'Cumulative Energy':>18}",
        *rows,
        "========== End of PowerStats HAL 2.0 energy meter ==========",
        "",
    ])  # fmt: skip


def powerstats(ms: int | None = None, duration: bool = True) -> str:
    lines = ["PowerStatsService dumpsys: available Channels"]
    lines += [
        f"  ChannelId: {i}, ChannelName: {n}, ChannelSubsystem: {s}" for i, (n, (_, s, _)) in enumerate(RAILS.items())
    ]
    lines += ["PowerStatsService dumpsys: available EnergyConsumers", "  EnergyConsumerId: 0, EnergyConsumerName: CPU"]
    if ms is not None:
        lines.append("EnergyConsumerId: 0, Timestamp (ms): 99, Energy (uWs): 12345")
        for i, (_, _, uws) in enumerate(RAILS.values()):
            lines += [
                f"ChannelId: {i}, Timestamp (ms): {t},"
                + (" Duration (ms): 1000," if duration else "")
                + f" Energy (uWs): {e}"
                for t, e in ((ms, uws), (ms - 1000, uws - 500))
            ]
    return "\n".join(lines)


def dumpsys(tmp_path: Path, **services: str) -> None:
    """A phone's ``dumpsys`` that knows some services."""
    folder = tmp_path / "system/bin"
    folder.mkdir(parents=True, exist_ok=True)
    names = {"hal": "android.hardware.power.stats.IPowerStats/default", "powerstats": "powerstats"}
    cases = ""
    for key, text in services.items():
        (folder / f"{key}.txt").write_text(text)
        cases += f'  "{names[key]}") cat "{folder / key}.txt" ;;\n'
    program = folder / "dumpsys"
    program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}  *) echo "Can\'t find service: $1" ;;\nesac\n')
    program.chmod(0o755)


def at_hand(meter: Meter) -> VirtualClock:
    """Give a meter a clock that moves only when told."""
    assert isinstance(meter, TimestampedCounterMeter)
    clock = VirtualClock()
    meter._now, meter._sleep = clock.now, clock.sleep
    return clock


def test_energy_values_are_microwatt_seconds_with_their_own_time() -> None:
    files = iio(349_894)
    found = parse_energy_value(files[f"{IIO}/iio:device0/energy_value"], files[f"{IIO}/iio:device0/enabled_rails"])
    assert found[0] == OdpmReading("S10M_VDD_TPU", "TPU", pytest.approx(5.578756), 349.894)  # type: ignore[arg-type]
    assert [c.subsystem for c in found] == ["TPU", "Modem", "CPU(BIG)", "CPU(LITTLE)"]
    assert parse_energy_value("t=5\nCH0(T=5)[X], 7\n")[0].subsystem == ""


@pytest.mark.parametrize("delta", [False, True])
def test_the_service_prints_milliwatt_seconds_and_only_its_meter_counts(delta: bool) -> None:
    found = parse_hal_dump(hal(delta=delta))
    assert [c.name for c in found] == list(RAILS)
    assert [c.subsystem for c in found] == [s for _, s, _ in RAILS.values()]
    assert [c.energy_j for c in found] == pytest.approx([e / 1e6 for _, _, e in RAILS.values()], abs=1e-5)
    assert all(math.isnan(c.device_s) for c in found)


@pytest.mark.parametrize("duration", [False, True])
def test_power_statistics_text_tells_the_latest_of_each_channel(duration: bool) -> None:
    found = parse_powerstats(powerstats(500_000, duration))
    assert {c.name: c.energy_j for c in found} == pytest.approx({n: e / 1e6 for n, (_, _, e) in RAILS.items()})
    assert {c.device_s for c in found} == {500.0}
    assert parse_powerstats(powerstats()) == []  # names, but no energy


@given(st.text(alphabet="CHanelId: (0)T=[S]M,tmWs\n12.-=> EndPowerStats HAL energy meter", max_size=300))
def test_no_text_breaks_the_parsers(text: str) -> None:
    wrapped = f"=== PowerStats HAL 2.0 energy meter ===\n{text}\n=== End of"
    for found in (
        parse_energy_value(text, text),
        parse_powerstats(text),
        parse_hal_dump(text),
        parse_hal_dump(wrapped),
    ):
        assert all(math.isfinite(c.energy_j) for c in found)


def test_rails_fed_by_others_and_the_battery_are_left_out_and_named() -> None:
    channels = [OdpmReading(n, "", 0.0) for n in ("S1M_A", "L2S_B", "VSYS_PWR_VBATT", "VSYS_PWR_WLAN_BT", "LDO_NAME")]
    assert choose_rail_names(channels) == (["S1M_A", "VSYS_PWR_WLAN_BT", "LDO_NAME"], ["L2S_B", "VSYS_PWR_VBATT"])
    assert choose_rail_names(channels, ["L2S_B"]) == (["L2S_B"], [])
    with pytest.raises(MeterError, match="two rails 'S1M_A'"):
        choose_rail_names([channels[0], channels[0]])


def test_files_give_exact_energy_on_the_devices_time(sysfs: Write, tmp_path: Path) -> None:
    root = sysfs(iio(349_894))
    dumpsys(tmp_path, hal=hal())
    meter = open_meter("odpm", root=root)
    clock = at_hand(meter)
    meter.start()
    clock.sleep(3600.0)
    sysfs(iio(349_894 + 3_600_000, 6_000_000))  # an hour later by its own clock
    trace = meter.stop()
    steps = trace.t_s[1:] - trace.t_s[:-1]
    energy = float((steps * (trace.power_w[1:] + trace.power_w[:-1]) / 2).sum())
    # Six rails of 6 J each over the hour; the monitors' times lie 7 ms apart.
    assert energy == pytest.approx(36.0, rel=1e-5)
    assert float(trace.t_s[-1] - trace.t_s[0]) == pytest.approx(3600.0, rel=1e-3)
    assert trace.meter_id == "odpm"
    assert "6 monitored rails, not the whole device" in trace.warnings[0]
    assert "L2S_VDD_AOC_RET" in trace.warnings[1]
    assert "energy_value" in trace.calibration_id


def test_without_the_files_the_service_is_asked(tmp_path: Path, energy_j: Energy) -> None:
    dumpsys(tmp_path, hal=hal(), powerstats=powerstats())
    meter = open_meter("odpm", root=tmp_path)
    meter.start()
    dumpsys(tmp_path, hal=hal(2_000_000))
    assert energy_j(meter) == pytest.approx(12.0, rel=1e-4)
    # The service's numbers pass through a float of 24 bits: 8 uJ at 81 J, in steps of 10 uJ as printed.
    assert meter.resolution_j == pytest.approx(1e-5 * math.sqrt(6), rel=1e-6)
    assert "power statistics service" in meter.calibration_id
    assert "power statistics service" in DRIVER.probe(MeterContext(root=tmp_path)).detail


def test_long_uptime_makes_the_service_coarse(tmp_path: Path) -> None:
    section = "= PowerStats HAL 2.0 energy meter =\n  [S1M]:CPU   192612469.10 mWs\n= End of"
    dumpsys(tmp_path, hal=section)
    assert open_meter("odpm", root=tmp_path).resolution_j == pytest.approx(16_384e-6)


def test_the_text_of_power_statistics_is_the_last_resort(tmp_path: Path) -> None:
    dumpsys(tmp_path, powerstats=powerstats(700_000))
    meter = open_meter("odpm:CPU(BIG),CPU(LITTLE)", root=tmp_path)
    clock = at_hand(meter)
    assert "CPU(BIG),CPU(LITTLE)" in meter.calibration_id
    meter.start()
    clock.sleep(60.0)
    dumpsys(tmp_path, powerstats=powerstats(760_000))
    assert meter.stop().warnings == ()  # what was named is what was asked for


def test_rails_and_subsystems_can_be_named(sysfs: Write) -> None:
    root = sysfs(iio(1000))
    assert "odpm S10M_VDD_TPU" in open_meter("odpm:S10M_VDD_TPU", root=root).calibration_id
    with pytest.raises(ConfigError, match=r"there is no rail or subsystem 'GPU'; found: S10M_VDD_TPU \(TPU\)"):
        open_meter("odpm:GPU", root=root)
    with pytest.raises(ConfigError, match="no option 'rate'"):
        open_meter("odpm?rate=5", root=root)


def test_a_rail_that_vanishes_is_an_error_never_a_smaller_sum(sysfs: Write) -> None:
    root = sysfs(iio(1000))
    meter = open_meter("odpm", root=root)
    meter.start()
    sysfs(iio(2000, 5, {n: r for n, r in RAILS.items() if n != "S10M_VDD_TPU"}))
    with pytest.raises(MeterError, match="rail S10M_VDD_TPU is missing"):
        meter.mark()
    meter.close()
    (root / IIO / "iio:device1/energy_value").unlink()
    with pytest.raises(MeterError, match="cannot be read any more"):
        meter.mark()


def test_a_restart_is_an_error(tmp_path: Path) -> None:
    dumpsys(tmp_path, hal=hal())
    meter = open_meter("odpm", root=tmp_path)
    meter.start()
    dumpsys(tmp_path, hal=hal(-2_000_000))
    with pytest.raises(MeterError, match=r"went back .*the device restarted"):
        meter.mark()
    meter.close()


def test_machines_without_rails_say_so(tmp_path: Path) -> None:
    found = DRIVER.probe(MeterContext(root=tmp_path))
    assert not found.available
    assert "no power rails here" in found.cause
    dumpsys(tmp_path, powerstats=powerstats())
    with pytest.raises(MeterError, match=r"reports no energy of its rails .*use --meter battery"):
        open_meter("odpm", root=tmp_path)


@pytest.mark.parametrize("merge", [False, True])
def test_a_phone_across_a_link(sysfs: Write, across: Callable[..., CommandFiles], merge: bool) -> None:
    sysfs(iio(349_894))
    meter = open_meter("odpm:CPU(BIG)", link=across(merge=merge))
    clock = at_hand(meter)
    meter.start()
    clock.sleep(600.0)
    sysfs(iio(349_894 + 600_000, 1_200_000))
    trace = meter.stop()
    assert float(trace.power_w.mean()) == pytest.approx(0.002, rel=1e-3)
