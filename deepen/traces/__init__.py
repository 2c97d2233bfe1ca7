"""Stored power traces: writing them during a recording, and reading the formats of many instruments.

``read_trace(path)`` returns a whole :class:`~deepen.records.PowerTrace`, ``read_chunks(path, size)`` yields it in
pieces in bounded memory, ``open_trace(path)`` reads the metadata alone, and ``read_windows(path)`` the windows a file
reports. ``write_trace(trace, path)`` writes a finished trace, and :class:`TraceWriter` records one of any length.
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
