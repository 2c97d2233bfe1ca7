"""Wheel and sdist are complete, and an installed deepen works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

NOUNS = ("datasets", "devices", "kernels", "predictors")
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "*.egg-info", "deepen-quickstart", "*.lock", "*.pyc", "node_modules"
)


def content(root: Path) -> set[str]:
    """Files of the content folders of a checkout, as paths from its root."""
    return {
        p.relative_to(root).as_posix()
        for noun in NOUNS
        for p in (root / noun).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not any(part.startswith(".") for part in p.parts[-2:])
    }


@pytest.fixture(scope="module")
def source(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source alone: building leaves nothing in the checkout, and finds nothing left there."""
    target = tmp_path_factory.mktemp("source") / "deepen"
    keep = {"apps", "datasets", "deepen", "devices", "docs", "kernels", "predictors", "tests", "tools"}
    target.mkdir()
    for item in repo_root.iterdir():
        if item.name in keep:
            shutil.copytree(item, target / item.name, ignore=NOT_SOURCE)
        elif item.is_file() and not item.name.startswith("."):
            shutil.copy2(item, target)
    return target


@pytest.fixture(scope="module")
def archives(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    out = tmp_path_factory.mktemp("archives")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the wheel; its dependencies are those of the running one. Returns its folder."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*install, str(archives[1])], check=True, capture_output=True, text=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in here))
    return folder


def run(installed: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the clean environment; nothing of the checkout is on its path."""
    drop = {"PYTHONPATH", "DEEPEN_CATALOG", "VIRTUAL_ENV"}
    env = {name: value for name, value in os.environ.items() if name not in drop}
    program = str(installed / "bin" / command[0])
    return subprocess.run([program, *command[1:]], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_wheel_has_every_content_file_and_every_module(source: Path, archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    code = {p.relative_to(source).as_posix() for p in (source / "deepen").rglob("*.py")}
    assert content(source)
    assert {f"deepen/_catalog/{name}" for name in content(source)} - names == set()
    assert code - names == set()
    assert "deepen/py.typed" in names
    extra = {n for n in names if not n.startswith(("deepen/_catalog/", "deepen-"))} - code - {"deepen/py.typed"}
    assert extra == set()


def test_wheel_installs_one_top_level_package(installed: Path) -> None:
    (packages,) = installed.glob("lib/python*/site-packages")
    found = {p.name for p in packages.iterdir() if not p.name.endswith((".dist-info", ".pth"))}
    assert found - {"__pycache__"} == {"deepen"}


def test_sdist_has_content_tests_tools_and_documents(source: Path, archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    everything = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file()}
    assert everything - names == set()


def test_archives_hold_no_left_overs(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel, tarfile.open(archives[0]) as sdist:
        names = [*wheel.namelist(), *sdist.getnames()]
    assert [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".orig", ".rej"))] == []


def test_installed_program_lists_kernel_families(installed: Path, repo_root: Path, tmp_path: Path) -> None:
    done = run(installed, "deepen", "kernel", "list", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    families = {p.stem for p in (repo_root / "kernels" / "families").glob("*.toml")}
    assert families <= set(json.dumps(json.loads(done.stdout)).replace('"', " ").replace(",", " ").split())


def test_installed_program_reads_its_own_catalog(installed: Path, tmp_path: Path) -> None:
    code = "import deepen.catalog as c; print(c.find_root()); print(len(c.list_names('kernels', 'families')))"
    done = run(installed, "python", "-c", code, cwd=tmp_path)
    where, count = done.stdout.split()
    assert Path(where).is_relative_to(installed)
    assert Path(where).name == "_catalog"
    assert int(count) > 0


def test_installed_program_predicts(installed: Path, tmp_path: Path) -> None:
    from deepen.kernels.building.single_kernel_model import build_kernel_model
    from deepen.testing.synthetic import train_synthetic_predictor

    predictor = train_synthetic_predictor(tmp_path / "tiny", ["fc"], count=16, seed=1)
    params = {"dtype": "float32", "m": 1, "k": 64, "n": 10, "bias": True, "activation": "none", "op": "Gemm"}
    model = tmp_path / "model.onnx"
    model.write_bytes(build_kernel_model("fc", {**params, "trans_b": True}).SerializeToString())
    done = run(installed, "deepen", "predict", str(model), "--predictor", str(predictor), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["energy_j"] > 0
    assert found["coverage"] == 1
    assert (found["source"], found["learnt_from"]) == ("predicted", "simulated")
    assert [kernel["family"] for kernel in found["kernels"]] == ["fc"]
