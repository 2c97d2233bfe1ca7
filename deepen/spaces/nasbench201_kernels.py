"""Counts the kernels of NAS-Bench-201 networks: of all 15,625 in a second, equal to splitting each network.

A network is one cell fifteen times. The kernels of a cell follow from a few properties of the runtime: whether it
merges equal nodes, and which operators it fuses with the ReLU behind them. So each cell is evaluated symbolically,
once, and counted per stage. Before this is used for a runtime, a few probe networks that exercise every rule are built
and split; if the runtime behaves otherwise (another version, an edited rule file), all networks are split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deepen.graph.types import TensorInfo
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.kernels.families.operator_costs import get_operator_cost
from deepen.kernels.splitting.split import list_split_runtimes, split_graph
from deepen.kernels.types import Kernel
from deepen.spaces.nasbench201_networks import CELLS, CHANNELS, EDGES, RESOLUTION, build_graph, parse_cell

__all__ = ["count_kernels"]


@dataclass(frozen=True, slots=True)
class _RuntimeFusion:
    """Changes a runtime makes to the nodes of a cell.

    Attributes:
        merges: Nodes that compute the same value become one.
        fused: Kinds of nodes that are fused with a ReLU, if that is their only reader.
        scaled: Kinds of nodes that are fused with the multiplication by zero of a ``none`` edge, if that is their only
            reader.
        converted: A converter has rewritten the model: zeros are folded, dead nodes are removed.
    """

    merges: bool
    fused: frozenset[str]
    scaled: frozenset[str] = frozenset()
    converted: bool = False


_RUNTIME_FUSIONS = {
    "onnxruntime": _RuntimeFusion(True, frozenset({"conv1", "conv3"}), frozenset({"conv1", "conv3"})),
    "tflite-cpu": _RuntimeFusion(True, frozenset({"conv1", "conv3", "add", "pool", "bn"}), converted=True),
}

_PROBES = (
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_1x1~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|",
    "|skip_connect~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|avg_pool_3x3~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|",
    "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_3x3~2|",
    "|none~0|+|nor_conv_3x3~0|none~1|+|none~0|nor_conv_3x3~1|none~2|",
    "|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|none~0|nor_conv_1x1~1|skip_connect~2|",
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|",
)
"""Cells that together exercise merging of every kind and every fusion."""

_NodeKind = tuple[str, str, bool, bool]
"""Kind of node, kind of the node fused behind it (empty for none), reads one tensor twice, multiplies by zeros."""

_ADD, _ADD_RELU, _RELU = ("add", "", False, False), ("add", "relu", False, False), ("relu", "", False, False)
_MUL = ("mul", "", False, False)

_ZERO = -1
"""Stands for a tensor of zeros."""


def count_kernels(
    cells: Sequence[str], runtime: str = "onnxruntime", classes: int = 10, resolution: int = RESOLUTION
) -> tuple[tuple[Kernel, ...], NDArray[np.int64]]:
    """Count the kernels of networks.

    Args:
        cells: Cell strings, as :func:`deepen.spaces.nasbench201_networks.parse_cell` reads them.
        runtime: As for :func:`deepen.kernels.splitting.split.split_graph`.
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
    operations = [parse_cell(cell) for cell in cells]
    if runtime in _RUNTIME_FUSIONS and _counting_matches_splitting(runtime, classes, resolution):
        return _count_by_rules(operations, runtime, classes, resolution)
    found: list[Counter[str]] = []
    kernels: dict[str, Kernel] = {}
    for cell in cells:
        counts = _count_by_splitting(cell, runtime, classes, resolution)
        found.append(Counter({key: count for key, (_, count) in counts.items()}))
        kernels.update({key: kernel for key, (kernel, _) in counts.items()})
    matrix = np.array([[counts[key] for key in kernels] for counts in found], dtype=np.int64)
    return tuple(kernels.values()), matrix


def _count_by_splitting(cell: str, runtime: str, classes: int, resolution: int) -> dict[str, tuple[Kernel, int]]:
    """Split a network and count its kernels, by key."""
    found: dict[str, tuple[Kernel, int]] = {}
    for kernel in split_graph(build_graph(cell, classes, resolution), runtime).kernels:
        found[kernel.key] = (kernel, found[kernel.key][1] + 1 if kernel.key in found else 1)
    return found


