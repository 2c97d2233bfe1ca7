"""Atomic writing of trace files, and the one error for a disk that refuses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from deepen.errors import StorageError

__all__ = ["atomic_file", "storage_error", "sync_folder"]


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """Make the error for a disk that refused: ``cannot <action> <path>: <why>; <what to do>``."""
    return StorageError(
        f"cannot {action} {path}: {error.strerror or error}; free space, make the folder writable or choose another"
    )


def sync_folder(path: Path) -> None:
    """Make names created or renamed in a folder lasting.

    Raises:
        OSError: If the folder cannot be synchronised.
    """
    if os.name == "nt":  # folders cannot be opened there; NTFS journals names itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` at the end, or vanishes on an error.

    Args:
        path: The file to make or replace; its folder must exist.

    Raises:
        StorageError: If the disk refuses.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
