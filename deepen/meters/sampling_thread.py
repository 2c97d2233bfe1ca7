"""A background thread that samples at a steady rate."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError

__all__ = ["SamplingThread"]


class SamplingThread:
    """Calls a function every ``period_s`` until stopped; the first exception ends it and is reported by ``stop``."""

    def __init__(self, sample: Callable[[], None], period_s: float) -> None:
        """Set the function and the period; nothing runs before :meth:`start`."""
        self._sample = sample
        self._period_s = period_s
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self) -> None:
        """Start sampling."""
        self._end.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, name="deepen-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread; harmless when it does not run.

        Raises:
            MeterError: If a sample failed.
        """
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            if isinstance(error, MeterError):
                raise error
            raise MeterError(f"sampling failed: {error}") from error

    def _run(self) -> None:
        due = monotonic_s() + self._period_s
        while not self._end.wait(max(0.0, due - monotonic_s())):
            try:
                self._sample()
            except Exception as error:  # raised to the caller by stop()
                self._error = error
                return
            now = monotonic_s()
            due += self._period_s * max(1, int((now - due) / self._period_s) + 1)
