from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import ConfigError, MeterError
from deepen.meters import MeterContext, open_meter
from deepen.meters.onboard.rpi_pmic import DRIVER, parse_pmic_adc
from deepen.meters.sensor_files import CommandFiles

Program = Callable[..., Path]

RAILS = {  # rail -> current channel, amperes, voltage channel, volts: the shape and order of a Pi 5's own output
    "3V7_WL_SW": (0, 0.09368928, 8, 3.70060000),
    "3V3_SYS": (1, 0.08783370, 9, 3.31100000),
    "1V8_SYS": (2, 0.18054710, 10, 1.80500000),
    "DDR_VDD2": (3, 0.22543980, 11, 1.10500000),
    "DDR_VDDQ": (4, 0.00000000, 12, 0.60100000),
    "1V1_SYS": (5, 0.17566740, 13, 1.11000000),
    "0V8_SW": (6, 0.37670900, 14, 0.80100000),
    "VDD_CORE": (7, 2.85760000, 15, 0.86170000),
    "3V3_DAC": (17, 0.00006105, 20, 3.31300000),
    "3V3_ADC": (18, 0.00036630, 21, 3.30700000),
    "0V8_AON": (16, 0.00305250, 19, 0.80000000),
    "HDMI": (22, 0.02417580, 23, 5.08700000),
}
TOTAL_W = sum(a * v for _, a, _, v in RAILS.values())


def output(rails: dict[str, tuple[int, float, int, float]] | None = None) -> str:
    rails = RAILS if rails is None else rails
    lines = [f"{rail + '_A':>12} current({i})={a:.8f}A" for rail, (i, a, _, _) in rails.items()]
    lines += [f"{rail + '_V':>12} volt({i})={v:.8f}V" for rail, (_, _, i, v) in rails.items()]
    return "\n".join([*lines, "     EXT5V_V volt(24)=5.09066000V", "      BATT_V volt(25)=nanV", ""])


def test_channels_pair_by_name_and_inputs_without_a_current_are_left_out() -> None:
    rails = parse_pmic_adc(output())
    assert list(rails) == list(RAILS)
    assert rails["VDD_CORE"] == (2.8576, 0.8617)
    assert sum(a * v for a, v in rails.values()) == pytest.approx(TOTAL_W)


@pytest.mark.parametrize(
    ("text", "rails"),
    [
        ("", {}),
        ("error=2 error_msg=\"Invalid arguments\"\n", {}),
        ("VDD_CORE_A current(7)=1.5A\n", {}),  # no voltage
        ("VDD_CORE_A current(7)=1.5V\nVDD_CORE_V volt(15)=0.9V\n", {}),  # a unit that contradicts the name
        ("X_A current(7)=1.5A\x00X_V volt(1)=2.0V", {"X": (1.5, 2.0)}),
        ("X_A current(7)=-0.5A\nX_V volt(1)=2e0V", {"X": (-0.5, 2.0)}),
    ],
)  # fmt: skip
def test_odd_output(text: str, rails: dict[str, tuple[float, float]]) -> None:
    assert parse_pmic_adc(text) == rails


@given(st.text(alphabet="VDD_CORE_A current(7)=1.5\nV nan-e"))
def test_no_text_breaks_the_parser(text: str) -> None:
    for current, voltage in parse_pmic_adc(text).values():
        assert isinstance(current, float)
        assert isinstance(voltage, float)


def test_the_sum_of_the_rails_is_read(program: Program, tmp_path: Path) -> None:
    program("vcgencmd", output())
    meter = open_meter("rpi-pmic", root=tmp_path)
    meter.start()
    trace = meter.stop()
    assert trace.power_w.tolist() == pytest.approx([TOTAL_W] * trace.power_w.size)
    assert (trace.source, trace.meter_id) == ("measured", "rpi-pmic")
    assert "12 rails, without what hangs on the 5 V input" in trace.calibration_id
    assert meter.update_s >= 0.1
    assert meter.resolution_j == pytest.approx(0.00893 * 0.8617 * meter.update_s)
    assert "without USB" in DRIVER.probe(MeterContext(root=tmp_path)).detail
    assert open_meter(root=tmp_path).id == "rpi-pmic"


def test_single_rails_can_be_named(program: Program, tmp_path: Path) -> None:
    program("vcgencmd", output())
    meter = open_meter("rpi-pmic:DDR_VDD2,DDR_VDDQ", root=tmp_path)
    meter.start()
    assert float(meter.stop().power_w[0]) == pytest.approx(0.2254398 * 1.105)
    with pytest.raises(ConfigError, match="there is no rail 'EXT5V'; found: 3V7_WL_SW"):
        open_meter("rpi-pmic:EXT5V", root=tmp_path)


def test_a_rail_that_drops_out_is_an_error_and_one_that_is_no_number_is_lost(program: Program, tmp_path: Path) -> None:
    program("vcgencmd", output())
    meter = open_meter("rpi-pmic", root=tmp_path)
    meter.start()
    meter.mark()
    program("vcgencmd", output().replace("volt(15)=0.86170000V", "volt(15)=nanV"))
    meter.mark()
    program("vcgencmd", output())
    assert meter.stop().dropped == 1
    meter.start()
    program("vcgencmd", output({k: v for k, v in RAILS.items() if k != "HDMI"}))
    with pytest.raises(MeterError, match="rail HDMI is missing"):
        meter.mark()
    meter.close()


@pytest.mark.parametrize(
    ("prints", "code", "cause", "cure"),
    [
        ("Can't open device file: /dev/vcio", 255, "no access to /dev/vcio", "usermod -aG video"),
        ('error=1 error_msg="Command not registered"', 0, "reports no rail", "takes a Raspberry Pi 5"),
        ("", 1, "no output", "takes a Raspberry Pi 5"),
    ],
)
def test_what_is_wrong_is_said(prints: str, code: int, cause: str, cure: str, program: Program, tmp_path: Path) -> None:
    program("vcgencmd", prints, code)
    with pytest.raises(MeterError, match=cause) as caught:
        open_meter("rpi-pmic", root=tmp_path)
    assert cure in str(caught.value)
    found = DRIVER.probe(MeterContext(root=tmp_path))
    assert not found.available
    assert cause in found.cause
    assert cure in found.cure


def test_other_machines_have_no_such_command(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="no vcgencmd here; run on a Raspberry Pi 5"):
        open_meter("rpi-pmic", root=tmp_path)
    assert not DRIVER.probe(MeterContext(root=tmp_path)).available


def test_across_a_link(program: Program, tmp_path: Path, across: Callable[..., CommandFiles]) -> None:
    program("vcgencmd", output())
    meter = open_meter("rpi-pmic", link=across())
    meter.start()
    assert float(meter.stop().power_w[-1]) == pytest.approx(TOTAL_W)
    assert not math.isnan(TOTAL_W)
