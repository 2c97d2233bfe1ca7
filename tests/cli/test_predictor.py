"""``deepen predict`` and ``deepen predictor``: documents, tables, exit codes, one-line errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from deepen import predictors
from deepen.cli import cli
from deepen.datasets import Dataset
from deepen.kernels import build_kernel_model


@pytest.fixture(scope="module")
def predictor_file(trained, tmp_path_factory):
    _, _, predictor = trained
    return str(predictor.save(tmp_path_factory.mktemp("cli") / "bench"))


@pytest.fixture(scope="module")
def dataset_folder(trained, tmp_path_factory):
    _, records, _ = trained
    folder = tmp_path_factory.mktemp("cli") / "data"
    with Dataset.open(folder, create=True) as dataset:
        for record in records[::3]:
            dataset.append(record)
    return str(folder)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    params = {
        "dtype": "float32", "batch": 1, "c_in": 16, "c_out": 32, "spatial": [14, 14], "kernel": [3, 3],
        "stride": [1, 1], "dilation": [1, 1], "pads": [1, 1, 1, 1], "groups": 1, "bias": True, "activation": "relu",
    }  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "conv.onnx"
    onnx.save(build_kernel_model("conv-bn-relu", params), path)
    return str(path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command line in an empty home; returns exit code, stdout and stderr."""
    monkeypatch.setenv("DEEPEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        result = CliRunner().invoke(cli, [str(a) for a in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


def one_line_error(result, *parts):
    code, out, err = result
    assert code == 1 and out == ""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in err
    for part in parts:
        assert part in errors[0]


def test_predict_prints_the_contracts_document(run, predictor_file, model_file):
    code, out, _ = run("predict", model_file, "-p", predictor_file, "--json")
    assert code == 0
    document = json.loads(out)
    fields = "energy_j interval_j overhead_j coverage uncovered extrapolated source predictor kernels"
    assert set(document) >= {*fields.split(), "learnt_from", "device", "runtime", "threads"}
    low, high = document["interval_j"]
    assert 0 < low < document["energy_j"] < high
    assert document["coverage"] == 1.0 and document["uncovered"] == [] and document["source"] == "predicted"
    assert (document["learnt_from"], document["device"], document["threads"]) == ("modelled", "bench", 1)
    assert [k["family"] for k in document["kernels"]] == ["conv-bn-relu"]
    total = document["overhead_j"] + sum(k["energy_j"] for k in document["kernels"])
    assert document["energy_j"] == pytest.approx(total)
    assert set(document["kernels"][0]) >= {"name", "family", "energy_j"}


def test_predict_lists_several_models_in_order(run, predictor_file, model_file):
    code, out, _ = run("predict", model_file, model_file, "-p", predictor_file, "--json")
    assert code == 0 and [d["model"] for d in json.loads(out)] == [model_file, model_file]


def test_predict_renders_headline_label_and_tables(run, predictor_file, model_file):
    code, out, _ = run("predict", model_file, "-p", predictor_file)
    text = " ".join(out.split())  # long paths wrap the lines
    parts = [
        "conv.onnx: ",
        "per inference (90 %: ",
        "predicted (learnt from modelled data), on bench with onnxruntime, 1 thread",
        "100 % of the energy answered by regressors (1 of 1 kernels)",
        "costliest kernels",
    ]
    places = [text.find(part) for part in parts]
    assert code == 0 and -1 not in places and places == sorted(places)
    assert "conv-bn-relu" in out


def test_one_bad_model_has_its_entry_among_the_others(run, predictor_file, model_file):
    models = ("missing.onnx", model_file)
    code, out, err = run("predict", *models, "-p", predictor_file)
    assert code == 1 and "missing.onnx" in err
    assert out.startswith("missing.onnx: error: ") and "conv.onnx: " in out
    for option in ("--json", "--jsonl"):
        code, out, err = run("predict", *models, "-p", predictor_file, option)
        bad, good = json.loads(out) if option == "--json" else map(json.loads, out.splitlines())
        assert code == 1 and "missing.onnx" in err
        assert set(bad) == {"model", "error"} and bad["model"] == "missing.onnx" and good["energy_j"] > 0


def test_several_bad_models_are_all_named(run, predictor_file):
    code, out, err = run("predict", "a.onnx", "b.onnx", "-p", predictor_file)
    assert code == 1 and "a.onnx" in err and "b.onnx" in err
    assert [text.split(":")[0] for text in out.split("\n\n")] == ["a.onnx", "b.onnx"]


def test_a_folder_is_the_models_below_it(run, predictor_file, model_file, tmp_path):
    folder = tmp_path / "models"
    (folder / "b").mkdir(parents=True)
    data = Path(model_file).read_bytes()
    for name in ("z.onnx", "b/a.ONNX"):
        (folder / name).write_bytes(data)
    (folder / "note.txt").write_text("no model")
    (folder / "out.onnx").symlink_to(model_file)  # leads out of the folder
    (folder / "in.onnx").symlink_to(folder / "z.onnx")
    code, out, _ = run("predict", folder, "-p", predictor_file, "--json")
    assert code == 0
    assert [d["model"] for d in json.loads(out)] == [str(folder / n) for n in ("b/a.ONNX", "in.onnx", "z.onnx")]
    (tmp_path / "empty").mkdir()
    one_line_error(run("predict", tmp_path / "empty", "-p", predictor_file), "empty", "no .onnx file")


def test_every_kernel_goes_to_a_csv_file_whatever_is_shown(run, predictor_file, model_file, tmp_path):
    code, out, _ = run("predict", model_file, model_file, "-p", predictor_file, "--csv", tmp_path / "k.csv", "--json")
    rows = list(csv.DictReader((tmp_path / "k.csv").read_text("utf-8").splitlines()))
    kernels = [k for d in json.loads(out) for k in d["kernels"]]
    assert code == 0 and [float(r["energy_j"]) for r in rows] == [k["energy_j"] for k in kernels]
    assert {r["model"] for r in rows} == {model_file} and rows[0]["op_types"] == "+".join(kernels[0]["op_types"])
    assert kernels[0]["bound"] in ("compute", "memory", "call") and kernels[0]["macs"] > 0
    assert kernels[0]["pj_per_mac"] == pytest.approx(1e12 * kernels[0]["energy_j"] / kernels[0]["macs"])


def test_json_and_json_lines_exclude_each_other(run, predictor_file, model_file):
    assert run("predict", model_file, "-p", predictor_file, "--json", "--jsonl")[0] == 2


@pytest.mark.parametrize("columns", [40, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(run, predictor_file, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "a very/long\nname\x1b[31m" + 300 * "/layer.3"
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"], name=f"{name}/{i}/Relu") for i in range(60)]
    shape = [1, 8, 16, 16]
    graph = helper.make_graph(nodes, "g", [value("t0", 1, shape)], [value("t60", 1, shape)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "long.onnx")
    code, out, _ = run("predict", "long.onnx", "-p", predictor_file)
    assert code == 0 and max(map(len, out.splitlines())) <= columns and "\x1b" not in out
    assert "60x" in out and len(out.splitlines()) < 30
    code, out, _ = run("kernel", "split", "long.onnx")
    assert code == 0 and max(map(len, out.splitlines())) <= columns and len(out.splitlines()) < 30


def test_predict_refuses_a_corrupt_model(run, predictor_file, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    one_line_error(run("predict", "bad.onnx", "-p", predictor_file), "bad.onnx")


def test_predict_refuses_unknown_predictors_shapes_and_runtimes(run, predictor_file, model_file, trained, tmp_path):
    trained[2].save(tmp_path / "home" / "predictors" / "bench")
    one_line_error(run("predict", model_file, "-p", "bnech"), "unknown predictor 'bnech'", "did you mean bench")
    one_line_error(run("predict", model_file, "-p", "none.deepen"), "none.deepen", "no such file")
    one_line_error(run("predict", model_file, "-p", predictor_file, "--shape", "x"), "x")
    one_line_error(run("predict", model_file, "-p", predictor_file, "--runtime", "onxruntime"), "onxruntime")
    assert run("predict", model_file, "-p", "bench")[0] == 0


def test_predict_without_a_model_or_predictor_is_wrong_usage(run, model_file):
    assert run("predict")[0] == 2
    assert run("predict", model_file)[0] == 2


def test_uncovered_kernels_are_named_and_counted(run, model_file, world_of, dataset_of, tmp_path):
    path = predictors.train_predictor(dataset_of(world_of(60).kernels(20, ("relu", "fc")))).save(tmp_path / "p")
    code, out, err = run("predict", model_file, "-p", path, "--json")
    document = json.loads(out)
    assert code == 0 and document["coverage"] == 0.0 and len(document["uncovered"]) == 1
    assert document["kernels"][0]["method"] == "roofline" and document["energy_j"] > 0
    _, out, err = run("predict", model_file, "-p", path)
    assert "roofline" in out and "no regressor for conv-bn-relu" in err


def test_train_writes_a_predictor_that_evaluate_and_card_read(run, dataset_folder, tmp_path):
    out = tmp_path / "new" / "mine"
    code, text, progress = run(
        "predictor", "train", dataset_folder, "--out", out, "--recipe", "lightgbm", "--seed", 3, "--json"
    )
    document = json.loads(text)
    assert code == 0 and document["path"] == f"{out}.deepen" and document["card"]["seed"] == 3
    assert "conv-bn-relu" in progress
    code, text, _ = run("predictor", "evaluate", document["path"], dataset_folder, "--json")
    report = json.loads(text)
    assert code == 0
    assert set(report["overall"]) >= {"n", "acc5", "acc10", "acc20", "mape", "rmspe", "spearman"}
    assert set(report["families"]["fc"]) >= {"n", "acc5", "acc10", "acc20", "mape", "rmspe", "spearman"}
    assert report["overall"]["n"] == document["card"]["rows"]
    code, text, notes = run("predictor", "evaluate", document["path"], dataset_folder)
    assert code == 0 and "all kernels" in text and "whole models" in text and "not held out" in notes
    code, text, _ = run("predictor", "card", document["path"], "--json")
    assert json.loads(text) == document["card"]
    code, text, _ = run("predictor", "card", document["path"])
    assert code == 0 and "held out" in text and "lightgbm" in text and "modelled" in text


def test_train_refuses_unknown_recipes_datasets_and_places(run, dataset_folder, tmp_path):
    one_line_error(
        run("predictor", "train", dataset_folder, "--out", "x", "--recipe", "lightgb"), "did you mean lightgbm"
    )
    one_line_error(run("predictor", "train", tmp_path / "none", "--out", "x"), "none")
    (tmp_path / "file").write_text("")
    code, out, err = run("predictor", "train", dataset_folder, "--out", "file/x", "--recipe", "roofline")
    assert code == 3 and out == "" and "cannot write the predictor" in err
    assert run("predictor", "train", dataset_folder)[0] == 2


def test_card_and_evaluate_refuse_foreign_files(run, dataset_folder, tmp_path):
    (tmp_path / "x.deepen").write_text("hello")
    one_line_error(run("predictor", "card", "x.deepen"), "x.deepen", "not a predictor file")
    one_line_error(run("predictor", "evaluate", "x.deepen", dataset_folder), "x.deepen", "not a predictor file")


def test_list_shows_names_and_broken_files(run, trained, tmp_path):
    code, out, _ = run("predictor", "list")
    assert code == 0 and "predictor train" in out
    trained[2].save(tmp_path / "home" / "predictors" / "bench")
    (tmp_path / "home" / "predictors" / "old.deepen").write_text("junk")
    code, out, _ = run("predictor", "list", "--json")
    entries = {e["name"]: e for e in json.loads(out)}
    assert code == 0 and entries["bench"]["device"] == "bench" and entries["bench"]["learnt_from"] == "modelled"
    assert "not a predictor file" in entries["old"]["error"]
    assert "bench" in run("predictor", "list")[1]


@pytest.mark.parametrize(
    "command", [["predict"], ["predictor"], *(["predictor", c] for c in ("list", "train", "evaluate", "card"))]
)
def test_help_has_an_example(run, command):
    code, out, _ = run(*command, "-h")
    assert code == 0 and "Example:" in out


def _walk(value):
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _walk(part)


@pytest.mark.parametrize("label", ["measured", "published", "modelled", "simulated"])
def test_no_document_calls_a_predicted_number_measured(run, world_of, dataset_of, model_file, tmp_path, label):
    records = world_of(21, source=label).kernels(12, ("relu", "conv-bn-relu"))
    path = str(predictors.train_predictor(dataset_of(records)).save(tmp_path / "p"))
    candidates, archs, table = tmp_path / "c.csv", tmp_path / "archs.txt", str(tmp_path / "table")
    candidates.write_text(f"name,accuracy,model\na,0.7,{model_file}\nb,0.8,{model_file}\n")
    archs.write_text("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|\n")
    for command in (
        ("predict", model_file, "-p", path),
        ("lifecycle", str(candidates), "--predictor", path),
        ("table", "build", table, "--space", "nasbench201", "--predictor", path, "--archs", str(archs)),
        ("table", "query", table),
        ("table", "query", table, "--where", "energy_j=0:"),
        ("table", "query", table, "--index", "0"),
    ):
        code, out, error = run(*command, "--json")
        assert code == 0, error
        document = json.loads(out)
        assert (document["source"], document["learnt_from"]) == ("predicted", label)
        named = [part["source"] for part in _walk(document) if part.get("source")]
        assert set(named) == {"predicted"}, command
    assert "predicted" in run("table", "query", table)[1]
