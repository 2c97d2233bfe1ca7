"""What was appended is replayed in order; only the last line can be torn."""

from __future__ import annotations

import errno
import json
import os

import pytest

from deepen.errors import ConfigError
from deepen.storage.journal import JournalLineError, JournalWriter, replay_journal

DOCUMENTS = [{"n": 1}, ["two", None], "drei\nÄ", 4.5, {"five": {"deep": [5]}}]


def write(path, documents, end=0, **options):
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        writer = JournalWriter(descriptor, end, **options)
        for document in documents:
            writer.append(document)
    finally:
        os.close(descriptor)


def replay(data):
    found = []
    return found, replay_journal(data, found.append)


@pytest.mark.parametrize("sync", [True, False])
def test_documents_come_back_in_order(tmp_path, sync):
    write(tmp_path / "j", DOCUMENTS, sync=sync)
    data = (tmp_path / "j").read_bytes()
    assert replay(data) == (DOCUMENTS, len(data))
    assert data.count(b"\n") == len(DOCUMENTS)


def test_a_journal_cut_anywhere_keeps_the_lines_before_and_goes_on(tmp_path):
    write(tmp_path / "j", DOCUMENTS)
    data = (tmp_path / "j").read_bytes()
    for length in range(len(data) + 1):
        found, sound = replay(data[:length])
        assert found == DOCUMENTS[: data[:length].count(b"\n")]
        (tmp_path / "cut").write_bytes(data[:length])
        write(tmp_path / "cut", ["more"], sound)
        assert replay((tmp_path / "cut").read_bytes())[0] == [*found, "more"]


def test_damage_before_the_last_line_names_it():
    data = b"".join(json.dumps(document).encode() + b"\n" for document in DOCUMENTS)
    start = data.index(b"\n") + 1
    with pytest.raises(JournalLineError, match="line 2 is damaged") as caught:
        replay(data[:start] + b"}" + data[start:])
    assert caught.value.number == 2

    def refuse(document):
        if document == DOCUMENTS[2]:
            raise ConfigError("no such place")

    with pytest.raises(JournalLineError, match=r"line 3 is damaged \(no such place\)"):
        replay_journal(data, refuse)


def test_a_failed_append_is_overwritten_by_the_next(tmp_path, monkeypatch):
    descriptor = os.open(tmp_path / "j", os.O_RDWR | os.O_CREAT)
    writer = JournalWriter(descriptor, 0)
    writer.append("first")
    real = os.pwrite

    def fill(fd, data, offset):
        if len(data) < 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:4], offset)

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", fill)
        with pytest.raises(OSError, match="No space left"):
            writer.append("a document that does not fit")
    assert replay((tmp_path / "j").read_bytes())[0] == ["first"]
    writer.append("a document that is longer than what was left behind")
    os.close(descriptor)
    assert replay((tmp_path / "j").read_bytes())[0] == ["first", "a document that is longer than what was left behind"]
