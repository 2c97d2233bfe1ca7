"""Messages are for people: no code of ours decides by the words in an error, a warning or a reason.

The scan follows what is a message inside each function: the text of a caught exception, fields that hold prose
(``cause``, ``cure``, ``reason`` ...), items of ``warnings``, ``notes`` and ``problems``, and what is made of them.
Searching such a text is found: ``in``, ``startswith`` and its kin, a comparison with a literal, a regular expression.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROSE = {"cause", "cure", "reason", "message", "warning", "problem", "why"}
LISTS = {"warnings", "notes", "problems", "reasons", "throttled"}
SEARCHES = {
    "startswith", "endswith", "partition", "rpartition", "split", "rsplit", "removeprefix", "removesuffix",
    "find", "rfind", "index", "rindex", "count",
}  # fmt: skip
SAME_TEXT = {"strip", "lstrip", "rstrip", "lower", "upper", "casefold", "replace"}
PATTERNS = {"search", "match", "fullmatch", "findall", "finditer", "sub", "split"}

FOREIGN = {
    ("deepen/devices/state/shell_files.py", "unreadable"): "a device's grep tells the kind of failure in words only",
    ("deepen/devices/state/shell_files.py", "read"): "a device's grep tells the kind of failure in words only",
    ("deepen/devices/state/shell_files.py", "complaint"): "a device's shell tells the kind of failure in words only",
    (
        "deepen/graph/onnx_reader/flatten.py",
        "_infer_node",
    ): "onnx has one class for contradictions and for its own gaps",
    ("deepen/graph/onnx_reader/shape_inference.py", "shorten_error"): "onnx puts its source positions into messages",
    (
        "deepen/kernels/splitting/runtime_refusals.py",
        "_shorten_reason",
    ): "the runtime puts C++ signatures into messages",
    ("deepen/meters/instruments/otii.py", "_translate_package_errors"): "the package raises bare Exception for it all",
    ("deepen/meters/sensor_files.py", "_make_os_error"): "a device's commands tell the kind of failure in words only",
}
"""(file, function) -> why the text of somebody else's exception has to be searched there."""


class FunctionScan(ast.NodeVisitor):
    """Searches of messages in one function; ``found`` holds their lines."""

    def __init__(self) -> None:
        self.errors = {"error"}
        self.texts: set[str] = set()
        self.found: list[int] = []

    def is_error(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Name) and node.id in self.errors

    def is_message(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self.texts or name in PROSE
            case ast.Attribute(value=value, attr=attr):
                return attr in PROSE or (attr == "text" and self.is_message(value))
            case ast.Subscript(value=ast.Attribute(value=value, attr="args")):
                return self.is_error(value)
            case ast.Subscript(value=value):
                return self.is_message(value) or self.is_message_list(value)
            case ast.Call(func=ast.Name(id="str" | "repr") | ast.Attribute(attr="join")):
                return any(self.is_error(n) or self.is_message(n) for a in node.args for n in _walk_expressions(a))
            case ast.Call(func=ast.Attribute(value=value, attr=attr)):
                return attr in SAME_TEXT and self.is_message(value)
            case ast.BoolOp(values=values):
                return any(map(self.is_message, values))
            case ast.IfExp(body=body, orelse=orelse):
                return self.is_message(body) or self.is_message(orelse)
            case ast.JoinedStr(values=values):
                return any(
                    isinstance(v, ast.FormattedValue) and (self.is_error(v.value) or self.is_message(v.value))
                    for v in values
                )
        return False

    def is_message_list(self, node: ast.expr) -> bool:
        return (isinstance(node, ast.Attribute) and node.attr in LISTS) or (
            isinstance(node, ast.Name) and node.id in LISTS
        )

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name) and self.is_message(value):
            self.texts.add(target.id)

    def visit_arg(self, node: ast.arg) -> None:
        kind = ast.unparse(node.annotation) if node.annotation else ""
        if kind.endswith(("Error", "Exception", "Failure")):
            self.errors.add(node.arg)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self.errors.add(node.name)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.generic_visit(node)
        self.bind(node.target, node.value)

    def visit_For(self, node: ast.For) -> None:
        if self.is_message_list(node.iter) and isinstance(node.target, ast.Name):
            self.texts.add(node.target.id)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        if self.is_message_list(node.iter) and isinstance(node.target, ast.Name):
            self.texts.add(node.target.id)

    def _visit_comprehension_parts(self, node: ast.AST) -> None:
        for generator in node.generators:  # type: ignore[attr-defined]
            self.visit(generator)
        self.generic_visit(node)
        for generator in node.generators:  # type: ignore[attr-defined]
            for part in (generator.iter, *generator.ifs):
                self.visit(part)

    visit_GeneratorExp = visit_ListComp = visit_SetComp = visit_DictComp = _visit_comprehension_parts

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn) and self.is_message(right):
                self.found.append(node.lineno)
            sides = (left, right)
            literal = any(
                isinstance(side, ast.Constant) and isinstance(side.value, str) and side.value for side in sides
            )
            if isinstance(op, ast.Eq | ast.NotEq) and literal and any(map(self.is_message, sides)):
                self.found.append(node.lineno)
            left = right
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Attribute(value=ast.Name(id="re"), attr=attr) if attr in PATTERNS:
                if any(map(self.is_message, node.args[1:])):
                    self.found.append(node.lineno)
            case ast.Attribute(value=value, attr=attr) if attr in PATTERNS - {"split"}:
                if any(map(self.is_message, node.args)):
                    self.found.append(node.lineno)
            case ast.Attribute(value=value, attr=attr) if attr in SEARCHES and (node.args or attr != "split"):
                by_name = len(node.args) == 1 and isinstance(node.args[0], ast.Name) and node.args[0].id.isupper()
                if self.is_message(value) and not by_name:
                    self.found.append(node.lineno)
        self.generic_visit(node)


