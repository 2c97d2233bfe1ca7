"""An emulator on a pseudo-terminal, in a process of its own, which a driver sees as a serial port.

::

    with serve(emulator) as served:
        port = open_port(served.path)
        ...
        served.switch(3.5)  # the load takes 3.5 W from now on (its signal must be ``SwitchedSignal``)
        served.energy_j(start_s, end_s)  # true energy, joules

The emulator follows the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import tty
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError
from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.faults import Fault, FaultyLine
from deepen.testing.instruments.schedule import PowerSchedule
from deepen.testing.instruments.signal import SwitchedSignal

__all__ = ["ServedEmulator", "serve_emulator"]

ANSWER_S = 60.0
"""Longest wait for an answer of the process, seconds: a busy machine takes ten seconds to start it."""


class ServedEmulator:
    """A running emulator.

    Attributes:
        path: The port, for example ``/dev/pts/3``.
    """

    def __init__(self, path: str, connection: Connection) -> None:
        """Take over the process."""
        self.path = path
        self._connection = connection
        self._asking = threading.Lock()  # a block is planned in one thread while another pulls the cable

    def switch(self, power_w: float) -> float:
        """Switch the load to another power from now on; return the moment, on the monotonic clock.

        The emulator's signal must be a :class:`~deepen.testing.instruments.signal.SwitchedSignal`.

        Raises:
            MeterError: If the signal is another one, or the process does not answer.
        """
        now_s = monotonic_s()
        return float(self._ask("switch", now_s, power_w))

    def plan(self, lead_s: float, durations_s: Sequence[float], levels_w: Sequence[float]) -> float:
        """Plan the power of the load from a near moment on; return the moment, on the monotonic clock.

        The emulator's signal must be a :class:`~deepen.testing.instruments.schedule.PowerSchedule`.

        Args:
            lead_s: Time until the plan begins, seconds; the emulator itself reads the clock, so no part of it is in the
                past.
            durations_s: Duration of each level but the last, seconds.
            levels_w: Power, watts; one more than durations.

        Raises:
            MeterError: If the signal is another one, the plan is refused, or the process does not answer.
        """
        return float(self._ask("plan", lead_s, durations_s, levels_w))

    def drive(self, bit: int, high: bool) -> float:
        """Drive a digital input (the emulator must have a ``logic``); return the moment, on the monotonic clock."""
        return float(self._ask("drive", monotonic_s(), bit, high))

    def unplug(self) -> None:
        """Pull the cable: the port disappears at once."""
        self._ask("unplug")

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Return the true energy between two moments of the monotonic clock, joules."""
        return float(self._ask("energy_j", start_s, end_s))

    def taken(self) -> int:
        """Return the number of samples taken since streaming began."""
        return int(self._ask("taken"))

    def lost(self) -> int:
        """Return the number of samples that never reached the host: by faults, and for lack of a reader."""
        return int(self._ask("lost"))

    def faults(self) -> tuple[Fault, ...]:
        """Return the faults as they are in the process, with their effects."""
        return tuple(self._ask("faults"))

    def volts(self) -> float:
        """Return the voltage the instrument is set to, volts; 0 if it is off."""
        return float(self._ask("volts"))

    def _ask(self, what: str, *values: Any) -> Any:
        """Send a request to the process and return its answer.

        Raises:
            MeterError: If it does not answer or refuses.
        """
        try:
            with self._asking:
                self._connection.send((what, values))
                if not self._connection.poll(ANSWER_S):
                    raise MeterError(f"{self.path}: the emulator does not answer; its process is stuck")
                good, answer = self._connection.recv()
        except (OSError, EOFError) as error:
            raise MeterError(f"{self.path}: the emulator has ended; start it again") from error
        if not good:
            raise MeterError(f"{self.path}: the emulator refused to {what}: {answer}")
        return answer


