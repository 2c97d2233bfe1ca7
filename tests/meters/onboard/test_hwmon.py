from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters import Meter, MeterContext, list_meters, open_meter
from deepen.meters.onboard.hwmon import DRIVER, find_sensors
from deepen.meters.sensor_files import CommandFiles, LocalFiles

Write = Callable[[dict[str, str]], Path]
Energy = Callable[[Meter], float]


def chip(number: int, name: str, **files: object) -> dict[str, str]:
    return {f"sys/class/hwmon/hwmon{number}/{k}": f"{v}\n" for k, v in {"name": name, **files}.items()}


INA226 = chip(
    4, "ina226", in0_input=1, in1_input=5016, curr1_input=820, power1_input=4_113_120, shunt_resistor=2000,
    update_interval=35,
)  # fmt: skip
OTHERS = {
    **chip(0, "coretemp", temp1_input=45000),
    **chip(1, "pwmfan", pwm1=54),
    **chip(2, "BAT0", in0_input=11550, curr1_input=650, power1_input=7_500_000),
    "sys/class/hwmon/hwmon2/device/type": "Battery\n",
    **chip(3, "ucsi_source_psy_USBC000:001", in0_input=5000, curr1_input=3000),
}


def mean_w(root: Path, spec: str = "hwmon") -> float:
    meter = open_meter(spec, root=root)
    meter.start()
    trace = meter.stop()
    assert (trace.source, trace.meter_id) == ("measured", "hwmon")
    return float(trace.power_w.mean())


@pytest.mark.parametrize(
    ("files", "power_w"),
    [
        (INA226, 4.11312),
        (chip(1, "ina219", in1_input=5000, curr1_input=400), 2.0),  # a driver without power
        (chip(1, "ina226", in1_input=5000, curr1_input=400, power1_input=1_900_000), 1.9),  # power where there is one
        (chip(1, "power_meter", power1_average=345_000_000, power1_average_interval=1000), 345.0),
    ],
)
def test_power_is_read_in_watts(files: dict[str, str], power_w: float, sysfs: Write) -> None:
    assert mean_w(sysfs({**OTHERS, **files})) == pytest.approx(power_w)


def test_the_interval_of_averages_is_the_update(sysfs: Write) -> None:
    root = sysfs(chip(1, "power_meter", power1_average=345_000_000, power1_average_interval=1000))
    assert open_meter("hwmon", root=root).update_s == pytest.approx(1.0)


def test_the_step_of_a_known_chip_follows_from_its_shunt(sysfs: Write) -> None:
    meter = open_meter("hwmon", root=sysfs(INA226))
    assert meter.update_s >= 0.035
    assert meter.resolution_j == pytest.approx(25 * 2.5e-6 / 2e-3 * meter.update_s)


def test_several_sensors_are_never_added_up(sysfs: Write) -> None:
    root = sysfs({**INA226, **chip(5, "ina226", power1_input=1_000_000), **chip(6, "amdgpu", power1_average=9_000_000)})
    assert [s.name for s in find_sensors(LocalFiles(root))] == ["hwmon4/power1", "hwmon5/power1", "amdgpu/power1"]
    with pytest.raises(ConfigError, match=r"name one sensor, as in hwmon:hwmon4/power1; found: .*amdgpu/power1"):
        open_meter("hwmon", root=root)
    found = DRIVER.probe(MeterContext(root=root))
    assert not found.available
    assert found.cure == "name one: --meter hwmon:hwmon4/power1"
    assert mean_w(root, "hwmon:hwmon5/power1") == pytest.approx(1.0)
    assert mean_w(root, "hwmon:amdgpu") == pytest.approx(9.0)
    with pytest.raises(ConfigError, match="there is no such sensor; found: hwmon4/power1"):
        open_meter("hwmon:ina999", root=root)


def test_labels_name_the_channels_of_one_chip(sysfs: Write) -> None:
    root = sysfs(chip(1, "ltc2992", power1_input=1_000_000, power1_label="VDD_SOC", power2_input=2_000_000))
    assert mean_w(root, "hwmon:ltc2992/VDD_SOC") == pytest.approx(1.0)
    assert mean_w(root, "hwmon:ltc2992/power2") == pytest.approx(2.0)
    with pytest.raises(ConfigError, match="name one sensor"):
        open_meter("hwmon:ltc2992", root=root)


def test_an_energy_counter_gives_its_own_difference(sysfs: Write, energy_j: Energy) -> None:
    root = sysfs(chip(1, "xgene", energy1_input=5_000_000, energy1_label="CPU"))
    meter = open_meter("hwmon:xgene/CPU", root=root)
    meter.start()
    sysfs(chip(1, "xgene", energy1_input=7_500_000))
    assert energy_j(meter) == pytest.approx(2.5, rel=1e-6)
    meter.start()
    sysfs(chip(1, "xgene", energy1_input=100))
    with pytest.raises(MeterError, match=r"went back .*it wrapped"):
        meter.mark()
    meter.close()


def test_a_sensor_that_vanishes_is_an_error(sysfs: Write) -> None:
    root = sysfs(INA226)
    meter = open_meter("hwmon", root=root)
    meter.start()
    (root / "sys/class/hwmon/hwmon4/power1_input").unlink()
    with pytest.raises(MeterError, match=r"cannot read .*power1_input"):
        meter.stop()
    meter.close()


def test_nothing_here(sysfs: Write) -> None:
    root = sysfs(OTHERS)
    assert "no power sensor" in DRIVER.probe(MeterContext(root=root)).cause
    with pytest.raises(MeterError, match="no power sensor in /sys/class/hwmon; load its driver"):
        open_meter("hwmon", root=root)
    with pytest.raises(ConfigError, match="no option 'rate'"):
        open_meter("hwmon?rate=1", root=root)


def test_it_is_listed_but_not_chosen_by_itself(sysfs: Write) -> None:
    assert DRIVER.automatic is False
    found = {m.name: m for m in list_meters(MeterContext(root=sysfs(INA226)))}
    assert found["hwmon"].available
    assert "ina226/power1" in found["hwmon"].detail


def test_across_a_link(sysfs: Write, across: Callable[..., CommandFiles]) -> None:
    sysfs({**INA226, **OTHERS})
    meter = open_meter("hwmon", link=across())
    meter.start()
    assert float(meter.stop().power_w[0]) == pytest.approx(4.11312)
