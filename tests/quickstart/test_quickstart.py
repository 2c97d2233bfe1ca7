"""The whole job on a simulated bench whose kernel energies are known, and what stops it."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from deepen.cli import cli
from deepen.datasets import Dataset
from deepen.errors import ConfigError, DatasetError, GraphError
from deepen.graph import load_graph
from deepen.kernels.splitting.split import split_graph
from deepen.predictors import load_predictor
from deepen.quickstart import QuickstartOptions, list_reference_models, make_result_document, run_quickstart
from deepen.testing import RunCost, SimulatedBench

POWER_W = 2.0
OWN, OWN_SHAPES = "squeezenet.onnx", {"x": (4, 64)}


@cache
def _true_energy(path: str, _stamp: float) -> float:
    """A made-up machine: energy per multiply-accumulate, per other operation and per byte, and per kernel."""
    kernels = split_graph(load_graph(path, OWN_SHAPES if Path(path).name == OWN else None)).kernels
    work = sum(
        k.multiplicity * (2e-11 * k.macs + 5e-11 * k.ops + 4e-11 * (k.bytes_read + k.bytes_written) + 1e-6)
        for k in kernels
    )
    return work + 4e-6  # one call


def simulated_cost(path: Path) -> RunCost:
    if path.stem in ("reference", "empty"):
        return RunCost(latency_s=1e-3, power_w=POWER_W)
    return RunCost(latency_s=_true_energy(str(path), path.stat().st_mtime) / POWER_W, power_w=POWER_W)


class BenchTime:
    """Time of whichever bench was opened last; it stands still before the first, and never goes back."""

    def __init__(self) -> None:
        self._now = lambda: 0.0
        self._offset_s = 0.0

    def now(self) -> float:
        return self._offset_s + self._now()

    def follow(self, now) -> None:
        self._offset_s, self._now = self.now() - now(), now


@pytest.fixture
def bench(monkeypatch):
    opened = []
    time = BenchTime()

    @contextmanager
    def open_simulated(device="local", meter=None, *, tell, **options):
        made = SimulatedBench(simulated_cost)
        time.follow(made.clock.now)
        opened.append((device, meter, options))
        with made.session(**options) as session:
            yield session

    monkeypatch.setattr("deepen.measure.open_session", open_simulated)
    # Minutes are counted in time of the bench: how many kernels fit into them must depend on no processor.
    monkeypatch.setattr("deepen.clock.host_clock.monotonic_s", time.now)
    return opened


@pytest.fixture
def own_model(tmp_path):
    """A user's model with a symbolic batch, named like one of the nine."""
    weight = numpy_helper.from_array(np.full((64, 48), 0.1, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 48])],
        [weight],
    )
    path = tmp_path / OWN
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


class StopAfter:
    """Presses Ctrl-C when a stage has gone so far."""

    def __init__(self, stage: str, done: int) -> None:
        self.stage, self.done = stage, done
        self.pressed = False

    def __call__(self, progress) -> None:
        if not self.pressed and progress.stage == self.stage and progress.done >= self.done:
            self.pressed = True
            raise KeyboardInterrupt


@pytest.mark.slow
def test_unseen_models_are_predicted_near_the_known_energy_and_a_second_run_adds(tmp_path, bench, own_model):
    out = tmp_path / "out"
    found = run_quickstart(QuickstartOptions(out, minutes=0.7, models=(own_model,), shapes=OWN_SHAPES, meter="m"))
    assert bench[0][:2] == ("local", "m")
    names = [model.name for model in found.models]
    assert len(names) == len(set(names)) == 10
    assert names[-1] == "squeezenet-2"
    for model in found.models[:9]:
        assert model.seen_share == 0.0
        assert model.prediction.coverage == 1.0
        assert model.measured_source == "simulated"
        assert model.measured_j > 0
        assert math.isfinite(model.measured_cv)
        assert abs(model.error) < 0.25, (model.name, model.error)
    assert np.median([abs(m.error) for m in found.models[:9]]) < 0.10
    assert found.measured_source == found.learnt_from == "simulated"
    assert not found.interrupted
    written = json.loads((out / "result.json").read_text())
    assert written["models"][0]["predicted_j"] == found.models[0].prediction.energy_j
    again = load_predictor(out / "quickstart.deepen").predict(list_reference_models()[0])
    assert again.energy_j == pytest.approx(found.models[0].prediction.energy_j, rel=1e-6)

    more = run_quickstart(QuickstartOptions(out, minutes=0.3, meter="m"))
    assert more.kernels_measured > found.kernels_measured
    with pytest.raises(DatasetError, match="thread"):
        run_quickstart(QuickstartOptions(out, minutes=0.3, meter="m", threads=2))


