"""Commands and small files of a device over its link, as the link's user and, if the device allows it, as root.

Everything goes through ``Link.run`` and is therefore the same over ``local``, ``adb`` and ``ssh``. The scripts are
constants of this module; values are passed as arguments and are never part of shell text. Any number of kernel files is
read in one command, because over adb a command takes tens of milliseconds and keeps the device awake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from deepen.devices.links.quoting import shell_join
from deepen.devices.protocols import Link
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, LinkError

__all__ = ["READ", "WRITE", "FileContents", "Root", "Shell", "format_one_line"]

READ = """IFS=
exec grep -H "" $@ /dev/null"""
"""Prints ``path:line`` for every line of the files that match the patterns given. With an empty ``IFS`` the shell
expands patterns but splits nothing (POSIX.1-2017, XCU 2.5.2 and 2.6)."""

WRITE = 'printf "%s\\n" "$1" >"$2"'
"""Writes its first argument as a line into the file named by its second one."""

Root = Literal["", "self", "su -c", "su 0", "sudo"]
"""Ways to run commands as root: none, as the link's user (who is root), or through one of these programs."""

_WAYS: tuple[Root, ...] = ("su -c", "su 0", "sudo")
_COMPLAINT = re.compile(r"(?:\S*: )?(?P<path>/.*?): (?P<why>[A-Z][^:/]*)$")


def format_one_line(data: bytes, limit: int = 200) -> str:
    """Format the output of a command as one printable line of at most ``limit`` characters."""
    words = " ".join("".join(c if c.isprintable() else " " for c in data.decode("utf-8", "replace")).split())
    return words if len(words) <= limit else words[: limit - 3] + "..."


@dataclass(frozen=True, slots=True)
class FileContents:
    """Files read at one moment.

    Attributes:
        content: Path -> content without the last line break.
        refused: Path (or the pattern that matched nothing) -> reason it could not be read.
    """

    content: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def unreadable(self) -> dict[str, str]:
        """Those of ``refused`` that exist."""
        return {path: why for path, why in self.refused.items() if "No such" not in why}

    def text(self, path: str) -> str:
        """Return the content of a file, stripped; empty if it was not read."""
        return self.content.get(path, "").strip()

    def matching(self, pattern: str) -> dict[str, str]:
        """Return the files whose path matches a pattern (``*`` stops at a slash), by the numbers in their names."""
        compiled = _compile_pattern(pattern)
        found = [path for path in self.content if compiled.fullmatch(path)]
        return {path: self.text(path) for path in sorted(found, key=_natural_sort_key)}


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile("".join("[^/]*" if part == "*" else re.escape(part) for part in re.split(r"(\*)", pattern)))


def _natural_sort_key(path: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


class Shell:
    """A device's commands and files."""

    def __init__(self, link: Link, *, timeout_s: float = 20.0) -> None:
        """Set up a shell over a link.

        Args:
            link: Link to the device.
            timeout_s: Time a command may take, seconds.
        """
        self.link = link
        self._timeout_s = timeout_s
        self._root: Root | None = None

    @property
    def root(self) -> Root:
        """Way to run commands as root, determined on first use.

        Raises:
            LinkError: If the device is gone.
        """
        if self._root is None:
            self._root = self._find_root()
        return self._root

    def _find_root(self) -> Root:
        if _is_zero(self.run(["id", "-u"])):
            return "self"
        for way in _WAYS:
            try:
                if _is_zero(self.link.run(_wrap_as_root(way, ["id", "-u"]), timeout_s=self._timeout_s)):
                    return way
            except LinkError:  # su may wait for a confirmation on the screen
                if not self.link.alive():
                    raise
        return ""

    def run(self, argv: Sequence[str], *, root: bool = False, timeout_s: float | None = None) -> CompletedCommand:
        """Run a command.

        Args:
            argv: Program and arguments.
            root: If true, run as root where that is possible, else as the link's user.
            timeout_s: Time it may take, seconds; ``None`` for the shell's.

        Raises:
            LinkError: If the device is gone or the command did not end in time.
        """
        line = _wrap_as_root(self.root, argv) if root else list(argv)
        return self.link.run(line, timeout_s=self._timeout_s if timeout_s is None else timeout_s)

    def output(self, argv: Sequence[str], *, root: bool = False) -> str | None:
        """Return the output of a command, stripped; ``None`` if it fails or does not exist.

        Raises:
            LinkError: If the device is gone or the command did not end in time.
        """
        done = self.run(argv, root=root)
        return done.stdout.decode("utf-8", "replace").strip(" \t\r\n\x00") if done.status == 0 else None

    def read(self, *patterns: str, root: bool = False) -> FileContents:
        """Read small text files; ``*`` in a pattern stands for part of a name.

        Args:
            patterns: Absolute paths, made by this program.
            root: If true, files that the link's user may not read are read again as root.

        Raises:
            LinkError: If the device is gone.
            ConfigError: If it has no ``grep``.
        """
        found = self._read(patterns, root=False)
        closed = [p for p, why in found.refused.items() if re.search("denied|permitted", why)]
        if not root or not closed or self.root in ("", "self"):
            return found
        again = self._read(closed, root=True)
        refused = {p: why for p, why in found.refused.items() if p not in closed}
        return FileContents({**found.content, **again.content}, {**refused, **again.refused})

    def _read(self, patterns: Sequence[str], *, root: bool) -> FileContents:
        done = self.run(["sh", "-c", READ, "sh", *patterns], root=root)
        if done.status == 127:
            raise ConfigError(f"the device has no grep ({format_one_line(done.stderr)}); install it, or busybox")
        # Only paths that match a requested pattern are used: a name made by a device can contain anything, even a
        # colon.
        compiled = [re.compile(f"({_compile_pattern(pattern).pattern}):(.*)", re.DOTALL) for pattern in patterns]
        content: dict[str, str] = {}
        for line in done.stdout.decode("utf-8", "replace").replace("\x00", "").split("\n"):
            match = next((m for m in (c.fullmatch(line) for c in compiled) if m), None)
            if match:
                path, text = match.group(1), match.group(2)
                content[path] = f"{content[path]}\n{text}" if path in content else text
        complaints = (_COMPLAINT.search(line) for line in done.stderr.decode("utf-8", "replace").split("\n"))
        refused = {m["path"]: m["why"].strip() for m in complaints if m}
        return FileContents(content, {path: why for path, why in refused.items() if path not in content})

    def write(self, path: str, value: str) -> str:
        """Write a line into a file, as root where that is possible.

        Returns:
            Reason it was refused; empty if it was accepted, which does not mean that the value is now the one written.

        Raises:
            LinkError: If the device is gone.
        """
        done = self.run(["sh", "-c", WRITE, "sh", value, path], root=True)
        return "" if done.status == 0 else self.complaint(done)

    def complaint(self, done: CompletedCommand) -> str:
        """Describe the failure of a command, and whether root would help."""
        why = format_one_line(done.stderr) or format_one_line(done.stdout) or f"it ended with status {done.status}"
        if not self.root and re.search(r"denied|not permitted|[Rr]ead-only|[Ss]ecurity|root", why):
            why += " (this needs root, and the device gives none)"
        return why


def _wrap_as_root(way: Root, argv: Sequence[str]) -> list[str]:
    if way == "su -c":
        return ["su", "-c", shell_join(argv)]
    if way == "su 0":
        return ["su", "0", *argv]
    if way == "sudo":
        return ["sudo", "-n", "--", *argv]
    return list(argv)


def _is_zero(done: CompletedCommand) -> bool:
    return done.status == 0 and done.stdout.strip() == b"0"
