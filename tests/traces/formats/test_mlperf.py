"""MLPerf Tiny: every published window with a raw trace, and files that are not as they should be."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen import traces
from deepen.errors import ConfigError, MeasureError
from deepen.records import PowerTrace


def energy_j(trace: PowerTrace, start_s: float, end_s: float) -> float:
    """Exact energy of a trace whose samples are means of the period that ends at their time."""
    period_s = 1 / trace.rate_hz
    edges = np.concatenate([[trace.t_s[0] - period_s], trace.t_s])
    steps = np.minimum(np.diff(edges), period_s)  # nothing is known of a gap
    drawn = np.concatenate([[0.0], np.cumsum(trace.power_w * steps)])
    return float(np.diff(np.interp([start_s, end_s], edges, drawn))[0])


def published(shared_dir: Path, version: str, name: str) -> list[Path]:
    return sorted((shared_dir / "data" / "mlperf_tiny" / version).rglob(name))


def test_every_window_of_v1_2_is_reproduced(shared_dir: Path) -> None:
    files = published(shared_dir, "v1.2", "trace1-energy.bin")
    errors = []
    for file in files:
        trace = traces.read_trace(file)
        windows = traces.read_windows(file)
        results = (file.parent / "results.txt").read_text()
        assert len(windows) == len(re.findall("Energy data for window", results)) == 5
        assert (trace.sampling, trace.source, trace.rate_hz, trace.dropped) == ("mean", "measured", 1000.0, 0)
        for w in windows:
            assert w.interval.runs > 0
            errors.append(energy_j(trace, w.interval.start_s, w.interval.end_s) / w.energy_j - 1)
    assert len(errors) == 20
    assert max(map(abs, errors)) < 1e-4  # half a sample of some ten thousand; asked for is 5e-4


def test_the_numbers_of_v1_2_come_from_times_summed_up_in_steps(shared_dir: Path) -> None:
    """What the module says of the tool: its own windows, to the last digit printed (10 nJ)."""
    for file in published(shared_dir, "v1.2", "trace1-energy.bin"):
        trace = traces.read_trace(file)
        summed_s = np.concatenate([[0.0], np.cumsum(np.full(trace.t_s.size - 1, 0.001))])
        for w in traces.read_windows(file):
            inside = (summed_s >= w.interval.start_s) & (summed_s < w.interval.end_s)
            assert trace.power_w[inside].sum() / 1000 == pytest.approx(w.energy_j, abs=1.1e-8)


def test_every_window_of_v1_3_is_reproduced(shared_dir: Path) -> None:
    files = published(shared_dir, "v1.3", "results.json")
    count = 0
    for file in files:
        trace = traces.read_trace(file)
        windows = traces.read_windows(file)
        assert len(windows) == (file.parent / "results.txt").read_text().count("Energy data for trial") == 5
        for number, w in enumerate(windows):
            count += 1
            assert energy_j(trace, w.interval.start_s, w.interval.end_s) == pytest.approx(w.energy_j, rel=1e-9)
            alone = traces.read_trace(file, run=str(number))
            (window,) = traces.read_windows(file, run=str(number))
            assert energy_j(alone, window.interval.start_s, window.interval.end_s) == pytest.approx(
                w.energy_j, rel=1e-9
            )
        assert len(trace.gaps) == 4
        assert any("distance in time" in w for w in trace.warnings)
    assert count == 15


def write_bin(path: Path, energies_uj: list[float], rate_hz: float = 1000.0) -> Path:
    path.write_bytes(b"\xf1" + struct.pack("<f", rate_hz) + np.array(energies_uj, "<f4").tobytes())
    return path


def test_a_bin_file_without_neighbours_has_no_windows(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "trace1-energy.bin", [1.0, 2.0, 4.0], 500.0)
    trace = traces.read_trace(path)
    assert trace.t_s.tolist() == [0.002, 0.004, 0.006]
    np.testing.assert_allclose(trace.power_w, [5e-4, 1e-3, 2e-3])
    assert traces.read_windows(path) == ()


def test_edges_without_results_bound_every_window(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "trace1-energy.bin", [1.0] * 100)
    (tmp_path / "trace1-timestamps.json").write_text("[0.01, 0.02, 0.05]")
    found = traces.read_windows(path)
    assert [(w.interval.start_s, w.interval.end_s, w.interval.label) for w in found] == [
        (0.01, 0.02, "window 1"),
        (0.02, 0.05, "window 2"),
    ]
    assert all(np.isnan(w.energy_j) for w in found)


@pytest.mark.parametrize("text", ["[0.2, 0.1]", "{}x", '["a"]', "7"])
def test_damaged_edges_are_an_error(tmp_path: Path, text: str) -> None:
    path = write_bin(tmp_path / "trace1-energy.bin", [1.0] * 10)
    (tmp_path / "trace1-timestamps.json").write_text(text)
    with pytest.raises(MeasureError, match=r"trace1-timestamps\.json"):
        traces.read_windows(path)


def test_results_of_another_trace_are_refused(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "trace1-energy.bin", [1.0] * 100)
    (tmp_path / "trace1-timestamps.json").write_text("[0.01, 0.05, 0.09]")
    (tmp_path / "results.txt").write_text(
        "1 ulp-ml: Energy data for window 2 at time 9.25 for 10.50 sec.:\n1 ulp-ml:   Energy       :   4.0 uJ\n"
    )
    with pytest.raises(MeasureError, match=r"window 2 at 9\.25 s is not edge 2"):
        traces.read_windows(path)


def test_samples_without_a_value_are_lost(tmp_path: Path) -> None:
    trace = traces.read_trace(write_bin(tmp_path / "a.bin", [1.0, float("nan"), float("inf"), 2.0]))
    assert trace.t_s.tolist() == [0.001, 0.004]
    assert (trace.dropped, trace.gaps) == (2, ((0.001, 0.004),))
    assert any("2 rows have no value" in w for w in trace.warnings)


def test_a_torn_bin_says_so_and_others_are_refused(tmp_path: Path) -> None:
    path = write_bin(tmp_path / "a.bin", [1.0, 2.0])
    path.write_bytes(path.read_bytes()[:-1])
    assert traces.read_trace(path).warnings == ("the last sample is cut short and was left out",)
    for content in (b"\xf1\x00", write_bin(path, [1.0], float("nan")).read_bytes(), b"\xf1" + struct.pack("<f", 1e3)):
        path.write_bytes(content)
        with pytest.raises(MeasureError):
            traces.read_trace(path)


def runs(*samples: Any, marks: Any = (("00", 2), ("01", 4)), **infer: Any) -> list[Any]:
    return [{"file": "f", "infer": infer, "power": {"samples": s, "timestamps": marks}} for s in samples]


def test_runs_are_set_apart_and_one_can_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(runs([1e-3] * 5, [2e-3] * 5, iterations=10)))
    trace = traces.read_trace(path)
    assert trace.t_s.tolist() == pytest.approx([0.001, 0.002, 0.003, 0.004, 0.005, 1.006, 1.007, 1.008, 1.009, 1.01])
    assert trace.gaps == (pytest.approx((0.005, 1.006)),)
    assert trace.dropped == 0
    assert any("does not state its sample rate" in w for w in trace.warnings)
    first, second = traces.read_windows(path)
    assert (first.interval.start_s, first.interval.end_s, first.interval.runs) == (0.002, 0.004, 10)
    assert second.interval.start_s == pytest.approx(1.007)
    alone = traces.read_trace(path, run="1", rate_hz="500")
    assert (alone.t_s[0], alone.power_w[0]) == (0.002, 1.0)
    with pytest.raises(ConfigError, match="has no run 2; it has 0 to 1"):
        traces.read_trace(path, run="2")


def test_the_rate_comes_from_the_elapsed_time(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(runs([1e-3] * 5)))
    trial = (
        "Energy data for trial 0\n  Elapsed time  : {}\n  Inferences : 1\n  Power : 1\n  Total Energy  : 2000.0 uJ\n"
    )
    (tmp_path / "results.txt").write_text(trial.format("0.001"))
    assert traces.read_trace(path).rate_hz == 2000.0
    assert traces.read_windows(path)[0].energy_j == 2e-3


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "known format"),
        ([{"infer": {}}], "energy mode"),
        (runs([]), "no list of energies"),
        (runs([[0.0, 1.0, 3.0]]), "only traces of an LPM01A"),
        (runs(["x"]), "no samples and timestamps"),
        (runs([1.0], marks=[["00", 5]]), "marks outside its 1 samples"),
        (runs([1.0] * 9, marks=[["00", 5], ["01", 2]]), "marks outside"),
        (runs([1.0] * 9, marks=[5]), "no samples and timestamps"),
        (runs([None, None], marks=[["00", 0], ["01", 2]]), "no sample with a value"),
    ],
)
def test_results_that_hold_no_trace(tmp_path: Path, document: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    with pytest.raises(MeasureError, match=message):
        traces.read_trace(path)


def test_a_run_without_marks_has_no_window(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(runs([1.0] * 5, marks=[["00", 5]])))
    with pytest.raises(MeasureError, match="run 0 has 1 marks"):
        traces.read_windows(path)
