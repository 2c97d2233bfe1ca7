"""An emulator behind a pseudo-terminal, in real time: what a serial library sees. No test judges how long it takes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError
from deepen.testing.instruments.faults import LoseFrames, SplitReads
from deepen.testing.instruments.lvpm import LvpmEmulator, frame_lvpm_packet
from deepen.testing.instruments.ppk2 import Ppk2Emulator
from deepen.testing.instruments.pty import serve_emulator
from deepen.testing.instruments.signal import StepSignal, SwitchedSignal

serial = pytest.importorskip("serial", reason="pyserial is not installed; pip install 'deepen[serial]'")

pytestmark = pytest.mark.serial

PATIENCE_S = 120.0
"""Wall time after which something will never come; long, because the machine may be busy."""

SAMPLE_BYTES = 4
"""One PPK2 sample."""


def read_until(port, enough: Callable[[bytes], bool]) -> bytes:
    data, end_s = b"", monotonic_s() + PATIENCE_S
    while not enough(data):
        assert monotonic_s() < end_s, f"only {len(data)} bytes came"
        data += port.read(port.in_waiting or 1)
    return data


def test_a_conversation_and_a_stream_without_loss(ppk2_reading) -> None:
    with (
        serve_emulator(Ppk2Emulator(StepSignal([], [0.33]), ppm=20.0), buffer_bytes=1 << 28) as served,
        serial.Serial(served.path, 115200, timeout=0.1) as port,
    ):
        port.write(b"\x19")
        text = read_until(port, lambda data: data.endswith(b"END\n")).decode()
        port.write(b"\x0c\x01\x06")
        data = read_until(port, lambda data: len(data) >= 40_000)
        assert served.volts() == 3.3
        port.write(b"\x07\x0c\x00")
        end_s = monotonic_s() + PATIENCE_S
        while served.volts():
            assert monotonic_s() < end_s, "it is still on"
            time.sleep(0.01)
        missing = served.taken() * SAMPLE_BYTES - len(data)
        data += read_until(port, lambda rest: len(rest) >= missing)
        read = ppk2_reading(data, text, 3.3)
        assert read.counters == [k % 64 for k in range(len(read.counters))]
        assert len(read.counters) == served.taken()
        assert served.lost() == 0
        assert read.amperes[100] == pytest.approx(0.1, rel=0.01)


def test_power_and_inputs_are_driven_while_it_runs(ppk2_reading) -> None:
    with (
        serve_emulator(Ppk2Emulator(SwitchedSignal(0.033))) as served,
        serial.Serial(served.path, 115200, timeout=0.1) as port,
    ):
        port.write(b"\x0c\x01\x06")
        before = read_until(port, lambda data: len(data) >= 4000)
        served.drive(3, True)
        moment = served.switch(0.33)
        switched = served.taken() * SAMPLE_BYTES  # what is streamed from here on has the new power
        data = before + read_until(port, lambda data: len(before) + len(data) >= switched + 8000)
        energy_j = served.energy_j(moment - 1e-4, moment + 1e-4)
        whole = data[: len(data) - len(data) % SAMPLE_BYTES]  # a read ends anywhere, also inside a sample
        read = ppk2_reading(whole, Ppk2Emulator(StepSignal([], [1.0])).metadata().decode(), 3.3)
        assert read.amperes[500] == pytest.approx(0.01, rel=0.05)
        assert read.amperes[-1] == pytest.approx(0.1, rel=0.05)
        assert (read.logic[500], read.logic[-1]) == (0, 8)
        assert energy_j == pytest.approx(1e-4 * (0.033 + 0.33), rel=1e-4)


def test_what_cannot_be_driven_is_refused() -> None:
    with serve_emulator(LvpmEmulator(StepSignal([], [1.0]))) as served:
        with pytest.raises(MeterError, match="not Live"):
            served.switch(1.0)
        with pytest.raises(MeterError, match="logic"):
            served.drive(0, True)
        assert served.taken() == 0


def test_faults_strike_in_the_process(lvpm_reading) -> None:
    unit = LvpmEmulator(StepSignal([], [1.0]), volts=4.0)
    with serve_emulator(unit, faults=[LoseFrames(0.02, 2), SplitReads()]) as served:
        with serial.Serial(served.path, 9600, timeout=0.1) as port:
            port.write(frame_lvpm_packet(b"\x02\x00\x00\x01\xf4\x03\xe8"))  # 500 samples
            data = read_until(port, lambda data: len(data) >= 46 + (71 - 2) * 63 + 31)
        assert served.lost() == 14
        assert [fault.lost for fault in served.faults()] == [14, 0]
        read = lvpm_reading(data)
        assert (read.bad, len(read.amperes)) == (0, 486)


def test_a_pulled_cable_is_an_error_of_the_port() -> None:
    with (
        serve_emulator(Ppk2Emulator(StepSignal([], [1.0]))) as served,
        serial.Serial(served.path, 115200, timeout=0.1) as port,
    ):
        port.write(b"\x0c\x01\x06")
        read_until(port, lambda data: len(data) >= 4000)
        served.unplug()
        with pytest.raises((serial.SerialException, OSError)):
            read_until(port, lambda data: False)


def test_a_host_that_does_not_read_loses_whole_samples() -> None:
    with (
        serve_emulator(Ppk2Emulator(StepSignal([], [1.0])), buffer_bytes=1000) as served,
        serial.Serial(served.path, timeout=0.1) as port,
    ):
        port.write(b"\x0c\x01\x06")
        end_s = monotonic_s() + PATIENCE_S
        while not served.lost():
            assert monotonic_s() < end_s
            time.sleep(0.05)
        assert served.taken() > served.lost() > 0


def test_the_port_can_be_opened_again() -> None:
    with serve_emulator(Ppk2Emulator(StepSignal([], [1.0]))) as served:
        for _ in range(2):
            with serial.Serial(served.path, 115200, timeout=0.1) as port:
                port.write(b"\x19")
                assert read_until(port, lambda data: data.endswith(b"END\n")).startswith(b"Calibrated")


def test_the_process_ends_with_the_block() -> None:
    with serve_emulator(Ppk2Emulator(StepSignal([], [1.0]))) as served:
        path = served.path
        assert os.path.exists(path)  # noqa: PTH110
    with pytest.raises(MeterError, match="has ended"):
        served.taken()


def test_questions_of_several_threads_get_their_own_answers() -> None:
    wrong: list[object] = []
    with serve_emulator(Ppk2Emulator(SwitchedSignal(0.033))) as served:

        def ask(question: Callable[[], float | int], right: Callable[[float | int], bool]) -> None:
            wrong.extend(answer for answer in (question() for _ in range(300)) if not right(answer))

        threads = [
            threading.Thread(target=ask, args=(served.lost, lambda answer: answer == 0)),
            threading.Thread(target=ask, args=(lambda: served.switch(0.5), lambda moment_s: moment_s > 0)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
