"""Options of the commands that read models: what the user says of a model that its file leaves open."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deepen.errors import ConfigError

if TYPE_CHECKING:
    pass

__all__ = ["model_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SPOKEN = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_OPTIONS = (
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        metavar="NAME=DIMS",
        help="Shape of an input, open or to be replaced; a size may be 0; repeatable.",
    ),
    click.option(
        "--dim",
        "dims",
        multiple=True,
        metavar="SYMBOL=N",
        help="Size of a symbolic dimension, wherever it stands; repeatable.",
    ),
    click.option(
        "--size",
        "sizes",
        multiple=True,
        metavar="TENSOR=N",
        help="Size of the axis of a tensor that only a run decides (what NonZero finds); repeatable.",
    ),
    click.option(
        "--rounds", "rounds", multiple=True, metavar="NODE=N", help="Rounds of a Loop, where unknown; repeatable."
    ),
    click.option(
        "--branch",
        "branches",
        multiple=True,
        metavar="NAME=true|false",
        help="Condition of an If, by the node or by the input that decides; repeatable.",
    ),
    click.option(
        "--custom-ops",
        "custom_ops",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False),
        metavar="LIB",
        help="Library of custom operators for ONNX Runtime to load; repeatable.",
    ),
    click.option(
        "--allow-unknown",
        is_flag=True,
        help="Go on where the shape of a matrix product or convolution is unknown: 'at least' is all that is said.",
    ),
)


def model_options(command: _Command) -> _Command:
    """Add ``--shape``, ``--dim``, ``--size``, ``--rounds``, ``--branch``, ``--custom-ops`` and ``--allow-unknown``.

    The command gets them as one argument, ``read_options``: :class:`~deepen.graph.read_options.ReadOptions`.
    """

    @functools.wraps(command)
    def take_options(
        *args: Any,
        shapes: Sequence[str],
        dims: Sequence[str],
        sizes: Sequence[str],
        rounds: Sequence[str],
        branches: Sequence[str],
        custom_ops: tuple[str, ...],
        allow_unknown: bool,
        **others: Any,
    ) -> Any:
        from deepen.graph import ReadOptions, parse_shape

        given = ReadOptions(
            shapes=dict(map(parse_shape, shapes)),
            dims=dict(_parse_count("--dim", text) for text in dims),
            sizes=dict(_parse_count("--size", text) for text in sizes),
            rounds=dict(_parse_count("--rounds", text) for text in rounds),
            branches=dict(map(_parse_branch, branches)),
            custom_ops=custom_ops,
            allow_unknown=allow_unknown,
        )
        return command(*args, read_options=given, **others)

    wrapped: Any = take_options
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _parse_count(option: str, text: str) -> tuple[str, int]:
    """Parse ``NAME=N``; the name may itself hold ``=``."""
    name, equals, number = text.rpartition("=")
    if not equals or not name.strip() or not re.fullmatch(r"[0-9]{1,12}", number.strip(), re.ASCII):
        raise ConfigError(f"cannot read '{option} {text}'", cure=f"write it as {option} NAME=16")
    return name.strip(), int(number)


def _parse_branch(text: str) -> tuple[str, bool]:
    """Parse ``NAME=true`` or ``NAME=false``."""
    name, equals, said = text.rpartition("=")
    holds = _SPOKEN.get(said.strip().lower())
    if not equals or not name.strip() or holds is None:
        raise ConfigError(f"cannot read '--branch {text}'", cure="write it as --branch NAME=true or NAME=false")
    return name.strip(), holds
