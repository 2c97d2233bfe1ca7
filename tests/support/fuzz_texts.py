"""Targets of fuzzing: what instruments and boards answer.

What must hold for any bytes: no exception but deepen's own, in one line; numbers are finite or refused.
"""

from __future__ import annotations

import fnmatch
import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from deepen.errors import DeepenError
from deepen.meters.instruments import otii, scpi
from deepen.meters.instruments.monsoon import lvpm_parser
from deepen.meters.instruments.powersensor3.config import parse_config
from deepen.meters.instruments.powersensor3.parser import measure_frame_period_us
from deepen.meters.instruments.ppk2.calibration import Ppk2Calibration
from deepen.meters.onboard import battery, hwmon, ina3221, odpm, rapl, rpi_pmic
from deepen.meters.sensor_files import CommandOutput
from deepen.meters.types import Driver, MeterContext, MeterSpec
from deepen.records import Accuracy
from deepen.testing.instruments import lvpm, powersensor3, ppk2
from deepen.testing.instruments.signal import StepSignal

__all__ = ["CallTarget", "make_text_targets"]


@dataclass(slots=True)
class CallTarget:
    """A function of bytes that may refuse them with an error of ours.

    Attributes:
        name: What it is.
        call: The function; raises ``AssertionError`` where its result is wrong.
        seeds: Valid inputs.
        tokens: What they are made of.
        share: Weight among the targets.
    """

    name: str
    call: Callable[[bytes], object]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    share: float = 0.3

    def check(self, inputs: Sequence[bytes], rng: random.Random) -> None:
        """Call with each input.

        Raises:
            Exception: What the function raises that is no error of ours, or one of more than one line.
        """
        for data in inputs:
            try:
                self.call(data)
            except DeepenError as error:
                assert "\n" not in str(error), f"a message of several lines: {error}"


def make_text_targets() -> list[CallTarget]:
    """Answers of instruments, and what on-board sensors say."""
    return [*_make_answer_targets(), _make_scpi_target(), _make_otii_target(), *_make_board_targets()]


def _make_answer_targets() -> list[CallTarget]:
    def metadata(data: bytes) -> None:
        found = Ppk2Calibration.parse(data.decode("ascii", "replace"))
        if found is not None:
            assert all(np.isfinite(column).all() for column in found.values.values()), "a coefficient is not finite"
            assert all(r > 0 for r in found.values["R"]), "a resistor is not positive"

    def config(data: bytes) -> None:
        for sensor in parse_config(data.ljust(328, b"\0")[:328]) or ():
            assert sensor.defect or np.isfinite(sensor.values()).all(), "a sensor without a defect gives no numbers"

    def status(data: bytes) -> None:
        at = data.find(b"\x3b\x10")
        body = lvpm_parser.unframe_packet(data, at) if at >= 0 else None
        found = lvpm_parser.parse_status(body) if body is not None else lvpm_parser.parse_status(data)
        assert found is None or 0 <= found.setting_v < 5, "a voltage the instrument cannot have"

    unit = powersensor3.PowerSensor3Emulator(StepSignal([], [10.0]))
    monsoon = lvpm.LvpmEmulator(StepSignal([], [1.0]), volts=4.0)
    answer = monsoon.receive(lvpm.frame_lvpm_packet(b"\x01\x00\x00"), 1000.0)
    frames = unit.receive(b"S", 1000.0) + unit.advance(1000.002)
    lines = [
        b"R0: 1000\n",
        b"O1: -nan\n",
        b"GS2: inf\n",
        b"R3: 0\n",
        b"mode: 2\n",
        b"VDD: 3300\n",
        b": \n",
        b"UG4: 1e300\n",
    ]
    floats = [struct.pack("<f", x) for x in (0, 1e-45, 1e38, float("nan"))]
    spec = b"ppk2:/dev/ttyACM0?voltage_v=3.3&x=1"
    answers: list[tuple[str, Callable[[bytes], object], list[bytes], list[bytes]]] = [
        (
            "ppk2 metadata",
            metadata,
            [ppk2.Ppk2Emulator(StepSignal([], [1.0])).metadata()],
            lines,
        ),
        ("powersensor3 config", config, [unit.config], floats),
        (
            "powersensor3 period",
            measure_frame_period_us,
            [frames],
            [frames[:18], b"\xff\x3f"],
        ),
        ("lvpm status", status, [answer, answer[1:-1]], [b"\x3b\x10", b"\0" * 8]),
        ("meter spec", _parse_meter_spec, [spec], [b"?", b"&", b"=", b":", b"%3F", b"//"]),
    ]
    return [CallTarget(name, call, seeds, tokens) for name, call, seeds, tokens in answers]


def _parse_meter_spec(data: bytes) -> None:
    MeterSpec.parse(data.decode("utf-8", "replace"))


