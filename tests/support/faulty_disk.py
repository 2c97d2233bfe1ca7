"""A process whose disk ends or fails it at a chosen system call; needs Linux and a C compiler.

``faulty_disk.c`` is preloaded into a Python process, which then forks a child for every case: imports are paid once.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEFORE, HALF, AFTER, FAIL = range(4)

ROOT = Path(__file__).resolve().parents[2]


def build_library(folder: Path) -> Path:
    """Compile ``faulty_disk.c``."""
    library = folder / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def run_with_faulty_disk(library: Path, script: Path, *arguments: str) -> str:
    """Run a Python script with the library preloaded; return what it prints.

    Raises:
        AssertionError: If it fails; the message is its standard error.
    """
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def arm_disk(at: int, how: int, error: int = 0) -> None:
    """End (or fail, from then on) this process at its ``at``-th change of a file from now."""
    ctypes.CDLL(None).faulty_disk_arm(ctypes.c_long(at), how, error)


def disarm_disk() -> None:
    """Let all calls through."""
    arm_disk(0, -1)


def run_child(act: Callable[[Callable[[int], None]], Any], at: int, how: int, error: int = 0) -> tuple[int, bool]:
    """Fork; in the child arm the disk and call ``act`` with a function that acknowledges a number.

    Returns:
        The last number acknowledged (0 for none), and whether the child got through.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(ours)
            arm_disk(at, how, error)
            act(lambda number: os.write(theirs, f"{number}\n".encode()) and None)
            status = 0
        except BaseException as problem:  # told, then judged by the parent
            print(repr(problem), file=sys.stderr)
        finally:
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        told = [int(line) for line in stream]
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed at call {at}"
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return (told[-1] if told else 0), not os.WIFSIGNALED(status)


@dataclass(frozen=True, slots=True)
class DiskChange:
    """A change of a file that a process made."""

    op: str
    path: str
    other: str
    offset: int
    data: bytes


def record_changes(act: Callable[[], None], log: Path) -> list[DiskChange]:
    """Fork; in the child log every change that ``act`` makes, and its notes (:func:`note_progress`)."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ctypes.CDLL(None).faulty_disk_log(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    return list(_parse_changes(log.read_bytes()))


def note_progress(number: int) -> None:
    """Write a number into the log of changes."""
    ctypes.CDLL(None).faulty_disk_note(str(number).encode())


def _parse_changes(data: bytes) -> Iterator[DiskChange]:
    while data:
        head, _, data = data.partition(b"\n")
        op, path, other, offset, size = head.decode().split("\t")
        content, data = data[: int(size)], data[int(size) :]
        yield DiskChange(op, path, other, int(offset), content)


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[DiskChange] = field(default_factory=list)


def _apply(content: bytearray, change: DiskChange) -> None:
    if change.op in ("truncate", "empty"):
        del content[change.offset :]
        content.extend(b"\0" * (change.offset - len(content)))
        return
    content.extend(b"\0" * (change.offset - len(content)))
    content[change.offset : change.offset + len(change.data)] = change.data


class PowerCut:
    """What a disk may hold after the power fails: what was synced, and any part of the rest.

    Names follow the same rule with one kindness, as journalling file systems give: a file's name is there once the
    file or its folder was synced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, _File] = {}
        self.lasting: dict[str, _File] = {}

    def take(self, change: DiskChange) -> None:
        """Follow a change."""
        path = change.path
        if not path.startswith(str(self.folder)) or path.endswith(("-shm", ".lock")):
            return
        if change.op in ("open", "empty") and path not in self.names:
            self.names[path] = _File()
        elif change.op in ("write", "truncate", "empty"):
            self.names[path].pending.append(change)
        elif change.op == "sync" and path in self.names:
            file = self.names[path]
            for part in file.pending:
                _apply(file.durable, part)
            file.pending = []
            self.lasting[path] = file
        elif change.op == "sync":
            below = {p: f for p, f in self.lasting.items() if Path(p).parent != Path(path)}
            self.lasting = below | {p: f for p, f in self.names.items() if Path(p).parent == Path(path)}
        elif change.op == "rename":
            self.names[change.other] = self.names.pop(path)
        elif change.op == "unlink":
            self.names.pop(path, None)

    def restore(self, target: Path, rng: random.Random | None) -> None:
        """Make the folder as it may be found: only what was synced, or with a random part of the rest."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        names = dict(self.lasting)
        if rng:
            for path in self.names.keys() ^ self.lasting.keys():
                if rng.random() < 0.5:
                    names.pop(path, None) if path in self.lasting else names.update({path: self.names[path]})
        for path, file in names.items():
            content = bytearray(file.durable)
            for change in file.pending if rng else ():
                if rng and rng.random() < 0.6:
                    cut = rng.choice([len(change.data), rng.randrange(len(change.data) + 1)])
                    _apply(content, DiskChange(change.op, path, "", change.offset, change.data[:cut]))
            (target / Path(path).relative_to(self.folder)).write_bytes(content)
