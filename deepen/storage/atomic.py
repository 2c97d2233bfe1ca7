"""The few ways a dataset touches the disk, and the errors they become.

Everything that changes a file goes through a :class:`Disk`, so that a test can end the process, fill the disk or fail
a call at any step. Production code uses :data:`OS_DISK`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

from deepen.errors import DatasetError, StorageError

__all__ = [
    "OS_DISK",
    "Disk",
    "OsDisk",
    "WriterLock",
    "make_folder",
    "make_storage_error",
    "sync_folder",
    "write_file_atomically",
]


class Disk(Protocol):
    """The operations that change a file or make a change lasting. Each raises ``OSError`` on failure."""

    def open(self, path: Path) -> int:
        """Open for reading and writing, creating an empty file where there is none; return the descriptor."""
        ...

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset`` (bytes)."""
        ...

    def sync(self, descriptor: int) -> None:
        """Wait until what was written is on the medium."""
        ...

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file to ``length`` bytes."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Rename over ``target`` in one step."""
        ...

    def remove(self, path: Path) -> None:
        """Delete a file; no error where it is absent."""
        ...


class OsDisk:
    """The real disk."""

    def open(self, path: Path) -> int:
        """See :class:`Disk`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """See :class:`Disk`; a short write (nearly full disk) is continued until it fails or completes."""
        view = memoryview(data)
        while view:
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done

    def sync(self, descriptor: int) -> None:
        """See :class:`Disk`."""
        os.fsync(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """See :class:`Disk`."""
        os.ftruncate(descriptor, length)

    def replace(self, source: Path, target: Path) -> None:
        """See :class:`Disk`."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """See :class:`Disk`."""
        path.unlink(missing_ok=True)


OS_DISK: Disk = OsDisk()


def make_storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """Make the error for a disk that refused: ``cannot <action> <path>: <why>; <what to do>``."""
    return StorageError(
        f"cannot {action} {path}: {error.strerror or error}; free space, make the folder writable or choose another"
    )


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        DatasetError: If a file stands where the folder should be.
        StorageError: If the disk refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DatasetError(f"{path}: a file stands where a folder is needed; choose another folder") from error
    except OSError as error:
        raise make_storage_error("make the folder", path, error) from error


def sync_folder(path: Path, disk: Disk) -> None:
    """Make names created, renamed or removed in a folder lasting."""
    if os.name == "nt":  # folders cannot be opened there; NTFS journals names itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        disk.sync(descriptor)
    finally:
        os.close(descriptor)


def write_file_atomically(path: Path, data: bytes, disk: Disk = OS_DISK) -> None:
    """Write a file so that it is either wholly there or as it was before.

    Args:
        path: The file; its folder must exist.
        data: Its whole content.
        disk: Where to write.

    Raises:
        StorageError: If the disk refuses; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = disk.open(temporary)
        try:
            disk.truncate(descriptor, 0)
            disk.write(descriptor, data, 0)
            disk.sync(descriptor)
        finally:
            os.close(descriptor)
        disk.replace(temporary, path)
        sync_folder(path.parent, disk)
    except BaseException as error:
        with contextlib.suppress(OSError):
            disk.remove(temporary)
        if isinstance(error, OSError):
            raise make_storage_error("write", path, error) from error
        raise


class WriterLock:
    """The one writer of a folder; the operating system drops the lock when the process ends, however it ends.

    Args:
        folder: Folder to lock, through the file ``.lock`` inside it.

    Raises:
        StorageError: If another process (or another open dataset of this one) is writing, or the disk refuses.
        DatasetError: If this platform has no such locks.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import fcntl
        except ImportError as error:
            raise DatasetError("datasets can be written on Linux and macOS only; write this one there") from error
        path = folder / ".lock"
        try:
            descriptor = OS_DISK.open(path)
        except OSError as error:
            raise make_storage_error("write in", folder, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StorageError(
                f"dataset {folder} is being written by process {holder}; wait for it to end or choose another folder"
            ) from error
        with contextlib.suppress(OSError):  # the number only helps the message above
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let others write; may be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
