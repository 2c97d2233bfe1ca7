"""Short conversations with an instrument: wait, fall silent, ask for an answer of unknown length.

Time is told by the port alone (an empty read has lasted its time-out), so a conversation runs the same in virtual time,
and ends whatever the other end sends.
"""

from __future__ import annotations

from collections.abc import Callable

from deepen.meters.stream.types import Port

__all__ = ["drain_port", "query_instrument", "wait_until_silent"]

_STEP_S = 0.05
_LONGEST = 1 << 21
"""Bytes after which an answer, or the rest of a stream that was told to stop, has taken too long: more than what any
buffer in between holds."""


def drain_port(port: Port, seconds: float) -> None:
    """Let time pass, throwing away what comes."""
    for _ in range(max(1, round(seconds / _STEP_S))):
        port.read(_STEP_S)


def wait_until_silent(port: Port, quiet_s: float = 0.15) -> bool:
    """Read until nothing has come for a while.

    Args:
        port: The port; the command to stop has been sent.
        quiet_s: How long is long enough.

    Returns:
        Whether that happened within ten seconds and two million bytes.
    """
    received = silent = 0
    for _ in range(round(10 / _STEP_S) * 20):
        data = port.read(_STEP_S)
        received += len(data)
        silent = 0 if data else silent + 1
        if silent * _STEP_S >= quiet_s - 1e-9:
            return True
        if received > _LONGEST:
            break
    return False


def query_instrument(port: Port, question: bytes, done: Callable[[bytes], bool], *, timeout_s: float = 1.0) -> bytes:
    """Send a question and collect what comes until it is an answer, or nothing more comes for ``timeout_s``.

    Args:
        port: The port, silent.
        question: What to send.
        done: Whether what came so far is a whole answer.
        timeout_s: How long a pause means that no more will come.

    Returns:
        What came; the caller judges it.
    """
    port.write(question)
    received, silent = b"", 0
    while len(received) < _LONGEST and silent * _STEP_S < timeout_s - 1e-9:
        data = port.read(_STEP_S)
        received += data
        silent = 0 if data else silent + 1
        if data and done(received):
            break
    return received
