"""Several stations side by side: one thread each, one queue per kind of device.

The rules, per station:

- A task begins only when the one before is stored, so that nothing this host does disturbs a measurement on it, and a
  killed host loses at most one task per station.
- Device or meter gone: everything is closed, the task goes back to the queue (whoever is free takes it), and the
  station is opened again after 1, 2, 4 ... 60 seconds until it answers or ``patience_s`` is over.
- A task that fails ``retries`` times more, each time on a station that had just answered, has failed.
- A station on which ``MAX_FAILURES`` tasks in a row failed like that is stopped: it is at fault, not they.
- A record made too hot, by a device that throttled, or while the reference workload had drifted, does not count: the
  task goes back, the station rests, and after ``MAX_RESTS`` rests in a row without a good record it is stopped, while
  the others go on.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from deepen.campaign.executor import DeviceNotice, TaskOutcome
from deepen.campaign.prepare_item import PrepareFunction, complete_record
from deepen.campaign.station import Station
from deepen.campaign.tasks import Task
from deepen.errors import DeepenError, EnvironmentFailure, StorageError

__all__ = ["MAX_FAILURES", "MAX_RESTS", "Fleet", "RetryPolicy"]

MAX_FAILURES = 6
"""Tasks in a row that may fail for the surroundings on a station that can be opened each time."""

_DRAIN_S = 1.0

MAX_RESTS = 3
"""Rests in a row without a good record."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits to a fleet's patience with a station.

    Attributes:
        gone_s: Seconds a device or meter may be gone before its station is stopped.
        first_s: Seconds before it is first tried again; doubled each time,
        longest_s: up to this.
        rest_s: Length of the first rest of a device that is too hot or has drifted, seconds; doubled each time.
        max_drift: Largest believable change of the reference workload, a share.
    """

    gone_s: float = 1800.0
    first_s: float = 1.0
    longest_s: float = 60.0
    rest_s: float = 60.0
    max_drift: float = 0.25


@dataclass(slots=True)
class _QueuedTask:
    task: Task
    attempts: int = 0


@dataclass(slots=True)
class _StationHealth:
    """Failures and rests of a station since its last good record."""

    failures: int = 0
    rests: int = 0


class _StationStopped(Exception):
    """The station takes no more tasks; the text says why."""


class _FleetHalted(Exception):
    """The fleet is being closed."""


class Fleet:
    """Runs tasks on several stations; see :class:`deepen.campaign.executor.TaskExecutor`.

    Use it as a context manager: :meth:`start` opens the stations, leaving it ends their threads and closes them.

    Args:
        stations: The stations to run on.
        prepare: Prepare items, by station name; each is called by its station's thread alone.
        retries: Times a task is tried again after a failure of the surroundings.
        patience: Limits to the patience with a station.
    """

    capacity = sys.maxsize

    def __init__(
        self,
        stations: Sequence[Station],
        prepare: Mapping[str, PrepareFunction],
        *,
        retries: int = 2,
        patience: RetryPolicy | None = None,
    ) -> None:
        self.stations = tuple(stations)
        self._prepare = prepare
        self._retries = retries
        self._patience = patience or RetryPolicy()
        self._queues: dict[str, deque[_QueuedTask]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._halt = threading.Event()
        self._cancelled = False
        self._working: set[str] = set()
        self._busy: set[str] = set()  # stations with a task whose outcome is not told yet
        self._results: queue.SimpleQueue[TaskOutcome | DeviceNotice | BaseException] = queue.SimpleQueue()
        self._stored: dict[str, threading.Event] = {s.name: threading.Event() for s in self.stations}
        self._unstored = ""
        self._pending = 0
        self._threads: list[threading.Thread] = []
        for station in self.stations:
            station.tell = partial(self._tell, station)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- the caller's side ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open every station and wait until they answer; one known from an earlier run may be gone.

        Raises:
            DeepenError: The error of the first station that cannot be opened; all are closed then.
        """
        ready: list[tuple[Station, Future[None]]] = [(station, Future()) for station in self.stations]
        self._working = {station.name for station in self.stations}
        for station, opened in ready:
            thread = threading.Thread(
                target=self._work, args=(station, opened), name=f"deepen-{station.name}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        try:
            for station, opened in ready:
                try:
                    opened.result()
                except DeepenError as error:
                    if len(ready) == 1 or error.subject == station.name:
                        raise
                    raise error.with_subject(station.name) from error
        except BaseException:
            self.close()
            raise

    @property
    def profiles(self) -> list[str]:
        """Profiles of the devices there are, each once, in the stations' order."""
        return list(dict.fromkeys(s.facts.profile for s in self.stations if s.facts))

    @property
    def drift(self) -> tuple[tuple[float, float], ...]:
        """Drift series of the station that drifted most."""
        return max((s.drift for s in self.stations), key=_compute_drift_span, default=())

    def submit(self, task: Task) -> None:
        """See :class:`TaskExecutor`."""
        self._pending += 1
        with self._changed:
            if self._has_station_for(task.device):
                self._queues[task.device].append(_QueuedTask(task))
                self._changed.notify_all()
                return
        self._results.put(DeviceNotice(task.device, "no device is left for it", returned=1))

    def collect(self, timeout_s: float | None = None) -> TaskOutcome | DeviceNotice | None:
        """See :class:`TaskExecutor`."""
        self._acknowledge()
        if not self._pending:
            return None
        while True:
            try:
                found = self._results.get(timeout=_DRAIN_S if self._cancelled else timeout_s)
                break
            except queue.Empty:
                if not self._cancelled:
                    return None
            # Ctrl-C may have hit after an outcome arrived and before it was counted: no station is busy.
            if not self._busy and self._results.empty():
                self._pending = 0
                return None
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, TaskOutcome):
            self._unstored = found.device
            self._pending -= 1
        else:
            self._pending -= found.returned
        return found

    def cancel(self) -> int:
        """See :class:`TaskExecutor`."""
        with self._changed:
            self._cancelled = True
            dropped = sum(len(entries) for entries in self._queues.values())
            self._queues.clear()
            for name in sorted(self._busy):
                self._results.put(DeviceNotice(name, "finishes what it is measuring, then stops (Ctrl-C drops it)"))
        self._pending -= dropped
        self._acknowledge()
        return dropped

    def close(self) -> None:
        """End the threads, each after the measurement it is at, and close the stations."""
        with self._changed:
            self._halt.set()
            self._queues.clear()
            self._changed.notify_all()
        for event in self._stored.values():
            event.set()
        for thread in self._threads:
            thread.join()

    def _acknowledge(self) -> None:
        """Let the station of the outcome collected last go on: it is stored."""
        if self._unstored:
            self._stored[self._unstored].set()
            self._unstored = ""

    def _has_station_for(self, profile: str) -> bool:
        """Tell whether a working station has devices of this profile; call it with the lock held."""
        return any(s.name in self._working and s.facts and profile in ("", s.facts.profile) for s in self.stations)

    # ---- a station's side -------------------------------------------------------------------------------------------

    def _work(self, station: Station, opened: Future[None]) -> None:
        health, in_hand = _StationHealth(), 0
        try:
            self._open_first(station, opened)
            while not self._halt.is_set():
                if not station.is_open:
                    self._reopen(station)
                entry, in_hand = self._wait_for_task(station), 1
                self._run_one(station, entry, health)
                in_hand = 0
                self._busy.discard(station.name)
        except _FleetHalted:
            pass
        except _StationStopped as stopped:
            self._stop_station(station, str(stopped))
        except BaseException as error:  # a bug, a full disk, or Ctrl-C: the caller's to see
            self._results.put(error)
            self._stop_station(station, f"ended by {type(error).__name__}", in_hand)
        finally:
            station.close()

    def _open_first(self, station: Station, opened: Future[None]) -> None:
        """Open a station for the first time; one known from an earlier run may be gone."""
        try:
            station.session()
        except DeepenError as error:
            if not isinstance(error, EnvironmentFailure) or station.facts is None:
                opened.set_exception(error)
                raise _FleetHalted from error
        except BaseException as error:
            opened.set_exception(error)
            raise _FleetHalted from error
        opened.set_result(None)

    def _wait_for_task(self, station: Station) -> _QueuedTask:
        """Wait for a task."""
        assert station.facts is not None
        with self._changed:
            while not self._halt.is_set():
                for profile in (station.facts.profile, ""):
                    if self._queues[profile]:
                        self._busy.add(station.name)
                        return self._queues[profile].popleft()
                self._changed.wait()
        raise _FleetHalted

    def _run_one(self, station: Station, entry: _QueuedTask, health: _StationHealth) -> None:
        """Measure one task, by the rules of this module.

        1. A station that is gone gives the task back.
        2. A device that is too hot rests; the task is not to blame and keeps its attempts.
        3. Prepare and measure; a failure of the surroundings closes the station.
        4. A record made too hot, throttled or drifted does not count.
        5. A good record is delivered and forgives earlier failures.
        """
        task = entry.task
        # 1. Gone?
        try:
            session = station.session(task.runtime)
        except EnvironmentFailure:
            self._requeue(entry, first=True)  # the station is gone; the loop opens it again
            return
        except DeepenError as error:
            self._deliver(TaskOutcome(task, None, error, entry.attempts, station.name))
            return
        # 2. Too hot?
        entry.attempts += 1
        try:
            if reason := station.wait_until_cool():
                entry.attempts -= 1
                self._requeue(entry, first=True)
                self._rest(station, health, reason)
                return
            # 3. Measure.
            prepared = self._prepare[station.name](task.item, task.runtime, task.threads)
            try:
                record = complete_record(session.measure(prepared.workload), prepared)
            finally:
                prepared.discard()
        except StorageError:
            raise
        except EnvironmentFailure as error:
            station.close()
            self._handle_failure(station, entry, health, error)
            return
        except DeepenError as error:
            self._deliver(TaskOutcome(task, None, error, entry.attempts, station.name))
            return
        # 4. Trustworthy?
        reason = station.find_record_fault(record, self._patience.max_drift)
        if reason:
            entry.attempts -= 1
            self._requeue(entry, first=True)
            self._rest(station, health, reason)
            return
        # 5. Deliver.
        health.failures = health.rests = 0
        self._deliver(TaskOutcome(task, record, None, entry.attempts, station.name))

    def _handle_failure(
        self, station: Station, entry: _QueuedTask, health: _StationHealth, error: EnvironmentFailure
    ) -> None:
        health.failures += 1
        self._tell(station, f"{entry.task.name} failed: {error}")
        if entry.attempts > self._retries:
            self._deliver(TaskOutcome(entry.task, None, error, entry.attempts, station.name))
        else:
            self._requeue(entry)  # behind the others, so that one bad stretch of time does not hit it twice
        if health.failures >= MAX_FAILURES:
            raise _StationStopped(f"{health.failures} measurements in a row failed; the last: {error}") from error
        self._wait(station, self._patience.first_s)

    def _rest(self, station: Station, health: _StationHealth, reason: str) -> None:
        if health.rests >= MAX_RESTS:
            raise _StationStopped(f"{reason}, also after {health.rests} rests")
        rest_s = self._patience.rest_s * 2**health.rests
        health.rests += 1
        self._tell(station, f"{reason}; it rests for {rest_s:.0f} s")
        self._wait(station, rest_s)

    def _reopen(self, station: Station) -> None:
        """Try to open a station that is gone, at growing intervals, until it answers or patience ends."""
        delay_s, waited_s, told = self._patience.first_s, 0.0, False
        while True:
            try:
                station.session()
            except EnvironmentFailure as error:
                if waited_s >= self._patience.gone_s:
                    raise _StationStopped(f"gone for {waited_s / 60:.0f} minutes: {error}") from error
                if not told:
                    self._tell(station, f"gone, tried again until it is back: {error}")
                    told = True
            except DeepenError as error:
                raise _StationStopped(str(error)) from error
            else:
                if told:
                    self._tell(station, "back")
                return
            self._wait(station, delay_s)
            waited_s += delay_s
            delay_s = min(2 * delay_s, self._patience.longest_s)

    def _wait(self, station: Station, duration_s: float) -> None:
        if station.sleep is None:
            self._halt.wait(duration_s)
        else:
            station.sleep(duration_s)
        if self._halt.is_set():
            raise _FleetHalted

    def _requeue(self, entry: _QueuedTask, first: bool = False) -> None:
        """Put a task back into the queue; to the caller where nothing more is to begin."""
        with self._changed:
            if not self._cancelled:
                entries = self._queues[entry.task.device]
                (entries.appendleft if first else entries.append)(entry)
                self._changed.notify_all()
                return
        self._results.put(DeviceNotice(entry.task.device, "a task was given back", returned=1))

    def _deliver(self, outcome: TaskOutcome) -> None:
        """Hand an outcome over and wait until it is stored."""
        stored = self._stored[outcome.device]
        stored.clear()
        self._results.put(outcome)
        self._busy.discard(outcome.device)
        while not stored.wait(1.0):
            if self._halt.is_set():
                raise _FleetHalted
        if self._halt.is_set():
            raise _FleetHalted

    def _tell(self, station: Station, text: str) -> None:
        self._results.put(DeviceNotice(station.name, text))

    def _stop_station(self, station: Station, reason: str, in_hand: int = 0) -> None:
        """Take a station out; what only it could have done goes back to the caller."""
        with self._changed:
            self._working.discard(station.name)
            self._busy.discard(station.name)
            stranded = [profile for profile in self._queues if not self._has_station_for(profile)]
            returned = in_hand + sum(len(self._queues.pop(profile)) for profile in stranded)
        self._results.put(DeviceNotice(station.name, reason, stopped=True, returned=returned))


def _compute_drift_span(series: Sequence[tuple[float, float]]) -> float:
    shares = [share for _, share in series]
    return max(shares) - min(shares) if shares else 0.0
