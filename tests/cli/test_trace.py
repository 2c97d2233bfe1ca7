"""``deepen trace show`` and ``deepen trace convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepen import traces
from deepen.cli import cli
from deepen.clock.host_clock import ClockMap
from deepen.records import PowerTrace
from deepen.traces import TraceHeader, TraceWriter


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["trace", *map(str, args)])


def document(*args: str | Path) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fails(message: str, *args: str | Path) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Two seconds at 1 kHz: 1 W, then 3 W, with ten samples lost in the middle."""
    clock = ClockMap(0.0, 10.0, 1.0, 2e-4, "arrival")
    index = np.delete(np.arange(2000), range(1000, 1010))
    power_w = np.where(index < 1000, 1.0, 3.0)
    gap = (10.999, 11.01)
    trace = PowerTrace(
        clock.to_host(index / 1000), power_w, 1000.0, "ppk2", "cal", "simulated", (gap,), 10, clock=clock
    )
    return traces.write_trace(trace, tmp_path / "a.trace")


def test_show_tells_every_fact(stored: Path) -> None:
    found = document("show", stored)
    assert (
        found
        | {
            "format": "trace",
            "meter": "ppk2",
            "source": "simulated",
            "complete": True,
            "samples": 1990,
            "rate_hz": 1000.0,
            "dropped": 10,
            "loss": 0.005,
            "min_w": 1.0,
            "max_w": 3.0,
            "warnings": [],
            "windows": [],
        }
        == found
    )
    assert found["gaps"] == [[pytest.approx(10.999), pytest.approx(11.01)]]
    assert found["clock"] == {"method": "arrival", "rate": 1.0, "error_s": 2e-4}
    assert found["energy_j"] == pytest.approx(0.999 + 0.011 * 2 + 0.989 * 3)
    assert found["mean_w"] == pytest.approx(found["energy_j"] / found["duration_s"])
    text = run("show", stored).stdout
    assert "10 (0.5000%) in 1 gaps" in text
    assert "arrival, +0.0 ppm, error 200 µs" in text


def test_the_plot_shows_the_step_and_leaves_a_gap_empty(tmp_path: Path) -> None:
    t_s = np.concatenate([np.arange(0, 4, 0.01), np.arange(6, 10, 0.01)])
    trace = PowerTrace(t_s, np.where(t_s < 5, 1.0, 2.0), 100.0, "m", "c", "measured", ((3.99, 6.0),), 200)
    rows = [
        line.split("┤")[1]
        for line in run("show", traces.write_trace(trace, tmp_path / "a.json")).stdout.splitlines()
        if "┤" in line
    ]
    drawn = [[k for k, c in enumerate(row) if c == "█"] for row in rows]
    assert drawn[0] == list(range(43, 72))  # 2 W from the sixth second on
    assert drawn[5] == list(range(29))  # 1 W until the fourth
    assert [k for k in range(72) if not any(row[k] == "█" for row in rows)] == list(range(29, 43))


def test_show_reads_with_the_options_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("stamp,I,extra\n0,100,x\n10,200,y\n")
    found = document(
        "show", path, "--time", "stamp:ms", "--column", "current=I:mA", "--voltage-v", "2", "--source", "simulated"
    )
    assert (found["max_w"], found["duration_s"], found["source"]) == (0.4, 0.01, "simulated")
    assert document("show", path, "--rate-hz", "50", "--column", "power=I:mW")["end_s"] == 0.02
    fails("write ROLE=NAME:UNIT with a role of time, power", "show", path, "--column", "energy=I:mJ")
    fails("say power=COLUMN:UNIT", "show", path, "--time", "stamp:ms")
    fails("has no option 'run'", "show", path, "--run", "1")


def test_energies_per_sample_count_from_the_start_of_the_first_period(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xf1" + np.array([1000.0, 2e6, 4e6], "<f4").tobytes())
    found = document("show", tmp_path / "a.bin")
    assert found["energy_j"] == pytest.approx(6.0)
    assert found["mean_w"] == pytest.approx(3000.0)


def test_show_lists_the_windows_a_file_reports(tmp_path: Path) -> None:
    (tmp_path / "trace1-energy.bin").write_bytes(b"\xf1" + np.array([1000.0, *[5.0] * 100], "<f4").tobytes())
    (tmp_path / "trace1-timestamps.json").write_text("[0.01, 0.05]")
    (window,) = document("show", tmp_path / "trace1-energy.bin")["windows"]
    assert window == {"start_s": 0.01, "end_s": 0.05, "label": "window 1", "runs": 0, "energy_j": None}
    assert "window 1" in run("show", tmp_path / "trace1-energy.bin").stdout


@pytest.mark.parametrize("suffix", traces.SUFFIXES)
def test_convert_keeps_everything(stored: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"b{suffix}"
    found = document("convert", stored, out)
    assert (found["samples"], found["dropped"], found["source"]) == (1990, 10, "simulated")
    assert found["sha256"] == traces.hash_trace(traces.read_trace(stored))
    before, after = document("show", stored), document("show", out)
    changed = {k for k in before if before[k] != after[k]}
    assert changed <= {"file", "format"}
    assert "1990 samples written" in run("convert", stored, tmp_path / f"c{suffix}").stdout


def test_a_recording_cut_short_says_so(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.trace", TraceHeader("m", "c", "simulated", 100.0)) as writer:
        writer.append(np.arange(50), np.ones(50))
    result = run("show", tmp_path / "a.trace")
    assert result.exit_code == 0
    assert "note: cut short: the recording was never finished" in result.stdout
    converted = document("convert", tmp_path / "a.trace", tmp_path / "b.csv")
    assert any("cut short" in w for w in converted["warnings"])


def test_files_that_cannot_be_read_or_written(stored: Path, tmp_path: Path) -> None:
    fails("no trace at", "show", tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    fails("is empty; record again", "show", tmp_path / "empty.csv")
    (tmp_path / "junk.csv").write_bytes(np.random.default_rng(0).bytes(5000))
    fails("no trace of a known format", "show", tmp_path / "junk.csv")
    fails("did you mean csv", "show", tmp_path / "empty.csv", "--format", "cvs")
    with TraceWriter(tmp_path / "none.trace", TraceHeader("m", "c", "simulated", 100.0)) as writer:
        writer.finish()
    fails("has no samples", "show", tmp_path / "none.trace")
    result = run("convert", stored, tmp_path / "b.xlsx")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: cannot write 'b.xlsx'; name a .trace, .parquet, .csv or .json file"
