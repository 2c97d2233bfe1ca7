"""Stored power traces: writing them while they are recorded, and reading those of many instruments.

``read(path)`` gives a whole :class:`~deepen.records.PowerTrace`, ``chunks(path, size)`` one piece after another in
bounded memory, ``open_trace(path)`` the facts alone, ``windows(path)`` the stretches a file reports.
``write(trace, path)`` writes one, and :class:`TraceWriter` records one that may be long.
"""

from __future__ import annotations

from deepen.traces.open import chunks, open_trace, read, trace_sha256, windows
from deepen.traces.registry import FORMATS
from deepen.traces.trace_folder_writer import TraceWriter
from deepen.traces.types import Format, ReportedWindow, TraceFile, TraceHeader, TraceInfo
from deepen.traces.write_file import SUFFIXES, write

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "Format",
    "ReportedWindow",
    "TraceFile",
    "TraceHeader",
    "TraceInfo",
    "TraceWriter",
    "chunks",
    "open_trace",
    "read",
    "trace_sha256",
    "windows",
    "write",
]
