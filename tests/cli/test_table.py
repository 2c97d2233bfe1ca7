"""``deepen table``: JSON, words, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepen.cli import cli
from deepen.spaces.nasbench201_networks import SIZE, get_cell_at_index, parse_cell
from deepen.testing.synthetic import train_synthetic_predictor

COST = {"none": 0.1, "skip_connect": 0.2, "nor_conv_1x1": 1.0, "nor_conv_3x3": 4.0, "avg_pool_3x3": 0.5}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A predictor trained on simulated kernels."""
    return train_synthetic_predictor(tmp_path_factory.mktemp("predictor") / "bench.deepen")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a CSV file of networks, which is the current one."""
    rng = np.random.default_rng(0)
    lines = ["arch,energy_mJ,accuracy"]
    for number in rng.permutation(SIZE)[:200]:
        cell = get_cell_at_index(int(number))
        cost = 1.0 + sum(COST[name] for name in parse_cell(cell))
        lines.append(f"{cell},{cost:.4f},{100 * (1 - 1 / cost) * (0.9 + 0.1 * rng.random()):.3f}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["table", *args])


def document(*args: str) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def fails(message: str, *args: str) -> None:
    result = run(*args)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr


def test_import_query_and_search(folder: Path) -> None:
    found = document("import", "rows.csv", "t", "--space", "nasbench201", "--source", "simulated")
    assert (found["networks"], found["source"]) == (200, "simulated")
    assert {c["name"]: c["unit"] for c in found["columns"]} == {"energy_j": "J", "accuracy": ""}
    assert "200 networks" in run("query", "t").stdout
    row = document("query", "t", "--index", "7")
    assert document("query", "t", "--hash", row["hash"]) == document("query", "t", "--arch", row["arch"]) == row
    some = document("query", "t", "--where", "energy_j=:0.01", "--where", "accuracy=0.8:", "--limit", "3")
    assert len(some["shown"]) == 3 <= some["rows"]
    assert all(r["energy_j"] <= 0.01 and r["accuracy"] >= 0.8 for r in some["shown"])
    front = document("query", "t", "--front", "-o", "energy_j", "-o", "accuracy")
    energies = [p["energy_j"] for p in front["front"]]
    assert energies == sorted(energies)
    assert front["extremes"]["energy_j"] == front["front"][0]
    assert front["knee"] in front["front"]
    result = document("search", "t", "--queries", "50", "--optimiser", "semoa")
    assert (result["evaluated"], result["spent"]["queries"]) == (50, 50)
    assert 0 < result["quality"]["recall"] <= 1


def test_a_search_is_logged_and_resumed(folder: Path) -> None:
    run("import", "rows.csv", "t", "--space", "nasbench201")
    assert document("search", "t", "-n", "30", "--log", "log.jsonl")["resumed"] == 0
    went_on = document("search", "t", "-n", "60", "--log", "log.jsonl", "--resume")
    assert went_on["resumed"] == 30
    assert went_on["front"] == document("search", "t", "-n", "60")["front"]
    fails("--resume", "search", "t", "--log", "log.jsonl")
    fails("one run", "search", "t", "--log", "other.jsonl", "--seeds", "3")


def test_optimisers_are_compared_over_seeds(folder: Path) -> None:
    run("import", "rows.csv", "t", "--space", "nasbench201")
    found = document("search", "t", "-n", "40", "-m", "semoa", "-m", "random", "--seeds", "4")
    assert [s["optimiser"] for s in found["series"]] == ["semoa", "random"]
    assert found["compared"][0]["seeds"] == 4
    words = run("search", "t", "-n", "40", "-m", "semoa", "-m", "random", "--seeds", "4").stdout
    assert "Wilcoxon p" in words


def test_rows_are_exported(folder: Path) -> None:
    run("import", "rows.csv", "t", "--space", "nasbench201")
    assert run("query", "t", "--where", "accuracy=0.8:", "--export", "out.csv").exit_code == 0
    lines = (folder / "out.csv").read_text().splitlines()
    assert lines[0] == "hash,arch,energy_j,accuracy"
    assert run("query", "t", "--export", "-").stdout.splitlines()[0] == lines[0]


def test_a_whole_space_is_predicted_with_intervals(folder: Path, predictor: Path) -> None:
    found = document("build", "nb201", "--space", "nasbench201", "--predictor", str(predictor))
    assert (found["networks"], found["rows"], found["source"]) == (15625, 15625, "predicted")
    assert found["learnt_from"] == "simulated"
    assert found["predictor"]
    row = document("query", "nb201", "--index", "1000")
    assert 0 < row["energy_low_j"] < row["energy_j"] < row["energy_high_j"]
    assert row["arch"] == get_cell_at_index(1000)


def test_predictions_of_a_table_are_those_of_the_network_itself(folder: Path, predictor: Path) -> None:
    import deepen
    from deepen.spaces.nasbench201_networks import build_model

    cell = get_cell_at_index(4321)
    (folder / "archs.txt").write_text(cell + "\n")
    run("build", "one", "--space", "nasbench201", "--predictor", str(predictor), "--archs", "archs.txt")
    (folder / "net.onnx").write_bytes(build_model(cell).SerializeToString())
    alone = deepen.load_predictor(predictor).predict(folder / "net.onnx")
    row = document("query", "one", "--index", "0")
    assert row["energy_j"] == pytest.approx(alone.energy_j, rel=1e-9)
    assert [row["energy_low_j"], row["energy_high_j"]] == pytest.approx(list(alone.interval_j), rel=1e-6)


def test_a_users_space_is_predicted(folder: Path, predictor: Path) -> None:
    (folder / "mine.py").write_text(
        "from deepen.spaces.nasbench201_networks import get_cell_at_index, build_model\n"
        "def networks():\n"
        "    for n in (0, 7000):\n"
        "        yield {'n': n}, build_model(get_cell_at_index(n), weights=False)\n"
    )
    found = document("build", "mine", "--space", "mine.py:networks", "--predictor", str(predictor))
    assert found["networks"] == 2
    assert (
        document("query", "mine", "--arch", "n=7000")["energy_j"]
        > document("query", "mine", "--arch", "n=0")["energy_j"]
    )


def test_a_surrogate_learns_from_a_sample(folder: Path) -> None:
    run("import", "rows.csv", "sample", "--space", "nasbench201")
    found = document("build", "all", "--space", "nasbench201", "--surrogate", "sample")
    assert found["report"]["kendall"] > 0.9
    assert found["networks"] == 15625
    columns = {c["name"]: c for c in found["columns"]}
    assert columns["measured_energy_j"]["rows"] == 200
    assert [columns[c]["source"] for c in ("energy_j", "measured_energy_j")] == ["predicted", "published"]
    assert found["learnt_from"] == columns["energy_j"]["learnt_from"] == "published"
    joined = document(
        "build", "joined", "--space", "nasbench201", "--surrogate", "sample", "--target", "accuracy", "--join", "all"
    )
    assert {"accuracy", "energy_j"} <= {c["name"] for c in joined["columns"]}


def test_errors_are_one_line(folder: Path) -> None:
    run("import", "rows.csv", "t", "--space", "nasbench201")
    fails("no table here", "query", "nowhere")
    fails("number 999", "query", "t", "--index", "999")
    fails("did you mean", "query", "t", "--where", "acuracy=0.5:")
    fails("COLUMN=LOW:HIGH", "query", "t", "--where", "accuracy")
    fails("are numbers", "query", "t", "--where", "accuracy=good")
    fails("mean or random", "query", "t", "--index", "1", "--repeat", "best")
    fails("--grid", "search", "t", "-o", "carbon_g", "-o", "accuracy")
    fails("nasbench201", "build", "x", "--space", "nasbench21", "--predictor", "p")
    fails("give one of them", "build", "x", "--space", "nasbench201")
    fails("too large to list", "build", "x", "--space", "nasbench101", "--surrogate", "t")
    fails("unknown layout", "import", "rows.csv", "x", "--layout", "cvs")
    assert run("build").exit_code == 2
