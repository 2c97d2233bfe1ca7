"""``deepen.predict``: the energy of a model that is a file, a protobuf message, bytes or a PyTorch module."""

from __future__ import annotations

import io
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.errors import ConfigError, GraphError
from deepen.graph.read_options import ReadOptions
from deepen.predictors.prediction import Prediction

if TYPE_CHECKING:
    import onnx

    from deepen.predictors.predictor import Predictor

__all__ = ["predict", "predict_model_in_memory"]


def predict(
    model: Any,
    *,
    predictor: str | PathLike[str] | Predictor,
    example_inputs: Any = None,
    runtime: str | None = None,
    name: str = "",
    **options: Any,
) -> Prediction:
    """Predict the energy of one inference of a model.

    Args:
        model: An ONNX file, its bytes, an ``onnx.ModelProto``, or a ``torch.nn.Module``.
        predictor: A predictor, its file, or its name in ``deepen predictor list``.
        example_inputs: Of a ``torch.nn.Module``: the tensors it is called with, which also fix its shapes.
        runtime: Runtime to split for; default: the one the predictor was trained on.
        name: Name of the model in the result; default: the path, or the class of the model.
        options: Fields of :class:`~deepen.graph.read_options.ReadOptions`: ``shapes``, ``dims``, ``sizes``, ...

    Raises:
        ConfigError: If an option or the kind of model is unknown, or example inputs lack.
        GraphError: If the model cannot be read or exported.
        PredictorError: If the predictor cannot be read.
    """
    from dataclasses import replace

    from deepen.predictors.library import load_predictor

    try:
        given = ReadOptions(**options)
    except TypeError as error:
        known = ", ".join(ReadOptions.__dataclass_fields__)
        raise ConfigError(f"predict takes no such option: {error}", cure=f"give some of {known}") from None
    known_predictor = load_predictor(fspath(predictor)) if isinstance(predictor, str | PathLike) else predictor
    if isinstance(model, str | PathLike):
        found = known_predictor.predict(Path(model), given, runtime)
    else:
        data = _export_torch_module(model, example_inputs) if _is_torch_module(model) else model
        found = predict_model_in_memory(data, known_predictor, given, runtime)
        name = name or type(model).__name__
    return replace(found, model=name) if name else found


def predict_model_in_memory(
    model: bytes | onnx.ModelProto, predictor: Predictor, options: ReadOptions, runtime: str | None = None
) -> Prediction:
    """Predict a model in memory; external data, if it has any, is not needed and not read.

    Raises:
        ConfigError: If it is neither bytes nor a ModelProto.
        GraphError: If it cannot be read as a graph.
    """
    import onnx

    from deepen.graph.load import load_graph_from_proto
    from deepen.kernels.splitting.runtime_names import resolve_splitter
    from deepen.kernels.splitting.split import split_graph

    if isinstance(model, bytes | bytearray | memoryview):
        model = _parse_model(bytes(model))
    if not isinstance(model, onnx.ModelProto):
        raise ConfigError(
            f"a {type(model).__name__} is no model", cure="give a path, bytes, an onnx.ModelProto or a torch.nn.Module"
        )
    wanted = runtime or str(predictor.card.get("runtime") or "onnxruntime")
    split = split_graph(load_graph_from_proto(model, options), resolve_splitter(wanted))
    return predictor.predict_many([split], options, runtime)[0]


def _parse_model(data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

    if not data:
        raise GraphError("the model is empty: no bytes", cure="give the content of an ONNX file")
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise GraphError("these bytes are no ONNX model", cure="give the content of an ONNX file") from error


def _is_torch_module(model: Any) -> bool:
    """Tell a torch.nn.Module without importing torch: who has a module has imported it."""
    return any(c.__module__ == "torch.nn.modules.module" and c.__name__ == "Module" for c in type(model).__mro__)


def _export_torch_module(module: Any, example_inputs: Any) -> bytes:
    """Export a module to ONNX, as it is at inference; its mode is as before afterwards."""
    import importlib.util

    import torch

    if example_inputs is None:
        raise ConfigError(
            "a torch.nn.Module needs the inputs it is called with", cure="give example_inputs=(tensor, ...)"
        )
    arguments = tuple(example_inputs) if isinstance(example_inputs, list | tuple) else (example_inputs,)
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        if importlib.util.find_spec("onnxscript") is not None:
            program: Any = torch.onnx.export(module, arguments, dynamo=True, verbose=False)
            return bytes(program.model_proto.SerializeToString())
        target: Any = io.BytesIO()
        torch.onnx.export(module, arguments, target, dynamo=False, verbose=False)
        return bytes(target.getvalue())
    except Exception as error:  # the exporter raises errors of many classes
        raise GraphError(
            f"torch cannot export this {type(module).__name__}: {' '.join(str(error).split())[:200]}",
            cure="export it to a file with torch.onnx.export, and predict that",
        ) from error
    finally:
        for part, training in modes:
            part.training = training
