"""Storage: atomic files, locks, append-only journals and temporary folders; how data survive a crash."""

from __future__ import annotations

from deepen.storage.atomic import write_file_atomically
from deepen.storage.temporary_folders import TemporaryFolder

__all__ = ["TemporaryFolder", "write_file_atomically"]