class _ReplyPort:
    """A port that answers every question with the next of some replies, and then with nothing."""

    name = "fuzz"

    def __init__(self, data: bytes) -> None:
        self._replies = data.split(b"\0")
        self._ready = b""

    def write(self, data: bytes) -> None:
        self._ready = self._replies.pop(0) if self._replies else b""

    def read(self, timeout_s: float) -> bytes:
        ready, self._ready = self._ready, b""
        return ready

    def flush_input(self) -> None:
        self._ready = b""

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        pass


def _make_scpi_target() -> CallTarget:
    import re

    profile = scpi.ScpiProfile(
        name="fuzz", identity=re.compile("ACME"), baud=9600, line_end="\n", setup=("RANGE 10",), finish=(), query="P?",
        field=2, scale=1.0, tells_current=False, ranges=("RANGE?",), errors="SYST:ERR?", update_s=0.1, poll_s=0.1,
        resolution_w=0.0, accuracy=Accuracy(),
    )  # fmt: skip

    def talk(data: bytes) -> None:
        meter = scpi.ScpiMeter(_ReplyPort(data), profile, "simulated")
        for _ in range(3):
            meter.mark()
        trace = meter.stop()
        assert bool(np.isfinite(trace.power_w).all()), "a reading is no number"

    good = b'ACME,PA1\n\x000,"No error"\n\x000\n\x0010\n\x001,2.5E0,3\n'
    readings = b"\0".join(b"5.0,%s,1\n" % x for x in (b"2.5", b"9.91E37", b"NAN", b"---O---", b"2.4", b"-3"))
    seeds = [good + b"\0" + readings + b'\x0010\n\x000,"No error"\n', good]
    tokens = [b"\n", b"\0", b",", b"9.91E37", b"inf", b'-100,"Command error"\n', b"W 5", b"+0", b"1_0", b"\xff"]
    return CallTarget("scpi replies", talk, seeds, tokens)


def _make_otii_target() -> CallTarget:
    def fetch(data: bytes) -> None:
        try:
            answers = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(answers, list):
            return
        meter = otii.OtiiMeter(
            _make_fake_connection(),
            _FakeOtiiArc(),
            MeterSpec.parse("otii?inputs=1"),
            now=lambda: 100.0,
            disconnect=lambda: None,
        )
        recording = SimpleNamespace(
            get_channel_data_count=lambda device, channel: answers.pop(0) if answers else 0,
            get_channel_data=lambda device, channel, first, count: answers.pop(0) if answers else {},
        )
        meter._project = SimpleNamespace(stop_recording=lambda: None, get_last_recording=lambda: recording)
        meter._started = (90.0, 90.1)
        trace = meter.stop()
        assert bool(np.isfinite(trace.power_w).all()), "a power is no number"

    channels: list[Any] = [
        4, {"timestamp": 0.0, "interval": 2.5, "values": [0.1, 0.2, 0.1, 0.3]},
        4, {"timestamp": 0.0, "interval": 2.5, "values": [3.7, 3.7, 3.6, 3.7]},
        2, {"values": [{"timestamp": 0.5, "value": True}, {"timestamp": 0.7, "value": False}]},
    ]  # fmt: skip
    holed = json.dumps(channels).replace("0.2", "NaN")
    tokens = [b"NaN", b"null", b"1e999", b"[]", b"{}", b'"timestamp"', b'"values"', b"-1", b"true", b'"x"', b"[[1]]"]
    return CallTarget(
        "otii payloads",
        fetch,
        [json.dumps(channels).encode(), holed.encode()],
        tokens,
    )


class _FakeOtiiArc:
    """An Otii Arc that takes everything."""

    type, id, name = "Arc", "a1", "Bench"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {"get_main_voltage": 3.7, "get_main": True, "get_channel_samplerate": 4000, "get_version": {}}
        return lambda *_: answers.get(name)


def _make_fake_connection() -> Any:
    return SimpleNamespace(disconnect=lambda: None)


class _FuzzedMachine:
    """Files and commands that say what the fuzzer says: parts of the input in the order of the names."""

    def __init__(self, names: Sequence[str], data: bytes) -> None:
        parts = data.split(b"\xfe")
        self._texts = {n: p.decode("utf-8", "replace") for n, p in zip(names, parts, strict=False) if p != b"-"}

    def glob(self, pattern: str) -> list[str]:
        depth = pattern.count("/")
        found = {"/".join(n.split("/")[: depth + 1]) for n in self._texts if n.startswith("/")}
        return sorted(n for n in found if fnmatch.fnmatch(n, pattern))

    def read(self, path: str) -> str:
        if path not in self._texts:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self._texts[path]

    def read_all(self, paths: Sequence[str]) -> list[str]:
        return [self.read(p) for p in paths]

    def run(self, argv: Sequence[str], timeout_s: float = 5.0) -> CommandOutput:
        name = " ".join(argv)
        if name not in self._texts:
            raise FileNotFoundError(2, "No such file or directory", argv[0])
        return CommandOutput(0, self._texts[name], "")


