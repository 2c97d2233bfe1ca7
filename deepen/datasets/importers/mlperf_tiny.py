"""Importer of MLPerf Tiny: energies per inference of four benchmark networks on many boards.

::

    [VERSION/]DIVISION/SUBMITTER/results/SYSTEM/.../TASK/energy/results.txt

The files are the logs of the benchmark's runner: energy, power and inferences of each window, and their median, which
is what was submitted. A record is one system and task; its energy is the median, its repeats are the windows. Energies
are those of the whole supply of the board during inference: gross. The networks come as TFLite files and are not split
here, so the records have no kernels and train nothing; they are for comparison.

Streaming wake-word results (``sww``) are per second of audio, not per inference, and are rejected. A later version may
hold an earlier one's log again; such copies are rejected too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from deepen.datasets.importers.base import ImportNote, ImportResult, SourceMetadata, SourceRow, make_model_record
from deepen.errors import DatasetError
from deepen.records import EnergyRecord

__all__ = ["read"]

_WINDOW = re.compile(r"Energy data for window (\d+) at time [\d.]+ for ([\d.]+) sec")
_VALUE = re.compile(r"(Energy/Inf\.|Energy|Power)\s*:\s*([\d.]+) (uJ|uW|uJ/inf\.)")
_MEDIAN = re.compile(r"Median energy cost is ([\d.]+) uJ/inf")
_RESULTS = re.compile(r"Performance results for window (\d+)")
_COUNT = re.compile(r"# Inferences\s*:\s*(\d+)")
_RUNTIME = re.compile(r"Runtime\s*:\s*([\d.]+) sec")

MICRO = 1e-6

TASKS = {"ad": "anomaly detection", "ic": "image classification", "kws": "keyword spotting", "vww": "visual wake words"}
"""Tasks whose results are per inference."""

_SHORT = {about.replace(" ", "_"): task for task, about in TASKS.items()}
"""Long names that some submitters use."""

TOLERANCE = 0.02
"""Share by which energy, power x duration and energy per inference of one window may differ (rounding of durations)."""


def read(folder: Path) -> ImportResult:
    """Read a folder of one or several versions' results.

    Raises:
        DatasetError: If there are no energy results in it.
    """
    files = sorted(path for path in folder.rglob("results.txt") if path.parent.name == "energy")
    if not files:
        raise DatasetError(f"{folder}: no .../TASK/energy/results.txt below; give the folder of MLPerf Tiny results")
    records: list[EnergyRecord] = []
    rejected: list[ImportNote] = []
    seen: dict[str, str] = {}
    for path in files:
        name = "/".join(part for part in path.relative_to(folder).parts[:-2] if part not in ("results", "closed"))
        task = _SHORT.get(path.parent.parent.name, path.parent.parent.name)
        if task not in TASKS:
            rejected.append(ImportNote(name, f"task '{task}' is measured per stream, not per inference"))
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        log = _parse_log(text)
        reason = _find_rejection_reason(log)
        body = "\n".join(line.partition("ulp-ml:")[2] or line for line in text.splitlines())
        if not reason and body in seen:
            reason = f"the same log as {seen[body]}"
        if reason:
            rejected.append(ImportNote(name, reason))
            continue
        seen[body] = name
        records.append(_make_record(name, task, log))
    return ImportResult(tuple(records), (), tuple(rejected))


@dataclass(slots=True)
class _MlperfTinyWindow:
    """One window of a log: energy, duration, power, and the energy per inference that the log states."""

    duration_s: float = math.nan
    energy_j: float = math.nan
    power_w: float = math.nan
    per_inference_j: float = math.nan
    inferences: int = 0
    runtime_s: float = math.nan


@dataclass(slots=True)
class _MlperfTinyLog:
    windows: dict[int, _MlperfTinyWindow]
    median_j: float


def _parse_log(text: str) -> _MlperfTinyLog:
    log = _MlperfTinyLog({}, math.nan)
    current = _MlperfTinyWindow()
    for line in _read_sound_lines(text):
        if found := _WINDOW.search(line):
            current = log.windows.setdefault(int(found[1]), _MlperfTinyWindow())
            current.duration_s = float(found[2])
        elif found := _RESULTS.search(line):
            current = log.windows.setdefault(int(found[1]), _MlperfTinyWindow())
        elif found := _COUNT.search(line):
            current.inferences = int(found[1])
        elif found := _RUNTIME.search(line):
            current.runtime_s = float(found[1])
        elif found := _MEDIAN.search(line):
            log.median_j = float(found[1]) * MICRO
        elif found := _VALUE.search(line):
            value = float(found[2]) * MICRO
            match found[1]:
                case "Energy":
                    current.energy_j = value
                case "Power":
                    current.power_w = value
                case _:
                    current.per_inference_j = value
    return log


def _read_sound_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if re.search(r"\d\.\d+\.\d", line):
            continue  # two numbers torn together
        yield line


def _find_rejection_reason(log: _MlperfTinyLog) -> str:
    """Return the reason to reject a log; empty if it is usable."""
    windows = [w for w in log.windows.values() if math.isfinite(w.per_inference_j)]
    if not windows or not math.isfinite(log.median_j):
        return "the log has no windows or no median: it ended early, or is of another kind"
    if log.median_j <= 0 or any(w.per_inference_j <= 0 for w in windows):
        return "an energy is not positive"
    middle = median(w.per_inference_j for w in windows)
    if abs(middle - log.median_j) > TOLERANCE * middle:
        return f"the median stated, {log.median_j / MICRO:g} uJ, is not that of the windows, {middle / MICRO:g} uJ"
    for number, window in log.windows.items():
        if window.inferences and math.isfinite(window.energy_j):
            each = window.energy_j / window.inferences
            if abs(each - window.per_inference_j) > TOLERANCE * each:
                return f"window {number}: energy over inferences is {each / MICRO:.4g} uJ, not as stated"
        product = window.power_w * window.duration_s
        known = window.duration_s >= 1 and math.isfinite(product) and math.isfinite(window.energy_j)
        if known and abs(product - window.energy_j) > TOLERANCE * window.energy_j:
            return f"window {number}: power x duration is {product / window.energy_j:.3g} times the energy"
    return ""


def _make_record(name: str, task: str, log: _MlperfTinyLog) -> EnergyRecord:
    windows = [w for w in log.windows.values() if math.isfinite(w.per_inference_j)]
    trials = tuple(w.per_inference_j for w in windows)
    counted = [w for w in windows if w.inferences and math.isfinite(w.runtime_s)]
    latency_s = fmean(w.runtime_s / w.inferences for w in counted) if counted else math.nan
    if not math.isfinite(latency_s):
        powered = [w.per_inference_j / w.power_w for w in windows if w.power_w > 0]
        latency_s = fmean(powered) if powered else math.nan
    spread = stdev(trials) / math.sqrt(len(trials)) if len(trials) > 1 else math.nan
    system = "/".join(name.split("/")[:-1])
    origin = SourceMetadata(
        device=system, meter="mlperf-tiny", runtime="unknown", runtime_build="unknown", gross=True,
        warnings=("the kernels of the network are not known",),
    )  # fmt: skip
    known = math.isfinite(latency_s)
    row = SourceRow(
        name, f"{task} ({TASKS[task]})", log.median_j, latency_s, spread_j=spread, trials=trials if known else (),
        runs=sum(w.inferences for w in windows) if known else 0,
    )  # fmt: skip
    return make_model_record(row, origin, ())
