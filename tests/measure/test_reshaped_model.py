"""Static sizes are replaced in a copy that is gone afterwards; a model that fits is not copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from deepen.errors import ConfigError
from deepen.measure.reshaped_model import open_reshaped_model


def write_matmul(path: Path, rows: Any) -> Path:
    """Write a matrix product whose weights are in a file beside the model."""
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((64, 64), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [rows, 64])],
        [value("y", TensorProto.FLOAT, [rows, 64])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@pytest.mark.parametrize(("rows", "shapes"), [(2, {}), (2, {"x": (2, 64)}), ("n", {"x": (5, 64)})])
def test_a_model_that_fits_is_not_copied(rows: Any, shapes: Any, tmp_path: Path) -> None:
    path = write_matmul(tmp_path / "m.onnx", rows)
    with open_reshaped_model(path, shapes) as found:
        assert found == path


def test_another_size_runs_with_the_same_weights(tmp_path: Path) -> None:
    path = write_matmul(tmp_path / "m.onnx", 2)
    with open_reshaped_model(path, {"x": (7, 64)}) as copy:
        assert copy.name == path.name
        session = onnxruntime.InferenceSession(str(copy), providers=["CPUExecutionProvider"])
        (out,) = session.run(None, {"x": np.ones((7, 64), dtype=np.float32)})
        assert out.shape == (7, 64)
        assert (out == 64).all()
    assert not copy.parent.exists()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = write_matmul(tmp_path / "m.onnx", 2)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ConfigError, match=r"weights\.bin"), open_reshaped_model(path, {"x": (7, 64)}):
        pass