def test_ctrl_c_while_kernels_are_measured_leaves_a_usable_predictor(tmp_path, bench):
    out = tmp_path / "out"
    found = run_quickstart(QuickstartOptions(out, minutes=5), StopAfter("measuring kernels", 60))
    assert found.interrupted
    assert found.kernels_measured >= 55
    assert all(math.isnan(model.measured_j) for model in found.models)
    assert all(model.prediction.energy_j > 0 for model in found.models)
    assert len(make_result_document(found)["models"]) == 9
    assert load_predictor(out / "quickstart.deepen").card["rows"] == found.kernels_measured


def test_ctrl_c_before_the_first_kernel_ends_it(tmp_path, bench):
    with pytest.raises(KeyboardInterrupt):
        run_quickstart(QuickstartOptions(tmp_path / "out", minutes=5), StopAfter("measuring kernels", 0))
    assert not (tmp_path / "out" / "result.json").exists()


def test_ctrl_c_while_models_are_measured_keeps_the_predictions(tmp_path, bench):
    out = tmp_path / "out"
    found = run_quickstart(QuickstartOptions(out, minutes=0.3), StopAfter("measuring models", 4))
    assert found.interrupted
    assert [math.isfinite(model.measured_j) for model in found.models] == [True] * 4 + [False] * 5
    with Dataset.open(out / "models") as kept:
        assert len(kept.model_names()) == 4
    assert all(model.prediction.energy_j > 0 for model in found.models)


def test_a_model_that_cannot_be_taken_stops_it_before_anything_is_measured(tmp_path, bench, own_model):
    with pytest.raises(GraphError, match=r"'x'.*--shape"):
        run_quickstart(QuickstartOptions(tmp_path / "out", models=(own_model,)))
    assert not bench
    assert not (tmp_path / "out").exists()


def test_unfitting_minutes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="minutes"):
        QuickstartOptions(tmp_path, minutes=0)


def test_the_command_prints_table_breakdown_and_places(tmp_path, bench):
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["quickstart", "--out", str(out), "--minutes", "0.3"])
    assert done.exit_code == 0, done.output
    for text in ("resnet50, predicted", "simulated", "Median error", "repeat", str(out / "quickstart.deepen")):
        assert text in done.stdout
    assert "measuring kernels" in done.stderr


def test_what_predicting_had_to_warn_of_is_printed_and_in_the_document(tmp_path):
    from dataclasses import replace

    from deepen.cli.quickstart import render_quickstart
    from deepen.predictors.prediction import Prediction
    from deepen.quickstart import ModelResult, QuickstartResult

    warned = ("a loop of unknown length",)
    prediction = Prediction("m.onnx", 1.0, (0.5, 2.0), 0.0, (), 1.0, (), 0, "p", "simulated", warned)
    found = QuickstartResult(
        (ModelResult("m", prediction, 0.0),),
        tmp_path,
        "local",
        "m",
        "simulated",
        "simulated",
        "fake",
        1,
        0,
        0.0,
        1.0,
        False,
    )
    assert "m: a loop of unknown length" in render_quickstart(found)
    document = make_result_document(found)
    assert document["models"][0]["warnings"] == ["a loop of unknown length"]
    for part in (document, document["models"][0]):
        assert (part["source"], part["learnt_from"]) == ("predicted", "simulated")
    silent = replace(found, models=(ModelResult("m", replace(prediction, warnings=()), 0.0),))
    assert "m: " not in render_quickstart(silent)


def test_the_command_prints_one_document_with_json_and_exits_130_when_interrupted(tmp_path, bench, monkeypatch):
    import deepen.quickstart

    real = deepen.quickstart.run_quickstart
    monkeypatch.setattr(
        deepen.quickstart, "run_quickstart", lambda options, tell: real(options, StopAfter("measuring kernels", 40))
    )
    done = CliRunner().invoke(cli, ["quickstart", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 130
    models = json.loads(done.stdout)["models"]
    assert len(models) == 9
    assert {"name", "predicted_j", "interval_j", "measured_j", "measured_cv"} <= set(models[0])
    assert models[0]["measured_j"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--minutes", "0"], 1, "minutes"),
        (["missing.onnx"], 1, "missing.onnx"),
        (["--device", "lokal"], 1, "did you mean local"),
        (["--meter", "rappl"], 1, "did you mean rapl"),
        (["--threads", "0"], 2, "--threads"),
        (["--shape", "x"], 1, "x"),
        (["--out", "/proc/nowhere/out", "--minutes", "0.3"], 3, "/proc/nowhere"),
    ],
)
def test_bad_input_is_one_line_and_the_contracts_code(arguments, code, words, tmp_path):
    if "--out" not in arguments:
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, ["quickstart", *arguments])
    assert done.exit_code == code
    assert words in done.stderr
    assert done.stdout == ""
    if code != 2:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1
    assert not (tmp_path / "out").exists()
