"""Roles of a graph's inputs, and values that make the model do its work: full lengths, masks of ones, indices in range.

A role follows from what operators demand (:mod:`deepen.graph.input_demands`) and, where these leave it open, from the
input's name. Inputs of random numbers (floating point data) have no role: the device makes them from the seed.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from deepen.graph.input_demands import DemandFinder, DemandKind, InputDemand
from deepen.graph.read_options import ReadOptions
from deepen.graph.types import Graph, TensorInfo
from deepen.records import FilledInput

__all__ = ["fill_graph_inputs"]

DEFAULT_ROUNDS = 16
"""Rounds of a loop whose number is an input nobody has said anything about."""

_ORDER: tuple[DemandKind, ...] = (
    "condition", "equals", "rounds", "shape", "size", "length", "mask", "position", "segment", "index", "data"
)  # fmt: skip
_NAMES: dict[DemandKind, str] = {
    "mask": "[a-z]*masks?",
    "position": "positions?|pos|position ids",
    "segment": "token types?|segments?",
    "length": "[a-z]*len|lens|[a-z]*lengths?|num frames|num samples|seqlens?",
    "rounds": "(?:num |n |max )?(?:inference )?(?:steps|iterations|rounds|iters|new tokens)|trip count",
    "index": "[a-z]*ids?|[a-z]*tokens?|ind(?:ex|ices)|labels?",
}
"""Words in the names of inputs, as exporters and model builders use them."""
_YIELDS: dict[DemandKind, frozenset[DemandKind]] = {
    "mask": frozenset({"data", "index", "length"}),
    "position": frozenset({"data", "index"}),
    "segment": frozenset({"data", "index"}),
    "length": frozenset({"data", "index", "size", "position"}),
    "rounds": frozenset({"data"}),
    "index": frozenset({"data"}),
}
"""Roles found from operators that a role found from the name replaces."""
_PADDED = re.compile(r"pad(ding)?_?mask")  # true where nothing is to be seen
_NARROW = frozenset({"int8", "uint8", "int16", "uint16"})
_NUMPY = {
    name: name for name in ("bool", "float16", "float32", "float64", "int32", "int64", "uint32", "uint64", *_NARROW)
}


def fill_graph_inputs(graph: Graph, options: ReadOptions | None = None, seed: int = 0) -> dict[str, FilledInput]:
    """Choose values for the inputs that are not random numbers.

    1. The demands of operators on the input are merged: the strongest meaning, the narrowest limits.
    2. Where these leave it open, the name decides.
    3. Integers, booleans and masks are filled accordingly; so are other floating point inputs that an operator reads as
       a size, a threshold or the like.

    Args:
        graph: The graph, every input with a static shape.
        options: What the user says of the model: rounds and branches.
        seed: Seed of random indices and data.

    Returns:
        Values by name of the input; inputs left to the device's random numbers are absent.
    """
    wanted = [info for info in graph.inputs if info.shape is not None and info.dtype in _NUMPY]
    if not wanted:
        return {}
    options = options or ReadOptions()
    finder = DemandFinder(graph, options.rounds)
    filled = {}
    for number, info in enumerate(wanted):
        demand = _merge_demands(finder.find(info.name), info)  # 1
        demand, named = _consider_name(info, demand)  # 2
        if info.name in options.branches:
            flag = float(options.branches[info.name])
            demand = InputDemand("condition", 0, 1, flag, node=demand.node)
        guessed = demand.kind in ("data", "index", "rounds", "position") or (demand.kind == "mask" and not named)
        if info.dtype.startswith("float") and guessed:
            continue
        rng = np.random.default_rng([seed, number])
        values, assumed = _make_values(graph, info, demand, rng)  # 3
        filled[info.name] = FilledInput(info.name, demand.kind, values, "" if named else demand.node, assumed)
    return filled


def _merge_demands(demands: tuple[InputDemand, ...], info: TensorInfo) -> InputDemand:
    """Merge the demands on an input: the strongest kind and what it wants, within the limits of all."""
    if not demands:
        return InputDemand("data")
    chief = min(demands, key=lambda d: (_ORDER.index(d.kind), d.want is None))
    low = max(d.low for d in demands)
    high = max(min(d.high for d in demands), low)
    lengths = [d.want for d in demands if d.kind == chief.kind == "length" and isinstance(d.want, int | float)]
    want = max(lengths) if lengths else chief.want
    avoid = frozenset[float]().union(*(d.avoid for d in demands))
    return InputDemand(chief.kind, low, high, want, avoid, chief.node)


def _consider_name(info: TensorInfo, demand: InputDemand) -> tuple[InputDemand, bool]:
    """Let the name say what operators leave open; returns the demand, and whether the name decided."""
    words = re.sub(r"[\W_\d]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", info.name)).strip().lower()
    for kind, pattern in _NAMES.items():
        if demand.kind not in _YIELDS[kind] or not re.search(rf"\b(?:{pattern})\b", words):
            continue
        if kind == "length" and demand.kind == "index" and math.isfinite(demand.high):
            return InputDemand(kind, demand.low, demand.high, demand.high, node=demand.node), True
        want = None if kind == "length" and demand.want is None else demand.want
        if kind == "mask":
            want = float(not (info.dtype == "bool" and _PADDED.search(info.name.lower())))
        return InputDemand(kind, demand.low, demand.high, want, demand.avoid, demand.node), True
    return demand, False


def _make_values(
    graph: Graph, info: TensorInfo, demand: InputDemand, rng: np.random.Generator
) -> tuple[NDArray[np.generic], bool]:
    """Make an input's values; returns whether a number was assumed that nothing in the graph says."""
    shape, dtype = info.shape or (), np.dtype(_NUMPY[info.dtype])
    low, high = _limit_to_type(demand, dtype)
    want = demand.want
    if isinstance(want, tuple):
        if len(shape) == 1 and shape[0] == len(want):
            return np.array(want, dtype=dtype), False
        want = max(want, default=1) if not shape or shape[0] <= 1 else None
    assumed = want is None and demand.kind in ("rounds", "size", "length")
    if demand.kind == "data" and info.dtype in _NARROW:  # pixels and other quantised numbers
        return rng.integers(int(low), int(high), shape, dtype, endpoint=True), False
    if demand.kind == "index" and math.isfinite(demand.high):
        return _draw_indices(shape, low, high, demand.avoid, rng).astype(dtype), False
    if demand.kind == "position":
        return _count_positions(graph, info.name, shape, low, high).astype(dtype), False
    fallback = {"rounds": DEFAULT_ROUNDS, "segment": 0, "index": 0}.get(demand.kind, 1)
    if demand.kind in ("size", "length"):
        fallback = _guess_length(graph, info.name)
    value = min(max(fallback if want is None else want, low), high)
    while value in demand.avoid and value < high:
        value += 1
    return np.full(shape, value, dtype=dtype), assumed


