"""A stand-in for the shell of a phone or board: files, settings and tools that behave as recorded ones do.

It is a link that interprets the argument lists made by :mod:`deepen.devices.state.shell_files` and its users. The
scripts themselves are run by a real shell elsewhere in the tests; here the behaviour of the device matters: unknown
governors and a lower limit above the upper one are refused, and settings survive a restart but kernel files do not.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from deepen.devices.protocols import ProcessChannel
from deepen.devices.state.shell_files import READ, WRITE, Root
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, LinkError

__all__ = ["FakeShell", "HostDied", "make_failing_program", "make_printing_program"]

_DENIED = "Permission denied"


class HostDied(BaseException):
    """Stands for ``kill -9`` of the host: it is never caught, and the device cannot be reached after it."""


@dataclass
class FakeShell:
    """A device played from tables.

    Attributes:
        files: Kernel files by path.
        properties: Values of ``getprop``; empty for a device without it.
        settings: Android's settings by ``namespace/key``.
        tools: State kept by programs, by name: the power mode, fixed performance mode.
        programs: Answers of other programs by name: a function of the argument list and whether it runs as root.
        way: Program that gives root; empty for none.
        closed: Patterns of files that only root may read.
        fixed: Files that accept a write but keep their value.
        ran: Argument lists of the commands run.
        lost_after: Number of commands after which the device is gone; ``None`` for never.
        die_after: Number of commands after which the host dies; ``None`` for never.
    """

    files: dict[str, str] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    programs: dict[str, Callable[[Sequence[str], bool], CompletedCommand]] = field(default_factory=dict)
    way: Root = "su -c"
    closed: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    ran: list[list[str]] = field(default_factory=list)
    lost_after: int | None = None
    die_after: int | None = None
    description: str = "a stand-in"

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float) -> CompletedCommand:
        """Play a command."""
        if self.die_after is not None and len(self.ran) >= self.die_after:
            raise HostDied
        if self.lost_after is not None and len(self.ran) >= self.lost_after:
            raise LinkError("the device is gone")
        self.ran.append(list(argv))
        return self._play(list(argv), root=self.way == "self")

    def restart(self, before: Mapping[str, str]) -> None:
        """Restart the device: kernel files return to ``before``, settings stay."""
        self.files = {**before, "/proc/sys/kernel/random/boot_id": f"boot-{len(self.ran)}"}

    def _play(self, argv: list[str], *, root: bool) -> CompletedCommand:
        if argv[:2] == ["su", "-c"] and self.way == "su -c":
            return self._play(shlex.split(argv[2]), root=True)
        if argv[:2] == ["su", "0"] and self.way == "su 0":
            return self._play(argv[2:], root=True)
        if argv[:3] == ["sudo", "-n", "--"] and self.way == "sudo":
            return self._play(argv[3:], root=True)
        if argv[:4] == ["sh", "-c", READ, "sh"]:
            return self._read(argv[4:], root)
        if argv[:4] == ["sh", "-c", WRITE, "sh"]:
            return self._write(argv[4], argv[5], root)
        name = argv[0]
        if name in self.programs:
            return self.programs[name](argv, root)
        if name == "id":
            return make_printing_program(f"{0 if root else 2000}\n")
        if name == "cat":
            text = self.files.get(argv[1])
            return (
                make_printing_program(text + "\n")
                if text is not None
                else make_failing_program(f"cat: {argv[1]}: No such file or directory")
            )
        if name == "uname":
            return make_printing_program({"-m": "aarch64", "-n": "board", "-sr": "Linux 5.10"}[argv[1]] + "\n")
        if name == "getprop" and self.properties:
            return make_printing_program(self.properties.get(argv[1], "") + "\n")
        if name == "settings" and self.properties:
            return self._setting(argv)
        if name == "rm":
            self.files.pop(argv[-1], None)
            return make_printing_program()
        return CompletedCommand(127, b"", f"{name}: not found\n".encode())

    def _read(self, patterns: Sequence[str], root: bool) -> CompletedCommand:
        out, complaints = [], []
        for pattern in patterns:
            found = sorted(path for path in self.files if _matches_pattern(pattern, path))
            for path in found:
                if not root and any(_matches_pattern(p, path) for p in self.closed):
                    complaints.append(f"grep: {path}: {_DENIED}")
                else:
                    out += [f"{path}:{line}" for line in self.files[path].split("\n")]
            if not found:
                complaints.append(f"grep: {pattern}: No such file or directory")
        text = "".join(f"{line}\n" for line in out)
        return CompletedCommand(2 if complaints else 0, text.encode(), "".join(f"{c}\n" for c in complaints).encode())

    def _write(self, value: str, path: str, root: bool) -> CompletedCommand:
        if path not in self.files:
            return make_failing_program(
                f"sh: can't create {path}: {_DENIED if not root else 'No such file or directory'}"
            )
        if not root:
            return make_failing_program(f"sh: can't create {path}: {_DENIED}")
        if why := self._refuses(path, value):
            return make_failing_program(f"sh: printf: write: {why}")
        if not any(_matches_pattern(p, path) for p in self.fixed):
            self.files[path] = value
        return make_printing_program()

    def _refuses(self, path: str, value: str) -> str:
        """Return the kernel's error for a value; empty if it accepts it."""
        folder, _, name = path.rpartition("/")
        if name == "scaling_governor" and value not in self.files[f"{folder}/scaling_available_governors"].split():
            return "Invalid argument"
        if name == "governor" and value not in self.files.get(f"{folder}/available_governors", value).split():
            return "Invalid argument"
        if name == "min_freq" and int(value) > int(self.files[f"{folder}/max_freq"]):
            return "Invalid argument"
        if name == "max_freq" and int(value) < int(self.files[f"{folder}/min_freq"]):
            return "Invalid argument"
        if name == "scaling_min_freq" and int(value) > int(self.files[f"{folder}/scaling_max_freq"]):
            return "Invalid argument"
        if name == "scaling_max_freq" and int(value) < int(self.files[f"{folder}/scaling_min_freq"]):
            return "Invalid argument"
        return ""

    def _setting(self, argv: Sequence[str]) -> CompletedCommand:
        verb, address = argv[1], f"{argv[2]}/{argv[3]}"
        if verb == "get":
            return make_printing_program(self.settings.get(address, "null") + "\n")
        if verb == "put":
            self.settings[address] = argv[4]
        else:
            self.settings.pop(address, None)
        return make_printing_program("" if verb == "put" else "Deleted 1 rows\n")

    def push(self, path: Path, *, name: str | None = None) -> str:
        """No files are kept."""
        raise ConfigError("this stand-in takes no files")

    def pull(self, remote: str, path: Path) -> None:
        """No files are kept."""
        raise ConfigError("this stand-in has no files to fetch")

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> ProcessChannel:
        """Raise an error: no processes are kept."""
        raise LinkError("this stand-in starts no processes")

    def alive(self) -> bool:
        """Return True until it is lost."""
        return self.lost_after is None or len(self.ran) < self.lost_after

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def make_printing_program(text: str = "") -> CompletedCommand:
    """Return the result of a program that prints a text and ends with status 0."""
    return CompletedCommand(0, text.encode(), b"")


def make_failing_program(words: str, status: int = 1) -> CompletedCommand:
    """Return the result of a program that prints an error and ends with a status."""
    return CompletedCommand(status, b"", f"{words}\n".encode())


@cache
def _compile_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "[^/]*"))


def _matches_pattern(pattern: str, path: str) -> bool:
    return _compile_pattern(pattern).fullmatch(path) is not None
