"""``deepen dataset import`` and ``check``: JSON as documented, exit codes, one line on failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepen.cli import cli
from deepen.datasets.importers import IMPORTERS

ROWS = "family,m,k,n,energy_mJ,latency_ms\nfc,1,64,64,0.5,0.2\nfc,1,64,0,0.5,0.2\n"


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    result = CliRunner().invoke(cli, [*arguments], prog_name="deepen")
    return result.exit_code, result.stdout, result.stderr


def test_import_lists_what_it_did(tmp_path: Path) -> None:
    """The JSON document has rows, repaired and rejected with ids and reasons; the dataset is there."""
    file = tmp_path / "mine.csv"
    file.write_text(ROWS)
    code, out, _ = run("dataset", "import", "csv", str(file), "--out", str(tmp_path / "set"), "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["rows"], document["repaired"]) == (1, [])
    assert [sorted(note) for note in document["rejected"]] == [["id", "reason"]]
    code, out, _ = run("dataset", "summary", str(tmp_path / "set"), "--json")
    assert (code, json.loads(out)["families"]) == (0, {"fc": 1})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("no-such", "{folder}"), "unknown importer 'no-such'"),
        (("deepen2023", "{folder}/absent"), "no such folder"),
        (("csv", "{folder}"), "no .csv file there"),
        (("nn-meter", "{folder}"), "no model_latency there"),
        (("layers-and-nets", "{folder}"), "no layers_"),
        (("mlperf-tiny", "{folder}"), "results.txt"),
        (("ec-nas", "{folder}"), "results.json"),
        (("pi5-nasbench201", "{folder}"), "no arch_idx_to_str.csv"),
        (("deepen2023-gpu", "{folder}"), "no conv_energy_GPU.json"),
    ],
)
def test_failures_are_one_line(tmp_path: Path, arguments: tuple[str, str], says: str) -> None:
    """Exit 1, one line that says what and where; no half-made dataset stays."""
    name, folder = arguments
    source = folder.format(folder=tmp_path)
    code, _, err = run("dataset", "import", name, source, "--out", str(tmp_path / "set"))
    assert code == 1
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_the_help_names_every_importer() -> None:
    """Nobody has to read the code to know what can be imported."""
    _, out, _ = run("dataset", "import", "-h")
    assert all(name in out for name in IMPORTERS)
