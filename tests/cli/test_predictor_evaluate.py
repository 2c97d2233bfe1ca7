"""``deepen predictor evaluate``: a trained predictor, cross-validation, usage errors."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from deepen.cli import cli
from deepen.datasets import Dataset


@pytest.fixture(scope="module")
def folder(world_of, tmp_path_factory):
    """Twelve kernels of each of two families and four models whose kernels are among them."""
    world = world_of(51)
    kernels = world.kernels(12, ("conv-bn-relu", "fc"))
    path = tmp_path_factory.mktemp("evaluate") / "data"
    with Dataset.open(path, create=True) as dataset:
        for record in kernels:
            dataset.append(record)
        for i in range(4):
            parts = tuple(
                {"family": k.family, "params": k.params, "features": k.features, "multiplicity": 1.0}
                for k in kernels[i : i + 9]
            )
            total = sum(k.energy_j for k in kernels[i : i + 9])
            dataset.append(world.record("model", f"net{i}", 1.02 * total, kernels=parts))
    return str(path)


def call(*arguments):
    result = CliRunner().invoke(cli, ["predictor", "evaluate", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_cross_validation_prints_the_contracts_fields(folder):
    code, out, _ = call("--cv", folder, "--recipe", "roofline", "--repeats", 2, "--baseline", "flops", "--json")
    report = json.loads(out)
    assert code == 0 and set(report["families"]) == {"conv-bn-relu", "fc"}
    for found in (report["overall"], report["families"]["fc"], report["baselines"]["flops"]["overall"]):
        assert set(found) >= {"n", "acc5", "acc10", "acc20", "mape", "rmspe", "spearman", "in_interval", "confidence"}


def test_cross_validation_sets_methods_side_by_side(folder):
    code, out, err = call("--cv", folder, "--recipe", "roofline", "--repeats", 2, "--seed", 3)
    assert code == 0 and "[2/2] repeat 2" in err
    assert "70 % to train on, median of 2 repeats; seed 3" in out
    for words in ("DeepEn2023 recipe", "nn-Meter recipe", "95 % confidence", "range over repeats", "acc10 / rmspe"):
        assert words in out


@pytest.mark.parametrize("split", ["leave-family-out", "leave-size-out"])
def test_other_splits(folder, split):
    code, out, _ = call("--cv", folder, "--split", split, "--recipe", "roofline", "--baseline", "none")
    assert code == 0 and split in out and "recipe roofline" in out and "same split" not in out


def test_one_family_only(folder):
    code, out, _ = call("--cv", folder, "--family", "fc", "--recipe", "roofline", "--baseline", "none", "--json")
    assert code == 0 and list(json.loads(out)["families"]) == ["fc"]
    code, _, err = call("--cv", folder, "--family", "fd")
    assert code == 1 and "did you mean fc" in err


def test_a_trained_predictor_beside_baselines_and_its_additivity(folder, trained, tmp_path):
    path = trained[2].save(tmp_path / "bench")
    code, out, _ = call(path, folder, "--trained-on", folder, "--baseline", "flops")
    assert code == 0 and "linear in operations" in out
    assert "sum over whole 0.980 (median)" in out and "predicted / measured kernels" in out
    report = json.loads(call(path, folder, "--json")[1])
    assert report["additivity"]["models"] == 4 and "baselines" not in report


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cv", "a", "b"], "one DATASET with --cv"),
        (["a"], "PREDICTOR and DATASET"),
        (["--cv", "a", "--trained-on", "b"], "--trained-on is for a trained PREDICTOR"),
        (["--cv", "a", "--share", "1"], "--share"),
        (["--cv", "a", "--split", "x"], "--split"),
    ],
)
def test_usage_errors(arguments, words):
    code, out, err = call(*arguments)
    assert code == 2 and out == "" and words in err


def test_unknown_baselines_are_one_line(folder):
    code, out, err = call("--cv", folder, "--baseline", "nnmeter")
    assert code == 1 and out == "" and "did you mean nn-meter" in err
