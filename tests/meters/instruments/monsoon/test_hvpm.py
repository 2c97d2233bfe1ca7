"""The conversation with an HVPM, over framed requests and over a device of pyusb."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deepen.errors import MeterError
from deepen.meters.instruments.monsoon import hvpm
from deepen.meters.ports import usb_port as usb
from deepen.meters.ports.usb_guard import SETUP, split_control_requests
from deepen.meters.ports.usb_port import UsbPort
from deepen.meters.registry import open_meter
from deepen.meters.types import MeterContext
from deepen.testing.instruments.hvpm import FakeUsb, HvpmEmulator
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.signal import StepSignal

usb_core = pytest.importorskip("usb.core", reason="pyusb is not installed (pip install 'deepen[hvpm]')")


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let pyusb find devices."""

    def connect(*devices: Any) -> None:
        def find(find_all: bool = False, **wanted: int) -> Any:
            same = [d for d in devices if all(getattr(d, key) == value for key, value in wanted.items())]
            return iter(same) if find_all else (same or [None])[0]

        monkeypatch.setattr(usb_core, "find", find)
        monkeypatch.setattr("usb.util.claim_interface", lambda device, interface: None)
        monkeypatch.setattr("usb.util.dispose_resources", lambda device: None)

    return connect


@pytest.fixture(autouse=True)
def lock_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def port(plug: Callable[..., None]) -> Iterator[tuple[UsbPort, FakeUsb]]:
    device = FakeUsb(HvpmEmulator(StepSignal([], [2.0]), volts=3.85))
    plug(device)
    made = UsbPort(device, "hvpm:23171")
    yield made, device
    made.close()


def test_requests_follow_the_layout_of_the_protocol(bench: Any) -> None:
    b = bench("hvpm", volts=4.0)
    b.open("voltage_v=4.1&power_up_limit_a=2&current_limit_a=15.625&usb=off")
    sent = b.emulator.requests
    assert sent[0] == (0x40, 0x03, 0, 0, b"")
    value = round(4.1 * (1 << 20))
    assert (0x40, 0x01, value & 0xFFFF, 0x41 | (value >> 16) << 8, value.to_bytes(4, "little")) in sent
    limit = round((65535 - 0x0F00) * 2 / 15.625 + 0x0F00)
    assert (0x40, 0x01, limit, 0x43, limit.to_bytes(4, "little")) in sent
    assert (0x40, 0x01, 0xFFFF, 0x44, (0xFFFF).to_bytes(4, "little")) in sent
    assert (0x40, 0x01, 0, 0x10, bytes(4)) in sent


def test_sampling_starts_with_the_calibration_interval_and_no_end(bench: Any) -> None:
    b = bench("hvpm", volts=4.0)
    b.open("").begin()
    b.port.read(0.1)
    assert b.emulator.requests[-1] == (0x40, 0x02, 1250, 0, b"\xff" * 4)


def test_limits_of_a_flashed_lvpm_are_coded_its_own_way(bench: Any) -> None:
    b = bench("hvpm-lvpm", volts=4.0)
    b.open("current_limit_a=2")
    assert b.emulator.values[0x44] == round(1023 * (1 - 2 / 8))


def test_resistors_of_a_flashed_lvpm_scale_its_currents(bench: Any) -> None:
    plain, trimmed = (bench("hvpm-lvpm", volts=4.0, values={0x02: fine, 0x11: 0}) for fine in (0, 0xF6))
    ratio = trimmed.open("")._channel.fine_a / plain.open("")._channel.fine_a
    assert ratio == pytest.approx(0.05 / 0.049)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({0x88: 0xD000}, "dacCalLow"),
        ({0x88: 0xF000}, "dacCalLow"),
        ({0x89: 0xC000}, "dacCalHigh"),
        ({0x89: 0xFFFF}, "dacCalHigh"),
    ],
)
def test_no_voltage_is_set_with_a_senseless_converter_calibration(
    bench: Any, values: dict[int, int], name: str
) -> None:
    b = bench("hvpm", values=values)
    with pytest.raises(MeterError, match=f"{name}.*firmware 32"):
        b.open("voltage_v=3.85")
    assert b.emulator.supply.history[1:] == []
    assert bench("hvpm", values=values, volts=3.85).open("").setting_v == pytest.approx(3.85)


def test_an_instrument_without_factory_calibration_is_refused(bench: Any) -> None:
    with pytest.raises(MeterError, match="no factory calibration"):
        bench("hvpm", volts=4.0, values={0x1B: 0xFFFF}).open("")


