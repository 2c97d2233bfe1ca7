"""Average pooling of opset 19 and later is another kernel: ONNX Runtime runs it through code ten times slower."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from deepen.errors import ConfigError
from deepen.graph import load_graph
from deepen.kernels import build_kernel_model, compute_features
from deepen.kernels.splitting.split import split_graph


def pooled(tmp_path, opset, **attributes):
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 9, 7])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    path = tmp_path / f"{opset}.onnx"
    path.write_bytes(model.SerializeToString())
    (kernel,) = split_graph(load_graph(path)).kernels
    return kernel


def test_versions_are_told_apart_and_rebuilt_as_they_were(tmp_path):
    old, same, new = (pooled(tmp_path, opset) for opset in (9, 18, 19))
    assert old.key == same.key != new.key
    assert compute_features(old)["op_code"] != compute_features(new)["op_code"]
    for kernel, lowest, highest in ((old, 7, 18), (new, 19, 30)):
        model = build_kernel_model("avgpool", kernel.params)
        assert lowest <= model.opset_import[0].version <= highest
        (tmp_path / "again.onnx").write_bytes(model.SerializeToString())
        (again,) = split_graph(load_graph(tmp_path / "again.onnx")).kernels
        assert again.key == kernel.key


def test_a_dilated_window_needs_the_newer_version(tmp_path):
    kernel = pooled(tmp_path, 19, dilations=[2, 2])
    assert kernel.params["version"] == 19
    with pytest.raises(ConfigError, match="version"):
        build_kernel_model("avgpool", {**kernel.params, "version": 7})
    with pytest.raises(ConfigError, match=r"version.*7, 19"):
        build_kernel_model("avgpool", {**kernel.params, "version": 11})
