"""What each package exports: all of it on purpose, in order, and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import deepen

PACKAGE = Path(__file__).resolve().parents[1] / "deepen"
INITS = sorted(PACKAGE.rglob("__init__.py"))
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__main__.py")


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_names(tree: ast.Module) -> set[str]:
    """Names a module binds for others: its own definitions, and what it takes from deepen, without underscore."""
    names: set[str] = set()
    for node in [n for top in tree.body for n in (top.body if isinstance(top, ast.If) else [top])]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "deepen":
            names |= {alias.asname or alias.name for alias in node.names}
    return {n for n in names if not n.startswith("_")}


def order(name: str) -> tuple[int, str]:
    """Constants, classes, everything else; each by name."""
    bare = name.replace("_", "")
    return (0 if bare.isupper() and len(bare) > 1 else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("path", INITS, ids=dotted)
def test_all_is_exactly_what_a_package_binds(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    names = public_names(ast.parse(path.read_text(encoding="utf-8")))
    if module is deepen:
        names.add("__version__")
    if dotted(path) == "deepen.cli":  # takes from the layers below, offers the command line
        names &= set(module.__all__)
    assert set(getattr(module, "__all__", [])) == names


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_exported_names_exist_once_in_order_and_are_documented(path: Path) -> None:
    module = importlib.import_module(dotted(path))
    assert module.__doc__, "a module says what it is for"
    exported = getattr(module, "__all__", [])
    assert list(exported) == sorted(set(exported), key=order)
    undocumented = []
    for name in exported:
        value = getattr(module, name)
        ours = getattr(value, "__module__", "").startswith("deepen")
        if ours and (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
            undocumented.append(name)
    assert undocumented == []


@pytest.mark.parametrize("path", [p for p in INITS if len(p.relative_to(PACKAGE).parts) <= 2], ids=dotted)
def test_a_package_exports_something(path: Path) -> None:
    assert importlib.import_module(dotted(path)).__all__


@pytest.mark.parametrize("name", ["load_predictor", "profile", "read_dataset"])
def test_the_front_door_is_callable_and_documented(name: str) -> None:
    function = getattr(deepen, name)
    assert callable(function)
    assert inspect.getdoc(function)


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_predictors'"):
        deepen.load_predictors  # noqa: B018


def test_dir_lists_what_is_not_loaded_yet() -> None:
    assert set(deepen.__all__) <= set(dir(deepen))