def _walk_expressions(node: ast.expr) -> Iterator[ast.expr]:
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _walk_expressions(child)


def scan_source(source: str) -> Iterator[tuple[str, int]]:
    """Every search of a message in a module, as (function, line)."""
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        scan = FunctionScan()
        scan.visit(function)
        yield from ((function.name, line) for line in dict.fromkeys(scan.found))


def test_no_message_is_searched_for_words(repo_root: Path) -> None:
    found = {
        (path.relative_to(repo_root).as_posix(), function): line
        for path in sorted((repo_root / "deepen").rglob("*.py"))
        for function, line in scan_source(path.read_text(encoding="utf-8"))
    }
    unknown = [
        f"{file}:{line} ({function})" for (file, function), line in found.items() if (file, function) not in FOREIGN
    ]
    assert not unknown, "decide by a type, a field or a code: " + ", ".join(unknown)
    assert not set(FOREIGN) - set(found), "an exception that nothing needs any more"


CATCH = "def f():\n    try:\n        g()\n    except ValueError as error:\n        "


@pytest.mark.parametrize(
    "source",
    [
        CATCH + "return 'gone' in str(error)",
        CATCH + "cause, _, cure = str(error).partition('; ')",
        CATCH + "return error.args[0] == 'gone'",
        CATCH + "text = str(error)\n        return text.lower().startswith('gone')",
        CATCH + "return re.search('gone', f'{error}')",
        CATCH + "return PATTERN.match(str(error))",
        CATCH + "return str(error).removeprefix('rapl: ')",
        "def f(error: DeepenError):\n    return name in str(error)",
        "def f(found):\n    return found.cause.endswith('cannot help')",
        "def f(trace):\n    return any(w.startswith('lost') for w in trace.warnings)",
        "def f(trace):\n    for text in trace.warnings:\n        low = text.lower()\n        return low.find(w)",
        "def f(found):\n    return [w for w in found.warnings if 'gap' in w.text]",
        "def f(warning):\n    return warning == 'hot'",
    ],
)  # fmt: skip
def test_a_search_of_a_message_is_found(source: str) -> None:
    assert list(scan_source(source))


@pytest.mark.parametrize(
    "source",
    [
        CATCH + "raise MeterError(f'gone ({error})') from error",
        CATCH + "return error.cause, error.cure, str(error)",
        CATCH + "return ' '.join(str(error).split())",
        CATCH + "notes.append(str(error))\n        return str(error) in notes",
        CATCH + "return error.subject == name",
        "def f(found):\n    return [w for w in found.warnings if w.code == 'gap']",
        "def f(line):\n    return line.startswith('error')",
        "def f(reason):\n    return bool(reason)",
    ],
)
def test_what_is_no_search_is_left_alone(source: str) -> None:
    assert not list(scan_source(source))
