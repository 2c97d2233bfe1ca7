"""One holder at a time, whoever it is and however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from deepen.storage.locks import is_file_locked, lock_file, read_lock_owner, unlock_file, write_lock_owner


def test_a_second_holder_is_refused_until_the_first_gives_it_back(tmp_path):
    path = tmp_path / "lock"
    assert not is_file_locked(path)
    assert not path.exists()
    held = lock_file(path)
    write_lock_owner(held, "a long text that says who")
    write_lock_owner(held, f"me, {os.getpid()}")
    assert is_file_locked(path)
    assert read_lock_owner(path) == f"me, {os.getpid()}"
    with pytest.raises(BlockingIOError):
        lock_file(path)
    unlock_file(held)
    assert not is_file_locked(path)
    os.close(lock_file(path, create=False))
    assert read_lock_owner(tmp_path / "none") == ""


def test_the_kernel_gives_the_lock_of_a_killed_process_back(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from deepen.storage.locks import lock_file;"
        "fd = lock_file(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert is_file_locked(tmp_path / "lock")
    child.kill()
    child.wait()
    child.stdout.close()
    assert not is_file_locked(tmp_path / "lock")


def test_a_waiter_gets_the_lock_of_the_file_that_has_the_name_now(tmp_path):
    """Its last holder removed the file and somebody made another: the old one locks nothing any more."""
    path = tmp_path / "lock"
    first = lock_file(path)
    found = []
    waiter = threading.Thread(target=lambda: found.append(lock_file(path, wait=True)))
    waiter.start()
    path.unlink()
    path.write_text("another")
    os.close(first)
    waiter.join(10)
    assert is_file_locked(path)
    os.close(found[0])
    assert not is_file_locked(path)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        lock_file(tmp_path / "lock")
    assert read_lock_owner(tmp_path / "lock") == ""
    with pytest.raises(FileNotFoundError):
        lock_file(tmp_path / "none", create=False)
