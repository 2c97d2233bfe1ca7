"""Temporary folders whose owners are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepen.storage.temporary_folders import TemporaryFolder, remove_orphaned_folders


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_there_until_it_is_closed(here: Path) -> None:
    scratch = TemporaryFolder("deepen-test-")
    assert scratch.path.parent == here
    (scratch.path / "file").write_text("x")
    scratch.close()
    scratch.close()
    assert list(here.iterdir()) == []


def test_the_next_one_removes_what_a_killed_owner_left_and_nothing_else(here: Path) -> None:
    code = (
        "import sys, time\n"
        "from deepen.storage.temporary_folders import TemporaryFolder\n"
        "print(TemporaryFolder('deepen-test-').path, flush=True)\n"
    )
    environment = {**os.environ, "TMPDIR": str(here), "PYTHONPATH": os.pathsep.join(sys.path)}
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", code + "time.sleep(1000)"], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    try:
        killed, living = (Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout)
        other = here / "deepen-other-1"
        young = here / "deepen-test-being-made"
        for folder in (other, young):
            folder.mkdir()
        owners[0].kill()
        owners[0].wait()
        with_link = here / "deepen-test-link"
        with_link.symlink_to(other)
        made = TemporaryFolder("deepen-test-")
        assert not killed.exists()
        assert {p.name for p in here.iterdir()} == {
            living.name, made.path.name, other.name, young.name, with_link.name
        }  # fmt: skip
        made.close()
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()


def test_old_folders_without_an_owner_go(here: Path) -> None:
    old = here / "deepen-test-old"
    old.mkdir()
    (old / "reference.onnx").write_text("x")
    os.utime(old, (1, 1))
    remove_orphaned_folders(here, "deepen-test-")
    assert not old.exists()