@dataclass(frozen=True, slots=True)
class _EvaluatedCell:
    """Nodes of a cell after merging and fusion.

    Attributes:
        counts: Number of nodes of each kind.
        reads: Whether its output depends on its input at all.
        taken: Kind of the node that is fused with the node that writes the cell's input; empty for none.
        output: Kind of the node that writes its output; ``None`` if that is its input, or zeros.
        silent: Whether its output is zeros although no converter folded them: the next cell computes with zeros.
    """

    counts: dict[_NodeKind, int]
    reads: bool
    taken: str
    output: _NodeKind | None
    silent: bool


@cache
def _counting_matches_splitting(runtime: str, classes: int, resolution: int) -> bool:
    """Return whether counting by rules gives the same kernels as splitting, on the probe cells."""
    if runtime not in list_split_runtimes():
        return False
    for cell in _PROBES:
        kernels, matrix = _count_by_rules([parse_cell(cell)], runtime, classes, resolution)
        counted = {kernel.key: int(count) for kernel, count in zip(kernels, matrix[0], strict=True)}
        if counted != {
            key: count for key, (_, count) in _count_by_splitting(cell, runtime, classes, resolution).items()
        }:
            return False
    return True


def _count_by_rules(
    operations: Sequence[tuple[str, ...]], runtime: str, classes: int, resolution: int
) -> tuple[tuple[Kernel, ...], NDArray[np.int64]]:
    """Count kernels by the rules of the runtime; arguments and result as for :func:`count_kernels`.

    1. Evaluate each distinct cell on its input, and the cells behind a silent one on zeros.
    2. Make the kernels: of every kind of node at every stage, of the stem, of the reductions between stages, and of
       the head.
    3. Tabulate the nodes of each kind in the first cell of a stage and in the later ones, shape (cells, kinds).
    4. Add up each stage: the first cell and the later ones, with the nodes moved that are fused across cells. If the
       output of a cell does not depend on its input, only the last cell of the network runs.
    5. Add the stem, the reductions and the head.
    6. Arrange rows as the cells were given, and leave out kernels that are not used.
    """
    behaviour = _RUNTIME_FUSIONS[runtime]
    columns: dict[str, int] = {}
    kernels: list[Kernel] = []

    def find_column(kernel: Kernel) -> int:
        if kernel.key not in columns:
            columns[kernel.key] = len(kernels)
            kernels.append(kernel)
        return columns[kernel.key]

    # 1
    distinct = {cell: _evaluate_cell(cell, behaviour) for cell in dict.fromkeys(operations)}
    kinds: dict[_NodeKind, None] = dict.fromkeys((_ADD, _ADD_RELU, _RELU, _MUL))
    found = list(distinct.values())
    behind = [_evaluate_cell(name, behaviour, zeros=True) if cell.silent else cell for name, cell in distinct.items()]
    for cell in (*found, *behind):
        kinds.update(dict.fromkeys(cell.counts))
        if cell.output:
            kinds[_fuse_relu(cell.output)] = None
    # 2
    sizes = [resolution >> stage for stage in range(len(CHANNELS))]
    stages = [
        {kind: find_column(_make_cell_kernel(kind, width, size)) for kind in kinds}
        for width, size in zip(CHANNELS, sizes, strict=True)
    ]
    stem = _make_conv_kernel(3, CHANNELS[0], resolution, 3, 1)
    stems = {
        "": find_column(stem),
        "relu": find_column(_make_conv_kernel(3, CHANNELS[0], resolution, 3, 1, relu=True)),
        "mul": find_column(replace(stem, zero_operand=True)),
    }
    between = [Counter(find_column(k) for k in _make_reduction_kernels(resolution, zeros)) for zeros in (False, True)]
    head = Counter(find_column(kernel) for kernel in _make_head_kernels(behaviour, classes, resolution))
    # 3
    place = {kind: number for number, kind in enumerate(kinds)}
    inside, later = (np.zeros((len(found), len(kinds)), dtype=np.int64) for _ in range(2))
    for table, cells_of in ((inside, found), (later, behind)):
        for row, cell in enumerate(cells_of):
            for kind, times in cell.counts.items():
                table[row, place[kind]] = times
    # 4
    whole = np.array([cell.reads for cell in found])
    matrix = np.zeros((len(found), len(kernels)), dtype=np.int64)
    for number, stage in enumerate(stages):
        counts = inside + (CELLS - 1) * later
        _move_fused_nodes(counts, found, place, behaviour, first=number == 0)
        counts *= whole[:, None]
        if number == len(stages) - 1:
            counts += inside * ~whole[:, None]
        for kind, at in stage.items():  # one by one: several kinds may be one kernel
            matrix[:, at] += counts[:, place[kind]]
    # 5
    for taken, at in stems.items():
        matrix[:, at] += whole & np.array([cell.taken == taken for cell in found])
    silent = np.array([cell.silent for cell in found])
    for these, reductions in zip((whole & ~silent, whole & silent), between, strict=True):
        for at, times in reductions.items():
            matrix[:, at] += times * these
    for at, times in head.items():
        matrix[:, at] += times
    # 6
    rows = {cell: row for row, cell in enumerate(distinct)}
    matrix = matrix[[rows[cell] for cell in operations]]
    used = np.flatnonzero(matrix.any(axis=0))
    return tuple(kernels[int(i)] for i in used), matrix[:, used]


