"""Values of a model's inputs for a measurement: those the user gives, and those that make the model do its work.

1. The graph is read with what the user says of the model; where a file of values has a shape, that is the input's.
2. Inputs that are no random numbers are filled by their role (:mod:`deepen.graph.input_roles`).
3. Values that the user gives replace them; they must fit in shape and type.
4. What is likely to make a run do no work, or a number nothing in the model says, is a warning that names the input.
5. Loops are run once on this machine, and one of no rounds is a warning (:mod:`deepen.measure.loop_rounds`).

Where deepen cannot read a graph that the runtime runs, the runtime fills integers with zeros
(:func:`deepen.measure.workload.load_workload` warns of them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, GraphError
from deepen.records import FilledInput, MeasurementWarning

if TYPE_CHECKING:
    from deepen.graph import Graph, ReadOptions

__all__ = [
    "GivenInput",
    "ModelInputs",
    "choose_graph_inputs",
    "choose_model_inputs",
    "describe_inputs",
    "fit_given_values",
    "parse_input",
    "warn_empty_outputs",
]

GivenInput = float | Path | NDArray[Any]
"""Values of an input as the user gives them: one number for all elements, a file ``.npy``, or an array."""

_WORK_ROLES = frozenset({"rounds", "length", "mask", "size", "shape"})
"""Roles of which the value 0 means that nothing is done."""
_TYPES = {"float": "float32", "double": "float64"}
_NUMPY = frozenset(
    ["bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)  # fmt: skip


def parse_input(text: str) -> tuple[str, float | Path]:
    """Parse the value of ``--input``: ``NAME=VALUE`` (a number, true or false) or ``NAME=FILE.npy``.

    Raises:
        ConfigError: If the text has another form, or there is no such file.
    """
    name, equals, value = text.rpartition("=")
    words = value.strip().lower()
    if equals and name.strip() and words:
        if words in ("true", "false"):
            return name.strip(), float(words == "true")
        if words.endswith(".npy"):
            path = Path(value.strip())
            if not path.is_file():
                raise ConfigError(
                    f"{path}: no such file", cure=f"name an array saved by numpy.save: --input {name}=FILE.npy"
                )
            return name.strip(), path
        try:
            number = float(words)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return name.strip(), number
    raise ConfigError(f"cannot read the input '{text}'", cure="write it as NAME=16, NAME=true or NAME=FILE.npy")


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """Shapes and values of a model's inputs.

    Attributes:
        shapes: Shape by name of the input, as the runtime is told them; empty where the model states all.
        filled: Values by name; inputs of random numbers are absent.
        given: Values the user gives that could not be fitted, because deepen cannot read the graph.
        warnings: Remarks for the record.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    filled: Mapping[str, FilledInput] = field(default_factory=dict)
    given: Mapping[str, GivenInput] = field(default_factory=dict)
    warnings: tuple[MeasurementWarning, ...] = ()


def choose_model_inputs(
    path: Path, options: ReadOptions | None = None, given: Mapping[str, GivenInput] | None = None, seed: int = 0
) -> ModelInputs:
    """Choose shapes and values of a model file's inputs: the steps of the module's docstring.

    Args:
        path: The model.
        options: Shapes and what else the user says of the model.
        given: Values the user gives, by name of the input.
        seed: Seed of random indices.

    Raises:
        ConfigError: If given values do not fit their input, there is no such input, or custom operators are wanted.
        GraphError: If an input has no static shape; the message says which to give.
    """
    from deepen.graph import ReadOptions

    options, given = options or ReadOptions(), dict(given or {})
    if options.custom_ops:
        raise ConfigError(
            f"{path.name}: no runtime here loads libraries of custom operators to measure",
            cure="measure the model without them; 'predict' takes --custom-ops",
        )
    arrays = {name: _read_values(name, value) for name, value in given.items()}
    if path.suffix.lower() != ".onnx":
        return ModelInputs(dict(options.shapes), given=given)
    try:
        graph = _read_graph(path, options, arrays)  # 1
    except GraphError as error:
        _check_declared_shapes(path, options, error)
        return ModelInputs(dict(options.shapes), given=given)
    shapes = {info.name: info.shape for info in graph.inputs if info.shape is not None}
    told = shapes if options.shapes or options.dims or any(a.ndim for a in arrays.values()) else {}
    filled, warnings = choose_graph_inputs(graph, options, arrays, seed)
    warnings += _warn_idle_loops(path, graph, told, filled)  # 5
    return ModelInputs(told, filled, warnings=tuple(warnings))


