from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from deepen.errors import ConfigError, MeterError
from deepen.meters import MeterContext, list_meters, open_meter
from deepen.meters.onboard.ina3221 import DRIVER, choose_rails, find_rails
from deepen.meters.sensor_files import CommandFiles, LocalFiles

Write = Callable[[dict[str, str]], Path]
OLD = "sys/bus/i2c/drivers/ina3221x"
NEW = "sys/bus/i2c/drivers/ina3221"


def old(address: str, *rails: tuple[str, int, int], device: str = "iio:device0", power: bool = True) -> dict[str, str]:
    """A monitor of L4T 32: name, millivolts, milliamperes of each channel."""
    files = {}
    for n, (name, mv, ma) in enumerate(rails):
        base = f"{OLD}/{address}/{device}"
        files |= {
            f"{base}/rail_name_{n}": f"{name}\n",
            f"{base}/in_voltage{n}_input": f"{mv}\n",
            f"{base}/in_current{n}_input": f"{ma}\n",
        }
        if power:
            files[f"{base}/in_power{n}_input"] = f"{mv * ma // 1000}\n"
    return files


def new(address: str, hwmon: str, *rails: tuple[str, int, int], shunt_uohm: int = 5000) -> dict[str, str]:
    """A monitor of JetPack 5, with everything the mainline driver shows beside its channels."""
    base = f"{NEW}/{address}/hwmon/{hwmon}"
    files = {
        f"{base}/name": "ina3221\n",
        f"{base}/update_interval": "34\n",
        f"{base}/in7_label": "sum of shunt voltages\n",
        f"{base}/in7_input": "760\n",
        f"{base}/curr4_input": "99999\n",
    }
    for n, (name, mv, ma) in enumerate(rails, start=1):
        files |= {
            f"{base}/in{n}_label": f"{name}\n",
            f"{base}/in{n}_enable": "1\n",
            f"{base}/in{n}_input": f"{mv}\n",
            f"{base}/curr{n}_input": f"{ma}\n",
            f"{base}/shunt{n}_resistor": f"{shunt_uohm}\n",
            f"{base}/in{n + 3}_input": "280\n",
        }
    return files


NANO = old("6-0040", ("POM_5V_IN", 5000, 480), ("POM_5V_GPU", 5000, 40), ("POM_5V_CPU", 5000, 120))
XAVIER_NX = old("7-0040", ("VDD_IN", 5000, 800), ("VDD_CPU_GPU_CV", 4992, 200), ("VDD_SOC", 4992, 150))
TX2 = {
    **old("0-0040", ("VDD_SYS_GPU", 19000, 8), ("VDD_SYS_SOC", 19000, 24), ("VDD_4V0_WIFI", 4800, 2)),
    **old(
        "0-0041", ("VDD_IN", 19000, 120), ("VDD_SYS_CPU", 19000, 16), ("VDD_SYS_DDR", 4800, 80), device="iio:device1"
    ),
    **old(
        "0-0042", ("VDD_MUX", 19000, 300), ("VDD_5V_IO_SYS", 5000, 90), ("VDD_3V3_SYS", 3300, 5), device="iio:device2"
    ),
}
AGX_XAVIER = {
    **old("1-0040", ("GPU", 19000, 10), ("CPU", 19000, 20), ("SOC", 19000, 30)),
    **old("1-0041", ("CV", 19000, 0), ("VDDRQ", 19000, 15), ("SYS5V", 5000, 400), device="iio:device1"),
}
ORIN_NX = new("1-0040", "hwmon3", ("VDD_IN", 4984, 960), ("VDD_CPU_GPU_CV", 4976, 120), ("VDD_SOC", 4976, 304))
AGX_ORIN = {
    **new("1-0040", "hwmon3", ("VDD_GPU_SOC", 18792, 140), ("VDD_CPU_CV", 18784, 20), ("VIN_SYS_5V0", 4968, 980)),
    **new("1-0041", "hwmon4", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 4968, 360), ("NC", 0, 0)),
}
THOR = new("1-0040", "hwmon1", ("VDD_GPU", 12040, 640), ("VDD_CPU_SOC_MSS", 12040, 960), ("VIN_SYS_5V0", 5088, 1740))
THOR_INPUT = {
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon2/power1_input": "41500000\n",
    "sys/bus/i2c/drivers/ina238/2-0044/hwmon/hwmon2/in1_input": "19800\n",
}


def mean_w(root: Path, spec: str = "ina3221") -> float:
    meter = open_meter(spec, root=root)
    meter.start()
    trace = meter.stop()
    assert (trace.source, trace.meter_id) == ("measured", "ina3221")
    return float(trace.power_w[0])


