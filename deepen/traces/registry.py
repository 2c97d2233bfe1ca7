"""Registry of trace file formats, one module each, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping

from deepen.traces.formats import deepen_files, deepen_folder, joulescope, mlperf, monsoon, plain, ppk2, ptdaemon
from deepen.traces.types import TraceFormat

__all__ = ["FORMATS"]

FORMATS: Mapping[str, TraceFormat] = {
    f.name: f
    for f in (
        deepen_folder.FORMAT,
        deepen_files.PARQUET,
        deepen_files.JSON,
        mlperf.BIN,
        mlperf.JSON,
        monsoon.FORMAT,
        ppk2.FORMAT,
        joulescope.CSV,
        joulescope.JLS,
        ptdaemon.FORMAT,
        plain.FORMAT,
    )
}
"""Name -> format; ``csv``, which accepts any table with declared units, comes last."""
