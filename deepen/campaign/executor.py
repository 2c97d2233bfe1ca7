"""Executors run a campaign's tasks: a queue behind three verbs.

:class:`SerialExecutor` runs them one after the other in the calling thread on one session;
:class:`deepen.campaign.parallel_executor.Fleet` on several devices of this host side by side. An engine that spreads
them over devices attached to many hosts takes the same place: tasks are plain data, outcomes are records or reasons.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from deepen.campaign.prepare_item import PreparedItem, PrepareFunction, complete_record
from deepen.campaign.tasks import Task
from deepen.errors import DeepenError, StorageError
from deepen.records import EnergyRecord, Workload

__all__ = ["DeviceNotice", "Measurer", "SerialExecutor", "TaskExecutor", "TaskOutcome"]


class Measurer(Protocol):
    """Measures a workload: a :class:`deepen.measure.Session`."""

    @property
    def drift(self) -> tuple[tuple[float, float], ...]:
        """Change of the reference workload since the session began, as ``(t_s, share)``."""
        ...

    def measure(self, workload: Workload) -> EnergyRecord:
        """Measure; after a failure of the surroundings the next call starts a new worker."""
        ...


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """The record of a task, or the reason there is none.

    Attributes:
        task: The task.
        record: Its record; ``None`` if it failed.
        error: The reason it failed; ``None`` if it did not.
        attempts: Times it was tried.
        device: Station that ran it; empty where there is only one.
    """

    task: Task
    record: EnergyRecord | None
    error: DeepenError | None
    attempts: int
    device: str = ""


@dataclass(frozen=True, slots=True)
class DeviceNotice:
    """A message of an executor about a device.

    Attributes:
        device: Name of the station.
        text: The event.
        stopped: Whether it takes no more tasks in this run.
        returned: Tasks given back because no device is left for them; they are not to be collected any more.
    """

    device: str
    text: str
    stopped: bool = False
    returned: int = 0


class TaskExecutor(Protocol):
    """A queue of tasks being measured.

    Attributes:
        capacity: Tasks it wants to hold.
    """

    capacity: int

    def submit(self, task: Task) -> None:
        """Take a task; returns at once."""
        ...

    def collect(self, timeout_s: float | None = None) -> TaskOutcome | DeviceNotice | None:
        """Wait for the next task that is done, in any order, or for a message; earlier outcomes then count as stored.

        Args:
            timeout_s: Longest wait, seconds; an executor that measures in the calling thread does not look at it.

        Returns:
            ``None`` when the time has passed, or when nothing is left to collect.

        Raises:
            StorageError: If this host's disk refuses; no other error escapes.
        """
        ...

    def cancel(self) -> int:
        """Drop what was not begun; return how many tasks that were. Those begun are still to be collected."""
        ...


class SerialExecutor:
    """Measures one task after the other on one session.

    Args:
        session: Measures the workloads.
        prepare: Prepares an item.
        retries: Times an item is tried again after a failure of the surroundings (device, meter); the session starts a
            new worker by itself.
        lookahead: Items prepared by a thread meanwhile; 0 prepares in turn.
    """

    def __init__(self, session: Measurer, prepare: PrepareFunction, *, retries: int = 2, lookahead: int = 0) -> None:
        self.capacity = 1 + lookahead
        self._session = session
        self._prepare = prepare
        self._retries = retries
        self._pool = ThreadPoolExecutor(1, "deepen-prepare") if lookahead else None
        self._queue: deque[tuple[Task, Future[PreparedItem] | None]] = deque()

    def submit(self, task: Task) -> None:
        """See :class:`TaskExecutor`."""
        wanted = (task.item, task.runtime, task.threads)
        self._queue.append((task, self._pool.submit(self._prepare, *wanted) if self._pool else None))

    def collect(self, timeout_s: float | None = None) -> TaskOutcome | None:
        """See :class:`TaskExecutor`."""
        if not self._queue:
            return None
        task, future = self._queue.popleft()
        attempts = 0
        try:
            prepared = future.result() if future else self._prepare(task.item, task.runtime, task.threads)
            try:
                while True:
                    attempts += 1
                    try:
                        return TaskOutcome(
                            task, complete_record(self._session.measure(prepared.workload), prepared), None, attempts
                        )
                    except DeepenError as error:
                        if not error.retryable or isinstance(error, StorageError) or attempts > self._retries:
                            raise
            finally:
                prepared.discard()
        except StorageError:
            raise
        except DeepenError as error:
            return TaskOutcome(task, None, error, attempts)

    def cancel(self) -> int:
        """See :class:`TaskExecutor`."""
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
