"""The session's own models as TensorFlow Lite files, written without TensorFlow.

The layout is that of ``tensorflow/compiler/mlir/lite/schema/schema.fbs`` (version 3): the numbers of fields, operators
and options below are those of that schema.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_empty_lite_model", "write_reference_lite_model"]

_FLOAT32 = 0
_CONV_2D, _FULLY_CONNECTED, _RELU = 3, 9, 19  # BuiltinOperator
_NO_OPTIONS, _CONV_2D_OPTIONS, _FULLY_CONNECTED_OPTIONS = 0, 1, 8  # BuiltinOptions
_FUSED_RELU = 1  # ActivationFunctionType
_DATA_ALIGNMENT = 16  # Buffer.data


@dataclass(frozen=True, slots=True)
class _TfliteTensor:
    """A tensor: its name and shape, and its content where it is a constant."""

    name: str
    shape: tuple[int, ...]
    data: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class _TfliteOperator:
    """An operator: its code, tensors by number, and a table of options."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: int = _NO_OPTIONS
    write_options: Callable[[Any], int] | None = None


def _write_table(builder: Any, slots: int, fields: Callable[[Any], None]) -> int:
    builder.StartObject(slots)
    fields(builder)
    return int(builder.EndObject())


def _write_offsets(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _write_ints(builder: Any, values: Sequence[int]) -> int:
    return int(builder.CreateNumpyVector(np.asarray(values, np.int32)))


def _write_conv_options(builder: Any) -> int:
    def fields(b: Any) -> None:
        b.PrependInt32Slot(1, 1, 0)  # stride_w; padding stays SAME, which is 0
        b.PrependInt32Slot(2, 1, 0)  # stride_h
        b.PrependInt8Slot(3, _FUSED_RELU, 0)

    return _write_table(builder, 6, fields)


def _write_dense_options(builder: Any) -> int:
    return _write_table(builder, 4, lambda b: None)


def _write_buffer(builder: Any, data: NDArray[np.float32] | None) -> int:
    if data is None:
        return _write_table(builder, 1, lambda b: None)
    raw = data.astype("<f4").tobytes()
    builder.StartVector(1, len(raw), _DATA_ALIGNMENT)
    builder.head = builder.head - len(raw)
    builder.Bytes[builder.head : builder.head + len(raw)] = raw
    vector = builder.EndVector()
    return _write_table(builder, 1, lambda b: b.PrependUOffsetTRelativeSlot(0, vector, 0))


def _write_model(
    path: Path, tensors: Sequence[_TfliteTensor], operators: Sequence[_TfliteOperator], inputs: int
) -> Path:
    """Write a model; its first ``inputs`` tensors are inputs, and those that no operator reads are outputs.

    A part is written before the parts that refer to it, as FlatBuffers demands:

    1. Buffers: an empty one, then one for each constant.
    2. Tensors: shape, type, buffer and name.
    3. Operators: inputs, outputs and options.
    4. The graph.
    5. Operator codes.
    6. The model, and the file.
    """
    import flatbuffers

    # 1. Buffers: an empty one, then one for each constant.
    b = flatbuffers.Builder(1024)
    constants = [t for t in tensors if t.data is not None]
    buffers = [_write_buffer(b, None), *(_write_buffer(b, t.data) for t in constants)]
    # 2. Tensors: shape, type, buffer and name.
    made = []
    for tensor in tensors:
        number = 0 if tensor.data is None else 1 + constants.index(tensor)
        name, shape = b.CreateString(tensor.name), _write_ints(b, tensor.shape)

        def tensor_fields(b: Any, shape: int = shape, number: int = number, name: int = name) -> None:
            b.PrependUOffsetTRelativeSlot(0, shape, 0)
            b.PrependInt8Slot(1, _FLOAT32, 0)
            b.PrependUint32Slot(2, number, 0)
            b.PrependUOffsetTRelativeSlot(3, name, 0)

        made.append(_write_table(b, 10, tensor_fields))
    # 3. Operators: inputs, outputs and options.
    codes = list(dict.fromkeys(o.code for o in operators))
    run = []
    for operator in operators:
        reads, writes = _write_ints(b, operator.inputs), _write_ints(b, operator.outputs)
        options = operator.write_options(b) if operator.write_options else 0

        def operator_fields(
            b: Any, o: _TfliteOperator = operator, reads: int = reads, writes: int = writes, options: int = options
        ) -> None:
            b.PrependUint32Slot(0, codes.index(o.code), 0)
            b.PrependUOffsetTRelativeSlot(1, reads, 0)
            b.PrependUOffsetTRelativeSlot(2, writes, 0)
            b.PrependUint8Slot(3, o.options, 0)
            b.PrependUOffsetTRelativeSlot(4, options, 0)

        run.append(_write_table(b, 9, operator_fields))
    # 4. The graph; tensors that no operator reads are its outputs.
    read = {number for o in operators for number in o.inputs}
    ends = [number for o in operators for number in o.outputs if number not in read]
    parts = (
        _write_offsets(b, made),
        _write_ints(b, range(inputs)),
        _write_ints(b, ends),
        _write_offsets(b, run),
        b.CreateString("main"),
    )

    def graph_fields(b: Any) -> None:
        for slot, part in enumerate(parts):
            b.PrependUOffsetTRelativeSlot(slot, part, 0)

    graph = _write_table(b, 5, graph_fields)

    # 5. Operator codes.
    def code_fields(b: Any, code: int) -> None:
        b.PrependInt8Slot(0, code, 0)  # deprecated_builtin_code, which older readers look at
        b.PrependInt32Slot(2, 1, 0)  # version; 1 is not the default of this writer, so it is spelled out
        b.PrependInt32Slot(3, code, 0)

    kinds = _write_offsets(b, [_write_table(b, 4, partial(code_fields, code=code)) for code in codes])
    # 6. The model, and the file.
    graphs, data, about = _write_offsets(b, [graph]), _write_offsets(b, buffers), b.CreateString("deepen")

    def model_fields(b: Any) -> None:
        b.PrependUint32Slot(0, 3, 0)
        for slot, part in ((1, kinds), (2, graphs), (3, about), (4, data)):
            b.PrependUOffsetTRelativeSlot(slot, part, 0)

    b.Finish(_write_table(b, 8, model_fields), b"TFL3")
    path.write_bytes(bytes(b.Output()))
    return path


def write_reference_lite_model(path: Path) -> Path:
    """Write the reference workload of ``drift_reference.write_reference_model`` as a ``.tflite`` file.

    The same arithmetic (a 3x3 convolution with ReLU, a matrix-vector product) on other seeded weights, channels last.
    """
    rng = np.random.default_rng(20240607)
    conv = (rng.standard_normal((64, 3, 3, 32)) / 17).astype(np.float32)
    dense = (rng.standard_normal((1024, 1024)) / 32).astype(np.float32)
    tensors = [
        _TfliteTensor("image", (1, 28, 28, 32)),
        _TfliteTensor("vector", (1, 1024)),
        _TfliteTensor("conv", conv.shape, conv),
        _TfliteTensor("conv_bias", (64,), np.zeros(64, np.float32)),
        _TfliteTensor("dense", dense.shape, dense),
        _TfliteTensor("dense_bias", (1024,), np.zeros(1024, np.float32)),
        _TfliteTensor("out", (1, 28, 28, 64)),
        _TfliteTensor("product", (1, 1024)),
    ]
    operators = [
        _TfliteOperator(_CONV_2D, (0, 2, 3), (6,), _CONV_2D_OPTIONS, _write_conv_options),
        _TfliteOperator(_FULLY_CONNECTED, (1, 4, 5), (7,), _FULLY_CONNECTED_OPTIONS, _write_dense_options),
    ]
    return _write_model(path, tensors, operators, inputs=2)


def write_empty_lite_model(path: Path) -> Path:
    """Write a ``.tflite`` model that does next to nothing: ReLU on one element."""
    return _write_model(
        path, [_TfliteTensor("x", (1, 1)), _TfliteTensor("y", (1, 1))], [_TfliteOperator(_RELU, (0,), (1,))], inputs=1
    )
