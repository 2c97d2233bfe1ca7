"""Runs a plan: measure what is not there yet, store each record as it comes, stop cleanly whenever asked."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deepen.campaign.executor import Executor, Measurer, SerialExecutor
from deepen.campaign.plan import Item, KernelItem, Plan
from deepen.campaign.prepare import Preparer, Settings
from deepen.clock import Deadline, monotonic_s
from deepen.datasets import Dataset
from deepen.datasets.disk import make_folder
from deepen.errors import DatasetError, DeepenError, EnvironmentFailure

__all__ = ["CampaignProgress", "CampaignReport", "run"]

GIVE_UP_AFTER = 3
"""Items in a row that may fail for the surroundings, retries included, before the campaign stops."""


@dataclass(frozen=True, slots=True)
class CampaignProgress:
    """Where a campaign is, after an item.

    Attributes:
        done: Items finished, those already in the dataset included.
        total: Items of the plan.
        measured: Items measured by this run.
        failed: Items that failed in this run.
        elapsed_s: Time since this run began.
        eta_s: Expected time until it ends, by its mean pace and the budget; ``nan`` before the first item.
        last: Name of the item that just finished.
        error: Why that item failed; empty if it did not.
    """

    done: int
    total: int
    measured: int
    failed: int
    elapsed_s: float
    eta_s: float
    last: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class CampaignReport:
    """What a run did.

    Attributes:
        measured: Items measured and stored.
        skipped_done: Items that were in the dataset already.
        failed: ``(name, reason)`` of items that could not be measured; the next run tries them again.
        elapsed_s: Duration.
        interrupted: Whether Ctrl-C or ``stop`` ended it early.
        remaining: Items not begun, because of an interruption or the budget.
        drift: The session's reference series, as ``(t_s, share)``: change of the device's speed.
    """

    measured: int
    skipped_done: int
    failed: tuple[tuple[str, str], ...]
    elapsed_s: float
    interrupted: bool
    remaining: int = 0
    drift: tuple[tuple[float, float], ...] = ()

    @property
    def drift_span(self) -> float:
        """Largest minus smallest change of the reference workload, as a share; 0 with fewer than two points."""
        shares = [share for _, share in self.drift]
        return max(shares) - min(shares) if shares else 0.0


def run(
    plan: Plan,
    session: Measurer,
    dataset: Dataset,
    *,
    budget_s: float | None = None,
    on_progress: Callable[[CampaignProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    settings: Settings | None = None,
    executor: Executor | None = None,
) -> CampaignReport:
    """Measure a plan's items into a dataset.

    Items whose key or name the dataset holds are passed over, so running again resumes. Each record is on the disk
    before the next item begins; whatever ends the process loses at most the item being measured. Ctrl-C returns a
    report like any other end.

    Args:
        plan: What to measure.
        session: What measures; open.
        dataset: Where records go; becomes its writer.
        budget_s: Seconds after which no further item begins.
        on_progress: Called before the first and after every item.
        stop: Asked before every item; true ends the run.
        settings: How to measure.
        executor: Who runs the items; by default one after the other on ``session``.

    Raises:
        DatasetError: If the dataset's features have another version than this deepen computes.
        StorageError: If the disk refuses, or another process is writing; what was stored stays.
        EnvironmentFailure: If several items in a row fail for the surroundings (device or meter gone).
    """
    settings = settings or Settings()
    dataset.claim()
    _check_features(dataset)
    done = {True: dataset.keys(), False: dataset.model_names()}
    todo = [item for item in plan.items if item.key not in done[isinstance(item, KernelItem)]]
    state = _State(len(plan.items), len(todo), budget_s, on_progress)
    with _work_folder(dataset.path) as folder:
        serial = None
        if executor is None:
            prepare = Preparer(folder, settings)
            executor = serial = SerialExecutor(session, prepare, retries=settings.retries, lookahead=settings.lookahead)
        try:
            state.tell()
            _loop(iter(todo), executor, dataset, state, stop)
        except KeyboardInterrupt:
            state.interrupted = True
        finally:
            if serial:
                serial.close()
    return state.report(session.drift)


def _check_features(dataset: Dataset) -> None:
    from deepen.kernels import FEATURES_VERSION

    if dataset.features_version not in (0, FEATURES_VERSION):
        raise DatasetError(
            f"{dataset.path}: holds features of version {dataset.features_version}, this deepen computes "
            f"{FEATURES_VERSION}; build a new dataset in another folder"
        )


class _State:
    """Counts of a run, and what is told about them."""

    def __init__(
        self, total: int, todo: int, budget_s: float | None, on_progress: Callable[[CampaignProgress], None] | None
    ) -> None:
        self.total, self.todo = total, todo
        self.started_s = monotonic_s()
        self.deadline = Deadline(math.inf if budget_s is None else budget_s)
        self.on_progress = on_progress
        self.measured = 0
        self.failed: list[tuple[str, str]] = []
        self.unlucky = 0
        self.interrupted = False

    @property
    def finished(self) -> int:
        return self.measured + len(self.failed)

    def fail(self, item: Item, error: DeepenError) -> None:
        """Note a failure; give up where the surroundings fail again and again."""
        self.failed.append((item.name, str(error)))
        self.unlucky = self.unlucky + 1 if isinstance(error, EnvironmentFailure) else 0
        self.tell(item.name, str(error))
        if self.unlucky >= GIVE_UP_AFTER:
            raise type(error)(f"{self.unlucky} items in a row failed; the last: {error}") from error

    def succeed(self, item: Item) -> None:
        """Note a stored record."""
        self.measured += 1
        self.unlucky = 0
        self.tell(item.name)

    def tell(self, last: str = "", error: str = "") -> None:
        """Call the listener."""
        if self.on_progress is None:
            return
        elapsed_s = monotonic_s() - self.started_s
        pace_s = elapsed_s / self.finished if self.finished else math.nan
        eta_s = min(pace_s * (self.todo - self.finished), self.deadline.remaining_s)
        done = self.total - self.todo + self.finished
        self.on_progress(
            CampaignProgress(done, self.total, self.measured, len(self.failed), elapsed_s, eta_s, last, error)
        )

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
        )


def _loop(
    todo: Iterator[Item], executor: Executor, dataset: Dataset, state: _State, stop: Callable[[], bool] | None
) -> None:
    in_flight = 0
    exhausted = False
    while True:
        if not exhausted and (state.deadline.expired or (stop is not None and stop())):
            state.interrupted = not state.deadline.expired
            exhausted = True
            in_flight -= executor.cancel()
        while not exhausted and in_flight < executor.capacity:
            item = next(todo, None)
            if item is None:
                exhausted = True
            else:
                executor.submit(item)
                in_flight += 1
        if in_flight <= 0:
            return
        outcome = executor.collect()
        in_flight -= 1
        if outcome.record is None:
            state.fail(outcome.item, outcome.error or DeepenError("no record and no reason"))
            continue
        try:
            dataset.append(outcome.record)
        except DatasetError as error:
            state.fail(outcome.item, error)
        else:
            state.succeed(outcome.item)


@contextmanager
def _work_folder(dataset: Path) -> Iterator[Path]:
    """A folder beside the records for model files; what a killed run left there is removed."""
    folder = dataset / ".work"
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
