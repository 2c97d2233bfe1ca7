"""Random graphs that ONNX Runtime runs: deepen's shapes and work are the runtime's, or said to be unknown."""

from __future__ import annotations

import pytest

from tests.support.operator_graphs import check_seed, list_operators

OPERATORS = ("Abs", "Add", "Sigmoid", "Transpose", "Unsqueeze", "Gather", "ReduceSum", "Concat", "Shape", "Softmax")
"""Operators on which ONNX Runtime does not abort; ``tools/bench/operator_graphs.py`` draws all."""


@pytest.mark.parametrize("operator", OPERATORS)
def test_shapes_and_work_are_the_runtimes_or_named(operator: str) -> None:
    drawn = (check_seed(f"{operator} {seed}", (operator, *more)) for seed in range(20) for more in ((), ("Neg",)))
    checks = [check for check in drawn if check is not None]
    assert checks, "ONNX Runtime takes none of them"
    assert not [check for check in checks if check.outcome == "violation"]


def test_operators_come_from_the_runtime() -> None:
    assert set(OPERATORS) < set(list_operators())