@contextmanager
def serve_emulator(
    emulator: Emulator, *, faults: Sequence[Fault] = (), batch_s: float = 1e-3, buffer_bytes: int = 1 << 20
) -> Iterator[ServedEmulator]:
    """Run an emulator on a pseudo-terminal in a process of its own.

    The emulator is copied to the process: changes there do not show on the object given.

    Args:
        emulator: The instrument; its class must be importable by name.
        faults: Faults to inject.
        batch_s: Time between two writes, seconds.
        buffer_bytes: Bytes kept for a host that does not read; beyond them, whole batches are lost, as by instruments.

    Yields:
        The running emulator; its ``path`` is the port.
    """
    master, slave = os.openpty()
    ours, theirs = Pipe()
    try:
        tty.setraw(slave)
        path = os.ttyname(slave)
        code = "from deepen.testing.instruments import pty; pty.main()"
        handles = (master, slave, theirs.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, handles)],
            pass_fds=handles,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdin=subprocess.DEVNULL,
        )
    finally:
        os.close(master)
        os.close(slave)
        theirs.close()
    served = ServedEmulator(path, ours)
    try:
        ours.send((emulator, tuple(faults), batch_s, buffer_bytes))
        served.taken()  # wait until it runs
        yield served
    finally:
        ours.close()  # which ends it
        try:
            process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Run in the process; the arguments are the descriptors of both ends of the terminal and of the pipe."""
    master, slave, pipe = map(int, sys.argv[1:4])
    connection = Connection(pipe)
    emulator, faults, *options = connection.recv()
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):  # the host has ended
        _EmulatorProcess(master, slave, connection, FaultyLine(emulator, faults), *options).run()


class _EmulatorProcess:
    """The loop of the process."""

    def __init__(
        self, master: int, slave: int, connection: Connection, line: FaultyLine, batch_s: float, buffer_bytes: int
    ) -> None:
        os.set_blocking(master, False)
        self.master, self.slave, self.connection = master, slave, connection
        self.line, self.batch_s, self.buffer_bytes = line, batch_s, buffer_bytes
        self.queue: deque[bytes] = deque()
        self.queued = self.overflowed = 0

    def run(self) -> None:
        """Serve until the host closes the pipe."""
        next_s = monotonic_s()
        while True:
            wait_s = max(0.0, next_s - monotonic_s())
            reads: list[Any] = [self.connection] if self.master < 0 else [self.connection, self.master]
            writes = [self.master] if self.queue and self.master >= 0 else []
            readable, writable, _ = select.select(reads, writes, [], wait_s)
            if self.connection in readable:
                self.answer()
            if self.master >= 0 and self.master in readable:
                self.receive()
            now_s = monotonic_s()
            if now_s >= next_s:
                self.send(self.line.advance(now_s), droppable=True)
                next_s = max(next_s + self.batch_s, now_s)
            if writable:
                self.drain()
            if self.line.unplugged:
                self.unplug()

    def receive(self) -> None:
        """Pass the instrument the bytes written by the host."""
        try:
            data = os.read(self.master, 65536)
        except (BlockingIOError, OSError):
            return
        self.send(self.line.receive(data, monotonic_s()), droppable=False)

    def send(self, data: bytes, droppable: bool) -> None:
        """Queue bytes and write as many as the terminal accepts; a full buffer costs whole batches of the stream."""
        if self.master < 0 or not data:
            return
        if droppable and self.queued > self.buffer_bytes:
            self.overflowed += self.line.emulator.samples_in(0, len(data))
            return
        while data:
            size = self.line.piece(len(data))
            self.queue.append(data[:size])
            self.queued += size
            data = data[size:]
        self.drain()

    def drain(self) -> None:
        """Write as many bytes as the terminal accepts."""
        while self.queue:
            try:
                count = os.write(self.master, self.queue[0])
            except BlockingIOError:
                return
            self.queued -= count
            if count == len(self.queue[0]):
                self.queue.popleft()
            else:
                self.queue[0] = self.queue[0][count:]

    def unplug(self) -> None:
        """Close the terminal."""
        if self.master >= 0:
            os.close(self.master)
            os.close(self.slave)
            self.master, self.queued = -1, 0
            self.queue.clear()

    def answer(self) -> None:
        """Answer one request of the host."""
        what, values = self.connection.recv()
        try:
            self.connection.send((True, self.act(what, values)))
        except (ValueError, AttributeError) as error:
            self.connection.send((False, str(error)))

    def act(self, what: str, values: tuple[Any, ...]) -> Any:
        """Carry out a request of the host."""
        emulator = self.line.emulator
        if what == "switch":
            if not isinstance(emulator.supply.signal, SwitchedSignal):
                raise ValueError("its signal is not Live")
            now_s = max(values[0], self.line.now_s)  # not before the samples already streamed
            emulator.supply.signal.switch(now_s, values[1])
            return now_s
        if what == "plan":
            if not isinstance(emulator.supply.signal, PowerSchedule):
                raise ValueError("its signal is no Schedule")
            now_s = max(monotonic_s(), self.line.now_s) + values[0]
            emulator.supply.signal.plan(now_s, *values[1:])
            return now_s
        if what == "drive":
            now_s = max(values[0], self.line.now_s)
            emulator.logic.set(now_s, *values[1:])  # type: ignore[attr-defined]
            return now_s
        if what == "unplug":
            self.line.unplugged = True
            self.unplug()
            return None
        if what == "lost":
            return self.line.lost + self.overflowed
        if what == "faults":
            return self.line.faults
        if what == "energy_j":
            return emulator.energy_j(*values)
        return {"taken": emulator.clock.taken, "volts": emulator.supply.volts}[what]
