"""Reading and splitting a model costs in proportion to its nodes, whatever the shape of the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from deepen.graph import load_graph_from_proto
from deepen.kernels.splitting.split import split_graph
from deepen.predictors.kernel_counts import KernelCounts
from tests.support.large_models import LARGE_MODELS

STEP = 48
"""Nodes by which the models grow."""


def count_instructions(work: Callable[[], object]) -> int:
    """Count the bytecode instructions that Python executes: the same number on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite-cpu"])
@pytest.mark.parametrize("shape", LARGE_MODELS)
def test_each_further_node_costs_the_same(shape: str, runtime: str) -> None:
    def read(nodes: int) -> Callable[[], object]:
        model = LARGE_MODELS[shape](nodes)
        return lambda: KernelCounts.from_splits([split_graph(load_graph_from_proto(model), runtime)], ["model"])

    read(STEP)()  # modules are imported and rules read once
    once, twice, thrice = (count_instructions(read(times * STEP)) for times in (1, 2, 3))
    assert thrice - twice < 1.05 * (twice - once)