def _check_declared_shapes(path: Path, options: ReadOptions, error: GraphError) -> None:
    """Raise an error about a graph unless the file or the user says the shapes of all inputs, so that it can run."""
    from deepen.graph.declared_inputs import read_declared_shapes

    try:
        declared = read_declared_shapes(path)
    except GraphError:
        return  # the runtime will say what is wrong with the file
    for name, dims in declared.items():
        if name not in options.shapes and (dims is None or not all(isinstance(d, int) for d in dims)):
            raise error
    if not set(options.shapes) <= set(declared):
        raise error


def _read_graph(path: Path, options: ReadOptions, arrays: Mapping[str, NDArray[Any]]) -> Graph:
    """Read the graph; where inputs are open, with the shapes of the given arrays.

    Raises:
        GraphError: If it cannot be read.
    """
    from deepen.graph import load_graph

    try:
        return load_graph(path, options)
    except GraphError:
        more = {name: a.shape for name, a in arrays.items() if a.ndim and name not in options.shapes}
        if not more:
            raise
    return load_graph(path, replace(options, shapes={**options.shapes, **more}))


def choose_graph_inputs(
    graph: Graph, options: ReadOptions, arrays: Mapping[str, GivenInput], seed: int = 0
) -> tuple[dict[str, FilledInput], list[MeasurementWarning]]:
    """Fill a graph's inputs: steps 2 to 4 of the module's docstring.

    Args:
        graph: The graph.
        options: What the user says of it.
        arrays: Values the user gives, by name of the input; a scalar is for all elements.
        seed: Seed of random indices.

    Raises:
        ConfigError: If values do not fit their input, or there is no such input.
    """
    from deepen.graph.input_roles import fill_graph_inputs

    filled = fill_graph_inputs(graph, options, seed)  # 2
    described = [{"name": i.name, "shape": list(i.shape or ()), "type": i.dtype} for i in graph.inputs]
    own = fit_given_values(arrays, described)  # 3
    warnings = []
    for name, found in filled.items():  # 4
        mine = own.get(name)
        text = ""
        if mine is not None and found.role in _WORK_ROLES and mine.values.size and not mine.values.any():
            text = f"input '{name}' ({found.role}) is 0, so the run may do no work; give --input {name}=VALUE"
        elif mine is None and found.assumed:
            value = found.values.max().item() if found.values.size else 0
            where = f" of '{found.node}'" if found.node else ""
            text = (
                f"input '{name}' ({found.role}{where}) is open in the model; {value:g} was taken: --input {name}=VALUE"
            )
        if text:
            warnings.append(MeasurementWarning("inputs", text))
    return {**filled, **own}, warnings


