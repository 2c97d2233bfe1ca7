"""Workloads are loaded with the values of their inputs, or the record says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.errors import ConfigError, RunError
from deepen.measure import make_workload
from deepen.measure.workload import load_workload
from deepen.records import FilledInput
from deepen.testing.bench import SimulatedBench
from deepen.testing.device import RunCost

LENGTHS = FilledInput("lens", "length", np.array([7]))


class Scripted:
    """A runtime that refuses values, or takes none."""

    name = "scripted"

    def __init__(self, takes_inputs: bool = True, inputs: tuple[dict[str, Any], ...] = ()) -> None:
        self.takes_inputs = takes_inputs
        self.inputs = inputs
        self.outputs: list[dict[str, Any]] = []

    def load(self, path: Path, **options: Any) -> Any:
        if options.get("inputs"):
            raise RunError("m.onnx: index out of range")
        return self


def test_values_reach_the_runtime_and_the_record(model: Path) -> None:
    bench = SimulatedBench(lambda path: RunCost())
    with bench.session() as session:
        record = session.measure(make_workload(model, inputs={"lens": LENGTHS}))
    assert {"lens": [7]} in [{name: v.tolist() for name, v in given.items()} for given in bench.runtime.inputs]
    assert record.inputs == {"lens": {"role": "length", "shape": [1], "low": 7.0, "high": 7.0}}


def test_values_the_model_refuses_are_left_out_with_a_warning_unless_the_user_gave_them(model: Path) -> None:
    work = make_workload(model, inputs={"lens": LENGTHS})
    _, used = load_workload(Scripted(), work, 0)
    assert used.inputs == {}
    (warning,) = used.input_warnings
    assert warning.code == "inputs"
    assert "index out of range" in warning.text
    assert len(warning.text) < 400
    with pytest.raises(RunError):
        load_workload(Scripted(), make_workload(model, inputs={"lens": replace(LENGTHS, role="given")}), 0)


def test_a_runtime_that_makes_up_values_is_said_and_takes_none(model: Path) -> None:
    _, used = load_workload(Scripted(takes_inputs=False), make_workload(model, inputs={"lens": LENGTHS}), 0)
    assert "makes up the values" in used.input_warnings[0].text
    with pytest.raises(ConfigError, match="takes no values of inputs"):
        load_workload(
            Scripted(takes_inputs=False), make_workload(model, inputs={"lens": replace(LENGTHS, role="given")}), 0
        )


def test_integers_nobody_knows_the_meaning_of_and_empty_outputs_are_warnings(model: Path) -> None:
    runtime = Scripted(inputs=({"name": "ids", "shape": [1], "type": "tensor(int64)"},))
    runtime.outputs = [{"name": "y", "shape": [0, 2]}]
    _, used = load_workload(runtime, make_workload(model), 0)
    assert ["input 'ids' is 0" in w.text or "output 'y' (0x2)" in w.text for w in used.input_warnings] == [True, True]


def test_given_values_are_part_of_the_identity(model: Path) -> None:
    ids = {
        make_workload(model, inputs={"lens": FilledInput("lens", role, np.array([value]))}).id
        for role in ("given", "length")
        for value in (7, 8)
    }
    assert len(ids) == 3
    assert make_workload(model).id in ids
