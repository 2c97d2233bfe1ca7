"""``deepen score``: the JSON contract, the tables, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from deepen.cli import cli

ROWS = "device,model,delegate,mean_power_w,energy_per_inference_j\n" + "".join(
    f"{device},m{i},{delegate},{power},{(i + 1) * energy * (1.1 if delegate == 'gpu' else 1)}\n"
    for device, power, energy in (("beta", 2, 0.1), ("alpha", 3, 0.2), ("gamma", 1, 0.4))
    for i in range(9)
    for delegate in ("cpu", "gpu")
)
TDP = "device,tdp_w,pcs_published,iecs_published\nbeta,10,80,200\nalpha,5,40,110\ngamma,4,60,60\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows and device facts, which is the current one."""
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "tdp.csv").write_text(TDP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["score", *args])


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


def test_pcs_in_both_orders(folder: Path) -> None:
    own = document("pcs", "rows.csv", "--tdp", "tdp.csv")
    assert {s["device"]: s["pcs"] for s in own["scores"]} == {"beta": 80, "alpha": 40, "gamma": 75}
    other = document("pcs", "rows.csv", "--tdp", "tdp.csv", "--tdp-order", "published")
    # by name the TDPs are 5, 10, 4
    assert {s["device"]: s["pcs"] for s in other["scores"]} == {"beta": 60, "alpha": 70, "gamma": 75}
    assert [s["pcs_own_tdp"] for s in other["scores"]] == [s["pcs"] for s in own["scores"]]
    assert own["scores"][0]["pcs_published"] == 80


def test_pcs_shows_both_beside_the_published_ones(folder: Path) -> None:
    text = run("pcs", "rows.csv", "--tdp", "tdp.csv").stdout
    assert "PCS, own TDP" in text
    assert "PCS, published order" in text
    assert "0 of 3 published values reproduced" in text
    assert "2 devices are scored with another TDP" in text


def test_iecs_says_that_it_is_a_substitute(folder: Path) -> None:
    found = document("iecs", "rows.csv", "--published", "tdp.csv")
    assert "substitute" in found["formula"]
    assert found["scores"][0]["iecs"] == found["scores"][0]["inferences_per_joule"]
    assert found["agreement"]["devices"] == 3
    assert found["agreement"]["pearson"] > 0.99
    text = run("iecs", "rows.csv").stdout
    assert "a substitute for IECS" in text
    assert "published" not in text


def test_relative_halves_where_energy_doubles(folder: Path) -> None:
    found = document("relative", "rows.csv", "--reference", "beta", "--resamples", "50")
    scores = {s["device"]: s["relative"] for s in found["scores"]}
    assert scores == pytest.approx({"beta": 100, "alpha": 50, "gamma": 25})
    assert [s["rank"] for s in found["scores"]] == [1, 2, 3]
    assert found["scores"][0]["better_than"] == {"alpha": 1.0, "gamma": 1.0}
    first = run("relative", "rows.csv").stdout.splitlines()[2]
    assert first.split()[:3] == ["1", "beta", "200"]


def test_the_same_seed_gives_the_same_intervals(folder: Path) -> None:
    lines = ROWS.replace("0.1\n", "0.17\n")
    (folder / "rows.csv").write_text(lines)
    assert document("relative", "rows.csv", "--seed", "3") == document("relative", "rows.csv", "--seed", "3")


def test_errors_are_one_line(folder: Path) -> None:
    (folder / "less.csv").write_text("device,tdp_w\nbeta,10\n")
    fails("no TDP for alpha, gamma", "pcs", "rows.csv", "--tdp", "less.csv")
    fails("No such file", "iecs", "nothing.csv")
    fails("no column iecs_published with values", "iecs", "rows.csv", "--published", "less.csv")
    fails("unknown device 'delta'", "relative", "rows.csv", "--reference", "delta")
    fails("no column 'dnn'", "relative", "rows.csv", "--key", "dnn")
    assert run("pcs", "rows.csv").exit_code == 2


def test_published_scores_from_the_command_line(shared_dir: Path) -> None:
    site = shared_dir / "data" / "deepen2023"
    arguments = ("pcs", str(site / "app_measurements.csv"), "--tdp", str(site / "published_scores.csv"))
    found = document(*arguments, "--tdp-order", "published")
    assert [s["pcs"] for s in found["scores"]] == [75, 78, 62, 78, 74, 70, 67, 56]
    assert [s["pcs"] for s in document(*arguments)["scores"]] == [63, 57, 80, 78, 83, 63, 67, 67]
    assert "8 of 8 published values reproduced" in run(*arguments).stdout
