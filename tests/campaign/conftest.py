"""A session that measures nothing, and small kernels, for the tests of campaigns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from deepen.campaign import KernelItem
from deepen.records import EnergyRecord, Workload


class FakeSession:
    """Answers every workload with a record; says what it was asked.

    Attributes:
        workloads: What was measured, in order, with the model file's existence at that moment.
        before: Called before each measurement with its number (from 0); may raise.
    """

    drift = ((0.0, 0.0), (1.0, 0.02), (2.0, -0.01))

    def __init__(self, before: Callable[[int], None] | None = None) -> None:
        self.workloads: list[tuple[Workload, bool]] = []
        self.before = before or (lambda number: None)

    def measure(self, workload: Workload) -> EnergyRecord:
        number = len(self.workloads)
        self.workloads.append((workload, workload.path.is_file()))
        self.before(number)
        return EnergyRecord(
            id="from the session",
            kind="model",
            name=workload.path.stem,
            energy_j=8.0,
            uncertainty_j=0.8,
            gross_energy_j=16.0,
            latency_s=4.0,
            idle_power_before_w=2.0,
            idle_power_after_w=2.0,
            threads=workload.threads,
            runtime=workload.runtime,
            runtime_build="fake",
            device="bench",
            meter="fake",
            source="simulated",
            runs=10,
            trials=(7.0, 9.0),
            recorded_at="2026-01-02T03:04:05Z",
            rejected=({"reason": "outlier", "energy_j": 80.0},),
            warnings=("few blocks",),
        )


def failing(errors: Iterable[BaseException | None]) -> Callable[[int], None]:
    """Raise these, one per measurement, then nothing more."""
    queue = iter(errors)

    def before(number: int) -> None:
        error = next(queue, None)
        if error is not None:
            raise error

    return before


@pytest.fixture
def fake_session() -> type[FakeSession]:
    """The class of sessions that measure nothing."""
    return FakeSession


@pytest.fixture
def fail_with() -> Callable[[Iterable[BaseException | None]], Callable[[int], None]]:
    """Factory of ``before`` hooks that raise one error per measurement."""
    return failing


@pytest.fixture
def kernels() -> Callable[[int], list[KernelItem]]:
    """Factory of small fully connected kernels, all different."""
    from deepen.kernels.families.catalog import check_params

    def make(count: int) -> list[KernelItem]:
        return [
            KernelItem("fc", check_params("fc", {"dtype": "float32", "m": 1, "k": 8 + i, "n": 4})) for i in range(count)
        ]

    return make


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A model of two kernels."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Softmax", ["y"], ["z"], axis=1)],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [0.1 * i for i in range(12)])],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
