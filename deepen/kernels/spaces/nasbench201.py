"""Kernels of NAS-Bench-201 networks: all 15,625 in a second, equal to what splitting each network gives.

A network is one cell fifteen times. Which kernels a cell becomes follows from a few facts about the runtime: whether
equal nodes are merged, and which operators take the ReLU behind them. So a cell is evaluated symbolically, once, and
counted per stage. Before the shortcut is trusted for a runtime, five networks that exercise every rule are built and
split for real; should a runtime behave otherwise (another version, an edited rule file), all networks are split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from deepen.graph.spaces.nasbench201 import CELLS, CHANNELS, EDGES, RESOLUTION, build_graph, parse
from deepen.kernels.configure import configure
from deepen.kernels.split import runtimes, split
from deepen.kernels.types import Kernel

__all__ = ["kernel_counts"]


@dataclass(frozen=True, slots=True)
class _Behaviour:
    """What a runtime does to the nodes of a cell.

    Attributes:
        merges: Nodes that compute the same value become one.
        fused: Kinds of nodes that take a ReLU which alone reads them.
        scaled: Kinds of nodes that take the multiplication by zero of a ``none`` edge which alone reads them.
    """

    merges: bool
    fused: frozenset[str]
    scaled: frozenset[str] = frozenset()


_BEHAVIOURS = {
    "onnxruntime": _Behaviour(True, frozenset({"conv1", "conv3", "stem"}), frozenset({"conv1", "conv3", "stem"})),
    "tflite-cpu": _Behaviour(False, frozenset({"conv1", "conv3", "stem", "add", "pool", "mul", "bn"})),
}

_PROBES = (
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_1x1~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|avg_pool_3x3~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|",
    "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|",
)
"""Cells that between them show merging of every kind and every fusion."""

_Kind = tuple[str, str, bool]
"""Kind of node, kind of the node it takes (empty for none), whether it reads one tensor twice."""

_Counts = dict[_Kind, int]
"""How many nodes of each kind one cell has."""


def kernel_counts(
    cells: Sequence[str], runtime: str = "onnxruntime", classes: int = 10, resolution: int = RESOLUTION
) -> tuple[tuple[Kernel, ...], NDArray[np.int64]]:
    """Count the kernels of networks.

    Args:
        cells: Cell strings, as :func:`deepen.graph.spaces.nasbench201.parse` reads them.
        runtime: As for :func:`deepen.kernels.split.split`.
        classes: Classes of the fully connected layer.
        resolution: Height and width of the image.

    Returns:
        The distinct kernels (u of them, by family and parameters), and how often each network executes each, shape
        (len(cells), u).

    Raises:
        ConfigError: If a cell is malformed or there is no such runtime.
        GraphError: If the runtime refuses the networks.
    """
    if not cells:
        return (), np.zeros((0, 0), dtype=np.int64)
    operations = [parse(cell) for cell in cells]
    if runtime in _BEHAVIOURS and _trusted(runtime, classes, resolution):
        return _counted(operations, runtime, classes, resolution)
    found: list[Counter[str]] = []
    kernels: dict[str, Kernel] = {}
    for cell in cells:
        counts = _split_counts(cell, runtime, classes, resolution)
        found.append(Counter({key: count for key, (_, count) in counts.items()}))
        kernels.update({key: kernel for key, (kernel, _) in counts.items()})
    matrix = np.array([[counts[key] for key in kernels] for counts in found], dtype=np.int64)
    return tuple(kernels.values()), matrix


def _split_counts(cell: str, runtime: str, classes: int, resolution: int) -> dict[str, tuple[Kernel, int]]:
    """Kernels of a network that is really split, by key."""
    found: dict[str, tuple[Kernel, int]] = {}
    for kernel in split(build_graph(cell, classes, resolution), runtime).kernels:
        found[kernel.key] = (kernel, found[kernel.key][1] + 1 if kernel.key in found else 1)
    return found


@cache
def _trusted(runtime: str, classes: int, resolution: int) -> bool:
    """Whether counting gives what splitting gives, on the probes."""
    if runtime not in runtimes():
        return False
    for cell in _PROBES:
        kernels, matrix = _counted([parse(cell)], runtime, classes, resolution)
        counted = {kernel.key: int(count) for kernel, count in zip(kernels, matrix[0], strict=True)}
        if counted != {key: count for key, (_, count) in _split_counts(cell, runtime, classes, resolution).items()}:
            return False
    return True


def _counted(
    operations: Sequence[tuple[str, ...]], runtime: str, classes: int, resolution: int
) -> tuple[tuple[Kernel, ...], NDArray[np.int64]]:
    behaviour = _BEHAVIOURS[runtime]
    columns: dict[str, int] = {}
    kernels: list[Kernel] = []

    def column(kernel: Kernel) -> int:
        if kernel.key not in columns:
            columns[kernel.key] = len(kernels)
            kernels.append(kernel)
        return columns[kernel.key]

    distinct = {cell: _evaluate(cell, behaviour) for cell in dict.fromkeys(operations)}
    kinds = list(dict.fromkeys(kind for counts in distinct.values() for kind in counts if kind[0] != "stem"))
    sizes = [resolution >> stage for stage in range(len(CHANNELS))]
    places = [
        [column(_kernel(kind, width, size)) for kind in kinds] for width, size in zip(CHANNELS, sizes, strict=True)
    ]
    stems = [column(_conv(3, CHANNELS[0], resolution, 3, 1, relu=relu)) for relu in (False, True)]
    fixed = Counter(column(kernel) for kernel in _surroundings(behaviour, classes, resolution))
    matrix = np.zeros((len(operations), len(kernels)), dtype=np.int64)
    for row, cell in enumerate(operations):
        counts = distinct[cell]
        line = matrix[row]
        for number, kind in enumerate(kinds):
            if times := CELLS * counts.get(kind, 0):
                for stage in places:
                    line[stage[number]] += times
        taken = next((takes for name, takes, _ in counts if name == "stem"), "")
        line[stems[taken == "relu"]] += 1
        if taken:  # in the first cell of all, this node is the stem's
            line[places[0][kinds.index((taken, "", False))]] -= 1
    for place, times in fixed.items():
        matrix[:, place] += times
    used = np.flatnonzero(matrix.any(axis=0))
    return tuple(kernels[int(i)] for i in used), matrix[:, used]


def _evaluate(operations: tuple[str, ...], behaviour: _Behaviour) -> _Counts:
    """Nodes of a cell whose input comes from an addition; ``stem`` tells what a convolution there would take."""
    nodes: list[tuple[str, tuple[int, ...]]] = [("input", ())]
    same = [0]  # the node that stands for each after merging

    def add(kind: str, *inputs: int) -> int:
        nodes.append((kind, inputs))
        number = len(nodes) - 1
        same.append(number)
        if behaviour.merges and not kind.startswith("conv"):  # convolutions have weights of their own
            merged = [same[i] for i in inputs]
            same[number] = next(
                i for i, (k, read) in enumerate(nodes) if k == kind and [same[j] for j in read] == merged
            )  # fmt: skip
        return number

    values = {0: 0}
    for (source, target), name in zip(EDGES, operations, strict=True):
        x = values[source]
        match name:
            case "none":
                y = add("mul", x)
            case "skip_connect":
                y = x
            case "avg_pool_3x3":
                y = add("pool", x)
            case _:
                y = add("conv3" if name == "nor_conv_3x3" else "conv1", add("relu", x))
        values[target] = add("add", values[target], y) if target in values else y
    kept = [number for number in range(len(nodes)) if same[number] == number]
    readers: dict[int, list[int]] = {}
    for number in kept:
        for place in dict.fromkeys(same[i] for i in nodes[number][1]):
            readers.setdefault(place, []).append(number)
    counts: _Counts = {}
    gone: set[int] = set()
    for number in kept:
        if number in gone:
            continue
        kind, inputs = nodes[number]
        kind = "stem" if kind == "input" else kind
        alone = readers[number][0] if len(readers.get(number, ())) == 1 else -1
        takes = ""
        if alone > 0 and nodes[alone][0] == "relu" and kind in behaviour.fused:
            takes = "relu"
        elif alone > 0 and nodes[alone][0] == "mul" and kind in behaviour.scaled:
            takes = "mul"
        if takes and kind != "stem":
            gone.add(alone)
        if takes or kind != "stem":
            key = (kind, takes, len(inputs) > len(set(inputs)))
            counts[key] = counts.get(key, 0) + 1
    return counts


def _kernel(kind: _Kind, width: int, size: int) -> Kernel:
    """Kernel of a node inside a cell."""
    name, takes, twice = kind
    relu = takes == "relu"
    shape = [1, width, size, size]
    match name:
        case "conv1" | "conv3":
            return _conv(width, width, size, int(name[-1]), 1, relu=relu)
        case "relu":
            return configure("relu", {"shape": shape})
        case "pool":
            return _pool(width, size, 3, 1, 1)
        case "mul":
            return configure("binary", {"op": "Mul", "in_shapes": [shape, []], "sources": [0, -1]})
        case _:
            both = {"in_shapes": [shape, shape], "sources": [0, 0 if twice else 1]}
            return configure("addrelu", {**both, "activation": "relu"}) if relu else configure("add", both)


def _conv(
    c_in: int, c_out: int, size: int, kernel: int, stride: int, *, relu: bool = False, bias: bool = True
) -> Kernel:
    return configure(
        "conv-bn-relu",
        {
            "c_in": c_in, "c_out": c_out, "spatial": [size] * 2, "kernel": [kernel] * 2, "stride": [stride] * 2,
            "dilation": [1, 1], "pads": [kernel // 2] * 4, "bias": bias, "activation": "relu" if relu else "none",
        },
    )  # fmt: skip


def _pool(width: int, size: int, kernel: int, stride: int, pad: int) -> Kernel:
    return configure(
        "avgpool",
        {
            "c": width, "spatial": [size] * 2, "kernel": [kernel] * 2, "stride": [stride] * 2, "dilation": [1, 1],
            "pads": [pad] * 4,
        },
    )  # fmt: skip


def _surroundings(behaviour: _Behaviour, classes: int, resolution: int) -> list[Kernel]:
    """Kernels of the reduction blocks and behind the last cell: the same in every network."""
    found = []
    for stage, (before, width) in enumerate(zip(CHANNELS, CHANNELS[1:], strict=False)):
        size = resolution >> stage
        half = size // 2
        shape = [1, width, half, half]
        found += [
            configure("relu", {"shape": [1, before, size, size]}),
            _conv(before, width, size, 3, 2, relu=True),
            _conv(width, width, half, 3, 1),
            _pool(before, size, 2, 2, 0),
            _conv(before, width, half, 1, 1, bias=False),
            configure("add", {"in_shapes": [shape, shape], "sources": [0, 1]}),
        ]
    last, size = CHANNELS[-1], resolution >> (len(CHANNELS) - 1)
    shape = [1, last, size, size]
    if "bn" in behaviour.fused:
        found.append(configure("bnrelu", {"shape": shape, "activation": "relu"}))
    else:
        found += [configure("bn", {"shape": shape}), configure("relu", {"shape": shape})]
    found += [
        configure("global-avgpool", {"c": last, "spatial": [size] * 2}),
        configure("reshape", {"shape": [1, last, 1, 1], "out_shape": [1, last]}),
        configure("fc", {"m": 1, "k": last, "n": classes, "bias": True, "trans_b": True}),
    ]
    return found
