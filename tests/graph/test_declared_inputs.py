"""Declared shapes are read without weights, and a copy with others runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from deepen.errors import GraphError
from deepen.graph.declared_inputs import read_declared_shapes, write_model_with_shapes


def test_sizes_symbols_and_open_dimensions_are_told_apart(models: Any, save: Any) -> None:
    assert read_declared_shapes(save(models.convnet("N", 8))) == {"x": ("N", 3, 8, 8)}
    assert read_declared_shapes(save(models.convnet(1, 0))) == {"x": (1, 3, 0, 0)}


@pytest.mark.parametrize("content", [b"no model", b""])
def test_what_is_no_model_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError):
        read_declared_shapes(path)


def test_a_copy_runs_with_the_shapes_it_was_written_for(models: Any, save: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    write_model_with_shapes(save(models.convnet(1, 8)), {"x": (3, 3, 8, 8)}, copy)
    assert read_declared_shapes(copy) == {"x": (3, 3, 8, 8)}
    session = onnxruntime.InferenceSession(str(copy), providers=["CPUExecutionProvider"])
    (out, *_) = session.run(None, {"x": np.zeros((3, 3, 8, 8), dtype=np.float32)})
    assert out.shape[0] == 3
