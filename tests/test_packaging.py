"""setup.cfg says what is on disk, and the house rules about files hold."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

import deepen

NOUNS = ("datasets", "devices", "kernels", "predictors")


@pytest.fixture(scope="module")
def setup_cfg(repo_root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(repo_root / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


def test_every_package_is_listed(repo_root: Path, setup_cfg: configparser.ConfigParser) -> None:
    on_disk = {".".join(p.parent.relative_to(repo_root).parts) for p in (repo_root / "deepen").rglob("__init__.py")}
    listed = lines(setup_cfg["options"]["packages"])
    assert set(listed) == on_disk | {f"deepen._catalog.{noun}" for noun in NOUNS}
    assert len(listed) == len(set(listed))


def test_every_module_lies_in_a_package(repo_root: Path) -> None:
    folders = {p.parent for p in (repo_root / "deepen").rglob("*.py")}
    assert [str(f) for f in folders if not (f / "__init__.py").is_file()] == []


@pytest.mark.parametrize("noun", NOUNS)
def test_content_folders_are_content(repo_root: Path, noun: str) -> None:
    assert (repo_root / noun / "README.md").is_file()
    assert list((repo_root / noun).rglob("__init__.py")) == []


def test_extras_are_the_documented_ones(setup_cfg: configparser.ConfigParser) -> None:
    assert set(setup_cfg["options.extras_require"]) == {
        *("adb", "ssh", "serial", "hvpm", "joulescope", "otii", "visa"),
        *("litert", "report", "search", "train", "data", "all", "dev"),
    }


def test_every_requirement_has_a_lower_bound_and_no_upper(setup_cfg: configparser.ConfigParser) -> None:
    required = lines(setup_cfg["options"]["install_requires"])
    for extra in setup_cfg["options.extras_require"].values():
        required += lines(extra)
    marker = r"(; python_version >= \"3\.\d+\")?"  # where a package has no wheels for an older Python
    own = r"deepen\[[a-z,]+\]"  # extras that others consist of
    assert [r for r in required if not re.fullmatch(rf"[A-Za-z0-9._-]+>=[0-9.]+{marker}|{own}", r)] == []


def test_pyproject_only_names_the_build_backend(repo_root: Path) -> None:
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 3
    assert text.startswith("[build-system]")


def test_version_is_in_the_changelog(repo_root: Path) -> None:
    assert f"## {deepen.__version__}" in (repo_root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {deepen.__version__}\n" in (repo_root / "CITATION.cff").read_text(encoding="utf-8")


def test_no_lower_bound_is_above_what_runs_here(setup_cfg: configparser.ConfigParser) -> None:
    """Bounds are versions, and the tests ran with nothing older: tools/lower-bounds runs the oldest themselves."""
    texts = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    bounds = dict(line.partition(";")[0].split(">=") for text in texts for line in lines(text) if ">=" in line)
    assert len(bounds) > 20
    too_old = []
    for name, bound in bounds.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        wanted, found = (tuple(map(int, re.findall(r"\d+", v)[:3])) for v in (bound, here))
        if found < wanted:
            too_old.append(f"{name} {here} < {bound}")
    assert too_old == []


def test_the_pythons_declared_begin_with_the_one_required(setup_cfg: configparser.ConfigParser) -> None:
    declared = re.findall(r"Python :: (3\.\d+)", setup_cfg["metadata"]["classifiers"])
    assert declared[0] == setup_cfg["options"]["python_requires"].removeprefix(">=")
    assert [int(v.removeprefix("3.")) for v in declared] == list(range(11, 11 + len(declared)))


def test_ci_calls_the_test_tool_and_nothing_else(repo_root: Path) -> None:
    code = [line for line in lines((repo_root / ".ci/run").read_text()) if not line.startswith("#")]
    assert code == ["set -eu", 'cd "$(dirname "$0")/.."', "exec tools/test"]


@pytest.mark.parametrize(
    "name", ["quickstart", "test", "check", "gendocs", "export_zoo", "collect_priors", "lower-bounds"]
)
def test_tools_are_executable(repo_root: Path, name: str) -> None:
    file = repo_root / "tools" / name
    assert file.stat().st_mode & 0o111
    assert file.read_text(encoding="utf-8").startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("name", ["quickstart", "test", "check", "env.sh", "lower-bounds"])
def test_shell_tools_parse(repo_root: Path, name: str) -> None:
    subprocess.run(["bash", "-n", str(repo_root / "tools" / name)], check=True)


def test_modules_stay_short(repo_root: Path) -> None:
    long = {
        str(p.relative_to(repo_root)): n
        for p in (repo_root / "deepen").rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert long == {}
