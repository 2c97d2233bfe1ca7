"""The set-up that tools/quickstart and tools/test share: each failure is one clear line, each step is done once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(repo_root: Path, tmp_path: Path) -> Shell:
    """Run a script after sourcing tools/env.sh, with an environment of its own and no right to install packages."""

    def run(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        text = f'set -euo pipefail\n. "{repo_root}/tools/env.sh"\nmay_apt() {{ false; }}\n{script}'
        values = {**os.environ, "DEEPEN_VENV": str(tmp_path / "venv"), **variables}
        return subprocess.run(["bash", "-c", text, "tools/x"], env=values, capture_output=True, text=True, check=False)

    return run


def fake_python(path: Path, code: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{code}\n")
    path.chmod(0o755)


def test_no_python_names_the_debian_package(shell: Shell, tmp_path: Path) -> None:
    done = shell("find_python() { return 1; }\nmake_venv")
    assert done.returncode == 1
    assert done.stderr.startswith("tools/x: error: no Python 3.11 or newer found")
    assert "apt-get install python3 python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_old_python_is_passed_over(shell: Shell, tmp_path: Path) -> None:
    fake_python(tmp_path / "old" / "python3", "exit 1")
    fake_python(tmp_path / "new" / "python3.12", "exit 0")
    path = f"{tmp_path}/old:{tmp_path}/new:{os.environ['PATH']}"
    assert shell("find_python", PATH=path).stdout.strip() == f"{tmp_path}/new/python3.12"


def test_python_without_venv_names_the_debian_package(shell: Shell, tmp_path: Path) -> None:
    fake_python(tmp_path / "python", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = shell("make_venv", DEEPEN_PYTHON=str(tmp_path / "python"))
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr


def test_a_folder_that_is_no_environment_is_left_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.txt").write_text("precious")
    done = shell("make_venv")
    assert done.returncode == 1
    assert "is no virtual environment" in done.stderr
    assert (tmp_path / "venv" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("left_over", [".deepen-incomplete", "pyvenv.cfg"])
def test_an_environment_left_half_made_is_made_again(shell: Shell, tmp_path: Path, left_over: str) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / left_over).touch()
    (tmp_path / "venv" / "rubbish").touch()
    made = 'mkdir -p "$4/bin"; touch "$4/pyvenv.cfg"'
    fake_python(tmp_path / "python", f'if [ "$2" = venv ]; then set -- x "$@"; {made}; fi; exit 0')
    done = shell("make_venv", DEEPEN_PYTHON=str(tmp_path / "python"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "venv" / "pyvenv.cfg").exists()
    assert not (tmp_path / "venv" / "rubbish").exists()
    assert not (tmp_path / "venv" / ".deepen-incomplete").exists()


@pytest.fixture
def steps(shell: Shell, tmp_path: Path) -> Shell:
    """As ``shell``, with an environment that has this Python, and the files below ``tmp_path`` as the checkout."""
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "setup.cfg").write_text("one")
    return lambda script: shell(f'ROOT="{tmp_path}"\n{script}')


def test_a_step_is_done_once_until_its_file_changes(steps: Shell, tmp_path: Path) -> None:
    script = "step install setup.cfg -- echo done"
    assert steps(script).stdout == "done\n"
    assert steps(script).stdout == ""
    (tmp_path / "setup.cfg").write_text("two")
    assert steps(script).stdout == "done\n"


def test_a_step_that_failed_is_done_again(steps: Shell) -> None:
    assert steps("step install setup.cfg -- false").returncode == 1
    assert steps("step install setup.cfg -- echo done").stdout == "done\n"


def test_a_step_that_died_on_a_second_try_does_not_count(steps: Shell, tmp_path: Path) -> None:
    assert steps("step install setup.cfg -- echo done").returncode == 0
    (tmp_path / "setup.cfg").write_text("two")
    assert steps("step install setup.cfg -- exit 9").returncode == 9
    (tmp_path / "setup.cfg").write_text("one")
    assert steps("step install setup.cfg -- echo done").stdout == "done\n"


def test_the_developer_installation_serves_users_too(steps: Shell, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    script = 'make_venv() { :; }\ninstall_deepen() { echo "with ${1:-nothing}"; }\n'
    assert steps(f"{script}prepare").stdout == "with nothing\n"
    assert steps(f"{script}prepare dev").stdout == "with dev\n"
    assert steps(f"{script}rm $VENV/.deepen-installed\nprepare").stdout == ""


@pytest.mark.parametrize("tool", ["quickstart", "check", "test"])
def test_tools_say_what_is_wrong_from_any_folder(repo_root: Path, tmp_path: Path, tool: str) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.txt").touch()
    done = subprocess.run(
        [repo_root / "tools" / tool],
        cwd=tmp_path,
        env={**os.environ, "DEEPEN_VENV": str(tmp_path / "venv")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"tools/{tool}: error: ")
