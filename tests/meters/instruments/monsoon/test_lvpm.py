"""The conversation with an LVPM on a serial port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import pytest

from deepen.errors import MeterError
from deepen.meters.registry import load_driver, open_meter
from deepen.testing.instruments.lvpm import LvpmEmulator
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.signal import StepSignal

ON = {"voltage_setting": 185}


@pytest.fixture(autouse=True)
def lock_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_limits_voltage_and_passthrough_are_coded_as_the_protocol_says(bench: Any) -> None:
    b = bench("lvpm", volts=3.85, status=ON)
    b.open("voltage_v=4.2&current_limit_a=3&power_up_limit_a=8&usb=on").close()
    b.port.close()
    sent = b.emulator.commands
    raw = 1023 - int(3 / 8 * 1023)
    assert [c for c in sent if c[:2] in (b"\x01\x0a", b"\x01\x0b")] == [
        bytes([1, 0x0A, raw & 255]),
        bytes([1, 0x0B, raw >> 8]),
    ]
    assert b.emulator.status["power_up_limit"] == 0
    volts = [c[2] for c in sent if c[:2] == b"\x01\x01"]
    assert volts[-1] == 220
    assert all(0 < b - a <= 10 for a, b in pairwise([185, *volts]))
    assert [c[2] for c in sent if c[:2] == b"\x01\x10"] == [1, 0]
    assert b.emulator.refused == []


def test_sampling_starts_and_stops_as_the_reference_readers_do(bench: Any) -> None:
    b = bench("lvpm")
    b.record(0.5)
    sent = b.emulator.commands
    start = sent.index(b"\x02\xff\xff\xff\xff\x03\xe8")
    assert sent[start - 1] == b"\x01\x1b\x01"
    assert sent[0] == sent[start + 1] == b"\x03\x00"


def test_a_load_with_large_capacitors_survives_the_ramp(bench: Any) -> None:
    b = bench("lvpm", trip_step_v=0.1)
    assert b.record(0.5, "voltage_v=4.5").power_w.mean() == pytest.approx(0.05, rel=0.02)
    assert b.emulator.tripped_s == []


def test_a_tripped_current_limit_is_told(bench: Any) -> None:
    trace = bench("lvpm", signal=StepSignal([1004.0], [0.5, 9.0])).record(5.0, "voltage_v=3.85&current_limit_a=2")
    assert any("away from the 3.85 V it is set to" in w for w in trace.warnings)
    assert sum(b - a for a, b in trace.gaps) > 1.5


def test_a_sample_rate_of_zero_is_refused(bench: Any) -> None:
    with pytest.raises(MeterError, match="sample rate of 0"):
        bench("lvpm", status={"sample_rate": 0}).open()


@pytest.mark.parametrize("field", ["voltage_setting", "run_limit", "usb_passthrough"])
def test_a_setting_that_is_not_taken_is_noticed(bench: Any, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    b = bench("lvpm", status=ON, volts=3.85)
    before = b.emulator.status[field]
    take = b.emulator._act

    def forgetful(body: bytes, t_s: float) -> bytes:
        b.emulator.status[field] = before
        answer: bytes = take(body, t_s)
        return answer

    monkeypatch.setattr(b.emulator, "_act", forgetful)
    with pytest.raises(MeterError, match="did not take"):
        b.open("voltage_v=4&current_limit_a=1&usb=on")
    b.port.close()


def test_a_port_that_is_silent_names_what_to_check(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench("lvpm")
    monkeypatch.setattr(b.emulator, "receive", lambda data, t_s: b"")
    with pytest.raises(MeterError, match=r"does not answer.*firmware 25 or later, use hvpm"):
        b.open()


def test_a_port_that_never_stops_is_no_lvpm(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench("lvpm")
    monkeypatch.setattr(b.emulator, "advance", lambda t_s: b"x" * 9000)
    with pytest.raises(MeterError, match="keeps sending"):
        b.open()


@pytest.mark.serial
def test_over_a_pseudo_terminal() -> None:
    with serve_emulator(LvpmEmulator(StepSignal([], [1.5])), buffer_bytes=1 << 28) as served:
        meter = open_meter(f"lvpm:{served.path}?voltage_v=3.4&leave=off")
        try:
            assert served.volts() == pytest.approx(3.4)
            meter.start()
            began = time.monotonic()
            time.sleep(0.6)
            ended = time.monotonic()
            trace = meter.stop()
        finally:
            meter.close()
        deadline = time.monotonic() + 60
        while served.volts() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert served.volts() == 0.0
        assert served.lost() == 0
    assert trace.source == "simulated"
    assert trace.dropped == 0
    assert trace.power_w == pytest.approx(1.5, rel=2e-3)
    assert trace.t_s[0] < began
    assert trace.t_s[-1] > ended - 0.01


@pytest.mark.serial
def test_unplugging_ends_the_recording() -> None:
    with serve_emulator(LvpmEmulator(StepSignal([], [1.5]), volts=3.85, status=ON)) as served:
        meter = open_meter(f"lvpm:{served.path}")
        try:
            meter.start()
            served.unplug()
            with pytest.raises(MeterError, match="gone"):
                time.sleep(0.2)
                meter.stop()
        finally:
            meter.close()


@pytest.mark.serial
def test_the_output_is_made_safe_when_the_process_is_killed() -> None:
    code = (
        "import sys, time; from deepen.meters import open_meter; meter = open_meter(sys.argv[1]); meter.start(); "
        "print('on', flush=True); time.sleep(60)"
    )
    with serve_emulator(LvpmEmulator(StepSignal([], [1.5])), buffer_bytes=1 << 28) as served:
        child = subprocess.Popen(
            [sys.executable, "-c", code, f"lvpm:{served.path}?voltage_v=3.2&leave=off"],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        assert served.volts() == pytest.approx(3.2)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        deadline = time.monotonic() + 60
        while served.volts() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert served.volts() == 0.0
        taken = served.taken()
        time.sleep(0.1)
        assert served.taken() == taken


def test_the_driver_knows_both_usb_ids_of_the_serial_port(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from deepen.meters.ports import discover
    from deepen.meters.types import MeterContext

    ports = [
        SimpleNamespace(
            vid=vid,
            pid=pid,
            serial_number=serial,
            location=None,
            device=f"/dev/ttyACM{k}",
            product="",
            description="Mobile Device Power Monitor",
        )
        for k, (vid, pid, serial) in enumerate([(0x2AB9, 1, "12"), (0x04D8, 0xFE23, "13"), (0x1915, 0xC00A, "14")])
    ]
    monkeypatch.setattr(discover, "list_serial_ports", lambda: ports)
    assert [one.serial for one in load_driver("lvpm").probe(MeterContext()).found] == ["12", "13"]
