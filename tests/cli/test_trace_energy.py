"""``deepen trace energy`` on files with known energy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from deepen.cli import cli
from deepen.clock.host_clock import ClockMap
from deepen.records import Accuracy, PowerTrace
from deepen.traces import write_trace

RATE_HZ = 1000.0


@pytest.fixture
def stored(tmp_path: Path):
    """Write a trace of 1 W with 3 W from 4 s to 6 s; returns the file."""

    def make(name: str = "run.trace", **options) -> Path:
        t = np.arange(10_001) / RATE_HZ
        p = np.where((t >= 4) & (t < 6), 3.0, 1.0)
        write_trace(PowerTrace(t, p, RATE_HZ, "bench", "c", "simulated", **options), tmp_path / name)
        return tmp_path / name

    return make


def windows_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "windows.csv"
    path.write_text("start_s,end_s,label\n" + text)
    return str(path)


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(cli, ["trace", "energy", *arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("name", ["run.trace", "run.parquet", "run.csv", "run.json"])
def test_windows_net_of_idle_windows(stored, tmp_path: Path, name: str) -> None:
    given = windows_file(tmp_path, "0.5,3.5,idle\n4.0,6.0,work\n7,9.5,Idle\n")
    found = json.loads(run(str(stored(name)), "--windows", given, "--json").stdout)
    work = found["windows"][1]
    assert (work["start_s"], work["end_s"], work["label"]) == (4.0, 6.0, "work")
    assert work["energy_j"] == pytest.approx(6.0, abs=work["uncertainty_j"])
    assert work["net_j"] == pytest.approx(4.0, abs=work["net_uncertainty_j"])
    assert work["net_uncertainty_j"] < 0.005
    assert work["net_budget"]["sampling"] > 0
    assert work["warnings"] == []
    assert (found["dropped"], found["gaps"], found["loss"], found["source"]) == (0, [], 0.0, "simulated")


def test_a_clock_and_a_stated_accuracy_are_in_the_budget(stored, tmp_path: Path) -> None:
    file = stored(clock=ClockMap(0.0, 0.0, 1.0, 0.01, "arrival"), accuracy=Accuracy(0.01, 0.1, "sheet"))
    found = json.loads(run(str(file), "--windows", windows_file(tmp_path, "4,6,w\n"), "--json").stdout)
    (window,) = found["windows"]
    assert window["budget"]["gain"] == pytest.approx(0.06, rel=1e-3)
    assert window["budget"]["offset"] == pytest.approx(0.2)
    assert window["budget"]["alignment"] == pytest.approx(0.02, rel=0.15)
    assert window["uncertainty_j"] == pytest.approx(2 * sum(v**2 for v in window["budget"].values()) ** 0.5)
    assert found["clock"] == {"method": "arrival", "rate": 1.0, "error_s": 0.01}
    wide = json.loads(
        run(str(file), "--windows", windows_file(tmp_path, "4,6,w\n"), "--edge-error-s", "0.1", "--json").stdout
    )
    assert wide["windows"][0]["budget"]["alignment"] > 0.2


def test_without_windows_all_of_it_counts_and_people_get_a_table(stored) -> None:
    text = run(str(stored()), "--idle-w", "1").stdout
    assert "all" in text
    assert "14.0 J" in text
    assert "4.00 J" in text
    assert "95 %" in text


def test_gaps_are_refused_above_the_limit_and_said_below_it(stored, tmp_path: Path) -> None:
    file = stored(gaps=((5.0, 5.011),), dropped=10)
    given = windows_file(tmp_path, "4,6,work\n1,2,quiet\n")
    assert (
        "'work' (4.000000 to 6.000000 s) touches a gap in the trace of bench: 0.5 % of it has no samples"
        in run(str(file), "--windows", given, code=1).stderr
    )
    found = json.loads(run(str(file), "--windows", given, "--max-loss", "0.01", "--json").stdout)
    assert [[w["code"] for w in x["warnings"]] for x in found["windows"]] == [["gap"], []]
    assert found["dropped"] == 10
    assert found["gaps"] == [[5.0, 5.011]]
    assert found["loss"] == pytest.approx(10 / 10_011)
    assert "loss" in [w["code"] for w in found["warnings"]]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("4,11,w\n", [], "'w' (4.000000 to 11.000000 s) lies outside the trace of bench"),
        ("6,4,w\n", [], "line 2"),
        ("", [], "has no rows"),
        ("1,2,idle\n4,6,w\n", ["--idle-w", "1"], "idle power is given twice"),
        ("4,6,w\n", ["--max-loss", "3"], "lies between 0 and 1, not 3"),
        ("4,6,w\n", ["--edge-error-s", "-1"], "cannot be -1 s"),
    ],
)
def test_what_cannot_be_is_one_line(stored, tmp_path: Path, text: str, options: list[str], expected: str) -> None:
    result = run(str(stored()), "--windows", windows_file(tmp_path, text), *options, code=1)
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_trace_that_lost_too_much_as_a_whole_is_refused(stored) -> None:
    assert "2.91 % of the samples are lost, 0.1 % are allowed" in run(str(stored(dropped=300)), code=1).stderr


def test_every_monsoon_trace_that_is_public_is_integrated(shared_dir: Path) -> None:
    """Energies of the inferences add up to that of the stretch they cover, less the pauses between."""
    folder = shared_dir / "data" / "monsoon_traces" / "live_runs"
    for power in sorted(folder.glob("*_power.csv")):
        marks = power.with_name(power.name.replace("_power", "_inference_time"))
        found = json.loads(run(str(power), "--windows", str(marks), "--max-loss", "1", "--json").stdout)
        spent = found["windows"]
        assert len(spent) > 50
        mean_w = sum(w["energy_j"] for w in spent) / sum(w["end_s"] - w["start_s"] for w in spent)
        (whole,) = json.loads(run(str(power), "--max-loss", "1", "--json").stdout)["windows"]
        idle_w = whole["energy_j"] / (whole["end_s"] - whole["start_s"])
        assert 0.9 * idle_w < mean_w < 3 * idle_w  # inferences fill most of the recording
        assert all(w["uncertainty_j"] > 0 for w in spent)
        for window in spent:
            short = "short-window" in [c["code"] for c in window["warnings"]]
            assert short == ((window["end_s"] - window["start_s"]) * 5000 < 99.9)
