"""MLPerf Tiny energy results: EEMBC's ``trace1-energy.bin`` (up to v1.2) and the open runner's ``results.json`` (v1.3).

Both hold the energy of every sample period of an ST LPM01A, so samples are means over the period that ends at their
time: sample ``k`` (from 0) covers ``k / rate`` to ``(k + 1) / rate`` on the instrument's clock.

The reported energies are computed as follows, inferred from the published results (all reproduced to the last digit):

* v1.3: the sum of ``samples[a:b]``, with ``a`` and ``b`` the last two marks of a run; exactly the windows given here.
* v1.2: the sum of the samples whose time, accumulated from 0 in steps of 1 ms in double precision, lies in
  ``[start, end)`` of two GPIO edges. The sum drifts by rounding, so the tool's windows lie up to one sample beside
  their edges; the windows given here have the true edges, which moves an energy by less than 0.01 %.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, MeasureError
from deepen.records import Interval, TraceWarning
from deepen.traces.formats.plain import parse_number_option
from deepen.traces.missing_samples import TimeScan, drop_missing_samples
from deepen.traces.types import CHUNK, ReportedWindow, TraceFormat, TraceInfo

__all__ = ["BIN", "JSON", "RESULTS", "TRACES", "MlperfBinFile", "MlperfRunsFile"]

_MAGIC = 0xF1
_HEADER = 5
_BETWEEN_S = 1.0
"""Pause inserted between two runs of one file, whose distance in time is unknown, seconds."""
_RUNNER_HZ = 1000.0
"""Sample rate the runner sets (``freq 1k`` in its power manager for the LPM01A), hertz; the file does not state it."""
_LARGEST_JSON = 1 << 30

_WINDOW = re.compile(
    r"window (?P<number>\d+) at time (?P<start>[\d.]+) for (?P<length>[\d.]+) sec\.:[^\n]*\n"
    r"[^\n]*Energy\s*:\s*(?P<energy>[\d.]+) uJ"
)
RESULTS = "results.txt"
"""Report of a measurement, in the same folder as its trace."""
TRACES = ("trace1-energy.bin", "results.json")

_RUNS = re.compile(r"Performance results for window (\d+):[^\n]*\n[^\n]*# Inferences\s*:\s*(\d+)")
_TRIAL = re.compile(
    r"Energy data for trial (?P<number>\d+)\s*\n\s*Elapsed time\s*:\s*(?P<elapsed>[\d.]+)\s*\n"
    r"(?:[^\n]*\n){0,2}?\s*Total Energy\s*:\s*(?P<energy>[\d.]+) uJ"
)


def _read_sibling_text(path: Path, name: str) -> str:
    """Read the text of a file in the same folder; empty where there is none."""
    place = path.with_name(name)
    try:
        return place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
    except OSError as error:
        raise MeasureError(f"{place}: cannot be read ({error.strerror}); check its permissions") from error


@dataclass(frozen=True, slots=True)
class MlperfBinFile:
    """An opened ``trace1-energy.bin``; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        count: Number of samples in the file, including those without a value.
    """

    info: TraceInfo
    count: int

    def _raw(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        for start in range(0, self.count, CHUNK):
            n = min(CHUNK, self.count - start)
            with np.errstate(invalid="ignore"):  # values that are not numbers are found below
                energy_uj = np.fromfile(self.info.path, "<f4", n, offset=_HEADER + 4 * start).astype(np.float64)
            power_w = energy_uj / 1e6 * self.info.rate_hz
            yield (
                np.arange(start + 1, start + n + 1) / self.info.rate_hz,
                np.where(np.isfinite(power_w), power_w, np.nan),
            )

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for t_s, power_w in self._raw():
            yield drop_missing_samples(t_s, power_w)

    def windows(self) -> tuple[ReportedWindow, ...]:
        """Return the windows between consecutive GPIO edges of ``trace1-timestamps.json``.

        Only those that ``results.txt`` reports, with their energy and number of inferences; all of them where there is
        no such file. Both files are expected in the folder of the trace.

        Raises:
            MeasureError: If one of them is damaged, or they contradict each other.
        """
        path = self.info.path
        name = path.name.replace("-energy.bin", "-timestamps.json")
        text = _read_sibling_text(path, name) if name != path.name else ""
        if not text:
            return ()
        try:
            edges = [float(t) for t in json.loads(text)]
        except (ValueError, TypeError) as error:
            raise MeasureError(f"{path.with_name(name)}: is no list of times ({error})") from error
        if any(not b > a for a, b in pairwise(edges)):
            raise MeasureError(f"{path.with_name(name)}: its times do not increase")
        results = _read_sibling_text(path, RESULTS)
        runs = {int(number): int(count) for number, count in _RUNS.findall(results)}
        reported = {int(m["number"]): m for m in _WINDOW.finditer(results)}
        for number, m in reported.items():
            start = edges[number - 1] if 0 < number < len(edges) else math.nan
            if not abs(start - float(m["start"])) <= 0.011:  # printed with two decimals
                raise MeasureError(
                    f"{path.with_name(RESULTS)}: window {number} at {m['start']} s is not edge {number} of {name}"
                )
        return tuple(
            ReportedWindow(
                Interval(edges[k - 1], edges[k], f"window {k}", runs.get(k, 0)),
                float(reported[k]["energy"]) / 1e6 if k in reported else math.nan,
            )
            for k in (sorted(reported) or range(1, len(edges)))
        )


def _open_bin(path: Path, options: Mapping[str, str]) -> MlperfBinFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER)
    if len(head) < _HEADER or head[0] != _MAGIC:
        raise MeasureError(f"{path}: is no energy trace of MLPerf Tiny (byte 0xF1, sample rate, energies)")
    rate_hz = float(np.frombuffer(head[1:], "<f4")[0])
    count, left = divmod(size - _HEADER, 4)
    if not (math.isfinite(rate_hz) and 0 < rate_hz <= 1e7) or not count:
        raise MeasureError(f"{path}: states {rate_hz:g} samples a second and holds {count}; restore it from a copy")
    warnings = [TraceWarning("loss", "the last sample is cut short and was left out")] if left else []
    opened = MlperfBinFile(_make_info(path, BIN.name, rate_hz, count, (), 0, ()), count)
    return MlperfBinFile(_scan_samples(opened.info, opened._raw(), warnings), count)


def _make_info(
    path: Path,
    name: str,
    rate_hz: float,
    samples: int,
    gaps: tuple[tuple[float, float], ...],
    dropped: int,
    warnings: Sequence[TraceWarning],
    ends: tuple[float, float] = (math.nan, math.nan),
) -> TraceInfo:
    return TraceInfo(
        path=path,
        format=name,
        meter_id="mlperf-tiny",
        calibration_id="as in the file",
        source="measured",
        rate_hz=rate_hz,
        samples=samples,
        start_s=ends[0],
        end_s=ends[1],
        sampling="mean",
        gaps=gaps,
        dropped=dropped,
        warnings=tuple(warnings),
    )


def _scan_samples(
    info: TraceInfo, raw: Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]], warnings: Sequence[TraceWarning]
) -> TraceInfo:
    """Scan the samples once for their facts; samples without a value count as lost."""
    scan = TimeScan(info.path, info.rate_hz)
    for t_s, power_w in raw:
        scan.feed(t_s, power_w)
    if not scan.samples:
        raise MeasureError(f"{info.path}: holds no sample with a value; restore it from a copy")
    return _make_info(
        info.path,
        info.format,
        info.rate_hz,
        scan.samples,
        tuple(scan.gaps),
        scan.dropped,
        [*warnings, *scan.notes()],
        (scan.start_s, scan.end_s),
    )


BIN = TraceFormat(
    name="mlperf-bin",
    title="MLPerf Tiny energy trace (trace1-energy.bin, to v1.2)",
    matches=lambda path, head: len(head) >= _HEADER and head[0] == _MAGIC and b"PAR1" not in head[:4],
    open=_open_bin,
)


@dataclass(frozen=True, slots=True)
class _MlperfRun:
    """One run of a ``results.json``: energies per sample, and the marks that bound its window."""

    number: int
    power_w: NDArray[np.float64]
    marks: tuple[int, ...]
    runs: int
    offset_s: float

    def samples(self, rate_hz: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times (s) and powers (W), ``nan`` where there is none."""
        return self.offset_s + np.arange(1, self.power_w.size + 1) / rate_hz, self.power_w


