"""A recorded machine: files below a root, programs in its ``usr/bin``, and the same machine across a link."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deepen.meters import Meter
from deepen.meters.sensor_files import CommandFiles, CommandOutput


class Across:
    """A link to the machine below a root: runs the real ``find``, ``grep``, ``ls`` and ``cat`` there."""

    def __init__(self, root: Path, merge: bool = False) -> None:
        self.root = root
        self.merge = merge
        self.commands: list[list[str]] = []

    def __call__(self, argv: Sequence[str], timeout_s: float) -> CommandOutput:
        self.commands.append(list(argv))
        assert all(isinstance(a, str) for a in argv)
        folders = ("usr/bin", "system/bin")
        program = next((p for f in folders if (p := self.root / f / argv[0]).exists()), self.root / "nothing")
        if argv[0] not in ("find", "grep", "ls", "cat") and not program.exists():
            return CommandOutput(127, "", f"sh: {argv[0]}: not found")
        moved = [str(program) if program.exists() else argv[0], *(self._there(a) for a in argv[1:])]
        done = subprocess.run(
            moved,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )
        out, err = (text.replace(str(self.root), "") for text in (done.stdout, done.stderr))
        return CommandOutput(done.returncode, out + err, "") if self.merge else CommandOutput(done.returncode, out, err)

    def _there(self, argument: str) -> str:
        return f"{self.root}{argument}" if argument.startswith("/") else argument


@pytest.fixture
def across(tmp_path: Path) -> Callable[..., CommandFiles]:
    """The machine below ``tmp_path``, reached by commands alone."""

    def link(merge: bool = False) -> CommandFiles:
        return CommandFiles(Across(tmp_path, merge))

    return link


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Path]:
    """Put a program on the machine that prints a text, whatever it is asked."""

    def write(name: str, prints: str, code: int = 0) -> Path:
        folder = tmp_path / "usr/bin"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(prints)
        path = folder / name
        path.write_text(f'#!/bin/sh\ncat "{folder / name}.txt"\nexit {code}\n')
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def energy_j() -> Callable[[Meter], float]:
    """Energy of the trace a meter ends, joules."""

    def end(meter: Meter) -> float:
        trace = meter.stop()
        steps = trace.t_s[1:] - trace.t_s[:-1]
        return float((steps * (trace.power_w[1:] + trace.power_w[:-1]) / 2).sum())

    return end
