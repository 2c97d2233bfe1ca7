"""Locks between processes: ``flock`` on a small file, which the operating system releases however its holder ends.

One implementation for the writer of a dataset, the users of an instrument, the journal of a device's settings, the
owner of a temporary folder and the runs that are still to be collected. Each of them words its own error.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["is_file_locked", "lock_file", "read_lock_owner", "unlock_file", "write_lock_owner"]


def lock_file(path: Path, *, wait: bool = False, create: bool = True) -> int:
    """Lock a file; closing the descriptor gives the lock back.

    Args:
        path: The file; never a symbolic link.
        wait: Wait for a holder to end.
        create: Make the file where there is none.

    Returns:
        A descriptor that is not inherited by programs started meanwhile.

    Raises:
        BlockingIOError: If another holds it, another descriptor of this process included, and ``wait`` is false.
        OSError: If the file cannot be opened.
        ImportError: If this platform has no such locks.
    """
    import fcntl  # not on Windows

    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            found = path.stat(follow_symlinks=False)
            if os.path.samestat(os.fstat(descriptor), found):
                return descriptor
        except FileNotFoundError:  # its last holder has removed the file: what we locked has no name any more
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def unlock_file(descriptor: int) -> None:
    """Give a lock back, also from programs that inherited the descriptor, and close it."""
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_file_locked(path: Path) -> bool:
    """Tell if a process holds a file's lock; false where there is no such file.

    Raises:
        OSError: If the file cannot be opened.
    """
    try:
        os.close(lock_file(path, create=False))
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write_lock_owner(descriptor: int, text: str) -> None:
    """Leave a text for those who find the file locked; a full disk costs them no more than that text."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def read_lock_owner(path: Path) -> str:
    """Text that the holder of a lock left; empty where there is none."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return os.pread(descriptor, 4096, 0).decode("utf-8", "replace").strip()
        finally:
            os.close(descriptor)
    return ""
