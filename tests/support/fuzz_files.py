"""Targets of fuzzing: files of traces and of intervals.

What must hold for any bytes: no exception but deepen's own, in one line; times and powers are finite; a trace reads the
same whole and in pieces.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from deepen import traces
from deepen.clock.host_clock import ClockMap
from deepen.records import PowerTrace, TraceWarning
from deepen.traces.intervals import read_intervals
from tests.support.fuzz_texts import CallTarget

__all__ = ["make_file_targets"]


def _assert_finite(value: float) -> None:
    assert np.isfinite(value), f"{value} is no number"


def make_file_targets(folder: Path) -> list[CallTarget]:
    """Readers of trace files and of interval files.

    Args:
        folder: Where inputs are written.
    """
    rng = np.random.default_rng(5)
    t_s = 50.0 + np.arange(40) / 1000
    trace = PowerTrace(
        t_s,
        rng.uniform(0.5, 3.0, 40),
        1000.0,
        "lvpm",
        "c",
        "simulated",
        gaps=((50.01, 50.013),),
        dropped=2,
        clock=ClockMap(0.0, 50.0, 1.0, 1e-4, "arrival"),
        warnings=(TraceWarning("loss", "lost: 2"),),
    )
    stored = {}
    for suffix in ("json", "csv", "parquet"):
        path = folder / f"seed.{suffix}"
        traces.write_trace(trace, path)
        stored[suffix] = path.read_bytes()
    rows = range(60)
    monsoon = "Time(ms),Main(mA),Main Voltage(V),\n" + "".join(
        f"{0.0002 * 3 * (k // 3):.6f},{200 + k},4.0,\n" for k in rows
    )
    nordic = "Timestamp(ms),Current(uA),D0-D7\n" + "".join(f"{0.01 * k:.2f},{1000 + k},0000000{k % 2}\n" for k in rows)
    samples = "#time (s),current (A),voltage (V)\n" + "".join(f"{k * 1e-3:.4f},0.{k:03d},3.3\n" for k in rows)
    runs = json.dumps(
        [{"infer": {"iterations": 5}, "power": {"samples": [1e-6] * 40, "timestamps": [["00", 5], ["01", 30]]}}]
    )
    energies = b"\xf1" + struct.pack("<f", 1000.0) + struct.pack("<40f", *rng.uniform(10, 90, 40))
    daemon = "".join(
        f"Time,12-23-2020 10:21:{k:02d}.496,Watts,{20 + k}.5,Volts,229.9,Amps,0.1,PF,0.5,Mark,run\n" for k in range(20)
    )
    plain = "t_s,power_mw,current (A),x\n" + "".join(f"{k * 1e-3:.4f},{5 + k},0.1,a\n" for k in rows)
    windows = "start_s,end_s,label,runs,energy_j\n0.1,0.2,a,5,1.5\n0.3,0.45,b,,\n"
    csv = [
        b",",
        b"\n",
        b"\r\n",
        b";",
        b"nan",
        b"1e999",
        b"-1",
        b'"',
        b"\xff",
        b"\0",
        b"Time(ms)",
        b"power_w",
        b"t_s",
        b"\xef\xbb\xbf",
    ]
    js = [
        b"{",
        b"}",
        b"[",
        b"]",
        b"null",
        b"NaN",
        b"1e999",
        b"-1",
        b'"samples"',
        b'"rate_hz"',
        b"0",
        b"true",
        b"Infinity",
    ]
    binary = [struct.pack("<f", x) for x in (0, -1, 1e-30, 1e30, float("nan"), float("inf"))] + [b"\xf1"]
    kinds: list[tuple[str, str, list[bytes], list[bytes], dict[str, str]]] = [
        ("deepen JSON", "a.json", [stored["json"]], js, {}),
        ("deepen Parquet", "a.parquet", [stored["parquet"]], [b"PAR1", b"deepen-trace"], {}),
        ("deepen CSV", "a.csv", [stored["csv"]], csv, {}),
        ("plain CSV", "b.csv", [plain.encode()], csv, {}),
        ("Monsoon CSV", "c.csv", [monsoon.encode()], csv, {}),
        ("PPK2 CSV", "d.csv", [nordic.encode()], csv, {"voltage_v": "3.3"}),
        ("Joulescope CSV", "e.csv", [samples.encode()], csv, {}),
        ("MLPerf JSON", "results.json", [runs.encode()], js, {}),
        ("MLPerf binary", "trace1-energy.bin", [energies], binary, {}),
        ("PTDaemon log", "f.csv", [daemon.encode()], csv, {}),
    ]
    found = []
    for name, file, seeds, tokens, options in kinds:
        path = folder / name / file
        path.parent.mkdir(exist_ok=True)
        call = _make_trace_reader(path, options)
        found.append(CallTarget(name, call, seeds, tokens, 0.15))
    manifest, table = folder / "a.trace", folder / "i.csv"
    traces.write_trace(trace, manifest)
    whole = (manifest / "manifest.json").read_bytes()
    call = _make_trace_reader(manifest, {}, manifest / "manifest.json")
    found.append(CallTarget("deepen folder", call, [whole], js, 0.05))

    def intervals(data: bytes) -> None:
        table.write_bytes(data)
        for window in read_intervals(table):
            _assert_finite(window.interval.start_s + window.interval.end_s)

    found.append(CallTarget("intervals", intervals, [windows.encode()], csv, 0.1))
    return found


def _make_trace_reader(path: Path, options: dict[str, Any], written: Path | None = None) -> Callable[[bytes], None]:
    """Write an input to a file (``path`` itself, or one inside it) and read the trace in every way."""

    def read(data: bytes) -> None:
        (written or path).write_bytes(data)
        trace = traces.read_trace(path, **options)
        assert bool(np.isfinite(trace.power_w).all()), "a power is no number"
        assert bool(np.isfinite(trace.t_s).all()), "a time is no number"
        pieces = list(traces.read_chunks(path, 7, **options))
        parts = [p.t_s for p in pieces]
        assert np.array_equal(np.concatenate(parts or [np.empty(0)]), trace.t_s), "times differ when read in pieces"
        parts = [p.power_w for p in pieces]
        assert np.array_equal(np.concatenate(parts or [np.empty(0)]), trace.power_w), (
            "powers differ when read in pieces"
        )
        assert sum(p.dropped for p in pieces) == trace.dropped, "losses differ when read in pieces"
        for window in traces.read_windows(path, **options):
            _assert_finite(window.interval.start_s + window.interval.end_s)

    return read