def test_an_unknown_model_is_refused(bench: Any) -> None:
    with pytest.raises(MeterError, match="model 0"):
        bench("hvpm", volts=4.0, values={0x45: 0}).open("")


def test_a_value_that_is_not_taken_is_noticed(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench("hvpm")
    take = b.emulator.control

    def stubborn(kind: int, request: int, value: int, index: int, data: bytes, t_s: float) -> bytes:
        if kind == 0x40 and index & 0xFF == 0x41:
            return b""
        answer: bytes = take(kind, request, value, index, data, t_s)
        return answer

    monkeypatch.setattr(b.emulator, "control", stubborn)
    with pytest.raises(MeterError, match=r"did not take 3\.85 V, but 0\.000 V"):
        b.open("voltage_v=3.85")


@pytest.mark.parametrize("numbered", [True, False])
def test_packets_the_instrument_drops_are_counted_exactly(bench: Any, numbered: bool) -> None:
    b = bench("hvpm", volts=3.85)
    b.emulator.drop(40, numbered=numbered)
    instrument = b.open("")
    parser = instrument.begin()
    found = parser.feed(b.port.read(1.0))
    while not found.index.size:
        found = parser.feed(b.port.read(1.0))
    b.emulator.drop(40, numbered=numbered)
    b.clock.sleep(0.5)
    last = parser.feed(b.port.read(0.0)).index[-1]
    assert parser.tally.lost == 120
    assert parser.tally.ambiguous == 0
    assert last >= 2400


def test_invalid_measurements_count_as_lost(bench: Any) -> None:
    trace = bench("hvpm", volts=3.85, invalid_every=5000).record(5.0, "")
    assert trace.dropped == pytest.approx(5, abs=1)


def test_an_output_that_was_cut_off_makes_every_sample_suspect(bench: Any) -> None:
    trace = bench("hvpm", volts=3.85, tripped=True).record(1.0, "")
    assert any("protection has cut the output off" in w for w in trace.warnings)
    assert sum(b - a for a, b in trace.gaps) == pytest.approx(trace.t_s[-1] - trace.t_s[0], rel=1e-6)


def test_a_device_is_taken_from_the_kernel_and_answers(port: tuple[UsbPort, FakeUsb]) -> None:
    made, device = port
    assert not device.kernel_driver
    made.write(SETUP.pack(0xC0, 0x01, 0, 0x45, 4))
    assert made.read(1.0) == usb.frame_usb_packet(usb.ANSWER, (2).to_bytes(4, "little"))
    assert made.read(0.0) == b""


def test_packets_keep_their_boundaries(port: tuple[UsbPort, FakeUsb]) -> None:
    made, _ = port
    made.write(SETUP.pack(0x40, 0x02, 1250, 0, 4) + (300).to_bytes(4, "little"))
    unframer, packets = usb.UsbFrameDecoder(), []
    end = time.monotonic() + 60
    while len(packets) < 100 and time.monotonic() < end:
        packets += unframer.feed(made.read(0.1))
    assert [(kind, len(payload)) for kind, payload in packets] == [(usb.BULK, 58)] * 100
    assert [payload[2] & 15 for _, payload in packets] == [k % 16 for k in range(100)]


def test_a_device_that_is_unplugged_says_so(port: tuple[UsbPort, FakeUsb]) -> None:
    made, device = port
    device.unplugged = True
    with pytest.raises(MeterError, match="hvpm:23171 is gone"):
        for _ in range(50):
            made.read(0.1)
    with pytest.raises(MeterError, match="is gone"):
        made.write(SETUP.pack(0x40, 0x03, 0, 0, 0))


@pytest.mark.serial
def test_the_driver_finds_records_and_labels(plug: Callable[..., None]) -> None:
    device = FakeUsb(HvpmEmulator(StepSignal([], [2.0]), volts=3.85))
    plug(device)
    found = hvpm.DRIVER.probe(MeterContext())
    assert found.available
    assert found.found[0].serial == "23171"
    meter = open_meter("hvpm:23171?source=simulated")
    try:
        meter.start()
        time.sleep(0.3)
        trace = meter.stop()
    finally:
        meter.close()
    assert trace.source == "simulated"
    assert trace.power_w == pytest.approx(2.0, rel=2e-3)
    assert not device.emulator.clock.running


def test_one_of_several_must_be_named(plug: Callable[..., None]) -> None:
    plug(FakeUsb(HvpmEmulator(StepSignal([], [1.0]))), FakeUsb(HvpmEmulator(StepSignal([], [1.0]), values={0x42: 11})))
    with pytest.raises(MeterError, match=r"there are 2 here.*23171.*11.*hvpm:23171"):
        open_meter("hvpm")
    with pytest.raises(MeterError, match="serial number '99'"):
        open_meter("hvpm:99")


def test_a_unit_with_a_serial_port_is_left_to_the_other_driver(plug: Callable[..., None]) -> None:
    plug(FakeUsb(HvpmEmulator(StepSignal([], [1.0])), interface_class=0x02))
    assert hvpm.DRIVER.probe(MeterContext()).cause == "none is plugged in"


def test_a_unit_in_its_bootloader_is_recognised(plug: Callable[..., None]) -> None:
    device = FakeUsb(HvpmEmulator(StepSignal([], [1.0])))
    device.idProduct = 0xFFFF  # type: ignore[misc]
    plug(device)
    assert "bootloader" in hvpm.DRIVER.probe(MeterContext()).cause


@pytest.mark.parametrize(("number", "words"), [(13, "60-deepen-meters.rules"), (16, "in use by another program")])
def test_a_device_that_cannot_be_opened_names_the_cure(
    plug: Callable[..., None], monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    device = FakeUsb(HvpmEmulator(StepSignal([], [1.0])))
    plug(device)

    def refuse(self: FakeUsb) -> None:
        raise usb_core.USBError("refused", errno=number)

    monkeypatch.setattr(FakeUsb, "set_configuration", refuse)
    with pytest.raises(MeterError, match=words):
        open_meter("hvpm")
    with pytest.raises(MeterError, match=words):  # the lock was given back
        open_meter("hvpm")


def test_without_libusb_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(**_: Any) -> None:
        raise usb_core.NoBackendError("No backend available")

    monkeypatch.setattr(usb_core, "find", find)
    found = hvpm.DRIVER.probe(MeterContext())
    assert not found.available
    assert "libusb-1.0-0" in found.cure


def test_without_pyusb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usb.core", None)
    with pytest.raises(MeterError, match=r"pip install 'deepen\[hvpm\]'"):
        open_meter("hvpm")


def test_requests_are_carried_out_for_a_process_that_died(tmp_path: Any) -> None:
    """The helper the guard writes to: nothing on orderly ends, the requests after all else."""
    fake = tmp_path / "usb"
    fake.mkdir()
    (fake / "__init__.py").write_text("")
    log = tmp_path / "log"
    (fake / "core.py").write_text(
        "class USBError(Exception): pass\n"
        "class Device:\n"
        "    def ctrl_transfer(self, *a):\n"
        f"        open({str(log)!r}, 'a').write(repr(a) + '\\n')\n"
        "def find(bus, address):\n"
        f"    open({str(log)!r}, 'a').write(f'{{bus}}.{{address}}\\n')\n"
        "    return Device()\n"
    )
    from deepen.meters.ports import usb_guard

    command = [sys.executable, usb_guard.__file__, "1", "7"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(command, input=b"", env=environment, check=True)
    assert not log.exists()
    safe = hvpm.STOP + hvpm.make_set_request(0x41, 0)
    subprocess.run(command, input=safe, env=environment, check=True)
    assert log.read_text().splitlines() == [
        "1.7",
        "(64, 3, 0, 0, b'', 2000)",
        "(64, 1, 0, 65, b'\\x00\\x00\\x00\\x00', 2000)",
    ]


def test_the_guard_reaches_the_helper(port: tuple[UsbPort, FakeUsb], monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = port
    started = []
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        if command[1].endswith("usb_guard.py"):
            started.append(command[2:])
            command = [sys.executable, "-c", "import sys; sys.stdin.buffer.read()"]
        return real(command, **options)

    monkeypatch.setattr(usb.subprocess, "Popen", popen)
    guard = made.guard(hvpm.STOP)
    guard.close()
    assert started == [["1", "7"]]


def test_requests_that_are_cut_off_are_left_out() -> None:
    whole = SETUP.pack(0x40, 1, 2, 3, 4) + b"abcd"
    assert list(split_control_requests(whole + whole[:-1])) == [(0x40, 1, 2, 3, 4, b"abcd")]
    assert list(split_control_requests(whole[:5])) == []


@pytest.mark.serial
def test_over_a_pseudo_terminal() -> None:
    with serve_emulator(HvpmEmulator(StepSignal([], [1.5]), volts=3.85), buffer_bytes=1 << 28) as served:
        meter = open_meter(f"hvpm:{served.path}")
        try:
            meter.start()
            time.sleep(0.5)
            trace = meter.stop()
        finally:
            meter.close()
    assert trace.source == "simulated"
    assert trace.dropped == 0
    assert trace.power_w == pytest.approx(1.5, rel=2e-3)
