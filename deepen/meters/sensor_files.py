"""Files and commands of the machine with a sensor: this one, or one across a link.

On-board sensors are a few small files below ``/sys`` or the output of a command. Drivers read them through
:class:`SensorFiles`, so that one driver serves a Jetson it runs on, a Jetson behind ``ssh`` and a phone behind ``adb``.
No shell string is ever made here: a command is an argument list, and patterns are matched on the host.
"""

from __future__ import annotations

import errno
import fnmatch
import math
import os
import posixpath
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from deepen.errors import MeterError

__all__ = [
    "CommandFiles",
    "CommandOutput",
    "LocalFiles",
    "SensorFiles",
    "natural_sort_key",
    "read_number",
    "read_numbers",
    "read_text_or_empty",
]

_COMMAND_S = 10.0
"""Time-out of a command of a sensor, seconds."""

_SEARCH = ("usr/bin", "bin", "usr/sbin", "sbin", "system/bin", "vendor/bin")
"""Folders searched for programs below a root that is not the machine's own."""

_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """Exit status and output of a command.

    Attributes:
        code: Exit status.
        stdout: Standard output.
        stderr: Standard error; empty if a link merges both into ``stdout``.
    """

    code: int
    stdout: str
    stderr: str = ""


@runtime_checkable
class SensorFiles(Protocol):
    """Small files and commands of one machine. Paths are absolute and written with ``/``.

    Errors are those of the operating system (``FileNotFoundError``, ``PermissionError``, any other ``OSError``),
    wherever the machine is; a link that breaks raises its own ``LinkError``.
    """

    def glob(self, pattern: str) -> list[str]:
        """List the paths that match a shell pattern, in natural order (``hwmon2`` before ``hwmon10``)."""

    def read(self, path: str) -> str:
        """Read a small text file, stripped.

        Raises:
            OSError: If it cannot be read.
        """

    def read_all(self, paths: Sequence[str]) -> list[str]:
        """Read several small files, as close together in time as the connection to the machine allows.

        Raises:
            OSError: If one of them cannot be read.
        """

    def run(self, argv: Sequence[str], timeout_s: float = _COMMAND_S) -> CommandOutput:
        """Run a command to its end.

        Raises:
            OSError: If there is no such command, it may not be run, or it does not end in time.
        """