@pytest.mark.parametrize(
    ("board", "power_w", "chosen"),
    [
        (NANO, 2.4, "POM_5V_IN"),
        (XAVIER_NX, 4.0, "VDD_IN"),
        (TX2, 2.28, "VDD_IN"),
        (AGX_XAVIER, 19.0 * 0.075 + 2.0, "GPU+CPU+SOC+CV+VDDRQ+SYS5V"),
        (ORIN_NX, 4.984 * 0.96, "VDD_IN"),
        (AGX_ORIN, 18.792 * 0.14 + 18.784 * 0.02 + 4.968 * 0.98, "VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"),
        (THOR, 12.04 * 1.6 + 5.088 * 1.74, "VDD_GPU+VDD_CPU_SOC_MSS+VIN_SYS_5V0"),
        ({**THOR, **THOR_INPUT}, 41.5, "VIN"),
    ],
    ids=["nano", "xavier-nx", "tx2", "agx-xavier", "orin-nx", "agx-orin", "thor", "thor-input"],
)
def test_the_total_of_every_board_counts_each_joule_once(
    board: dict[str, str], power_w: float, chosen: str, sysfs: Write
) -> None:
    root = sysfs(board)
    assert mean_w(root) == pytest.approx(power_w, rel=1e-9)
    assert open_meter("ina3221", root=root).calibration_id.startswith(f"ina3221 {chosen} (")
    found = DRIVER.probe(MeterContext(root=root))
    assert found.available
    assert found.detail.startswith(chosen.replace("+", " + "))


def test_both_generations_give_the_same_power(sysfs: Write, tmp_path: Path) -> None:
    rails = (("VDD_IN", 5000, 1000), ("VDD_SOC", 5000, 100))
    boards = [
        old("7-0040", *rails),
        old("7-0040", *rails, power=False),
        old("7-0040", *rails, device="iio_device"),
        new("1-0040", "hwmon3", *rails),
    ]
    for folder, board in zip("abcd", boards, strict=True):
        sysfs({f"{folder}/{name}": text for name, text in board.items()})
        assert mean_w(tmp_path / folder) == pytest.approx(5.0)


def test_shunt_sums_and_open_channels_are_no_rails(sysfs: Write) -> None:
    rails = find_rails(LocalFiles(sysfs(AGX_ORIN)))
    assert [r.name for r in rails] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]


def test_only_three_channels_are_rails_whatever_the_label_says(sysfs: Write) -> None:
    base = f"{NEW}/1-0040/hwmon/hwmon3"
    root = sysfs({**ORIN_NX, f"{base}/in7_label": "ALL\n", f"{base}/in4_label": "VIN\n", f"{base}/curr7_input": "5\n"})
    assert [r.name for r in find_rails(LocalFiles(root))] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]


def test_a_name_that_only_contains_the_letters_is_connected(sysfs: Write) -> None:
    root = sysfs(new("1-0040", "hwmon3", ("VDD_SYNC", 5000, 10), ("ch2 NC", 0, 0), ("VDD_NC", 0, 0)))
    assert [r.name for r in find_rails(LocalFiles(root))] == ["VDD_SYNC"]


def test_a_board_that_is_not_known_is_never_summed(sysfs: Write) -> None:
    root = sysfs(new("1-0040", "hwmon3", ("VDD_A", 5000, 100), ("VDD_B", 5000, 200)))
    with pytest.raises(MeterError, match=r"not known to have a total among its rails \(VDD_A, VDD_B\); name those"):
        open_meter("ina3221", root=root)
    found = DRIVER.probe(MeterContext(root=root))
    assert not found.available
    assert "--meter ina3221:VDD_A,VDD_B" in found.cure
    assert mean_w(root, "ina3221:VDD_A,VDD_B") == pytest.approx(1.5)


def test_part_of_a_known_sum_is_no_total(sysfs: Write) -> None:
    root = sysfs({**AGX_ORIN, f"{NEW}/1-0040/hwmon/hwmon3/in2_enable": "0\n"})  # one of the three is switched off
    with pytest.raises(MeterError, match="not known to have a total"):
        open_meter("ina3221", root=root)


def test_rails_can_be_named_but_not_nested(sysfs: Write) -> None:
    root = sysfs(AGX_ORIN)
    assert mean_w(root, "ina3221:VDD_GPU_SOC,VDD_CPU_CV") == pytest.approx(18.792 * 0.14 + 18.784 * 0.02)
    assert mean_w(root, "ina3221:VDDQ_VDD2_1V8AO") == pytest.approx(4.968 * 0.36)
    with pytest.raises(ConfigError, match="VIN_SYS_5V0 already has VDDQ_VDD2_1V8AO in it"):
        open_meter("ina3221:VDDQ_VDD2_1V8AO,VIN_SYS_5V0", root=root)
    with pytest.raises(ConfigError, match="there is no rail 'VDD_IN'; found: VDD_GPU_SOC, VDD_CPU_CV"):
        open_meter("ina3221:VDD_IN", root=root)
    with pytest.raises(ConfigError, match="name everything once"):
        open_meter("ina3221:VDD_CPU_CV,VDD_CPU_CV", root=root)
    with pytest.raises(ConfigError, match="no option 'rate'"):
        open_meter("ina3221?rate=5", root=root)


