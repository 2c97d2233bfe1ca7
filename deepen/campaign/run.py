"""Run a plan: measure the tasks without a record, store each record as it comes, stop cleanly whenever asked."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deepen.campaign.executor import DeviceNotice, Measurer, SerialExecutor, TaskExecutor, TaskOutcome
from deepen.campaign.plan import CampaignPlan
from deepen.campaign.prepare_item import CampaignSettings, ItemPreparer
from deepen.campaign.tasks import Task, select_missing_tasks
from deepen.clock.host_clock import Deadline, monotonic_s
from deepen.datasets import Dataset
from deepen.errors import DatasetError, DeepenError, EnvironmentFailure
from deepen.storage.atomic import make_folder

__all__ = ["CampaignProgress", "CampaignReport", "open_work_folder", "run_plan", "run_tasks"]

GIVE_UP_AFTER = 3
"""Items in a row that may fail for the surroundings, retries included, before the campaign stops."""

TELL_EVERY_S = 60.0
"""Time between two calls of ``on_progress`` while nothing happens, seconds."""

STOP_EVERY_S = 1.0
"""Time between two calls of ``stop`` while nothing else happens, seconds."""


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """State of a campaign after a task or a message of a device.

    Attributes:
        done: Tasks finished, those already in the dataset included.
        total: Tasks of the plan.
        measured: Tasks measured by this run.
        failed: Tasks that failed in this run.
        elapsed_s: Time since this run began.
        eta_s: Expected time until it ends, by its mean pace and the budget; ``nan`` before the first item.
        last: Name of the task that just finished.
        error: The reason that task failed; empty if it did not.
        device: Station that finished it, or that the message is about; empty where there is only one.
        notice: The message; empty where a task finished.
        by_device: Tasks finished by each device in this run.
        budget_left_s: Time left of the budget; infinite where there is none.
    """

    done: int
    total: int
    measured: int
    failed: int
    elapsed_s: float
    eta_s: float
    last: str = ""
    error: str = ""
    device: str = ""
    notice: str = ""
    by_device: Mapping[str, int] = field(default_factory=dict)
    budget_left_s: float = math.inf


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """Result of a run.

    Attributes:
        measured: Items measured and stored.
        skipped_done: Items that were in the dataset already.
        failed: ``(name, reason)`` of items that could not be measured; the next run tries them again.
        elapsed_s: Duration.
        interrupted: Whether Ctrl-C or ``stop`` ended it early.
        remaining: Items not begun, because of an interruption or the budget.
        drift: The session's reference series, as ``(t_s, share)``: change of the device's speed; of the device that
            changed most where there are several.
        stopped: ``(device, reason)`` of devices that were given up.
        by_device: Items measured and stored, by device.
    """

    measured: int
    skipped_done: int
    failed: tuple[tuple[str, str], ...]
    elapsed_s: float
    interrupted: bool
    remaining: int = 0
    drift: tuple[tuple[float, float], ...] = ()
    stopped: tuple[tuple[str, str], ...] = ()
    by_device: Mapping[str, int] = field(default_factory=dict)

    @property
    def drift_span(self) -> float:
        """Largest minus smallest change of the reference workload, as a share; 0 with fewer than two points."""
        shares = [share for _, share in self.drift]
        return max(shares) - min(shares) if shares else 0.0


def run_plan(
    plan: CampaignPlan,
    session: Measurer,
    dataset: Dataset,
    *,
    budget_s: float | None = None,
    on_progress: Callable[[CampaignProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    settings: CampaignSettings | None = None,
    executor: TaskExecutor | None = None,
) -> CampaignReport:
    """Measure a plan's items into a dataset.

    Items whose key or name the dataset holds are passed over, so running again resumes. Each record is on the disk
    before the next item begins; whatever ends the process loses at most the item being measured. Ctrl-C returns a
    report like any other end.

    Args:
        plan: The items.
        session: Measures them; open.
        dataset: Takes the records; becomes its writer.
        budget_s: Seconds after which no further item begins.
        on_progress: Called before the first and after every item.
        stop: Asked before every item; true ends the run.
        settings: Settings of the measurements.
        executor: Runs the items; by default one after the other on ``session``.

    Raises:
        DatasetError: If the dataset is damaged.
        StorageError: If the disk refuses, or another process is writing; what was stored stays.
        EnvironmentFailure: If several items in a row fail for the surroundings (device or meter gone).
    """
    settings = settings or CampaignSettings()
    limits = _RunLimits(budget_s, on_progress, stop, GIVE_UP_AFTER)
    tasks = [Task(item) for item in plan.items]
    if executor is not None:
        return _run_missing_tasks(tasks, executor, dataset, limits, lambda: session.drift)
    dataset.claim()  # before its work folder is emptied
    with open_work_folder(dataset.folder) as folder:
        prepare = ItemPreparer(folder, settings)
        serial = SerialExecutor(session, prepare, retries=settings.retries, lookahead=settings.lookahead)
        try:
            return _run_missing_tasks(tasks, serial, dataset, limits, lambda: session.drift)
        finally:
            serial.close()


def run_tasks(
    tasks: Sequence[Task],
    executor: TaskExecutor,
    dataset: Dataset,
    *,
    budget_s: float | None = None,
    on_progress: Callable[[CampaignProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    drift: Callable[[], tuple[tuple[float, float], ...]] = tuple,
) -> CampaignReport:
    """Measure tasks into a dataset, by an executor that looks after its devices itself.

    Tasks the dataset has records of (same item, device, runtime and threads; as many as there are repeats) are passed
    over, so running again resumes. On Ctrl-C what is being measured is finished and stored; a second one drops it.

    Args:
        tasks: The tasks.
        executor: Runs them; the caller closes it.
        dataset: Takes the records; becomes its writer.
        budget_s: Seconds after which no further task begins.
        on_progress: Called at the start, after every task, and with messages of a device.
        stop: Asked at least once a second; true ends the run.
        drift: Asked at the end for the reference series of the report.

    Raises:
        DatasetError: If the dataset is damaged.
        StorageError: If the disk refuses, or another process is writing; what was stored stays.
    """
    return _run_missing_tasks(tasks, executor, dataset, _RunLimits(budget_s, on_progress, stop), drift)


@dataclass(frozen=True, slots=True)
class _RunLimits:
    """Limits of a run, and its listener."""

    budget_s: float | None
    on_progress: Callable[[CampaignProgress], None] | None
    stop: Callable[[], bool] | None
    give_up_after: float = math.inf


def _run_missing_tasks(
    tasks: Sequence[Task],
    executor: TaskExecutor,
    dataset: Dataset,
    limits: _RunLimits,
    drift: Callable[[], tuple[tuple[float, float], ...]],
) -> CampaignReport:
    dataset.claim()
    todo = select_missing_tasks(tasks, dataset)
    state = _RunState(len(tasks), todo, limits)
    try:
        state.tell()
        _run_task_queue(iter(todo), executor, dataset, state, limits.stop)
    except KeyboardInterrupt:
        state.interrupted = True
        executor.cancel()
        while (found := executor.collect()) is not None:
            _store_outcome(found, dataset, state)
    return state.report(drift())


class _RunState:
    """Counts of a run, and the reports of them to the listener."""

    def __init__(self, total: int, todo: Sequence[Task], limits: _RunLimits) -> None:
        self.total, self.todo = total, len(todo)
        self.started_s = monotonic_s()
        self.deadline = Deadline(math.inf if limits.budget_s is None else limits.budget_s)
        self.on_progress = limits.on_progress
        self.give_up_after = limits.give_up_after
        self.measured = 0
        self.failed: list[tuple[str, str]] = []
        self.stopped: list[tuple[str, str]] = []
        self.unlucky = 0
        self.interrupted = False
        self._left = Counter(task.device for task in todo)
        self._finished: Counter[str] = Counter()
        self.by_device: Counter[str] = Counter()
        self._told_s = self.started_s

    @property
    def finished(self) -> int:
        return self.measured + len(self.failed)

    def fail(self, task: Task, error: DeepenError, device: str) -> None:
        """Note a failure; give up where the surroundings fail again and again."""
        self.failed.append((task.name, str(error)))
        self._finished[task.device] += 1
        self.unlucky = self.unlucky + 1 if isinstance(error, EnvironmentFailure) else 0
        self.tell(task.name, str(error), device)
        if self.unlucky >= self.give_up_after:
            raise error.with_subject(f"{self.unlucky} items in a row failed; the last") from error

    def succeed(self, task: Task, device: str) -> None:
        """Note a stored record."""
        self.measured += 1
        self._finished[task.device] += 1
        self.by_device[device] += 1
        self.unlucky = 0
        self.tell(task.name, device=device)

    def note(self, notice: DeviceNotice) -> None:
        """Note a message of a device."""
        if notice.stopped:
            self.stopped.append((notice.device, notice.text))
        self.tell(device=notice.device, notice=f"stopped: {notice.text}" if notice.stopped else notice.text)

    def tell(self, last: str = "", error: str = "", device: str = "", notice: str = "") -> None:
        """Call the listener."""
        if self.on_progress is None:
            return
        self._told_s = monotonic_s()
        elapsed_s = self._told_s - self.started_s
        done = self.total - self.todo + self.finished
        counts = (done, self.total, self.measured, len(self.failed))
        eta_s, left_s = self._eta_s(elapsed_s), self.deadline.remaining_s
        found = CampaignProgress(*counts, elapsed_s, eta_s, last, error, device, notice, dict(self.by_device), left_s)
        self.on_progress(found)

    def tell_if_due(self) -> None:
        """Call the listener unless it was called lately."""
        if monotonic_s() - self._told_s >= TELL_EVERY_S:
            self.tell()

    def _eta_s(self, elapsed_s: float) -> float:
        """Time until the kind of device that takes longest is through, each at its pace so far; at most the budget."""
        left_s = [
            elapsed_s / self._finished[device] * (count - self._finished[device])
            if self._finished[device]
            else math.nan
            for device, count in self._left.items()
        ]
        if any(map(math.isnan, left_s)):
            return math.nan
        return min(max(left_s, default=0.0), self.deadline.remaining_s)

    def report(self, drift: tuple[tuple[float, float], ...]) -> CampaignReport:
        """Sum up."""
        return CampaignReport(
            measured=self.measured,
            skipped_done=self.total - self.todo,
            failed=tuple(self.failed),
            elapsed_s=monotonic_s() - self.started_s,
            interrupted=self.interrupted,
            remaining=self.todo - self.finished,
            drift=tuple(drift),
            stopped=tuple(self.stopped),
            by_device=dict(self.by_device),
        )


def _run_task_queue(
    todo: Iterator[Task], executor: TaskExecutor, dataset: Dataset, state: _RunState, stop: Callable[[], bool] | None
) -> None:
    in_flight = 0
    exhausted = cancelled = False
    while not exhausted or in_flight > 0:
        if not cancelled and (state.deadline.expired or (stop is not None and stop())):
            state.interrupted = not state.deadline.expired
            exhausted = cancelled = True
            in_flight -= executor.cancel()
        while not exhausted and in_flight < executor.capacity:
            task = next(todo, None)
            if task is None:
                exhausted = True
            else:
                executor.submit(task)
                in_flight += 1
        if in_flight <= 0:
            return
        found = executor.collect(_compute_wait_s(state, stop, cancelled))
        if found is not None:
            in_flight -= found.returned if isinstance(found, DeviceNotice) else 1
            _store_outcome(found, dataset, state)
        else:
            state.tell_if_due()


def _compute_wait_s(state: _RunState, stop: Callable[[], bool] | None, cancelled: bool) -> float | None:
    """Compute the time after which progress, budget and ``stop`` must be looked at, seconds; ``None`` for never."""
    if cancelled:
        return None
    least_s = math.inf if state.on_progress is None else TELL_EVERY_S
    wait_s = min(state.deadline.remaining_s, least_s, math.inf if stop is None else STOP_EVERY_S)
    return wait_s if math.isfinite(wait_s) else None


def _store_outcome(found: TaskOutcome | DeviceNotice, dataset: Dataset, state: _RunState) -> None:
    """Store a record, or note why there is none."""
    if isinstance(found, DeviceNotice):
        state.note(found)
        return
    if found.record is None:
        state.fail(found.task, found.error or DeepenError("no record and no reason"), found.device)
        return
    try:
        dataset.append(found.record, found.task.repeat)
    except DatasetError as error:
        state.fail(found.task, error, found.device)
    else:
        state.succeed(found.task, found.device)


@contextmanager
def open_work_folder(dataset: Path) -> Iterator[Path]:
    """Open a folder beside the records for model files; files a killed run left there are removed."""
    folder = dataset / ".work"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
