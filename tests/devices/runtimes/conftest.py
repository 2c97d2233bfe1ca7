from __future__ import annotations

from pathlib import Path

import pytest


def write_tflite(path: Path, *, inputs: int = 1, dims: tuple[int, ...] = (1, 8), open_batch: bool = True) -> Path:
    """A TensorFlow Lite file: two additions (XNNPACK takes them) and a CEIL before them, which it takes too, then a
    WHERE, which it does not: it finds the places where the sum is not zero."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    def tensor(name: str, kind: int, shape: list[int]) -> s.TensorT:
        made = s.TensorT()
        made.name, made.type, made.shape, made.buffer = name.encode(), kind, shape, 0
        if open_batch and shape:
            made.shapeSignature = [-1, *shape[1:]]
        return made

    def operator(code: int, takes: list[int], gives: list[int], kind: int = 0, options: object = None) -> s.OperatorT:
        made = s.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, takes, gives
        made.builtinOptionsType, made.builtinOptions = kind, options
        return made

    def code(builtin: int) -> s.OperatorCodeT:
        made = s.OperatorCodeT()
        made.builtinCode, made.deprecatedBuiltinCode, made.version = builtin, min(builtin, 127), 1
        return made

    add = s.BuiltinOptions.AddOptions
    graph = s.SubGraphT()
    graph.name = b"main"
    shape = list(dims)
    graph.tensors = [tensor(f"x{k}" if k else "x", s.TensorType.FLOAT32, shape) for k in range(inputs)]
    n = inputs
    graph.tensors += [tensor(f"t{k}", s.TensorType.FLOAT32, shape) for k in range(3)]
    graph.tensors.append(tensor("places", s.TensorType.INT64, []))
    graph.inputs, graph.outputs = list(range(inputs)), [n + 2, n + 3]
    graph.operators = [
        operator(1, [0], [n]),
        operator(0, [n, inputs - 1], [n + 1], add, s.AddOptionsT()),
        operator(0, [n + 1, n + 1], [n + 2], add, s.AddOptionsT()),
        operator(2, [n + 2], [n + 3], s.BuiltinOptions.WhereOptions, s.WhereOptionsT()),
    ]
    model = s.ModelT()
    model.version, model.description = 3, b"a model for tests"
    model.operatorCodes = [code(s.BuiltinOperator.ADD), code(s.BuiltinOperator.CEIL), code(s.BuiltinOperator.WHERE)]
    model.subgraphs, model.buffers = [graph], [s.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.fixture(scope="session")
def lite_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small .tflite files."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (pip install 'deepen[litert]')")
    folder = tmp_path_factory.mktemp("lite")
    write_tflite(folder / "sum.tflite")
    write_tflite(folder / "twin.tflite", inputs=2, dims=(2, 4), open_batch=False)
    whole = (folder / "sum.tflite").read_bytes()
    (folder / "torn.tflite").write_bytes(whole[: len(whole) // 2])
    (folder / "junk.tflite").write_bytes(b"\x08\0\0\0TFL3" + b"\xff" * 64)
    return folder
