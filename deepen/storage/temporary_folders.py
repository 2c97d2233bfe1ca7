"""Temporary folders that do not outlive their owner for long: where it was killed, the next start removes them.

Each folder holds a file its owner keeps locked (``flock``). The kernel gives the lock back however the owner ends, so a
folder whose lock is free belongs to nobody.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

from deepen.storage.locks import lock_file

__all__ = ["TemporaryFolder"]

_OWNER = ".owner"
_UNOWNED_S = 86400.0
"""A folder without the file is just being made, or was made by an older deepen; so long after, it is the latter."""


class TemporaryFolder:
    """A temporary folder of this process.

    Attributes:
        path: The folder.
    """

    def __init__(self, prefix: str) -> None:
        """Make it, and remove those of the same kind whose owners were killed; :meth:`close` removes it.

        Args:
            prefix: What names of such folders begin with, for example ``deepen-session-``.

        Raises:
            OSError: If it cannot be made.
        """
        remove_orphaned_folders(Path(tempfile.gettempdir()), prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._fd = lock_file(self.path / f"{_OWNER}.new")
        (self.path / f"{_OWNER}.new").rename(self.path / _OWNER)  # whoever sees the file finds it locked

    def close(self) -> None:
        """Remove it with everything in it; harmless when that is done."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(fd)


def remove_orphaned_folders(parent: Path, prefix: str) -> None:
    """Remove this user's folders of a kind whose owners have ended; what cannot be removed stays."""
    for folder in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if folder.is_symlink() or not folder.is_dir() or found.st_uid != os.getuid():
                continue
            owner = folder / _OWNER
            if owner.exists() or time.time() - found.st_mtime > _UNOWNED_S:
                _remove_unowned(folder, owner)


def _remove_unowned(folder: Path, owner: Path) -> None:
    """Remove a folder unless its owner lives.

    Raises:
        OSError: If it cannot be looked at.
    """
    if not owner.exists():
        shutil.rmtree(folder, ignore_errors=True)
        return
    fd = lock_file(owner, create=False)
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)
