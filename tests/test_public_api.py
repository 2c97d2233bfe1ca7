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


def lines_of(tree: ast.Module) -> dict[str, int]:
    """Where a module defines, assigns or imports a name: name -> line."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.setdefault(node.name, node.lineno)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: alias.lineno for alias in node.names}
    return found


class ModuleSource:
    """A module, and its names with their places.

    Attributes:
        name: Dotted name.
        module: The module.
        tree: Its parsed source.
        exported: Its ``__all__``; empty where it has none.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.module = dotted(path), importlib.import_module(dotted(path))
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.exported: list[str] = list(getattr(self.module, "__all__", []))
        self._path, self._lines = path.relative_to(PACKAGE.parent), lines_of(self.tree)

    def tell(self, name: str, what: str) -> str:
        """One line on a name of the module: ``file:line: name what``."""
        return f"{self._path}:{self._lines.get(name, self._lines.get('__all__', 1))}: {name} {what}"


def test_all_is_exactly_what_a_package_binds() -> None:
    found = []
    for source in map(ModuleSource, INITS):
        names = public_names(source.tree)
        if source.module is deepen:
            names.add("__version__")
        if source.name == "deepen.cli":  # takes from the layers below, offers the command line
            names &= set(source.exported)
        found += [source.tell(n, "is bound and not in __all__") for n in sorted(names - set(source.exported))]
        found += [source.tell(n, "is in __all__ and not bound") for n in sorted(set(source.exported) - names)]
    assert not found, "\n" + "\n".join(found)


def test_every_module_says_what_it_is_for() -> None:
    found = [f"{s.name} has no docstring" for s in map(ModuleSource, MODULES) if not s.module.__doc__]
    assert not found, "\n" + "\n".join(found)


def test_exported_names_exist_once_in_order_and_are_documented() -> None:
    found = []
    for source in map(ModuleSource, MODULES):
        right = sorted(set(source.exported), key=order)
        if source.exported != right:
            wrong = next((a for a, b in zip(source.exported, right, strict=False) if a != b), source.exported[-1])
            found.append(source.tell("__all__", f"has {wrong!r} twice or out of order"))
        for name in source.exported:
            if not hasattr(source.module, name):
                found.append(source.tell(name, "is in __all__ and does not exist"))
                continue
            value = getattr(source.module, name)
            ours = getattr(value, "__module__", "").startswith("deepen")
            if ours and (inspect.isclass(value) or inspect.isfunction(value)) and not inspect.getdoc(value):
                found.append(source.tell(name, "has no docstring"))
    assert not found, "\n" + "\n".join(found)


def test_a_package_exports_something() -> None:
    packages = [p for p in INITS if len(p.relative_to(PACKAGE).parts) <= 2]
    assert [p for p in packages if not importlib.import_module(dotted(p)).__all__] == []


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
