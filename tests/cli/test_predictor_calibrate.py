"""``deepen predictor calibrate`` and ``deepen dataset plan``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from deepen import predictors
from deepen.cli import cli
from deepen.datasets import Dataset


def _run(*args: object):
    return CliRunner().invoke(cli, [str(a) for a in args])


@pytest.fixture
def measured(device_of, tmp_path):
    with Dataset.open(tmp_path / "board", create=True) as dataset:
        dataset.extend(device_of(seed=1).models(20)[0])
    return tmp_path / "board"


def test_calibrate_writes_a_predictor_that_says_where_it_is_from(measured, tmp_path):
    result = _run("predictor", "calibrate", "none", measured, "--out", tmp_path / "board.deepen", "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)["card"]
    assert card["calibrated_from"]["base"] == "none"
    assert card["calibrated_from"]["models"] == 20
    assert predictors.load_predictor(tmp_path / "board.deepen").calibration is not None
    shown = _run("predictor", "card", tmp_path / "board.deepen")
    assert "calibrated from the physical form on 20 models" in shown.output
    judged = _run("predictor", "evaluate", tmp_path / "board.deepen", measured, "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["models"]["mape"] < 10


def test_what_is_missing_is_said_in_one_line(measured, tmp_path):
    for arguments in (("none", tmp_path / "nothing"), ("nobody", measured)):
        result = _run("predictor", "calibrate", *arguments, "--out", tmp_path / "x.deepen")
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "x.deepen").exists()


def test_plan_proposes_kernels_of_a_family_and_the_base_counts(measured, tmp_path):
    result = _run("dataset", "plan", "--family", "relu", "--next", 4, "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)["plan"]
    assert [p["name"].split()[0] for p in plan] == ["relu"] * 4
    assert [p["left"] for p in plan] == sorted((p["left"] for p in plan), reverse=True)
    again = _run("dataset", "plan", "--family", "relu", "--next", 1, "--measured", plan[0]["name"], "--json")
    assert json.loads(again.stdout)["plan"][0]["name"] != plan[0]["name"]


def test_plan_wants_one_kind_of_candidate():
    assert _run("dataset", "plan").exit_code == 2
    assert _run("dataset", "plan", "--family", "relu", "--space", "nasbench201").exit_code == 2


def test_a_model_that_cannot_be_read_is_left_out_and_said(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    result = _run("dataset", "plan", tmp_path / "broken.onnx", "--json")
    assert result.exit_code == 1
    assert "broken.onnx is left out" in result.stderr