@dataclass(frozen=True, slots=True)
class MlperfRunsFile:
    """An opened ``results.json``; see :class:`~deepen.traces.types.TraceFile`.

    Attributes:
        info: Facts found by scanning it.
        runs: Its runs, in order.
    """

    info: TraceInfo
    runs: tuple[_MlperfRun, ...]

    def blocks(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8] | None]]:
        """See :class:`~deepen.traces.types.TraceFile`."""
        for run in self.runs:
            yield drop_missing_samples(*run.samples(self.info.rate_hz))

    def windows(self) -> tuple[ReportedWindow, ...]:
        """Return the window of every run, between its last two marks, with the energy that ``results.txt`` reports.

        Raises:
            MeasureError: If a run has fewer than two marks.
        """
        results = _read_sibling_text(self.info.path, RESULTS)
        reported = {int(m["number"]): float(m["energy"]) / 1e6 for m in _TRIAL.finditer(results)}
        found = []
        for run in self.runs:
            if len(run.marks) < 2:
                raise MeasureError(f"{self.info.path}: run {run.number} has {len(run.marks)} marks; a window needs two")
            start_s, end_s = (run.offset_s + mark / self.info.rate_hz for mark in run.marks[-2:])
            interval = Interval(start_s, end_s, f"trial {run.number}", run.runs)
            found.append(ReportedWindow(interval, reported.get(run.number, math.nan)))
        return tuple(found)


