"""A docstring says what a thing is or does; a question word for a subject hides it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "deepen"
RUNNER = PACKAGE.parent / "devices" / "runner"
QUESTIONS = {"what", "what's", "which", "whether", "how", "who", "whose", "where", "when", "why", "does"}


def _iterate_docstrings(path: Path) -> Iterator[tuple[str, int, str]]:
    """Name, line and text of every docstring in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "name", path.stem), getattr(node, "lineno", 1), text


def test_docstrings_say_what_a_thing_is() -> None:
    files = [path for root in (PACKAGE, RUNNER) for path in sorted(root.rglob("*.py"))]
    failures = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {name}: {text.splitlines()[0]}"
        for path in files
        for name, line, text in _iterate_docstrings(path)
        if text.split()[0].rstrip(",.:;").lower() in QUESTIONS
    ]
    assert not failures, "these docstrings ask instead of saying what the thing is or does:\n" + "\n".join(failures)