def _fuse_relu(kind: _NodeKind) -> _NodeKind:
    return kind[0], "relu", kind[2], kind[3]


def _move_fused_nodes(
    counts: NDArray[np.int64],
    found: Sequence[_EvaluatedCell],
    place: dict[_NodeKind, int],
    behaviour: _RuntimeFusion,
    first: bool,
) -> None:
    """Move the only reader of a cell's input to the node it is fused with: the stem, a reduction or the cell before.

    1. In the first stage, the reader in the first cell becomes part of the stem's kernel.
    2. In the other stages, a ReLU in the first cell is fused with the addition that ends the reduction.
    3. A ReLU in a later cell is fused with the node that writes the output of the cell before.

    Args:
        counts: Nodes of a stage, shape (cells, kinds); changed.
        found: The cells.
        place: Column of each kind.
        behaviour: Fusions of the runtime.
        first: Whether it is the first stage, whose first cell reads the stem.
    """
    for row, cell in enumerate(found):
        if not cell.taken:
            continue
        if first:  # 1
            counts[row, place[cell.taken, "", False, False]] -= 1
        if cell.taken != "relu" or "add" not in behaviour.fused:
            continue
        if not first:  # 2
            counts[row, place[_RELU]] -= 1
            counts[row, place[_ADD]] -= 1
            counts[row, place[_ADD_RELU]] += 1
        if cell.output is not None:  # 3
            counts[row, place[_RELU]] -= CELLS - 1
            counts[row, place[cell.output]] -= CELLS - 1
            counts[row, place[_fuse_relu(cell.output)]] += CELLS - 1


