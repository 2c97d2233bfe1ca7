"""Who runs a campaign's items: a queue behind three verbs.

Today one thread on this host runs them one after the other. An engine that spreads items over devices attached to many
hosts takes the same place: items are plain data, outcomes are records or reasons.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from deepen.campaign.plan import Item
from deepen.campaign.prepare import Prepare, Prepared, finish
from deepen.errors import DeepenError, StorageError
from deepen.records import EnergyRecord, Workload

__all__ = ["Executor", "Measurer", "Outcome", "SerialExecutor"]


class Measurer(Protocol):
    """What measures a workload: a :class:`deepen.measure.Session`."""

    @property
    def drift(self) -> tuple[tuple[float, float], ...]:
        """Change of the reference workload since the session began, as ``(t_s, share)``."""
        ...

    def measure(self, workload: Workload) -> EnergyRecord:
        """Measure; after a failure of the surroundings the next call starts a new worker."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item.

    Attributes:
        item: The item.
        record: Its record; ``None`` if it failed.
        error: Why it failed; ``None`` if it did not.
        attempts: Times it was tried.
    """

    item: Item
    record: EnergyRecord | None
    error: DeepenError | None
    attempts: int


class Executor(Protocol):
    """A queue of items being measured.

    Attributes:
        capacity: Items it wants to hold.
    """

    capacity: int

    def submit(self, item: Item) -> None:
        """Take an item; returns at once."""
        ...

    def collect(self) -> Outcome:
        """Wait for the next item that is done, in any order.

        Raises:
            StorageError: If this host's disk refuses; no other error escapes.
        """
        ...

    def cancel(self) -> int:
        """Drop what was not begun; return how many items that were. Those begun are still to be collected."""
        ...


class SerialExecutor:
    """Measures one item after the other on one session.

    Args:
        session: What measures.
        prepare: What prepares an item.
        retries: Times an item is tried again after a failure of the surroundings (device, meter); the session starts a
            new worker by itself.
        lookahead: Items prepared by a thread meanwhile; 0 prepares in turn.
    """

    def __init__(self, session: Measurer, prepare: Prepare, *, retries: int = 2, lookahead: int = 0) -> None:
        self.capacity = 1 + lookahead
        self._session = session
        self._prepare = prepare
        self._retries = retries
        self._pool = ThreadPoolExecutor(1, "deepen-prepare") if lookahead else None
        self._queue: deque[tuple[Item, Future[Prepared] | None]] = deque()

    def submit(self, item: Item) -> None:
        """See :class:`Executor`."""
        self._queue.append((item, self._pool.submit(self._prepare, item) if self._pool else None))

    def collect(self) -> Outcome:
        """See :class:`Executor`."""
        item, future = self._queue.popleft()
        attempts = 0
        try:
            prepared = future.result() if future else self._prepare(item)
            try:
                while True:
                    attempts += 1
                    try:
                        return Outcome(item, finish(self._session.measure(prepared.workload), prepared), None, attempts)
                    except DeepenError as error:
                        if not error.retryable or isinstance(error, StorageError) or attempts > self._retries:
                            raise
            finally:
                prepared.discard()
        except StorageError:
            raise
        except DeepenError as error:
            return Outcome(item, None, error, attempts)

    def cancel(self) -> int:
        """See :class:`Executor`."""
        dropped = len(self._queue)
        futures = [future for _, future in self._queue if future]
        self._queue.clear()
        for future in futures:
            if not future.cancel() and future.exception() is None:
                future.result().discard()
        return dropped

    def close(self) -> None:
        """Drop what was not begun and end the thread."""
        self.cancel()
        if self._pool:
            self._pool.shutdown()
