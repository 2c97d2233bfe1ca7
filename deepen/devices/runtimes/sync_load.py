"""A load with sharp edges, for the sync pattern of runtimes whose own runs have none.

A tool that reloads its model for every block draws power long before the block begins, so a pattern made of its runs
has no clear edges. A counting shell makes one core busy at once, and every device has a shell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepen.clock.host_clock import Deadline, monotonic_s
from deepen.errors import ConfigError, LinkError
from deepen.records import Interval

if TYPE_CHECKING:
    from deepen.devices.protocols import Link, ProcessChannel

__all__ = ["ShellLoad"]

_SCRIPT = """
while read -r n; do
  echo begin
  i=0
  while [ "$i" -lt "$n" ]; do i=$((i+1)); done
  echo end
done
"""
"""Reads numbers of iterations; nothing else reaches the shell."""
_TRIAL = 2000
_RUN_S = 1e-3  # approximate duration of one run of the load
_PATIENCE_S = 60.0


class ShellLoad:
    """A shell that counts on the device, with the interface of a loaded model whose run lasts about a millisecond.

    Attributes:
        build: Description of the load.
        per_run_s: Wall time of one run, seconds, measured at the start; 0 before.
    """

    build = "shell loop"

    def __init__(self, link: Link, cpus: Sequence[int], delay_s: float) -> None:
        """Set up the load; the first run starts the shell.

        Args:
            link: Link to the device.
            cpus: Core to count on; empty for any.
            delay_s: Longest delay of a line, seconds.
        """
        self._link = link
        self._cpus = tuple(cpus)
        self._delay_s = delay_s
        self._channel: ProcessChannel | None = None
        self._counts = 0
        self._closed = False
        self.per_run_s = 0.0

    @property
    def alive(self) -> bool:
        """True while it can be run."""
        return not self._closed

    def start(self) -> None:
        """Start the shell unless it runs, and measure how fast it counts.

        Raises:
            LinkError: If the device is gone.
        """
        if self._closed:
            raise LinkError("the load for the sync pattern was closed", cure="load the model again")
        if self._channel is not None and self._channel.exit_status() is None:
            return
        prefix = ["taskset", f"{1 << self._cpus[0]:x}"] if self._cpus else []
        self._channel = self._link.spawn([*prefix, "sh", "-c", _SCRIPT], {})
        self._counts = _TRIAL
        self.per_run_s = _RUN_S
        trial = self._play(self._channel, 1)
        for _ in range(20):  # until it lasts long enough for good timing
            if trial.duration_s >= 20 * self._delay_s + 5 * _RUN_S:
                break
            self._counts *= 2
            trial = self._play(self._channel, 1)
        counted = self._counts
        self._counts = max(1, round(counted * _RUN_S / max(trial.duration_s, 1e-9)))
        self.per_run_s = trial.duration_s * self._counts / counted

    def run(self, n: int) -> Interval:
        """Keep a core busy for about n milliseconds.

        Raises:
            LinkError: If the device is gone.
        """
        if n < 1:
            raise ConfigError(f"a block needs at least one run, not {n}")
        self.start()
        if self._channel is None:
            raise LinkError("the load for the sync pattern was closed", cure="load the model again")
        return self._play(self._channel, n)

    def close(self) -> None:
        """End the shell."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.kill()

    def _play(self, channel: ProcessChannel, n: int) -> Interval:
        sent = monotonic_s()
        channel.send(b"%d" % (n * self._counts))
        begun = self._expect(channel, b"begin")
        ended = self._expect(channel, b"end")
        earliest_start = max(sent, begun - self._delay_s)
        earliest_end = max(earliest_start, ended - self._delay_s)
        width = max(begun - earliest_start, ended - earliest_end)
        start, end = (earliest_start + begun) / 2, (earliest_end + ended) / 2
        return Interval(start, max(start, end), "pulse", runs=n, uncertainty_s=width / math.sqrt(12))

    def _expect(self, channel: ProcessChannel, word: bytes) -> float:
        deadline = Deadline(_PATIENCE_S)
        line = channel.receive(deadline.remaining_s)
        arrived = monotonic_s()
        if line != word:
            self.close()
            raise LinkError(f"the load for the sync pattern said {line!r} instead of {word!r}", cure="try again")
        return arrived