@cache
def _evaluate_cell(operations: tuple[str, ...], behaviour: _RuntimeFusion, zeros: bool = False) -> _EvaluatedCell:
    """Evaluate a cell symbolically.

    1. Make the nodes of each edge and sum them at each vertex; nodes that compute the same are merged if the runtime
       merges. Convolutions never are: they have weights of their own.
    2. If a converter has rewritten the model, keep only the nodes that reach the output.
    3. Find the readers of each node, and the nodes whose result is zeros for any input.
    4. Fuse a node with its only reader: with a ReLU or a multiplication by zero, as the runtime does. The reader of
       the cell's input is left to the node that writes it (``taken``).
    5. Count the nodes by kind.

    Args:
        operations: Operation of each edge.
        behaviour: Fusions of the runtime.
        zeros: Whether the cell's input is zeros, although it is not a constant.
    """
    # 1
    nodes: list[tuple[str, tuple[int, ...]]] = [("input", ())]
    same = [0]  # the node that stands for each after merging
    first: dict[tuple[str, tuple[int, ...]], int] = {}

    def add_node(kind: str, *inputs: int) -> int:
        nodes.append((kind, inputs))
        number = len(nodes) - 1
        same.append(number)
        if behaviour.merges and not kind.startswith("conv"):  # convolutions have weights of their own
            merged = tuple(same[i] for i in inputs)
            same[number] = first.setdefault((kind, merged), number)
        return number

    values = {0: 0}
    for (source, target), name in zip(EDGES, operations, strict=True):
        x = values[source]
        match name:
            case "none":
                y = _ZERO if behaviour.converted else add_node("mul", x)
            case "skip_connect":
                y = x
            case "avg_pool_3x3":
                y = x if x == _ZERO else add_node("pool", x)
            case _:
                kind = "conv3" if name == "nor_conv_3x3" else "conv1"
                y = add_node(kind, x if x == _ZERO else add_node("relu", x))
        if target not in values or values[target] == _ZERO:
            values[target] = y
        elif y != _ZERO:
            values[target] = add_node("add", values[target], y)
    kept = [number for number in range(len(nodes)) if same[number] == number]
    if behaviour.converted:  # 2
        kept = _find_live_nodes(kept, nodes, same, values[len(values) - 1])
    # 3
    readers: dict[int, list[int]] = {}
    for number in kept:
        for place in dict.fromkeys(same[i] for i in nodes[number][1] if i != _ZERO):
            readers.setdefault(place, []).append(number)
    silent = _find_zero_nodes(nodes, zeros)
    # 4
    counts: dict[_NodeKind, int] = {}
    taken = ""
    output: _NodeKind | None = None
    fused: set[int] = set()
    for number in kept:
        if number in fused:
            continue
        kind, inputs = nodes[number]
        if behaviour.converted:
            inputs = tuple(i if i == _ZERO else same[i] for i in inputs)
        reader = readers[number][0] if len(readers.get(number, ())) == 1 else 0
        takes = ""
        if reader and nodes[reader][0] == "relu" and kind in (*behaviour.fused, "input"):
            takes = "relu"
        elif reader and nodes[reader][0] == "mul" and kind in (*behaviour.scaled, "input") and behaviour.scaled:
            takes = "mul"
        if number == 0:
            taken = takes
            continue
        if takes:
            fused.add(reader)
        # 5
        multiplies = kind.startswith("conv") and (takes == "mul" or nodes[number][1][0] in silent)
        key = (kind, takes, len(inputs) > len(set(inputs)), multiplies)
        counts[key] = counts.get(key, 0) + 1
        if values[len(values) - 1] != _ZERO and number == same[values[len(values) - 1]]:
            output = key
    return _EvaluatedCell(
        counts, 0 in kept, taken, output, not behaviour.converted and values[len(values) - 1] in silent
    )


def _find_zero_nodes(nodes: Sequence[tuple[str, tuple[int, ...]]], zeros: bool) -> set[int]:
    """Find the nodes whose result is zeros for any input of the model."""
    silent = {_ZERO, 0} if zeros else {_ZERO}
    for number, (kind, inputs) in enumerate(nodes):
        if kind == "mul" or (kind in ("relu", "pool", "add") and silent.issuperset(inputs)):
            silent.add(number)
    return silent


def _find_live_nodes(
    kept: Sequence[int], nodes: Sequence[tuple[str, tuple[int, ...]]], same: Sequence[int], output: int
) -> list[int]:
    """Find the nodes whose result reaches the output."""
    wanted = {_ZERO if output == _ZERO else same[output]}
    alive = []
    for number in reversed(kept):
        if number in wanted:
            alive.append(number)
            wanted.update(i if i == _ZERO else same[i] for i in nodes[number][1])
    return alive[::-1]


def _make_cell_kernel(kind: _NodeKind, width: int, size: int) -> Kernel:
    """Make the kernel of a node inside a cell."""
    name, takes, twice, zeros = kind
    relu = takes == "relu"
    shape = [1, width, size, size]
    match name:
        case "conv1" | "conv3":
            return replace(_make_conv_kernel(width, width, size, int(name[-1]), 1, relu=relu), zero_operand=zeros)
        case "relu":
            return make_kernel_from_params("relu", {"shape": shape})
        case "pool":
            return _make_pool_relu_kernel(width, size) if relu else _make_pool_kernel(width, size, 3, 1, 1)
        case "mul":
            return make_kernel_from_params("binary", {"op": "Mul", "in_shapes": [shape, []], "sources": [0, -1]})
        case _:
            both = {"in_shapes": [shape, shape], "sources": [0, 0 if twice else 1]}
            return (
                make_kernel_from_params("addrelu", {**both, "activation": "relu"})
                if relu
                else make_kernel_from_params("add", both)
            )