def _open_json(path: Path, options: Mapping[str, str]) -> MlperfRunsFile:
    """Open a ``results.json``.

    1. Select the runs with a power trace, or the one that the option ``run`` names.
    2. Find the sample rate: the option ``rate_hz``, else from the runs and ``results.txt``.
    3. Lay the runs one after another, with a pause between them.
    4. Scan each run; the pauses between them are gaps.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise MeasureError(f"{path}: too large for a results file of MLPerf Tiny")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"{path}: torn or no JSON ({error}); restore it from a copy") from error
    # 1. Runs.
    warnings: list[TraceWarning] = []
    runs_found = document if isinstance(document, list) else []
    entries = [(k, d) for k, d in enumerate(runs_found) if isinstance(d, Mapping) and "power" in d]
    if not entries:
        raise MeasureError(f"{path}: holds no run with a power trace; run the benchmark in energy mode")
    if "run" in options:
        entries = [(k, d) for k, d in entries if str(k) == options["run"]]
        if not entries:
            raise ConfigError(f"{path}: has no run {options['run']}; it has 0 to {len(runs_found) - 1}")
    # 2. Sample rate.
    rate_hz = parse_number_option(options, "rate_hz", path)
    parsed = [_parse_run(path, k, entry) for k, entry in entries]
    if not rate_hz:
        rate_hz = _find_sample_rate(path, parsed, warnings)
    # 3. Positions in time.
    runs: list[_MlperfRun] = []
    offset_s = 0.0
    for number, energy_j, marks, count in parsed:
        runs.append(_MlperfRun(number, energy_j * rate_hz, marks, count, offset_s))
        offset_s += energy_j.size / rate_hz + _BETWEEN_S
    if len(runs) > 1:
        text = (
            f"{len(runs)} runs, whose distance in time is not in the file: each is put {_BETWEEN_S:g} s after the one "
            "before, with a gap (run=N takes one)"
        )
        warnings.append(TraceWarning("trace", text))
    # 4. Facts and gaps.
    info = _make_info(path, JSON.name, rate_hz, 0, (), 0, ())
    pieces = [_scan_samples(info, iter([run.samples(rate_hz)]), ()) for run in runs]
    gaps = [*pieces[0].gaps]
    for before, after in pairwise(pieces):
        gaps += [(before.end_s, after.start_s), *after.gaps]
    return MlperfRunsFile(
        _make_info(
            path,
            JSON.name,
            rate_hz,
            sum(piece.samples for piece in pieces),
            tuple(gaps),
            sum(piece.dropped for piece in pieces),
            [*warnings, *dict.fromkeys(w for piece in pieces for w in piece.warnings)],
            (pieces[0].start_s, pieces[-1].end_s),
        ),
        tuple(runs),
    )


def _parse_run(
    path: Path, number: int, entry: Mapping[str, Any]
) -> tuple[int, NDArray[np.float64], tuple[int, ...], int]:
    """Parse one run: its number, energies (J, ``nan`` where missing), marks and number of inferences."""
    power = entry["power"]
    try:
        energy_j = np.asarray(power["samples"], dtype=np.float64)
        marks = tuple(int(index) for _, index in power["timestamps"])
        infer = entry.get("infer") or {}
        count = int(infer.get("iterations") or 0)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MeasureError(
            f"{path}: run {number} has no samples and timestamps as the runner writes them for an LPM01A "
            f"({type(error).__name__}: {error})"
        ) from error
    if energy_j.ndim != 1 or not energy_j.size:
        raise MeasureError(f"{path}: run {number} holds no list of energies; only traces of an LPM01A are read")
    if any(not 0 <= m <= energy_j.size for m in marks) or list(marks) != sorted(marks):
        raise MeasureError(
            f"{path}: run {number} has marks outside its {energy_j.size} samples; restore it from a copy"
        )
    return number, np.where(np.isfinite(energy_j), energy_j, np.nan), marks, count


def _find_sample_rate(
    path: Path, parsed: Sequence[tuple[int, Any, tuple[int, ...], int]], warnings: list[TraceWarning]
) -> float:
    """Return the sample rate from the elapsed times of ``results.txt``, else the rate the runner sets, hertz."""
    elapsed = {int(m["number"]): float(m["elapsed"]) for m in _TRIAL.finditer(_read_sibling_text(path, RESULTS))}
    rates = [
        (marks[-1] - marks[-2]) / elapsed[number]
        for number, _, marks, _ in parsed
        if len(marks) > 1 and elapsed.get(number, 0) > 0
    ]
    if not rates:
        text = f"the file does not state its sample rate; taken as the runner's {_RUNNER_HZ:g} Hz (set rate_hz=...)"
        warnings.append(TraceWarning("trace", text))
        return _RUNNER_HZ
    rate_hz = float(np.median(rates))
    if max(abs(r / rate_hz - 1) for r in rates) > 1e-3:
        raise MeasureError(
            f"{path}: marks and elapsed times in results.txt give rates from {min(rates):g} to {max(rates):g} Hz"
        )
    return float(round(rate_hz)) if abs(rate_hz / round(rate_hz) - 1) < 1e-6 else rate_hz


JSON = TraceFormat(
    name="mlperf-json",
    title="MLPerf Tiny results of the open runner (results.json, v1.3)",
    matches=lambda path, head: head.lstrip().startswith(b"[") and re.search(rb'"(power|infer)"\s*:', head) is not None,
    open=_open_json,
    options=("run", "rate_hz"),
)
