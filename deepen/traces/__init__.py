"""Stored power traces: writing them while they are recorded, and reading those of many instruments.

``read_trace(path)`` gives a whole :class:`~deepen.records.PowerTrace`, ``read_chunks(path, size)`` one piece after
another in bounded memory, ``open_trace(path)`` the facts alone, ``read_windows(path)`` the stretches a file reports.
``write_trace(trace, path)`` writes one, and :class:`TraceWriter` records one that may be long.
"""

from __future__ import annotations

from deepen.traces.open import hash_trace, open_trace, read_chunks, read_trace, read_windows
from deepen.traces.registry import FORMATS
from deepen.traces.trace_folder_writer import TraceWriter
from deepen.traces.types import ReportedWindow, TraceFile, TraceFormat, TraceHeader, TraceInfo
from deepen.traces.write_file import SUFFIXES, write_trace

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "ReportedWindow",
    "TraceFile",
    "TraceFormat",
    "TraceHeader",
    "TraceInfo",
    "TraceWriter",
    "hash_trace",
    "open_trace",
    "read_chunks",
    "read_trace",
    "read_windows",
    "write_trace",
]
