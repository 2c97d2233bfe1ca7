"""Short dialogues with an instrument: wait, await silence, query an answer of unknown length.

The port alone measures time (an empty read has lasted its time-out), so that a dialogue runs the same in virtual time,
and ends whatever the other end sends.
"""

from __future__ import annotations

from collections.abc import Callable

from deepen.meters.ports.protocol import Port

__all__ = ["drain_port", "query_instrument", "wait_until_silent"]

_STEP_S = 0.05
_LONGEST = 1 << 21
"""Largest size of an answer, or of the rest of a stopped stream, bytes: more than any buffer in between holds."""


def drain_port(port: Port, seconds: float) -> None:
    """Wait for a number of seconds, discarding received bytes."""
    for _ in range(max(1, round(seconds / _STEP_S))):
        port.read(_STEP_S)


def wait_until_silent(port: Port, quiet_s: float = 0.15) -> bool:
    """Read until the port has been silent for a while.

    Args:
        port: The port; the command to stop has been sent.
        quiet_s: Length of the silence, seconds.

    Returns:
        True if it fell silent within ten seconds and two million bytes.
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
    """Send a question and collect bytes until the answer is complete, or none come for ``timeout_s``.

    Args:
        port: The port, silent.
        question: Bytes to send.
        done: Returns whether the bytes so far are a complete answer.
        timeout_s: Pause after which no more bytes are expected, seconds.

    Returns:
        The bytes received; the caller checks them.
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
