from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from deepen.devices.model_files import hash_model
from deepen.measure.conditions.drift_reference import (
    DriftSeries,
    ReferencePoint,
    write_empty_model,
    write_reference_model,
)


def series(*values: tuple[float, float, float]) -> DriftSeries:
    return DriftSeries([ReferencePoint(*v) for v in values])


def test_change_is_relative_to_the_first_point_and_interpolated() -> None:
    found = series((0.0, 1e-3, 2.0), (10.0, 1e-3, 2.2), (20.0, 1e-3, 1.9))
    assert [t for t, _ in found.relative()] == [0.0, 10.0, 20.0]
    assert [c for _, c in found.relative()] == pytest.approx([0.0, 0.1, -0.05])
    assert found.change_at(5.0) == pytest.approx(0.05)
    assert found.change_at(99.0) == pytest.approx(-0.05)
    assert series((0.0, 1e-3, 2.0)).change_at(5.0) == 0.0


def test_speed_is_against_the_median_and_rescales_a_latency() -> None:
    found = series((0.0, 1.0e-3, 1.0), (10.0, 1.1e-3, 1.0), (20.0, 1.2e-3, 1.0))
    assert found.speed_at(0.0) == pytest.approx(1.1)
    assert found.speed_at(10.0) == pytest.approx(1.0)
    assert found.speed_at(15.0) == pytest.approx(1.1 / 1.15)
    assert DriftSeries().speed_at(3.0) == 1.0


def test_built_in_models_are_valid_and_the_same_everywhere(tmp_path: Path) -> None:
    first = write_reference_model(tmp_path / "a.onnx")
    second = write_reference_model(tmp_path / "b.onnx")
    assert hash_model(first) == hash_model(second)
    for path in (first, write_empty_model(tmp_path / "c.onnx")):
        onnx.checker.check_model(onnx.load(path), full_check=True)
