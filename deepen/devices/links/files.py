"""Atomic writing of files on the host, and the check that a file can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deepen.errors import ConfigError
from deepen.storage.atomic import replace_file

__all__ = ["open_atomic_file", "require_readable_file"]


@contextmanager
def open_atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an error.

    Raises:
        ConfigError: If there is no such folder.
        StorageError: If the disk refuses it.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"no folder {path.parent} to write {path.name} into; make it first")
    with replace_file(path) as part, part.open("xb") as stream:
        yield stream


def require_readable_file(path: Path) -> Path:
    """Check that a file can be read.

    Raises:
        ConfigError: If it is not a file, or may not be read.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path}")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"no permission to read {path}; change its mode")
    return path
