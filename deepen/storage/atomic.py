"""Atomic files, which are wholly there or as they were before, whatever ends the process; and errors of the disk."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from deepen.errors import DatasetError, StorageError

__all__ = ["make_folder", "make_storage_error", "replace_file", "sync_folder", "write_file_atomically"]


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


def sync_folder(path: Path) -> None:
    """Make names created, renamed or removed in a folder lasting.

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
def replace_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` at the end, or vanishes on an error.

    Args:
        path: The file to make or replace; its folder must exist.

    Raises:
        StorageError: If the disk refuses; nothing is left behind.
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise make_storage_error("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_file_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either wholly there or as it was before.

    Args:
        path: The file; its folder must exist.
        data: Its whole content.

    Raises:
        StorageError: If the disk refuses; nothing is left behind.
    """
    with replace_file(path) as part, part.open("xb") as file:
        file.write(data)
