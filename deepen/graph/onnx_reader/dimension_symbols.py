"""Symbols of dimensions: their sizes, and those of expressions over them (``past_length + length``, ``2*N``)."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["UNNAMED", "compute_symbol", "list_symbol_names", "list_type_symbols", "solve_symbols"]

UNNAMED = frozenset({"", "?"})
"""Names of dimensions that need not be equal: PaddlePaddle names every open dimension ``?``."""

_TRIED_SIZE = 1000  # large enough for `symbol - 1` to be a size
_MOST_ROUNDS = 100  # of solving: one for each derived symbol of a chain

_CALLS: dict[str, Callable[..., float]] = {
    "floor": floor, "ceil": ceil, "ceiling": ceil, "max": max, "min": min, "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b, "floortoint": floor, "cleandiv": lambda a, b: a // b, "trunctoint": int,
}  # fmt: skip
_OPERATORS: dict[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b, ast.Sub: lambda a, b: a - b, ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b, ast.FloorDiv: lambda a, b: a // b, ast.Mod: lambda a, b: a % b,
}  # fmt: skip


@lru_cache(maxsize=4096)
def _parse_expression(symbol: str) -> tuple[ast.expr | None, tuple[tuple[str, str], ...]]:
    """Parse a symbol that is an expression over others; ``None`` for a plain name.

    Names may hold any character but blanks and operators (``unk__12``, ``batch-size``, ``x.1``), so that a minus needs
    blanks around it. Each name is replaced by one that Python takes.

    Returns:
        The tree, and the names in it: (name in the tree, symbol).
    """
    if len(symbol) > 300 or not re.search(r"[+*/%(]| - ", symbol):
        return None, ()
    names: dict[str, str] = {}

    def replace_name(found: re.Match[str]) -> str:
        text = found.group()
        if re.fullmatch(r"\d+(\.\d*)?", text):
            return text
        if symbol[found.end() :].lstrip().startswith("(") and text.rpartition(".")[2].lower() in _CALLS:
            return text.rpartition(".")[2].lower()
        return names.setdefault(text, f"v{len(names)}_")

    text = re.sub(r"[^\s+*/%(),-]+(?:-[^\s+*/%(),-]+)*", replace_name, symbol)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, ()
    return tree, tuple((inside, name) for name, inside in names.items())


def list_symbol_names(symbol: str) -> list[str]:
    """List the symbol itself, and the symbols it is computed from if it is an expression."""
    return [symbol, *(name for _, name in _parse_expression(symbol)[1])]


def list_type_symbols(type_proto: onnx.TypeProto) -> list[str]:
    """List the named symbols of a tensor type, in order, each as often as it stands there."""
    return [dim.dim_param for dim in type_proto.tensor_type.shape.dim if dim.dim_param not in UNNAMED]


def compute_symbol(symbol: str, sizes: Mapping[str, int]) -> int | None:
    """Compute the size of a symbol from those of others.

    Args:
        symbol: A plain name, or an expression of ``+ - * / // %``, ``floor``, ``ceil``, ``max`` and ``min``.
        sizes: Sizes by symbol.

    Returns:
        The size; ``None`` if a symbol in it has none or it is no whole number of elements.
    """
    if symbol in sizes:
        return sizes[symbol]
    tree, names = _parse_expression(symbol)
    if tree is None or any(name not in sizes for _, name in names):
        return None
    try:
        value = _evaluate(tree, {inside: sizes[name] for inside, name in names})
    except (ArithmeticError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return int(value) if value >= 0 and value == int(value) else None


def _evaluate(tree: ast.AST, sizes: Mapping[str, int]) -> float:
    match tree:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)](_evaluate(left, sizes), _evaluate(right, sizes))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, sizes)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _CALLS:
            return _CALLS[name](*(_evaluate(argument, sizes) for argument in arguments))
    raise ValueError("not an expression over sizes")


def solve_symbols(symbols: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """Find the sizes of symbols that follow from known ones.

    1. An expression whose symbols are known is computed.
    2. A symbol that alone is unknown in an expression of known size is solved for, where the expression grows with it
       as ``symbol + rest`` or ``factor * symbol + rest`` does.

    Args:
        symbols: Symbols of the model.
        known: Sizes that were given.

    Returns:
        ``known`` and what follows from it.
    """
    sizes = dict(known)
    symbols = list(dict.fromkeys(symbols))
    for _ in range(_MOST_ROUNDS):
        before = len(sizes)
        for symbol in symbols:
            if symbol not in sizes:  # 1
                size = compute_symbol(symbol, sizes)
                if size is not None:
                    sizes[symbol] = size
            else:  # 2
                sizes |= _solve_expression(symbol, sizes)
        if len(sizes) == before:
            break
    return sizes


def _solve_expression(symbol: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Solve an expression of known size for its only unknown symbol; empty if that cannot be done exactly."""
    names = [name for _, name in _parse_expression(symbol)[1]]
    unknown = [name for name in dict.fromkeys(names) if name not in sizes]
    if len(unknown) != 1:
        return {}
    others = {name: size for name, size in sizes.items() if name != symbol}
    near = max(_TRIED_SIZE, sizes[symbol])
    here, there = (compute_symbol(symbol, {**others, unknown[0]: size}) for size in (near, near + 1))
    if here is None or there is None or here == there:
        return {}
    steps, rest = divmod(sizes[symbol] - here, there - here)
    size = near + steps
    if rest or size < 0 or compute_symbol(symbol, {**others, unknown[0]: size}) != sizes[symbol]:
        return {}
    return {unknown[0]: size}
