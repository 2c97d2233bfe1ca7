from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small ONNX files: one per thing a runner has to cope with."""
    from onnx import TensorProto as T
    from onnx import helper, numpy_helper, save

    folder = tmp_path_factory.mktemp("models")
    info = helper.make_tensor_value_info

    def write(name, nodes, inputs, outputs, constants=()):
        graph = helper.make_graph(nodes, name, inputs, outputs, list(constants))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        save(model, str(folder / f"{name}.onnx"))

    node = helper.make_node
    write("add", [node("Add", ["x", "x"], ["y"])], [info("x", T.FLOAT, [4, 8])], [info("y", T.FLOAT, [4, 8])])
    weights = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    write(
        "matmul",
        [node("MatMul", ["x", "w"], ["y"])],
        [info("x", T.FLOAT, ["batch", 64])],
        [info("y", T.FLOAT, ["batch", 64])],
        [weights],
    )
    write("twin", [node("Add", ["a", "b"], ["y"])], [info("a", T.FLOAT, ["n", 2]), info("b", T.FLOAT, ["n", 2])],
          [info("y", T.FLOAT, ["n", 2])])  # fmt: skip
    write(
        "unnamed",
        [node("Relu", ["x"], ["y"])],
        [info("x", T.FLOAT, ["?", 3, "?"])],
        [info("y", T.FLOAT, ["?", 3, "?"])],
    )
    write("nonzero", [node("NonZero", ["x"], ["y"])], [info("x", T.FLOAT, [3, 4])], [info("y", T.INT64, [2, None])])
    # The file declares a shape the model does not produce.
    write("misdeclared", [node("Add", ["x", "x"], ["y"])], [info("x", T.FLOAT, [3])], [info("y", T.FLOAT, [2, 2])])
    write(
        "impossible",
        [node("Reshape", ["x", "s"], ["y"])],
        [info("x", T.FLOAT, [3])],
        [info("y", T.FLOAT, [2, 2])],
        [numpy_helper.from_array(np.array([2, 2]), "s")],
    )
    for name, kind in {"f16": T.FLOAT16, "bf16": T.BFLOAT16, "f64": T.DOUBLE, "i8": T.INT8, "i64": T.INT64,
                       "u8": T.UINT8, "bool": T.BOOL}.items():  # fmt: skip
        write(name, [node("Cast", ["x"], ["y"], to=T.FLOAT)], [info("x", kind, [3])], [info("y", T.FLOAT, [3])])
    table = numpy_helper.from_array(np.ones((5, 2), np.float32), "table")
    write("gather", [node("Gather", ["table", "i"], ["y"])], [info("i", T.INT64, [7])], [info("y", T.FLOAT, [7, 2])],
          [table])  # fmt: skip
    (folder / "garbage.onnx").write_bytes(b"this is not a model")
    (folder / "empty.onnx").write_bytes(b"")
    return folder
