"""Output shared by all commands: ``--json``, tables, progress on stderr, exit codes for errors."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from deepen.errors import DeepenError, StorageError
from deepen.extras import EXTRAS, make_missing_package_error

__all__ = [
    "INTERRUPTED",
    "ErrorMapper",
    "emit_json_lines",
    "emit_result",
    "escape_control_characters",
    "format_table",
    "json_option",
    "print_progress",
]

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout."
)


INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells count it (128 + SIGINT)."""


def _to_strict_json(value: Any) -> Any:
    """Make a value strict JSON: NaN and infinities become null, arrays and tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _to_strict_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_strict_json(v) for v in value]
    if hasattr(value, "tolist"):
        return _to_strict_json(value.tolist())
    return value


def emit_result(document: Any, as_json: bool, render: Callable[[], str]) -> None:
    """Print a result: the JSON document with ``--json``, else the text that ``render`` returns."""
    if as_json:
        click.echo(_dump_json(document, indent=2))
    else:
        click.echo(escape_control_characters(render()))


def emit_json_lines(documents: Iterable[Any]) -> None:
    """Print each document as JSON on a line of its own."""
    for document in documents:
        click.echo(_dump_json(document))


def _dump_json(document: Any, indent: int | None = None) -> str:
    text = json.dumps(_to_strict_json(document), indent=indent, ensure_ascii=False)
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_progress(text: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(escape_control_characters(text), err=True)


_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal acts on instead of showing them: control characters but tab and newline, changes of the
direction of writing; and halves of characters (surrogates), which it cannot show."""


def escape_control_characters(text: str) -> str:
    """Replace the characters of a text that a terminal would act on; device and file names may contain any."""
    return _COMMANDS.sub("\ufffd", text)


_LONGEST_RULE = 60


def format_table(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> str:
    """Lay out a plain-text table.

    Args:
        header: Column titles.
        rows: Cells; ``str()`` is applied.
        right: Indices of right-aligned columns.
    """
    cells = [list(map(str, header)), *([" ".join(str(c).split("\n")) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    flush = set(right)

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if i in flush else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return "  ".join(parts).rstrip()

    rules = [*widths[:-1], min(widths[-1], _LONGEST_RULE)]  # a sentence in the last column needs no rule as long as it
    return "\n".join([line(cells[0]), "  ".join("-" * w for w in rules), *map(line, cells[1:])])


class ErrorMapper(click.Group):
    """A command group that turns deepen's errors into one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; ``DeepenError`` exits with its ``exit_code``, a full disk with 3, Ctrl-C with 130."""
        try:
            return super().invoke(ctx)
        except DeepenError as error:
            _exit_with_error(str(error), error.exit_code)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module not in EXTRAS:
                raise
            missing = make_missing_package_error(f"'deepen {ctx.invoked_subcommand}'", module)
            _exit_with_error(str(missing), missing.exit_code)
        except KeyboardInterrupt:
            _exit_with_error("interrupted", INTERRUPTED)
        except BrokenPipeError:
            raise  # the reader went away: click ends quietly
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            _exit_with_error(f"{error.strerror or error}: {error.filename or 'I/O'}", DeepenError.exit_code)
        except OSError as error:
            _exit_with_error(f"{error.strerror or error}: {error.filename or 'I/O'}", StorageError.exit_code)


def _exit_with_error(message: str, code: int) -> None:
    click.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(code)