def _make_board_target(
    driver: Driver, names: Sequence[str], seeds: Sequence[Sequence[bytes]], tokens: Sequence[bytes]
) -> CallTarget:
    """An on-board sensor of which two readings are taken.

    Args:
        driver: Its driver.
        names: Files and commands, in the order of the parts of an input.
        seeds: Their valid contents.
        tokens: What contents are made of.
    """

    def measure(data: bytes) -> None:
        context = MeterContext(link=_FuzzedMachine(names, data))
        driver.probe(context)
        meter = driver.open(MeterSpec(driver.name, "", {}), context)
        try:
            for _ in range(2):
                meter.mark()
        finally:
            meter.close()

    inputs = [b"\xfe".join(s) for s in seeds]
    return CallTarget(driver.name, measure, inputs, [b"\xfe", b"-", *tokens], 0.15)


def _make_board_targets() -> list[CallTarget]:
    numbers = [b"0", b"-5", b"1234567", b"nan", b"1e6", b"99999999999999999999999", b"12 34", b"\n", b""]
    hw = "/sys/class/hwmon/hwmon0"
    new = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    old = "/sys/bus/i2c/drivers/ina3221x/0-0041/iio:device0"
    cell = "/sys/class/power_supply/battery"
    zone = "/sys/class/powercap/intel-rapl:0"
    rail = "/sys/bus/iio/devices/iio:device0"
    stats = b"ChannelId: 1, ChannelName: S1M, ChannelSubsystem: CPU\n"
    stats += b"ChannelId: 1, Timestamp (ms): 5000, Energy (uWs): 100\n"
    hal = b"=== PowerStats HAL 2.0 energy meter ===\n  [S1M]:CPU    12.50 mWs\n=== End of\n"
    adc = b"  VDD_CORE_A current(7)=1.25A\n  VDD_CORE_V volt(15)=0.85V\n  3V3_A current(1)=0.1A\n  3V3_V volt(9)=3.3V\n"
    pixel = b"t=5\nCH0(T=358356)[S10M_VDD_TPU], 2932\n", b"CH0[S10M_VDD_TPU]:TPU\n"
    gauge = ["type", "status", "present", "current_now", "voltage_now", "power_now", "charge_full"]
    gauge += ["charge_full_design", "charge_counter", "scope"]
    phone = b"Battery", b"Discharging", b"1", b"-450000", b"3850000", b"-", b"4000000", b"4100000", b"3000000"
    small = b"Battery", b"Discharging", b"1", b"450", b"3850", b"-", b"4000", b"-", b"-"
    ina = ["in1_label", "in1_input", "curr1_input", "in2_label", "in2_input", "curr2_input"]
    chip = ["name", "power1_input", "power1_label", "power1_average", "in1_input", "curr1_input", "update_interval"]
    return [
        _make_board_target(
            odpm.DRIVER,
            ["dumpsys powerstats", f"dumpsys {odpm._HAL}", f"{rail}/energy_value", f"{rail}/enabled_rails"],
            [(stats, b"", *pixel), (stats, b"", b"-"), (b"", hal, b"-")],
            [*numbers, b"ChannelId: 1, ", b"Timestamp (ms): ", b"CH1(T=1)[A], 5\n"],
        ),
        _make_board_target(
            rpi_pmic.DRIVER, ["vcgencmd pmic_read_adc"], [(adc,)], [*numbers, b"_A current(1)=", b"V\n", b"A\n", b"nan"]
        ),
        _make_board_target(
            ina3221.DRIVER,
            [*(f"{new}/{n}" for n in ina), f"{old}/rail_name_0", f"{old}/in_power0_input"],
            [(b"VDD_IN", b"5000", b"1200", b"NC", b"0", b"0"), (*(b"-",) * 6, b"POM_5V_IN", b"4100")],
            [*numbers, b"VDD_IN", b"VDD_CPU_GPU_CV", b"sum of shunt voltages", b"NC"],
        ),
        _make_board_target(
            hwmon.DRIVER,
            [f"{hw}/{n}" for n in chip],
            [(b"ina226", b"1250000", b"rail", b"-", b"5000", b"250", b"10")],
            [*numbers, b"ina2xx"],
        ),
        _make_board_target(
            battery.DRIVER, [f"{cell}/{n}" for n in gauge], [phone, small], [*numbers, b"Charging", b"Full", b"Mains"]
        ),
        _make_board_target(
            rapl.DRIVER,
            [f"{zone}/{n}" for n in ("name", "energy_uj", "max_energy_range_uj")],
            [(b"package-0", b"123456789", b"262143328850")],
            [*numbers, b"psys", b"core"],
        ),
    ]