@pytest.mark.parametrize(("board", "pair"), [(NANO, "POM_5V_IN,POM_5V_CPU"), (TX2, "VDD_SYS_CPU,VDD_IN")])
def test_a_total_plus_its_parts_is_refused(board: dict[str, str], pair: str, sysfs: Write) -> None:
    with pytest.raises(ConfigError, match="already has"):
        open_meter(f"ina3221:{pair}", root=sysfs(board))


def test_two_rails_of_one_name_are_not_confused(sysfs: Write) -> None:
    root = sysfs({**new("1-0040", "hwmon3", ("VDD_IN", 5000, 100)), **new("1-0041", "hwmon4", ("VDD_IN", 5000, 200))})
    with pytest.raises(MeterError, match="not known to have a total"):
        choose_rails(find_rails(LocalFiles(root)))
    with pytest.raises(ConfigError, match="there is 2 rails 'VDD_IN'"):
        open_meter("ina3221:VDD_IN", root=root)


def test_update_step_and_accuracy_come_from_the_chip(sysfs: Write) -> None:
    meter = open_meter("ina3221", root=sysfs(ORIN_NX))
    assert meter.update_s >= 0.034
    watts_per_volt = 4.984 / 0.005
    assert meter.resolution_j == pytest.approx(40e-6 * watts_per_volt * meter.update_s)
    accuracy = meter.accuracy  # type: ignore[attr-defined]
    assert accuracy.offset_w == pytest.approx(80e-6 * watts_per_volt / math.sqrt(3))
    assert accuracy.gain == pytest.approx(0.0106 / math.sqrt(3), rel=1e-2)
    assert "SBOS576" in accuracy.reference
    unknown = open_meter("ina3221", root=sysfs({f"x/{k}": v for k, v in NANO.items()}) / "x")
    assert unknown.accuracy.offset_w == 0.0  # type: ignore[attr-defined]
    assert "offset unknown" in unknown.accuracy.reference  # type: ignore[attr-defined]


def test_power_follows_the_files_and_flows_both_ways(sysfs: Write) -> None:
    root = sysfs(ORIN_NX)
    meter = open_meter("ina3221", root=root)
    meter.start()
    base = f"{NEW}/1-0040/hwmon/hwmon3"
    sysfs({f"{base}/curr1_input": "-40\n"})
    trace = meter.stop()
    assert trace.power_w[0] == pytest.approx(4.984 * 0.96)
    assert trace.power_w[-1] == pytest.approx(-4.984 * 0.04)


@pytest.mark.parametrize("content", ["", "garbage"])
def test_a_rail_that_stops_answering_is_an_error_never_a_smaller_sum(content: str, sysfs: Write) -> None:
    root = sysfs(AGX_ORIN)
    meter = open_meter("ina3221", root=root)
    meter.start()
    path = root / NEW / "1-0040/hwmon/hwmon3/curr2_input"
    path.write_text(content)
    with pytest.raises(MeterError, match=r"curr2_input holds .*, no number"):
        meter.mark()
    meter.close()
    path.unlink()
    with pytest.raises(MeterError, match=r"cannot read .*curr2_input"):
        open_meter("ina3221", root=root)
    assert not DRIVER.probe(MeterContext(root=root)).available


def test_it_is_chosen_by_itself_on_a_jetson_and_nowhere_else(sysfs: Write, tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="no monitor below"):
        open_meter("ina3221", root=tmp_path)
    assert not DRIVER.probe(MeterContext(root=sysfs(THOR_INPUT))).available  # an INA238 on some other board
    root = sysfs(ORIN_NX)
    assert open_meter(root=root).id == "ina3221"
    assert {m.name: m.available for m in list_meters(MeterContext(root=root))}["ina3221"]


@pytest.mark.parametrize("merge", [False, True])
def test_a_jetson_across_a_link_costs_one_command_a_reading(
    merge: bool, sysfs: Write, across: Callable[..., CommandFiles]
) -> None:
    sysfs({**AGX_ORIN, **XAVIER_NX})
    link = across(merge=merge)
    meter = open_meter("ina3221:VDD_GPU_SOC,VDD_CPU_CV,VIN_SYS_5V0", link=link)
    commands = link._run.commands  # type: ignore[attr-defined]
    before = len(commands)
    meter._read_w()  # type: ignore[attr-defined]
    assert len(commands) == before + 1
    meter.start()
    assert float(meter.stop().power_w[0]) == pytest.approx(18.792 * 0.14 + 18.784 * 0.02 + 4.968 * 0.98)
    meter.close()