def _limit_to_type(demand: InputDemand, dtype: np.dtype[np.generic]) -> tuple[float, float]:
    """Limits of a demand that the type can hold; at least 0 where the type is not one of quantised data."""
    if dtype.kind == "b":
        return 0, 1
    if dtype.kind == "f":
        return demand.low, demand.high
    bounds = np.iinfo(dtype)  # type: ignore[type-var]
    data = demand.kind == "data" and dtype.itemsize <= 2
    low = max(demand.low, bounds.min if data else 0) if demand.kind != "equals" else max(demand.low, bounds.min)
    return low, max(low, min(demand.high, bounds.max))


def _draw_indices(
    shape: tuple[int, ...], low: float, high: float, avoid: frozenset[float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw indices at random, without those that have a meaning of their own (padding)."""
    found = rng.integers(int(low), int(high), shape, endpoint=True)
    free = next((v for v in range(int(low), int(high) + 1) if v not in avoid), int(low))
    return np.where(np.isin(found, [int(v) for v in avoid if math.isfinite(v)]), free, found)


def _count_positions(graph: Graph, name: str, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.int64]:
    """Positions 0, 1, 2 ... along the last axis, behind those of the cache where there is one and they fit."""
    steps = shape[-1] if shape else 1
    past = _find_past_length(graph)
    first = past if past + steps - 1 <= high else 0
    found = np.minimum(np.arange(steps) + first + max(low, 0), high)
    return np.broadcast_to(found, shape or (1,)).reshape(shape).astype(np.int64)


def _find_past_length(graph: Graph) -> int:
    """Tokens in the cache: the size of the second axis from the end of the first input that is one; 0 without cache."""
    for info in graph.inputs:
        if re.search(r"past|cache", info.name.lower()) and info.shape is not None and len(info.shape) >= 3:
            return info.shape[-2]
    return 0


def _guess_length(graph: Graph, name: str) -> int:
    """Guess the full length of what an input is a length of: the input its name begins with, else the first one."""
    others = [i for i in graph.inputs if i.name != name and i.shape is not None and len(i.shape) > 1]
    others.sort(key=lambda i: not name.lower().startswith(i.name.lower()))
    if "past" in name.lower():
        return _find_past_length(graph)
    return max((others[0].shape or (1,))[1:]) if others else 1
