"""Example sizes for the open dimensions of a model, each tried on the model before it is proposed.

1. Every symbol, and every dimension without one, is a variable; a symbol that is an expression over others is none.
2. The first operators behind an input (:mod:`deepen.graph.onnx_reader.axis_demands`), the names and the number of axes
   give each variable a role, and the role a ladder of plausible sizes.
3. The model is read with the first size of every ladder. If it cannot take them, variables are changed one by one: to
   the size with which reading gets furthest.
4. The sizes are said by as few options as determine them.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from deepen.graph.onnx_reader.axis_demands import AxisDemands, find_axis_demands
from deepen.graph.onnx_reader.dimension_symbols import UNNAMED, compute_symbol, list_symbol_names, solve_symbols
from deepen.graph.onnx_reader.input_shapes import list_model_inputs

if TYPE_CHECKING:
    import onnx

__all__ = ["NEARLY", "ProposedOptions", "propose_options"]

NEARLY = 10**9
"""Nodes that a model is said to be read to, less one for each contradiction, if only branches of If have some."""

_MOST_TRIALS, _MOST_SECONDS = 150, 4.0
_LEAST_TRIALS = 3  # however slow the model is to read
_MOST_ROUNDS = 3  # of changing every variable
_MOST_TEXT = 240  # characters; an error is one line under 400

_LADDERS: dict[str, tuple[int, ...]] = {
    "batch": (1, 2),
    "channels": (3, 1, 4, 64, 128),
    "pixels": (224, 32, 64, 96, 112, 128, 160, 192, 256, 299, 320, 384, 416, 448, 512, 640, 48, 28, 16, 8, 4, 2, 1),
    "voxels": (32, 64, 16, 96, 128, 8, 4, 1),
    "samples": (16000, 32000, 48000, 80000, 160000, 480000, 1280, 640, 512, 400, 160),
    "frames": (100, 200, 300, 64, 76, 80, 96, 128, 400, 1000, 3000, 16, 8, 4, 1),
    "tokens": (128, 64, 16, 32, 8, 256, 77, 512, 1, 2, 4),
    "past": (128, 64, 16, 32, 1, 2, 4, 8, 0),
    "count": (100, 10, 16, 1, 2, 4, 300),
    "length": (128, 64, 32, 16, 100, 256, 512, 1000, 16000, 8, 4, 3, 2, 1),
}

# Roles by the name of a symbol, then of the input, in this order.
_NAMES = (
    ("past", r"past|cache|history|memory_len|context_len"),
    ("tokens", r"seq|token|text|src_len|tgt_len|phone|char|word|sentence|query|prompt"),
    ("count", r"num_|nodes|edges|points|boxes|rois|objects|n_[a-z]|classes|labels|faces|speakers"),
    ("samples", r"sample|audio|wav|pcm|signal|speech"),
    ("frames", r"frame|time|mel|feats|^t$"),
    ("pixels", r"height|width|^[hw]$|image|img|^s[0-9]+_?[hw]$"),
    ("channels", r"channel"),
)
_STATES = r"state|hidden|lstm|gru|rnn|^[hc][0-9n_]*$"  # layers x batch x units
_BATCH = r"batch|^[nb]$|^bs$|^bsz$"


@dataclass(frozen=True, slots=True)
class ProposedOptions:
    """Options that a model was read with.

    Attributes:
        shapes: Shape by input name.
        dims: Size by symbol.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write the options as they can be typed; if there are very many, the first ones and how many follow."""
        said = [f"--dim {shlex.quote(f'{symbol}={size}')}" for symbol, size in self.dims.items()]
        for name, shape in self.shapes.items():
            said.append(f"--shape {shlex.quote(name + '=' + 'x'.join(map(str, shape)))}")
        while len(" ".join(said)) > _MOST_TEXT and len(said) > 1:
            said.pop()
        left = len(self.dims) + len(self.shapes) - len(said)
        return " ".join(said) + (f" and {left} more, which the next message says" if left else "")

    def count_characters(self) -> int:
        """Count the characters that the names and sizes take."""
        return sum(len(name) + 4 * len(shape) + 9 for name, shape in self.shapes.items()) + sum(
            len(symbol) + 11 for symbol in self.dims
        )


Trial = Callable[[ProposedOptions], int | None]
"""Reads the model with options: ``None`` if it takes them, else how many nodes it came to."""


def propose_options(graph: onnx.GraphProto, try_options: Trial) -> ProposedOptions | None:
    """Propose sizes for the open dimensions of a graph's inputs, in the four steps of the module's docstring.

    Args:
        graph: Its inputs as the file declares them, with what the user said filled in; not changed.
        try_options: Reads the model with options.

    Returns:
        Options under which the model was read; ``None`` if none were found in the time allowed (some seconds).
    """
    search = _SizeSearch(graph, find_axis_demands(graph), try_options)  # 1, 2
    return search.choose_options() if search.run() else None


class _SizeSearch:
    """The search for the sizes of one graph.

    Attributes:
        shapes: Dimensions by input: a size, or the name of a variable or expression.
        open: Inputs with open dimensions.
        sizes: Size of each variable.
    """

    def __init__(self, graph: onnx.GraphProto, demands: AxisDemands, try_options: Trial) -> None:
        self._demands, self._try_options = demands, try_options
        self.shapes: dict[str, tuple[int | str, ...]] = {}
        self._named: set[str] = set()
        self._integers: set[str] = set()
        for value in list_model_inputs(graph):
            if value.type.HasField("tensor_type"):
                self._add_input(value)
        self.open = [name for name, dims in self.shapes.items() if any(isinstance(dim, str) for dim in dims)]
        symbols = dict.fromkeys(dim for dims in self.shapes.values() for dim in dims if isinstance(dim, str))
        plain = {name for symbol in symbols for name in list_symbol_names(symbol)[1:]}
        expressions = {symbol for symbol in symbols if len(list_symbol_names(symbol)) > 1}
        self._ladders: dict[str, list[int]] = {}
        for symbol in (*(s for s in symbols if s not in expressions), *(s for s in sorted(plain) if s not in symbols)):
            self._ladders[symbol] = self._make_ladder(symbol)
        self.sizes = {symbol: ladder[0] for symbol, ladder in self._ladders.items()}
        for symbol in expressions:  # a name that only looks like one
            if compute_symbol(symbol, self.sizes) is None:
                self._ladders[symbol] = self._make_ladder(symbol)
                self.sizes[symbol] = self._ladders[symbol][0]
        self._trials, self._until_s = 0, time.monotonic() + _MOST_SECONDS
        self._known: dict[tuple[tuple[str, int], ...], int | None] = {}

    def _add_input(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        if tensor.elem_type in {2, 3, 4, 5, 6, 7, 12, 13}:
            self._integers.add(value.name)
        dims: list[int | str] = []
        if not tensor.HasField("shape"):
            dims += [f"{value.name}[{axis}]" for axis in range(self._demands.ranks.get(value.name, 4))]
        for axis, dim in enumerate(tensor.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                dims.append(dim.dim_value)
            elif dim.dim_param in UNNAMED:
                dims.append(f"{value.name}[{axis}]")
            else:
                dims.append(dim.dim_param)
                self._named.add(dim.dim_param)
        self.shapes[value.name] = tuple(dims)

    # --- step 2 -------------------------------------------------------------------------------------------------

    def _make_ladder(self, symbol: str) -> list[int]:
        """Make the ladder of a variable: a size that weights demand, or those of its role, then small ones."""
        places = [(name, axis) for name, dims in self.shapes.items() for axis, dim in enumerate(dims) if dim == symbol]
        demanded = [self._demands.sizes[place] for place in places if place in self._demands.sizes]
        ladder = _LADDERS[self._choose_role(symbol, places)]
        return list(dict.fromkeys((*demanded, *ladder)))

    def _choose_role(self, symbol: str, places: list[tuple[str, int]]) -> str:
        """Choose the role of a variable: its name decides, then the operators, then the input's name and axes."""
        name = symbol.lower() if symbol in self._named else ""
        if re.search(_BATCH, name):
            return "batch"
        for role, pattern in _NAMES:
            if name and re.search(pattern, name):
                return role
        roles = [self._demands.roles[place] for place in places if place in self._demands.roles]
        if roles:
            first = next((role for role in roles if role != "batch"), "batch")
            return "length" if first == "tokens" and not places[0][1] and len(places) > 1 else first
        if not places:
            return "length"
        owner, axis = places[0]
        dims = self.shapes[owner]
        if axis == 0 and (len(dims) > 1 or owner in self._integers):
            return "batch"
        if len(dims) == 3 and axis == 1 and isinstance(dims[0], int) and re.search(_STATES, owner.lower()):
            return "batch"
        if len(dims) == 4 and not re.search(r"past|cache|key|value|state", owner.lower()):
            last = dims[-1] in {1, 3, 4} and not isinstance(dims[1], int)
            return "channels" if axis == (3 if last else 1) else "pixels"
        for role, pattern in _NAMES:
            if re.search(pattern, owner.lower()):
                return role if role not in {"channels", "count"} else "length"
        return "tokens" if owner in self._integers else "length"

    # --- step 3 -------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Find sizes that the model takes; return whether there are some."""
        best = self._try(self.sizes)
        for _ in range(_MOST_ROUNDS):
            if best is None:
                return True
            before = best
            for group in self._list_groups():
                for size in self._list_sizes(group):
                    changed = {**self.sizes, **dict.fromkeys(group, size)}
                    reached = self._try(changed)
                    if reached is None:
                        self.sizes = changed
                        return True
                    if reached > best:
                        self.sizes, best = changed, reached
            if best == before:
                break
        return best is None or best > NEARLY // 2

    def _list_groups(self) -> list[tuple[str, ...]]:
        """List the variables to change together: those of one ladder, then each alone."""
        by_ladder: dict[tuple[int, ...], list[str]] = {}
        for symbol, ladder in self._ladders.items():
            by_ladder.setdefault(tuple(ladder), []).append(symbol)
        groups = [tuple(symbols) for symbols in by_ladder.values()]
        return list(dict.fromkeys((*groups, *((symbol,) for symbol in self._ladders))))

    def _list_sizes(self, group: tuple[str, ...]) -> list[int]:
        """List the sizes to try: the ladder, what follows from other variables, and widths of layers."""
        others = sorted({size for symbol, size in self.sizes.items() if symbol not in group})
        sums = [first + second for first, second in combinations(others, 2)] if len(others) < 8 else []
        followed = [*others, *sums, *(size + 1 for size in others), *(2 * size for size in others)]
        followed += self._demands.widths
        return list(dict.fromkeys((*self._ladders[group[0]], *(followed if len(group) == 1 else ()))))

    def _try(self, sizes: Mapping[str, int]) -> int | None:
        """Try sizes; ``-1`` once the time is over."""
        key = tuple(sizes.items())
        if key not in self._known:
            over = self._trials >= _MOST_TRIALS or time.monotonic() > self._until_s
            if over and self._trials >= _LEAST_TRIALS:
                return -1
            self._trials += 1
            self._known[key] = self._try_options(ProposedOptions(self._fill(sizes)))
        return self._known[key]

    def _fill(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Fill in the shapes of the open inputs."""
        return {
            name: tuple(dim if isinstance(dim, int) else compute_symbol(dim, sizes) or 0 for dim in self.shapes[name])
            for name in self.open
        }

    # --- step 4 -------------------------------------------------------------------------------------------------

    def choose_options(self) -> ProposedOptions:
        """Choose few options that say the sizes found: some shapes that determine the rest, or sizes of symbols."""
        full = self._fill(self.sizes)
        chosen: dict[str, tuple[int, ...]] = {}
        for name in sorted(full, key=self._count_variables, reverse=True):
            if not self._are_known([name], chosen):
                chosen[name] = full[name]
        for name in list(chosen):  # what the later ones made needless
            rest = {other: shape for other, shape in chosen.items() if other != name}
            if self._are_known(self.open, rest):
                chosen = rest
        by_shape = ProposedOptions({name: full[name] for name in self.open if name in chosen})
        if by_shape.count_characters() <= _MOST_TEXT:
            return by_shape
        said = {dim for name in self.open for dim in self.shapes[name] if isinstance(dim, str)}
        named = [symbol for symbol in self.sizes if symbol in self._named or symbol not in said]
        unnamed = {name for name in self.open if any(f"{name}[{axis}]" in self.shapes[name] for axis in range(32))}
        by_symbol = ProposedOptions(
            {name: full[name] for name in self.open if name in unnamed},
            {symbol: self.sizes[symbol] for symbol in named},
        )
        return min(by_shape, by_symbol, key=ProposedOptions.count_characters)

    def _count_variables(self, name: str) -> int:
        """Number of plain variables that a shape of this input would say."""
        return len({dim for dim in self.shapes[name] if dim in self._ladders})

    def _are_known(self, names: list[str], chosen: Mapping[str, tuple[int, ...]]) -> bool:
        """Return whether the shapes of these inputs follow from the chosen ones."""
        said = {
            dim: size for name, shape in chosen.items() for dim, size in zip(self.shapes[name], shape, strict=True)
            if dim in self._named
        }  # fmt: skip
        symbols = [dim for dims in self.shapes.values() for dim in dims if isinstance(dim, str)]
        known = solve_symbols(symbols, said)
        return all(
            name in chosen or all(isinstance(dim, int) or dim in known for dim in self.shapes[name]) for name in names
        )
