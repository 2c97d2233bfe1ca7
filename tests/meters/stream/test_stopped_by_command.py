"""Instruments that stream until they are told to stop: silence is waited for, and the end is safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepen.errors import MeterError
from deepen.meters.stream.stopped_by_command import StoppedByCommand


class StreamingPort:
    """Sends for some time after it was told to stop; each read lasts its time-out."""

    name = "/dev/ttyX"

    def __init__(self, rest_s: float = 0.0, gone: bool = False) -> None:
        self.rest_s, self.gone = rest_s, gone
        self.passed_s = 0.0
        self.written: list[bytes] = []

    def read(self, timeout_s: float) -> bytes:
        self.passed_s += timeout_s
        return b"data" if self.passed_s <= self.rest_s else b""

    def write(self, data: bytes) -> None:
        if self.gone:
            raise MeterError("the port is gone")
        self.written.append(data)

    def flush_input(self) -> None: ...

    def fileno(self) -> None: ...

    def close(self) -> None: ...


class Endless(StreamingPort):
    def read(self, timeout_s: float) -> bytes:
        return bytes(1 << 16)


class Stoppable(StoppedByCommand):
    title = "Gadget"
    stop_bytes = b"stop"
    safe_bytes = b"stop, off"

    def __init__(self, port: StreamingPort, quiet_s: float = 0.15) -> None:
        self._port = port
        self.quiet_s = quiet_s  # type: ignore[misc]


@given(st.floats(0.0, 5.0), st.floats(0.05, 1.0))
def test_the_end_is_awaited_in_silence(rest_s: float, quiet_s: float) -> None:
    port = StreamingPort(rest_s)
    Stoppable(port, quiet_s).end()
    assert port.written == [b"stop"]
    assert rest_s + quiet_s - 0.06 <= port.passed_s <= rest_s + quiet_s + 0.11


def test_what_does_not_stop_is_another_instrument() -> None:
    with pytest.raises(MeterError, match=r"/dev/ttyX keeps sending .*it is no Gadget; check the port"):
        Stoppable(Endless()).end()


def test_closing_leaves_it_safe_and_never_fails() -> None:
    port = StreamingPort()
    Stoppable(port).close()
    assert port.written == [b"stop, off"]
    Stoppable(StreamingPort(gone=True)).close()