def _read_values(name: str, value: GivenInput) -> NDArray[Any]:
    """Read given values as an array; a number becomes a scalar.

    Raises:
        ConfigError: If a file holds no array of numbers.
    """
    if not isinstance(value, Path):
        return np.asarray(value)
    try:
        # Mapped into memory, a file shorter than its header says is an error before memory is asked for.
        found = np.load(value, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as error:
        raise ConfigError(
            f"{value}: no array of numbers for input '{name}' ({' '.join(str(error).split())[:120]})",
            cure="save one with numpy.save",
        ) from error
    if not isinstance(found, np.ndarray):
        raise ConfigError(f"{value}: an archive of arrays, not one", cure="save the array with numpy.save")
    return found


def fit_given_values(arrays: Mapping[str, GivenInput], inputs: Iterable[Mapping[str, Any]]) -> dict[str, FilledInput]:
    """Fit values to the shapes and types of their inputs.

    Args:
        arrays: Values by name of the input.
        inputs: Name, shape and type of every input, types as deepen or the runtime names them.

    Raises:
        ConfigError: If there is no such input, or shape, type or a value does not fit.
    """
    known = {str(entry["name"]): entry for entry in inputs}
    found = {}
    for name, given in arrays.items():
        if name not in known:
            names = ", ".join(list(known)[:5]) or "none"
            raise ConfigError(f"the model has no input '{name}'", cure=f"its inputs: {names}")
        shape = tuple(int(d) for d in known[name]["shape"])
        kind = str(known[name]["type"]).removeprefix("tensor(").removesuffix(")")
        kind = _TYPES.get(kind, kind)
        if kind not in _NUMPY:
            raise ConfigError(f"input '{name}' has type {kind}, whose values cannot be given", cure="leave --input out")
        found[name] = FilledInput(
            name, "given", _convert_values(name, _read_values(name, given), shape, np.dtype(kind))
        )
    return found


def _convert_values(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert values to an input's shape and type, without changing any.

    Raises:
        ConfigError: If shape, type or a value does not fit.
    """
    if array.ndim and array.shape != shape:
        have, want = ("x".join(map(str, dims)) or "scalar" for dims in (array.shape, shape))
        raise ConfigError(
            f"the values given for input '{name}' have shape {have}, the input has {want}",
            cure=f"give values of that shape, or the input another with --shape {name}={have}",
        )
    fits = array.dtype.kind in "biuf" and (dtype.kind == "f" or array.dtype.kind != "f" or array.ndim == 0)
    if fits:
        with np.errstate(all="ignore"):
            converted = array.astype(dtype)
            fits = dtype.kind == "f" or bool((converted == array).all())
    if not fits:
        what = f"{array.item():g}" if array.ndim == 0 and array.dtype.kind in "biuf" else f"{array.dtype} numbers"
        raise ConfigError(
            f"input '{name}' takes {dtype.name}, which cannot hold the given {what}",
            cure=f"give --input {name}=VALUE or a file of {dtype.name}",
        )
    return np.broadcast_to(converted, shape)


def describe_inputs(inputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Say in one line how a record's inputs were filled; empty where all were random numbers."""
    parts = []
    for name, entry in inputs.items():
        low, high = entry.get("low"), entry.get("high")
        if low is None or high is None:
            parts.append(f"{name} empty")
        else:
            parts.append(f"{name} = {low:g}{f'..{high:g}' if low != high else ''} ({entry.get('role')})")
    more = f", and {len(parts) - 8} more" if len(parts) > 8 else ""
    return ", ".join(parts[:8]) + more


def warn_empty_outputs(
    outputs: Iterable[Mapping[str, Any]], inputs: Mapping[str, FilledInput]
) -> list[MeasurementWarning]:
    """Warn of outputs without elements: what leads to them did no work.

    Args:
        outputs: Name and shape of every output of a run, as the worker states them.
        inputs: Values of inputs.
    """
    empty = [f"'{o['name']}' ({'x'.join(map(str, o['shape']))})" for o in outputs if o.get("shape") and 0 in o["shape"]]
    if not empty:
        return []
    # the first of the inputs that deepen has chosen, if any
    example = next(iter(inputs), "NAME")
    what = f"output {empty[0]}" + (f" and {len(empty) - 1} more" if len(empty) > 1 else "")
    text = f"{what} is empty with these inputs, so the run may do no work there; give --input {example}=FILE.npy"
    return [MeasurementWarning("inputs", text)]


def _warn_idle_loops(
    path: Path, graph: Graph, shapes: Mapping[str, tuple[int, ...]], filled: Mapping[str, FilledInput]
) -> list[MeasurementWarning]:
    """Warn of loops that run no round with these inputs, as far as this machine can run the model."""
    from deepen.measure.loop_rounds import find_idle_loops

    if not any(node.op_type == "Loop" and node.multiplicity > 0 for node in graph.nodes):
        return []
    values = {
        info.name: filled[info.name].values if info.name in filled else None
        for info in graph.inputs
    }  # fmt: skip
    chosen = sorted(filled.values(), key=lambda f: f.role != "rounds")
    example = chosen[0].name if chosen else next(iter(values), "NAME")
    described = {info.name: (info.shape or (), info.dtype) for info in graph.inputs}
    idle = find_idle_loops(path, described, values)
    text = "'{}' runs no round with these inputs, so the run does no work there; give --input {}=VALUE"
    return [MeasurementWarning("inputs", text.format(name, example)) for name in idle]
