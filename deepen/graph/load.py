"""``load_graph``: reads a model file into a :class:`~deepen.graph.types.Graph`.

1. The file is mapped into memory, and stripped of the data of its large tensors
   (:mod:`deepen.graph.onnx_reader.without_weights`); a thread of its own computes its SHA-256.
2. The structure is normalised (:mod:`deepen.graph.onnx_reader.normalise`).
3. Nodes are checked against the schemas of their operators (:mod:`deepen.graph.onnx_reader.operator_schemas`), and
   the names in the user's options against the model's (:mod:`deepen.graph.onnx_reader.option_names`).
4. External data is detached (:mod:`deepen.graph.onnx_reader.external_data`).
5. Input shapes are fixed (:mod:`deepen.graph.onnx_reader.input_shapes`); where some stay open, the error proposes sizes
   that the model was tried with (:mod:`deepen.graph.onnx_reader.shape_advice`).
6. Shapes of the whole model are inferred (:mod:`deepen.graph.onnx_reader.shape_inference`).
7. The model is flattened into nodes and tensors, and what inference left open is completed
   (:mod:`deepen.graph.onnx_reader.flatten`).
"""

from __future__ import annotations

import hashlib
import io
import mmap
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from deepen.errors import GraphError
from deepen.graph.onnx_reader.external_data import detach_external_data
from deepen.graph.onnx_reader.flatten import GraphFlattener
from deepen.graph.onnx_reader.input_shapes import (
    OpenShapesError,
    describe_empty_inputs,
    fix_input_shapes,
    list_model_inputs,
)
from deepen.graph.onnx_reader.long_lists import LongList
from deepen.graph.onnx_reader.normalise import normalise_model
from deepen.graph.onnx_reader.operator_schemas import check_operator_schemas
from deepen.graph.onnx_reader.option_names import check_option_names
from deepen.graph.onnx_reader.runtime_objections import find_file_objections, find_type_objections
from deepen.graph.onnx_reader.runtime_types import RuntimeTypes
from deepen.graph.onnx_reader.shape_advice import NEARLY, ProposedOptions, propose_options
from deepen.graph.onnx_reader.shape_inference import (
    DeclaredTypes,
    extract_declared_types,
    infer_model_shapes,
    list_input_symbols,
    shorten_error,
    shorten_text,
    size_symbols,
    split_given_shapes,
    substitute_symbols,
)
from deepen.graph.onnx_reader.without_weights import strip_weights
from deepen.graph.read_options import ReadOptions, ShapesOrOptions
from deepen.graph.types import Graph, TensorInfo

if TYPE_CHECKING:
    import os

    import onnx

__all__ = ["load_graph", "load_graph_from_proto"]

_CHUNK_BYTES = 1 << 20
_MAX_MESSAGE, _MIN_CAUSE = 400, 120  # characters of an error; a cause is shortened, a cure must work when typed

# First bytes of files that are mistaken for ONNX: (offset, magic, description).
_OTHERS = (
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an ONNX Runtime model in ORT format"),
    (0, b"PK\x03\x04", "a zip archive (perhaps a PyTorch or Keras file)"),
    (0, b"\x80\x02", "a Python pickle (perhaps a PyTorch file)"),
    (0, b"\x80\x04", "a Python pickle"),
    (0, b"\x89HDF", "an HDF5 file (perhaps a Keras model)"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"{", "a JSON or text file"),
    (0, b"<", "an HTML or XML file"),
    (0, b"version https://git-lfs", "a git-lfs pointer (fetch the file itself with git lfs pull)"),
)


def load_graph(path: str | os.PathLike[str], shapes: ShapesOrOptions = None) -> Graph:
    """Read an ONNX model as a graph with static shapes. Weights are not read.

    Args:
        path: The model file.
        shapes: Shape by input name, for inputs with symbolic dimensions or to replace static ones; or everything that
            can be said of a model (:class:`~deepen.graph.read_options.ReadOptions`).

    Returns:
        The graph. The shape of a tensor is ``None`` if no static shape can be found; other incomplete results are named
        in ``warnings``.

    Raises:
        GraphError: If the file cannot be read as a graph, or an input has no static shape. The message is one line.
    """
    source = Path(path)
    file, data = _map_file(source)
    with file, _FileDigest(file, len(data)) as digest:
        try:
            return _build_graph(data, source, source.parent, ReadOptions.from_shapes(shapes), digest)
        except GraphError as error:
            room = max(_MIN_CAUSE, _MAX_MESSAGE - len(str(source)) - len(error.cure) - 4)
            raise GraphError(shorten_text(error.cause, room), subject=str(source), cure=error.cure) from error.__cause__


