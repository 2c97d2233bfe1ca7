"""A file is wholly there or as it was, whatever the disk does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from deepen.errors import DatasetError, StorageError
from deepen.storage.atomic import make_folder, replace_file, write_file_atomically


@pytest.mark.parametrize("before", [None, b"", b"older " * 1000])
@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 999])
def test_what_is_written_is_there_and_nothing_else(tmp_path, before, content):
    path = tmp_path / "file"
    if before is not None:
        path.write_bytes(before)
    write_file_atomically(path, content)
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, error):
    path = tmp_path / "file"
    path.write_bytes(b"mine")

    def refuse(*arguments, **named):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(StorageError, match=f"cannot write .*file: {os.strerror(error)}; free space") as caught:
            write_file_atomically(path, b"new")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_writer_is_its_own(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"mine")
    with pytest.raises(error), replace_file(path) as part:
        part.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_process_killed_at_any_moment_leaves_a_whole_file(tmp_path):
    code = """
import itertools, sys
from pathlib import Path
from deepen.storage.atomic import write_file_atomically
for number in itertools.count():
    write_file_atomically(Path(sys.argv[1]), str(number % 10).encode() * 200_000)
    if not number:
        print("begun", flush=True)
"""
    path = tmp_path / "file"
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
        content = path.read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DatasetError, match="a file stands where a folder is needed"):
            make_folder(path)
