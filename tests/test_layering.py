"""Imports go down only: the table of layers, checked on the source of every module, wherever the import stands."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

PACKAGE = Path(__file__).resolve().parents[1] / "deepen"

BASE = {
    "errors",
    "extras",
    "units",
    "catalog",
    "records",
    "registry",
    "tables",
    "robust_statistics",
    "clock",
    "storage",
}
LIBRARY = {"graph", "devices", "traces", "meters", "kernels", "spaces", "measure", "datasets", "doctor", "predictors"}
USES = {"campaign", "scoring", "search", "bench", "testing"}
TOP = {"cli", "quickstart", "__init__", "__main__"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    **dict.fromkeys(BASE - {"errors"}, BASE),
    "graph": BASE,
    "devices": BASE,
    "traces": BASE,
    "meters": BASE | {"traces"},
    "kernels": BASE | {"graph"},
    "spaces": BASE | {"graph", "kernels"},
    "measure": BASE | {"devices", "graph", "traces", "meters"},
    "datasets": BASE | {"kernels", "spaces"},
    "doctor": BASE | {"devices", "traces", "meters", "measure"},
    "predictors": BASE | {"graph", "kernels", "spaces", "datasets"},
    "campaign": BASE | LIBRARY - {"predictors"},
    "scoring": BASE | LIBRARY,
    "search": BASE | LIBRARY,
    "testing": BASE | LIBRARY,
    "bench": BASE | LIBRARY | {"testing"},
    **dict.fromkeys(TOP, BASE | LIBRARY | USES | TOP),
}
"""First part of a module's name below ``deepen`` -> the first parts it may import (its own is always allowed)."""

HEAVY = ("lightgbm", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow", "scipy", "sklearn", "torch")
"""Packages that are imported inside functions, so that importing a part of deepen stays quick."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path, package: Path = PACKAGE) -> str:
    """First part of a module's name below ``deepen``."""
    return path.relative_to(package).with_suffix("").parts[0]


def imports(tree: ast.AST, module: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and full name of every ``deepen`` import: also in functions, under TYPE_CHECKING, and by name.

    Args:
        tree: Parsed source.
        module: Name of the package that relative imports start from, for example ``("deepen", "graph")``.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "deepen")
        elif isinstance(node, ast.ImportFrom):
            base = list(module[: len(module) - node.level + 1]) if node.level else []
            name = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if name == "deepen":
                yield from ((node.lineno, f"deepen.{alias.name}") for alias in node.names)
            elif name.startswith("deepen."):
                yield node.lineno, name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("deepen."):
            parts = node.value.split(".")
            if all(p.isidentifier() for p in parts) and (PACKAGE / parts[1]).with_suffix("").exists():
                yield node.lineno, node.value


def violations(source: str, unit_name: str, module: tuple[str, ...]) -> list[str]:
    """Imports that the table forbids, as ``line: name``."""
    found = []
    for line, name in imports(ast.parse(source), module):
        target = name.split(".")[1]
        if target.startswith("__") and target != "__main__":  # deepen.__version__
            continue
        if target != unit_name and target not in ALLOWED[unit_name]:
            found.append(f"{line}: {name}")
    return found


def test_imports_go_down_only() -> None:
    found = []
    for path in MODULES:
        name, shown = unit(path), path.relative_to(PACKAGE.parent)
        if name not in ALLOWED:
            found.append(f"{shown}:1: deepen/{name} has no place in the table of layers; add it to ALLOWED")
            continue
        parts = ("deepen", *path.relative_to(PACKAGE).parent.parts)
        found += [f"{shown}:{v} is not below {name}" for v in violations(path.read_text(encoding="utf-8"), name, parts)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import deepen.cli",
        "from deepen import measure",
        "from deepen.meters import rapl",
        "def f():\n    from deepen.predictors import load",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deepen.datasets import Dataset",
        "from ..kernels import split",
        "from .. import kernels",
        "import importlib\nimportlib.import_module('deepen.measure')",
        "from deepen import quickstart",
        "from deepen.testing import links",
    ],
)
def test_the_scan_sees_every_way_to_import(source: str) -> None:
    assert len(violations(source, "graph", ("deepen", "graph"))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from deepen import units",
        "from deepen.graph import types",
        "from . import types",
        "from deepen import __version__",
    ],
)
def test_the_scan_allows_what_is_below(source: str) -> None:
    assert violations(source, "graph", ("deepen", "graph")) == []


