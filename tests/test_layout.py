"""tests/ mirrors deepen/: every folder is a package of the same name, and every test is with what it tests."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "deepen"
OTHER_FOLDERS = {"support", "data"}
"""What tests share, and what they read."""

EVERYWHERE = {"errors", "records", "units", "testing"}
"""What tests of every package use."""

FOLDERS = sorted(
    p
    for p in TESTS.rglob("*")
    if p.is_dir() and p.name != "__pycache__" and p.relative_to(TESTS).parts[0] not in OTHER_FOLDERS
)


def test_every_folder_is_a_package_of_the_same_name() -> None:
    lost = [
        f"{folder.relative_to(TESTS.parent)}: deepen/{folder.relative_to(TESTS)} is no package"
        for folder in FOLDERS
        if any(folder.glob("*.py")) and not (PACKAGE / folder.relative_to(TESTS) / "__init__.py").is_file()
    ]
    assert not lost, "\n" + "\n".join(lost)


def list_used_packages(source: str) -> set[str]:
    """First parts of the names below ``deepen`` that a source says: imported, in strings, or as paths."""
    used = set(re.findall(r"\bdeepen[./](\w+)", source))
    for names in re.findall(r"from deepen import (.+)", source):
        used |= set(re.findall(r"\w+", names))
    return used


def test_every_test_is_with_the_package_it_tests() -> None:
    """A test says something of its package; what only calls commands is a test of ``deepen.cli``."""
    found = []
    for path in (p for folder in FOLDERS for p in sorted(folder.glob("test_*.py"))):
        top, shown = path.relative_to(TESTS).parts[0], path.relative_to(TESTS.parent)
        used = list_used_packages(path.read_text(encoding="utf-8")) - EVERYWHERE | {top} & {"testing"}
        if "cli" in path.stem.split("_") and top != "cli":
            found.append(f"{shown}:1: tests of commands are in tests/cli")
        elif used and top not in used:
            found.append(f"{shown}:1: uses nothing of deepen.{top}, but {', '.join(sorted(used))}")
    assert not found, "\n" + "\n".join(found)


def test_helpers_are_named_as_such() -> None:
    """A file that is no test is a conftest, a module of tests/support, or is listed here with what it is."""
    known = {
        "campaign/bench.py": "a simulated bench that tests start in a process of its own",
        "devices/links/daemon_cases.py": "cases that links over real daemons share",
        "kernels/families/configs.py": "configurations of every family",
    }
    helpers = {
        p.relative_to(TESTS).as_posix()
        for folder in FOLDERS
        for p in folder.glob("*.py")
        if not p.name.startswith("test_") and p.name != "conftest.py"
    }
    assert helpers == set(known)