def load_graph_from_proto(model: onnx.ModelProto, shapes: ShapesOrOptions = None) -> Graph:
    """Make a graph of a model in memory, as :func:`load_graph` does of a file.

    Args:
        model: Not changed. Its external data, if any, is not read.
        shapes: Shape by input name, or everything that can be said of a model.

    Raises:
        GraphError: As :func:`load_graph`.
    """
    data = model.SerializeToString()
    with _FileDigest(io.BytesIO(data), len(data)) as digest:
        return _build_graph(data, Path("<memory>"), None, ReadOptions.from_shapes(shapes), digest)


def _map_file(source: Path) -> tuple[BinaryIO, mmap.mmap]:
    """Open a file and map it into memory, read-only."""
    try:
        if source.exists() and not source.is_dir() and not source.is_file():
            raise GraphError("not a file", subject=str(source))  # opening a named pipe would wait for ever
        with ExitStack() as on_error:
            file = on_error.enter_context(source.open("rb"))
            head = file.read(64)
            if not head:
                raise GraphError("the file is empty", subject=str(source))
            for offset, magic, what in _OTHERS:
                if head[offset:].startswith(magic):
                    raise GraphError(f"this is {what}, not an ONNX model", subject=str(source))
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            on_error.pop_all()
            return file, mapped
    except IsADirectoryError as error:
        raise GraphError("this is a folder", subject=str(source), cure="name a model file in it") from error
    except FileNotFoundError as error:
        raise GraphError("no such file", subject=str(source)) from error
    except PermissionError as error:
        raise GraphError("no permission to read the file", subject=str(source)) from error
    except (OSError, ValueError) as error:
        raise GraphError(f"cannot be read: {shorten_error(error)}", subject=str(source)) from error


class _FileDigest:
    """SHA-256 of a file, computed by a thread of its own while the graph is built.

    It reads through the file, not through the memory map: mapped pages would count as this process's memory.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._hash = hashlib.sha256()
        self._stopped = False
        self._failure: OSError | None = None
        self._file = file
        self._thread: threading.Thread | None = None
        if size > _CHUNK_BYTES:
            self._thread = threading.Thread(target=self._run, name="deepen-sha256", daemon=True)
            self._thread.start()
        else:
            self._run()

    def __enter__(self) -> _FileDigest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        chunk = memoryview(bytearray(_CHUNK_BYTES))
        try:
            self._file.seek(0)
            while not self._stopped and (count := self._file.readinto(chunk)):  # type: ignore[attr-defined]
                self._hash.update(chunk[:count])
        except OSError as error:
            self._failure = error

    def hexdigest(self) -> str:
        """Wait for the end and return the digest.

        Raises:
            OSError: If the file could not be read to its end.
        """
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure
        return self._hash.hexdigest()


def _parse_model(data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        return model
    except DecodeError as error:
        raise GraphError("not an ONNX model, or a damaged one (protobuf cannot decode it)") from error


# The compiled part of onnx raises exceptions of any of these classes; every known case was a damaged file.
_FOREIGN_ERRORS = (
    RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, OSError,
)  # fmt: skip


def _build_graph(
    data: bytes | mmap.mmap,
    source: Path,
    folder: Path | None,
    options: ReadOptions,
    digest: _FileDigest,
) -> Graph:
    from onnx import checker

    try:
        long_lists: list[LongList] = []
        model = _parse_model(strip_weights(data, long_lists))
        return _assemble_graph(model, long_lists, source, folder, options, digest)
    except checker.ValidationError as error:
        raise GraphError(f"the model is malformed: {shorten_error(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise GraphError("the model nests too deeply or needs too much memory to be read") from error
    except _FOREIGN_ERRORS as error:
        raise GraphError(f"the model is malformed: {shorten_error(error)}") from error


def _assemble_graph(
    model: onnx.ModelProto,
    long_lists: Sequence[LongList],
    source: Path,
    folder: Path | None,
    options: ReadOptions,
    digest: _FileDigest,
) -> Graph:
    """Make the graph of a parsed model: steps 2 to 7 of the module's docstring."""
    objections = find_file_objections(model)
    model, notes = normalise_model(model)  # 2
    check_operator_schemas(model)  # 3
    check_option_names(model, options)
    notes += detach_external_data(model, folder)  # 4
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    with RuntimeTypes(opsets, options.custom_ops) as runtime:
        try:
            flattener, declared = _prepare_flattener(model, options, notes, runtime)  # 5, 6
        except OpenShapesError as error:
            proposed = propose_options(model.graph, _OptionsTrial(model, options, runtime))
            if proposed is None:
                raise
            raise GraphError(error.cause, cure=f"fix it, for example with {proposed}") from error
        flattener.long_lists = long_lists
        flattener.run()  # 7
    objections += find_type_objections(flattener.nodes, flattener.types, declared)
    inferred = flattener.model
    names = [value.name for value in list_model_inputs(inferred.graph)]
    outputs = [value.name for value in inferred.graph.output]
    tensors: Mapping[str, TensorInfo] = flattener.tensors
    values: Mapping[str, Any] = flattener.values
    return Graph(
        nodes=tuple(flattener.nodes),
        inputs=tuple(tensors[name] for name in names),
        outputs=tuple(tensors[name] for name in outputs if name in tensors),
        tensors=tensors,
        values=values,
        opsets=flattener.opsets,
        source_path=source,
        source_sha256=digest.hexdigest(),
        warnings=tuple(dict.fromkeys(flattener.warnings)),
        unknowns=tuple(flattener.unknowns),
        custom_ops=options.custom_ops,
        allow_unknown=options.allow_unknown,
        objections=objections,
        model=inferred,
    )


