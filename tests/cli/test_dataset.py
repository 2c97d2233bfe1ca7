"""``deepen dataset check|summary|export``: what they print, and one clear line where they cannot."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from deepen.cli import cli
from deepen.datasets import Dataset


def invoke(*arguments: object):
    return CliRunner().invoke(cli, ["dataset", *map(str, arguments)], prog_name="deepen")


@pytest.fixture
def folder(tmp_path, make_record):
    with Dataset.open(tmp_path / "d", create=True) as dataset:
        for index in range(10):
            dataset.append(make_record(index, family="relu" if index % 2 else "fc"))
        dataset.append(make_record(10, kind="model"))
    return tmp_path / "d"


def test_summary_counts_families_and_names_labels(folder):
    result = invoke("summary", folder, "--json")
    document = json.loads(result.stdout)
    assert (document["records"], document["kernels"], document["models"]) == (11, 10, 1)
    assert document["sources"] == {"simulated": 11}
    assert document["groups"]["fc"]["records"] == 5
    assert document["groups"]["fc"]["energy_median_j"] == pytest.approx(5e-6)
    text = invoke("summary", folder).stdout
    assert "11 records: 10 kernels, 1 models" in text
    assert "simulated (simulated 11)" in text
    assert "5.00 µJ" in text


def test_summary_of_a_mixed_dataset_shows_each_label_and_the_weakest(folder, make_record):
    with Dataset.open(folder, create=True) as dataset:
        dataset.append(make_record(20, source="measured"))
    document = json.loads(invoke("summary", folder, "--json").stdout)
    assert (document["source"], document["sources"]) == ("simulated", {"measured": 1, "simulated": 11})


def test_summary_of_an_empty_dataset(tmp_path):
    Dataset.open(tmp_path / "d", create=True).close()
    assert "0 records" in invoke("summary", tmp_path / "d").stdout


def test_reading_commands_change_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for arguments in (["summary", folder], ["check", folder], ["export", folder, folder.parent / "x.csv"]):
        assert invoke(*arguments).exit_code in (0, 1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_check_exits_0_with_nothing_wrong_and_1_with_an_error(folder, make_record):
    result = invoke("check", folder, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ok"]
    with Dataset.open(folder, create=True) as dataset:
        dataset.append(dataclasses.replace(make_record(30), energy_j=-1.0, id="negative"))
    result = invoke("check", folder, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert ["negative"] in [finding["ids"] for finding in document["findings"] if finding["check"] == "impossible"]
    text = invoke("check", folder)
    assert text.exit_code == 1
    assert "energy of zero or less [negative]" in text.stdout


def test_missing_records_are_told_on_stderr(folder):
    with closing(sqlite3.connect(folder / "records.db")) as connection, connection:
        connection.execute("DELETE FROM records WHERE seq = 3")
    result = invoke("summary", folder, "--json")
    assert result.exit_code == 0
    assert "1 of 11 records are missing" in result.stderr
    assert "1 of 11 records are missing" in json.loads(result.stdout)["notes"][0]


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_export_takes_the_format_from_the_ending_or_the_option(folder, tmp_path, form):
    by_ending = invoke("export", folder, tmp_path / f"a.{form}", "--json")
    by_option = invoke("export", folder, tmp_path / "b", "--format", form)
    assert json.loads(by_ending.stdout) == {
        "dataset": str(folder), "file": str(tmp_path / f"a.{form}"), "format": form, "records": 11,
    }  # fmt: skip
    assert by_option.exit_code == 0
    assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["summary", "{tmp}/none"], 1, "no dataset at {tmp}/none; make one with: deepen dataset build"),
        (["check", "{tmp}/none"], 1, "no dataset at"),
        (["export", "{tmp}/none", "{tmp}/x.csv"], 1, "no dataset at"),
        (["export", "{tmp}/d", "{tmp}/x.xls"], 1, "cannot tell the format of 'x.xls'; add --format csv|parquet|jsonl"),
        (["export", "{tmp}/d", "{tmp}/there.csv"], 1, "is there already; choose another name or add --force"),
        (["export", "{tmp}/d", "{tmp}/nowhere/x.csv"], 1, "is not a folder"),
        (["export", "{tmp}/d", "/proc/deepen.csv"], 3, "cannot write /proc/deepen.csv"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(folder, tmp_path, arguments, code, message):
    (tmp_path / "there.csv").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    result = invoke(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == code
    assert message.format(tmp=tmp_path) in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize("command", ["summary", "check"])
def test_a_dataset_of_a_newer_schema_is_one_line(folder, command):
    with closing(sqlite3.connect(folder / "records.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    result = invoke(command, folder)
    assert result.exit_code == 1
    assert "dataset schema 99 is newer than the 2" in result.stderr
    assert result.stderr.rstrip().endswith("upgrade deepen")