def natural_sort_key(path: str) -> list[tuple[int, str]]:
    """Return a sort key that compares runs of digits as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


class LocalFiles:
    """The files of this machine, or of a copy of its tree below another root.

    Args:
        root: Where ``/sys`` and ``/proc`` are. Below a root that is not ``/`` commands are looked for there as well and
            nowhere else, so that a recorded tree answers for itself.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._whole = root.resolve() == Path("/")

    def __repr__(self) -> str:
        return f"LocalFiles({str(self._root)!r})"

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def glob(self, pattern: str) -> list[str]:
        """List the paths that match a shell pattern, in natural order."""
        found = self._root.glob(pattern.lstrip("/"))
        return sorted((f"/{path.relative_to(self._root).as_posix()}" for path in found), key=natural_sort_key)

    def read(self, path: str) -> str:
        """Read a small text file, stripped.

        Raises:
            OSError: If it cannot be read.
        """
        return self._at(path).read_text(encoding="utf-8", errors="replace").strip()

    def read_all(self, paths: Sequence[str]) -> list[str]:
        """Read several small files.

        Raises:
            OSError: If one of them cannot be read.
        """
        return [self.read(path) for path in paths]

    def run(self, argv: Sequence[str], timeout_s: float = _COMMAND_S) -> CommandOutput:
        """Run a command to its end.

        Raises:
            OSError: If there is no such command, it may not be run, or it does not end in time.
        """
        search = None if self._whole else os.pathsep.join(str(self._root / folder) for folder in _SEARCH)
        program = shutil.which(argv[0], path=search)
        if program is None:
            raise FileNotFoundError(errno.ENOENT, "no such command", argv[0])
        try:
            done = subprocess.run(
                [program, *argv[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout_s,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(errno.ETIMEDOUT, f"gave no answer within {timeout_s:g} s", argv[0]) from error
        return CommandOutput(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )


class CommandFiles:
    """The files of a machine that is accessible only through commands.

    It uses ``cat``, ``grep``, ``ls`` and ``find``, with options common to GNU, BusyBox and Android's toybox. Each level
    of a pattern and each batch of files costs one command, whatever the number of files.

    Args:
        run: Runs an argument list on the machine within a time-out in seconds and returns its :class:`CommandOutput`.
            It
        must pass the arguments on one by one, or quote them if its link takes only shell strings. Raises
            ``LinkError`` when the machine is gone.
    """

    def __init__(self, run: Callable[[Sequence[str], float], CommandOutput]) -> None:
        self._run = run

    def glob(self, pattern: str) -> list[str]:
        """List the paths that match a shell pattern, in natural order."""
        if not _MAGIC.search(pattern):
            return [p for p in self._run(["ls", "-1d", pattern], _COMMAND_S).stdout.splitlines() if p == pattern]
        fixed, rest = _split_at_wildcard(pattern)
        found = [fixed]
        while rest and found:
            part, below, rest = _split_first_level(rest)
            # The slash at the end makes find enter a folder that is a symbolic link, as most of /sys/class is.
            listed = self._run(
                ["find", *(f"{folder}/" for folder in found), "-mindepth", "1", "-maxdepth", "1"], _COMMAND_S
            )
            entries = [posixpath.normpath(line) for line in listed.stdout.splitlines() if line.startswith("/")]
            # A wildcard does not match a leading dot, as in a shell.
            found = [e for e in entries if fnmatch.fnmatchcase(name := posixpath.basename(e), part) and name[0] != "."]
            if below and found:
                wanted = [f"{entry}/{below}" for entry in found]
                there = set(self._run(["ls", "-1d", *wanted], _COMMAND_S).stdout.splitlines())
                found = [path for path in wanted if path in there]
        return sorted(found, key=natural_sort_key)

    def read(self, path: str) -> str:
        """Read a small text file, stripped.

        Raises:
            OSError: If it cannot be read.
        """
        done = self._run(["cat", path], _COMMAND_S)
        if done.code != 0:
            raise _make_os_error(f"{done.stderr}\n{done.stdout}", path)
        return done.stdout.strip()

    def read_all(self, paths: Sequence[str]) -> list[str]:
        """Read several small files with one command.

        Raises:
            OSError: If one of them cannot be read.
        """
        if len(paths) < 2:
            return [self.read(path) for path in paths]
        lines: dict[str, list[str]] = {path: [] for path in paths}
        done = self._run(["grep", "-H", "", *lines], _COMMAND_S)
        # Longest first: one path may be the start of another.
        heads = sorted(((f"{path}:", path) for path in lines), key=lambda h: -len(h[0]))
        for line in done.stdout.splitlines():
            for head, path in heads:
                if line.startswith(head):
                    lines[path].append(line[len(head) :])
                    break
        trouble = [line for line in f"{done.stderr}\n{done.stdout}".splitlines() if not line.startswith("/")]
        for path, content in lines.items():
            complaint = [line for line in trouble if f"{path}:" in line or line.endswith(path)]
            if not content and (complaint or done.code > 1):
                raise _make_os_error("\n".join(complaint or trouble), path)
        return ["\n".join(lines[path]).strip() for path in paths]

    def run(self, argv: Sequence[str], timeout_s: float = _COMMAND_S) -> CommandOutput:
        """Run a command to its end.

        Raises:
            OSError: If there is no such command or it may not be run (exit status 127 and 126 of the shells that links
                use).
        """
        done = self._run(list(argv), timeout_s)
        if done.code == 127:
            raise FileNotFoundError(errno.ENOENT, "no such command", argv[0])
        if done.code == 126:
            raise PermissionError(errno.EACCES, "the command may not be run", argv[0])
        return done


def _split_at_wildcard(pattern: str) -> tuple[str, str]:
    """Split a pattern at its first level with a wildcard: the folder before it, and the rest."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _split_first_level(rest: str) -> tuple[str, str, str]:
    """Split off the first level: its pattern, the fixed levels below it, and the rest with wildcards."""
    first, *others = rest.split("/")
    fixed: list[str] = []
    while others and not _MAGIC.search(others[0]):
        fixed.append(others.pop(0))
    return first, "/".join(fixed), "/".join(others)


def _make_os_error(message: str, path: str) -> OSError:
    """Make the error that a command's message stands for (the wording of ``strerror`` in GNU, BusyBox and toybox)."""
    low = message.lower()
    if "permission denied" in low or "operation not permitted" in low:
        return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if "no such file" in low or "not found" in low:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    reason = next((line.rpartition(": ")[2].strip() for line in message.splitlines() if line.strip()), "cannot be read")
    return OSError(errno.EIO, reason, path)


def read_text_or_empty(files: SensorFiles, path: str) -> str:
    """Read a small file; empty if it does not exist or cannot be read."""
    try:
        return files.read(path)
    except OSError:
        return ""


def read_number(files: SensorFiles, path: str) -> float | None:
    """Read the number in a small file; ``None`` if it does not exist, cannot be read or holds something else."""
    try:
        return _parse_finite_number(read_text_or_empty(files, path))
    except ValueError:
        return None


def _parse_finite_number(content: str) -> float:
    """Parse the number in a file.

    Raises:
        ValueError: If it holds none, or an infinite one, which no kernel file does.
    """
    value = float(content)
    if not math.isfinite(value):
        raise ValueError(f"{content} is not finite")
    return value


def read_numbers(files: SensorFiles, paths: Sequence[str], meter: str, cure: str = "try again") -> list[float]:
    """Read the numbers in several small files, close together in time.

    Args:
        files: The machine.
        paths: The files.
        meter: Driver name, for messages.
        cure: Cure if access is refused.

    Raises:
        MeterError: If one cannot be read or holds no number; it is never replaced by a guess.
    """
    try:
        contents = files.read_all(paths)
    except PermissionError as error:
        raise MeterError(f"no permission to read {error.filename or paths[0]}", subject=meter, cure=cure) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise MeterError(
            f"cannot read {error.filename or paths[0]} ({reason})", subject=meter, cure="see 'deepen meter list'"
        ) from error
    found = []
    for path, content in zip(paths, contents, strict=True):
        try:
            found.append(_parse_finite_number(content))
        except ValueError as error:
            raise MeterError(
                f"{path} holds '{content[:40]}', no number", subject=meter, cure="see 'deepen meter list'"
            ) from error
    return found