def _prepare_flattener(
    model: onnx.ModelProto, options: ReadOptions, notes: Sequence[str], runtime: RuntimeTypes
) -> tuple[GraphFlattener, DeclaredTypes]:
    """Fix the input shapes of a model and infer the others: steps 5 and 6 of the module's docstring.

    Returns:
        The pass that is to complete them, and the types that the file declares.

    Raises:
        OpenShapesError: If an input has no static shape.
        GraphError: If the options do not fit the model.
    """
    # 5
    for_inputs, for_tensors = split_given_shapes(model.graph, options.shapes)
    symbols = list_input_symbols(model.graph)
    empty = [text for name, text in describe_empty_inputs(model.graph).items() if name not in for_inputs]
    replaced = fix_input_shapes(model.graph, for_inputs, options.dims)
    # 6. Declared types are stale once a static dimension of an input was replaced.
    declared = substitute_symbols(
        extract_declared_types(model.graph), {**size_symbols(model.graph, symbols), **options.dims}
    )
    flattener = GraphFlattener(
        infer_model_shapes(model),
        {} if replaced else declared,
        options=options,
        strict_shapes=bool(for_inputs or options.dims),
        warnings=[*notes, *empty],
        runtime=runtime,
        given=for_tensors,
    )
    return flattener, declared


@dataclass(frozen=True, slots=True)
class _OptionsTrial:
    """Tries options on a copy of a model whose inputs have open dimensions."""

    model: onnx.ModelProto
    options: ReadOptions
    runtime: RuntimeTypes

    def __call__(self, proposed: ProposedOptions) -> int | None:
        """Read the model; ``None`` if it takes the options, else how many nodes came before the one that does not."""
        copy = type(self.model)()
        copy.CopyFrom(self.model)
        shapes = {**self.options.shapes, **proposed.shapes}
        options = replace(self.options, shapes=shapes, dims={**self.options.dims, **proposed.dims})
        try:
            flattener, _ = _prepare_flattener(copy, options, (), self.runtime)
        except (GraphError, *_FOREIGN_ERRORS):
            return 0
        try:
            flattener.run()
        except (GraphError, *_FOREIGN_ERRORS):
            return len(flattener.nodes)
        return NEARLY - flattener.contradictions if flattener.contradictions else None
