"""The dataset store under a disk that ends, fails or loses power at any system call; run with the disk preloaded.

python store_crashes.py kill|fail|power FOLDER
"""

from __future__ import annotations

import errno
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deepen.datasets import Dataset
from deepen.errors import DatasetError, StorageError
from deepen.records import EnergyRecord
from tests.support.faulty_disk import (
    AFTER,
    BEFORE,
    FAIL,
    HALF,
    PowerCut,
    disarm_disk,
    note_progress,
    record_changes,
    run_child,
)

TOTAL = 5


def make_numbered_record(index: int) -> EnergyRecord:
    """A record whose id is its number; large enough for several pages."""
    return EnergyRecord(
        id=f"{index:04d}", kind="model", name=f"m{index}", energy_j=1.0 + index, uncertainty_j=0.1, gross_energy_j=2.0,
        latency_s=0.1, idle_power_before_w=1.0, idle_power_after_w=1.0, threads=1, runtime="r", runtime_build="b",
        device="d", meter="m", source="simulated", runs=1, trials=(1.0,), recorded_at="2026-01-01T00:00:00Z",
        warnings=("x" * 3000,),
    )  # fmt: skip


def fill_dataset(folder: Path, acknowledge: Callable[[int], None]) -> None:
    """Append what is missing, one by one and the last two at once, and close."""
    with Dataset.open(folder, create=True) as dataset:
        for index in range(len(dataset), TOTAL - 2):
            dataset.append(make_numbered_record(index))
            acknowledge(index + 1)
        if len(dataset) < TOTAL:
            dataset.extend([make_numbered_record(index) for index in range(len(dataset), TOTAL)])
        acknowledge(TOTAL)


def list_stored(folder: Path) -> list[int]:
    """Numbers stored; none where the file is not there yet."""
    return [int(record.id) for record in Dataset.open(folder)] if (folder / "records.db").exists() else []


def check_kills(folder: Path, how: int) -> int:
    """End the process at every system call; return their number."""
    at = 0
    while True:
        target = folder / f"{how}-{at}"
        told, through = run_child(lambda tell, target=target: fill_dataset(target, tell), at, how)
        found = list_stored(target)
        assert found == list(range(len(found))), (at, found)
        assert told <= len(found) <= told + (1 if told < TOTAL - 2 else 2), (at, told, found)
        fill_dataset(target, lambda number: None)  # running again completes and repeats nothing
        assert list_stored(target) == list(range(TOTAL)), at
        assert sorted(path.name for path in target.iterdir() if not path.name.endswith(".part")) == [
            ".records.db.lock",
            "records.db",
        ], at
        shutil.rmtree(target)
        if through:
            return at
        at += 1


def check_failures(folder: Path, error: int) -> int:
    """Fail every system call from one on until the append has been refused; return the number of calls."""
    at, refused = 0, 0
    base = folder / "base"
    with Dataset.open(base, create=True) as dataset:
        dataset.append(make_numbered_record(0))
    while True:
        target = folder / f"f{error}-{at}"
        shutil.copytree(base, target)

        def act(tell: Callable[[int], None], target: Path = target) -> None:
            try:
                with Dataset.open(target, create=True) as dataset:
                    dataset.append(make_numbered_record(1))
                disarm_disk()
                tell(2)
            except StorageError as problem:
                disarm_disk()
                assert "\n" not in str(problem) and "cannot" in str(problem), problem
                found = list_stored(target)
                assert found in ([0], [0, 1]), found
                with Dataset.open(target, create=True) as dataset:  # and the next one works
                    dataset.append(make_numbered_record(1))
                tell(1)

        told, _ = run_child(act, at, FAIL, error)
        assert told, at
        assert list_stored(target) == [0, 1], at
        refused += told == 1
        shutil.rmtree(target)
        if told == 2 and at > 40:
            return refused
        at += 1


def check_power_cuts(folder: Path) -> int:
    """Cut the power after every system call; return the number of states looked at."""
    source, log = folder / "d", folder / "log"
    changes = record_changes(lambda: fill_dataset(source, note_progress), log)
    disk, told, states = PowerCut(source), 0, 0
    rng = random.Random(5)
    for number, change in enumerate(changes):
        if change.op == "note":
            told = int(change.path)
        disk.take(change)
        for trial in range(4):
            target = folder / "after"
            disk.restore(target, rng if trial else None)
            try:
                found = list_stored(target)
            except DatasetError as error:
                raise AssertionError(f"call {number} ({change.op} {change.path}): {error}") from error
            assert found == list(range(len(found))), (number, found)
            assert len(found) >= told, (number, told, found)
            states += 1
    assert told == TOTAL
    return states


def main(what: str, folder: Path) -> None:
    """Run one of the checks and print how much it looked at."""
    if what == "kill":
        print(min(check_kills(folder, how) for how in (BEFORE, HALF, AFTER)))
    elif what == "fail":
        print(min(check_failures(folder, error) for error in (errno.ENOSPC, errno.EIO)))
    else:
        print(check_power_cuts(folder))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
