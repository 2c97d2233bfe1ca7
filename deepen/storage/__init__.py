"""Storage: atomic files, locks, append-only journals and temporary folders. The only place that knows how data survive a crash."""

from __future__ import annotations
