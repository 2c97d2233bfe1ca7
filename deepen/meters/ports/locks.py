"""Locks that give each physical instrument one user at a time.

Two readers of one serial port steal bytes from each other and both get wrong numbers (pyserial issues 86 and 341), so
an instrument is locked by its identity: its serial number if it has one (an instrument may have several ports),
else the real path of its port. The lock is ``flock`` on a small file: the kernel releases it when its holder dies,
however it dies, so a lock is never stale. The file names the holder; it is not removed, because removing a lock file
that another process is about to lock breaks the lock.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from pathlib import Path

from deepen.clock.host_clock import monotonic_s
from deepen.errors import MeterError
from deepen.storage.locks import lock_file, read_lock_owner, unlock_file, write_lock_owner

__all__ = ["InstrumentLock", "find_device_users", "get_lock_folder", "read_command_line"]


_GUARD_S = 5.0
"""Longest wait for a lock, seconds: longer than a guard needs for its safe bytes (``deepen.meters.ports.guard``)."""


def get_lock_folder() -> Path:
    """Return the folder of lock files: below ``$XDG_RUNTIME_DIR``, else this user's own in the temporary folder.

    Raises:
        MeterError: If the folder cannot be made, or belongs to another user.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        folder = Path(runtime) / "deepen-meters"
    else:
        folder = Path(tempfile.gettempdir()) / f"deepen-meters-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise MeterError(
            f"cannot make the lock folder {folder} ({error.strerror})", cure="set XDG_RUNTIME_DIR"
        ) from error
    if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid():
        raise MeterError(
            f"the lock folder {folder} belongs to somebody else", cure="set XDG_RUNTIME_DIR to a folder of yours"
        )
    return folder


def read_command_line(pid: int) -> str:
    """Read the command line of a process, shortened; empty if it cannot be read."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    words = " ".join(raw.replace(b"\0", b" ").decode("utf-8", "replace").split())
    return words if len(words) <= 80 else words[:77] + "..."


def find_device_users(path: str) -> list[int]:
    """Find the ids of other processes that have a device file open, among those this user may inspect (for root, all).

    Args:
        path: The device file; links are followed.
    """
    real = os.path.realpath(path)
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        pid = int(folder.parent.name)
        if pid == os.getpid():
            continue
        if any(_read_link(entry) == real for entry in _list_entries(folder)):
            found.append(pid)
    return sorted(found)


def _list_entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # another user's process, or one that has just ended
        return []


def _read_link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


class InstrumentLock:
    """Holds an instrument from construction to :meth:`release`.

    Attributes:
        identity: Identity of the locked instrument.
    """

    def __init__(self, identity: str, name: str) -> None:
        """Take the lock; if its holder has died, wait until the guard has made the instrument safe.

        Args:
            identity: Unique identity of the instrument.
            name: Its name in messages.

        Raises:
            MeterError: If it is taken; the message names the process.
        """
        self.identity = identity
        plain = re.sub(r"[^A-Za-z0-9]+", "-", identity).strip("-")[-40:]
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        path = get_lock_folder() / f"{plain}-{digest}.lock"
        end_s = monotonic_s() + _GUARD_S
        while True:
            try:
                self._fd = lock_file(path)
                break
            except BlockingIOError as error:
                pid, command = _parse_lock_owner(read_lock_owner(path))
                if pid and not _is_process_alive(pid) and monotonic_s() < end_s:
                    time.sleep(0.01)
                    continue
                raise MeterError(
                    f"{name} is in use by {_describe_process(pid, command)}", cure="end that first"
                ) from error
            except OSError as error:
                raise MeterError(f"cannot lock {name}: {path} ({error.strerror})", cure="remove that file") from error
        entry = {"pid": os.getpid(), "command": read_command_line(os.getpid()), "instrument": identity}
        write_lock_owner(self._fd, json.dumps(entry))

    def fileno(self) -> int:
        """Descriptor of the lock; a process that inherits it keeps the lock while it lives."""
        return self._fd

    def release(self) -> None:
        """Release the lock; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            write_lock_owner(fd, "")
            unlock_file(fd)


def _parse_lock_owner(text: str) -> tuple[int, str]:
    """Parse the process id and command in a lock file; 0 if it names none."""
    try:
        found = json.loads(text)
        return int(found["pid"]), str(found["command"])
    except (ValueError, KeyError, TypeError):
        return 0, ""


def _is_process_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie (which has no command line) does not."""
    return bool(read_command_line(pid))


def _describe_process(pid: int, command: str) -> str:
    if not pid:
        return "another process"
    if pid == os.getpid():
        return "this process itself"
    return f"process {pid} ({command})" if command else f"process {pid}"