def foreign(source: str) -> set[str]:
    """First parts of every import of another distribution, also in functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


PREDICTOR_WALLS = {
    "inference": ("deepen.predictors.inference", "deepen.predictors.kernel_counts"),
    "fitting": (
        "deepen.predictors.fitting", "deepen.predictors.inference", "deepen.predictors.kernel_counts",
        "deepen.predictors.measured_rows", "deepen.predictors.metrics", "deepen.predictors.predictor",
        "deepen.predictors.predictor_file",
    ),
}  # fmt: skip
"""Folder of predictors -> what it may import of predictors: inference knows nothing that learns, fitting nothing that
judges."""


@pytest.mark.parametrize("folder", PREDICTOR_WALLS)
def test_the_walls_inside_predictors_hold(folder: str) -> None:
    found = [
        f"{path.name}:{line}: {name}"
        for path in sorted((PACKAGE / "predictors" / folder).glob("*.py"))
        for line, name in imports(ast.parse(path.read_text(encoding="utf-8")), ("deepen", "predictors", folder))
        if name.startswith("deepen.predictors") and not name.startswith(PREDICTOR_WALLS[folder])
    ]
    assert found == []


def test_inference_needs_numpy_only_at_any_level() -> None:
    found = {
        path.name: others
        for path in sorted((PACKAGE / "predictors" / "inference").glob("*.py"))
        if (others := foreign(path.read_text(encoding="utf-8")) - set(sys.stdlib_module_names) - {"deepen", "numpy"})
    }
    assert found == {}


@pytest.mark.parametrize("source", ["def f():\n    from scipy.optimize import nnls", "import sklearn.tree as t"])
def test_the_scan_sees_foreign_packages_in_functions(source: str) -> None:
    assert foreign(source) & {"scipy", "sklearn"}


def test_the_table_has_no_cycle() -> None:
    lower = {name: targets for name, targets in ALLOWED.items() if name not in TOP | BASE}
    order: list[str] = []
    while len(order) < len(lower):
        free = [n for n in lower if n not in order and lower[n] - BASE - {n} <= set(order)]
        assert free, f"cycle among {sorted(set(lower) - set(order))}"
        order += free


def find_circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of two or more names that all reach one another (strongly connected components), each sorted.

    Source: R. Tarjan, "Depth-first search and linear graph algorithms", SIAM J. Comput. 1, 1972.
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for target in sorted(arrows[name]):
            if target not in number:
                visit(target)
            if target in stack:
                lowest[name] = min(lowest[name], lowest[target])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(arrows):
        if name not in number:
            visit(name)
    return sorted(found)


def imported_modules(source: str, module: tuple[str, ...], known: Collection[str]) -> set[str]:
    """Modules of ``known`` that a source imports, also in functions and under TYPE_CHECKING.

    Args:
        source: The source.
        module: Name of the package it lies in.
        known: Names of modules; ``from package import module`` counts as that module. The face ``deepen`` is not
            among them: what lies below it takes nothing from there but ``__version__``.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = [*module[: len(module) - node.level + 1]] if node.level else []
            parent = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{parent}.{alias.name}" for alias in node.names]
            found |= {name if name in known else parent for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(known)


MOST_ARROWS = {"predictors": 32, "measure": 41, "devices": 39, "kernels": 18, "meters/instruments": 2, "graph": 14}
"""Folders divided into rooms -> import arrows between their rooms (a file, or a sub-folder as a whole) at most.

A new arrow is a decision: it raises the number here, or the code goes where no arrow is needed.
"""


def find_arrows(folder: str) -> set[tuple[str, str]]:
    """Pairs of rooms of a folder of which the first imports the second."""
    base, prefix = PACKAGE / folder, ".".join(("deepen", *folder.split("/"), ""))
    rooms = {path.stem for path in base.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    known = {".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for p in MODULES}
    arrows = set()
    for path in base.rglob("*.py"):
        parts = ("deepen", *path.relative_to(PACKAGE).parent.parts)
        room = path.relative_to(base).parts[0].removesuffix(".py")
        for target in imported_modules(path.read_text(encoding="utf-8"), parts, known):
            other = target.removeprefix(prefix).split(".")[0] if target.startswith(prefix) else room
            if other != room and other in rooms:
                arrows.add((room, other))
    return arrows


def test_rooms_see_no_more_of_each_other_than_was_decided() -> None:
    found = {folder: len(find_arrows(folder)) for folder in MOST_ARROWS}
    assert {f: n for f, n in found.items() if n > MOST_ARROWS[f]} == {}


def test_no_circle_of_files() -> None:
    paths = {(*p.relative_to(PACKAGE).parent.parts, *(() if p.stem == "__init__" else (p.stem,))): p for p in MODULES}
    known = {".".join(("deepen", *parts)): path for parts, path in paths.items() if parts}
    arrows = {}
    for name, path in known.items():
        parent = ("deepen", *path.relative_to(PACKAGE).parent.parts)
        arrows[name] = imported_modules(path.read_text(encoding="utf-8"), parent, known) - {name}
    assert find_circles(arrows) == []


NAMES = st.sampled_from("abcdefg")


@given(st.dictionaries(NAMES, st.sets(NAMES), min_size=1))
def test_circles_are_the_names_that_reach_one_another(drawn: dict[str, set[str]]) -> None:
    arrows = {name: drawn.get(name, set()) - {name} for name in {*drawn, *(t for ts in drawn.values() for t in ts)}}
    reach = {name: set(targets) for name, targets in arrows.items()}
    for _ in arrows:
        for name in reach:
            reach[name] |= {far for near in reach[name] for far in reach[near]}
    groups = {tuple(sorted(b for b in arrows if b in reach[a] and a in reach[b])) for a in arrows if a in reach[a]}
    assert find_circles(arrows) == sorted(list(group) for group in groups)


@pytest.mark.parametrize(
    "source",
    [
        "import deepen.a.b",
        "from deepen.a import b",
        "from deepen.a.b import name",
        "from . import b",
        "from .b import name",
        "def f():\n    from deepen.a import b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deepen.a.b import name",
    ],
)
def test_the_circle_scan_sees_every_way_to_import(source: str) -> None:
    assert imported_modules(source, ("deepen", "a"), {"deepen.a", "deepen.a.b"}) == {"deepen.a.b"}


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that are in memory after a statement ran in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.splitlines())


PACKAGES = sorted(p.parent.relative_to(PACKAGE).parts[0] for p in PACKAGE.glob("*/__init__.py"))


def test_importing_a_package_is_light() -> None:
    found = [
        f"deepen/{name}/__init__.py: loads {', '.join(heavy)}"
        for name in PACKAGES
        if (heavy := sorted(loaded_by(f"import deepen.{name}") & set(HEAVY)))
    ]
    assert not found, "\n" + "\n".join(found)


def test_importing_deepen_loads_only_what_its_lazy_names_need() -> None:
    loaded = loaded_by("import deepen")
    assert {n for n in loaded if n.startswith("deepen.")} == {"deepen.errors", "deepen.registry"}
    assert loaded.isdisjoint({*HEAVY, "numpy", "click"})


def test_prediction_needs_no_code_that_talks_to_devices() -> None:
    loaded = loaded_by("import deepen.cli.predict, deepen.graph, deepen.kernels, deepen.predictors")
    talks = {"adb_shell", "asyncssh", "serial", "ai_edge_litert"}
    assert loaded.isdisjoint({*talks, "deepen.devices", "deepen.meters", "deepen.measure"})
