"""Names: a class name is used once in the repository, and a public function is verb and object."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

SINGLE_WORDS = {
    "predict": "the package's face, deepen.predict(model), like estimators' predict",
    "cli": "the click group behind the program's name",
    "command": "what every module of deepen/cli exports: its click command or group",
    "main": "the usual name of a program's entry point",
    "profile": "named in deepen.__all__, and the name of the command",
    "read": "the interface of an importer: deepen.datasets.importers.registry calls it on the module it loads",
}
"""Public functions of one word, each with its reason. Functions that click makes commands carry the command's name."""


def parse_sources(root: Path, *folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Path below the root and syntax tree of every module of some folders."""
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def find_repeated_class_names(sources: Iterator[tuple[str, ast.Module]]) -> list[str]:
    """Class names used more than once, a leading underscore aside, with the places."""
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in sources:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name.strip("_")].append(f"{path}:{node.lineno}")
    return [f"{name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def find_single_word_functions(sources: Iterator[tuple[str, ast.Module]]) -> list[str]:
    """Public functions of a module that are one word, without a reason in the list and made no command by click."""
    found = []
    for path, tree in sources:
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or "_" in node.name:
                continue
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if node.name not in SINGLE_WORDS and not any(d.split("(")[0].endswith("command") for d in decorators):
                found.append(f"{path}:{node.lineno}: {node.name}")
    return found


def test_a_class_name_is_used_once(repo_root: Path) -> None:
    assert find_repeated_class_names(parse_sources(repo_root, "deepen", "tests", "tools")) == []


def test_public_functions_are_verb_and_object(repo_root: Path) -> None:
    assert find_single_word_functions(parse_sources(repo_root, "deepen")) == []


def test_every_listed_word_is_in_use(repo_root: Path) -> None:
    used = {
        node.name
        for _, tree in parse_sources(repo_root, "deepen")
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(SINGLE_WORDS) <= used


@pytest.mark.parametrize(
    ("source", "repeated", "single"),
    [
        ("class Meter: ...\nclass _Meter: ...", 1, 0),
        ("class Meter: ...\nclass Device: ...", 0, 0),
        ("def measure(): ...", 0, 1),
        ("def measure_power(): ...\ndef _fit(): ...", 0, 0),
        ("@command.command()\ndef train(): ...", 0, 0),
        ("def f():\n    class Meter: ...\nclass Meter: ...", 1, 1),
    ],
)
def test_the_checks_see_what_they_are_for(source: str, repeated: int, single: int) -> None:
    tree = ast.parse(source)
    assert len(find_repeated_class_names(iter([("module.py", tree)]))) == repeated
    assert len(find_single_word_functions(iter([("module.py", tree)]))) == single
