"""``deepen lifecycle``: JSON, words, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deepen.cli import cli

ROWS = (
    "name,accuracy,training_MJ,inference_J,training_uncertainty,inference_uncertainty\n"
    "early,0.70,1,4,{u},{u}\nbetween,0.70,7,3.5,{u},{u}\nlate,0.70,9,1,{u},{u}\n"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with candidates, which is the current one."""
    (tmp_path / "exact.csv").write_text(ROWS.format(u=""))
    (tmp_path / "doubt.csv").write_text(ROWS.format(u="5 %"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["lifecycle", *args])


def document(*args: str) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fails(message: str, *args: str) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr


def test_regimes_and_break_even(folder: Path) -> None:
    found = document("exact.csv", "--usage", "3 million")
    assert [(r["candidate"], r["from"], r["to"]) for r in found["regimes"]] == [
        ("early", 0.0, pytest.approx(8e6 / 3, rel=1e-12)),
        ("late", pytest.approx(8e6 / 3, rel=1e-12), None),
    ]
    assert found["regimes"][0]["words"] == "early: cheapest below 2.7 million inferences"
    assert found["never_best"] == ["between"]
    assert {(b["a"], b["b"]) for b in found["break_even"]} == {
        ("early", "between"),
        ("early", "late"),
        ("between", "late"),
    }
    at = found["at"][0]
    assert at["inferences"] == 3e6
    assert [r["candidate"] for r in at["ranking"]] == ["late", "early", "between"]
    assert at["ranking"][0]["energy_j"] == 12e6
    assert found["draws"] == 0
    assert found["regimes"][0]["confidence"] is None


def test_uncertainty_and_pue_and_carbon(folder: Path) -> None:
    found = document("doubt.csv", "--pue", "1.5", "--grid", "360", "--usage", "1e6", "--draws", "500")
    assert found["draws"] == 500
    late = found["regimes"][1]
    assert late["from"] == pytest.approx(1.5 * 8e6 / 3)
    low, high = late["from_spread"]["interval"]
    assert low < late["from"] < high
    first = found["at"][0]["ranking"][0]
    assert first["training_j"] == pytest.approx(1.5e6)
    assert first["carbon_g"] == pytest.approx((1.5e6 + 4e6) * 1e-4)
    assert sum(r["probability"] for r in found["at"][0]["ranking"]) == pytest.approx(1)
    assert document("doubt.csv", "--seed", "4") == document("doubt.csv", "--seed", "4")


def test_compare_orders_and_plot(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra 'report'")
    result = run("doubt.csv", "--compare", "late", "early", "--orders", "--plot", "life.svg", "--usage", "1e7")
    assert result.exit_code == 0, result.stderr
    assert "late overtakes early at 2.7 million inferences (95 %: " in result.stdout
    assert "early < between < late" in result.stdout
    assert "wrote life.svg" in result.stderr
    assert (folder / "life.svg").read_text().lstrip().startswith("<?xml")


def test_errors_are_one_line(folder: Path) -> None:
    fails("No such file", "nothing.csv")
    fails("PUE of 0.5 is impossible", "exact.csv", "--pue", "0.5")
    fails("'few' is no number of inferences", "exact.csv", "--usage", "few")
    fails("unknown candidate 'lat'; did you mean late", "exact.csv", "--compare", "lat", "early")
    fails("needs carbon intensities", "exact.csv", "--objective", "carbon")
    fails("no candidate reaches an accuracy", "exact.csv", "--min-accuracy", "80 %")
    fails("a plot ends in", "exact.csv", "--plot", "life.txt")
    fails("tau -1", "exact.csv", "--tau", "-1")


def test_many_candidates_and_orders(folder: Path) -> None:
    lines = [f"c{i},0.7,{1 + i * i},{1 / (1 + i)}" for i in range(70)]
    (folder / "many.csv").write_text("name,accuracy,training_MJ,inference_J\n" + "\n".join(lines))
    fails("70 candidates have too many orders", "many.csv", "--orders")
    text = run("many.csv").stdout
    assert text.splitlines()[0].startswith("c0: cheapest below")
    assert "more regimes" in text
    assert len(document("many.csv")["regimes"]) == 70
