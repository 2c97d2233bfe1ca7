"""Every on-board driver keeps the contract of meters, here and across a link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepen.meters import Meter, MeterContext, open_meter
from deepen.meters.registry import load_driver
from deepen.meters.sensor_files import CommandFiles

Write = Callable[[dict[str, str]], Path]

MACHINES: dict[str, dict[str, str]] = {
    "rapl": {
        "sys/class/powercap/intel-rapl:0/name": "package-0",
        "sys/class/powercap/intel-rapl:0/energy_uj": "5",
        "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "1000",
    },
    "ina3221": {
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_label": "VDD_IN",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_input": "5000",
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input": "1000",
    },
    "hwmon": {"sys/class/hwmon/hwmon0/name": "ina226", "sys/class/hwmon/hwmon0/power1_input": "2000000"},
    "rpi-pmic": {"usr/bin/vcgencmd": "#!/bin/sh\necho 'X_A current(0)=1.0A'\necho 'X_V volt(1)=2.0V'\n"},
    "odpm": {
        "system/bin/dumpsys": "#!/bin/sh\necho '== PowerStats HAL 2.0 energy meter =='\n"
        "echo '  [S1M]:CPU    12.00 mWs'\necho '== End of'\n"
    },
    "battery": {
        "sys/class/power_supply/BAT0/type": "Battery",
        "sys/class/power_supply/BAT0/status": "Discharging",
        "sys/class/power_supply/BAT0/power_now": "5000000",
    },
}


@pytest.mark.parametrize("linked", [False, True], ids=["here", "across"])
@pytest.mark.parametrize("name", MACHINES)
def test_start_mark_stop_twice(
    name: str, linked: bool, sysfs: Write, across: Callable[..., CommandFiles], tmp_path: Path
) -> None:
    root = sysfs(MACHINES[name])
    for path in tmp_path.glob("*/bin/*"):
        path.chmod(0o755)
    context = MeterContext(link=across()) if linked else MeterContext(root=root)
    found = load_driver(name).probe(context)
    assert (found.available, found.source, found.cause, found.cure) == (True, "measured", "", "")
    meter = open_meter(name, link=context.link, root=context.root)
    assert isinstance(meter, Meter)
    assert meter.id == name
    assert meter.scope == "machine"
    assert meter.update_s > 0
    assert meter.resolution_j >= 0
    for _ in range(2):
        meter.start()
        for _ in range(3):
            meter.mark()
        trace = meter.stop()
        assert trace.t_s.size >= 2
        assert np.all(np.diff(trace.t_s) > 0)
        assert trace.power_w.min() >= 0
        assert trace.source == meter.source
        assert trace.meter_id == meter.id
        assert trace.calibration_id == meter.calibration_id != ""
    meter.close()
    meter.close()


@pytest.mark.parametrize("name", MACHINES)
def test_an_empty_machine_has_no_such_source_and_says_so_in_one_line(
    name: str, tmp_path: Path, across: Callable[..., CommandFiles]
) -> None:
    for context in (MeterContext(root=tmp_path), MeterContext(link=across())):
        found = load_driver(name).probe(context)
        assert not found.available
        assert found.cause
        assert "\n" not in found.cause + found.cure


def test_across_a_link_the_best_source_of_the_device_is_chosen(
    sysfs: Write, across: Callable[..., CommandFiles]
) -> None:
    sysfs({**MACHINES["ina3221"], **MACHINES["battery"]})
    assert open_meter(link=across()).id == "ina3221"