def _make_conv_kernel(
    c_in: int, c_out: int, size: int, kernel: int, stride: int, *, relu: bool = False, bias: bool = True
) -> Kernel:
    return make_kernel_from_params(
        "conv-bn-relu",
        {
            "c_in": c_in, "c_out": c_out, "spatial": [size] * 2, "kernel": [kernel] * 2, "stride": [stride] * 2,
            "dilation": [1, 1], "pads": [kernel // 2] * 4, "bias": bias, "activation": "relu" if relu else "none",
        },
    )  # fmt: skip


def _make_pool_kernel(width: int, size: int, kernel: int, stride: int, pad: int) -> Kernel:
    return make_kernel_from_params(
        "avgpool",
        {
            "c": width, "spatial": [size] * 2, "kernel": [kernel] * 2, "stride": [stride] * 2, "dilation": [1, 1],
            "pads": [pad] * 4,
        },
    )  # fmt: skip


def _make_pool_relu_kernel(width: int, size: int) -> Kernel:
    """Make the kernel of a pooling fused with a ReLU, which is of no family."""
    given = TensorInfo("x", (1, width, size, size), "float32")
    return Kernel(
        name=f"pool-relu-{width}",
        family="other",
        op_types=("AveragePool", "Relu"),
        params={
            "op_types": ["AveragePool", "Relu"], "in_shapes": [[1, width, size, size]],
            "out_shapes": [[1, width, size, size]], "dtype": "float32",
        },
        inputs=(given,),
        weights=(),
        outputs=(replace(given, name="y"),),
        node_names=(),
        macs=0,
        ops=given.elements * (get_operator_cost("AveragePool") + get_operator_cost("Relu")),
        bytes_read=given.nbytes,
        bytes_written=given.nbytes,
    )  # fmt: skip


def _make_reduction_kernels(resolution: int, zeros: bool) -> list[Kernel]:
    """Make the kernels of the residual blocks between stages; ``zeros``: whether they read zeros."""
    found = []
    for stage, (before, width) in enumerate(pairwise(CHANNELS)):
        size = resolution >> stage
        half = size // 2
        shape = [1, width, half, half]
        found += [
            make_kernel_from_params("relu", {"shape": [1, before, size, size]}),
            replace(_make_conv_kernel(before, width, size, 3, 2, relu=True), zero_operand=zeros),
            _make_conv_kernel(width, width, half, 3, 1),
            _make_pool_kernel(before, size, 2, 2, 0),
            replace(_make_conv_kernel(before, width, half, 1, 1, bias=False), zero_operand=zeros),
            make_kernel_from_params("add", {"in_shapes": [shape, shape], "sources": [0, 1]}),
        ]
    return found


def _make_head_kernels(behaviour: _RuntimeFusion, classes: int, resolution: int) -> list[Kernel]:
    """Make the kernels behind the last cell."""
    last, size = CHANNELS[-1], resolution >> (len(CHANNELS) - 1)
    shape = [1, last, size, size]
    if "bn" in behaviour.fused:
        normalised = [make_kernel_from_params("bnrelu", {"shape": shape, "activation": "relu"})]
    else:
        normalised = [
            make_kernel_from_params("bn", {"shape": shape}),
            make_kernel_from_params("relu", {"shape": shape}),
        ]
    return [
        *normalised,
        make_kernel_from_params("global-avgpool", {"c": last, "spatial": [size] * 2}),
        make_kernel_from_params("reshape", {"shape": [1, last, 1, 1], "out_shape": [1, last]}),
        make_kernel_from_params("fc", {"m": 1, "k": last, "n": classes, "bias": True, "trans_b": True}),
    ]
