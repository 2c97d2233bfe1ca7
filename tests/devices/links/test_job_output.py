from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepen.devices.links.jobs import JobOutputParser

M = "@0123456789abcdef"


def whole(stdout: bytes, stderr: bytes = b"", status: int = 0, noise: bytes = b"") -> bytes:
    m = M.encode()
    return noise + m + b" begin 42\n" + stdout + m + b" end %d\n" % status + stderr + m + b" done\n"


def test_parts_are_told_apart() -> None:
    output = JobOutputParser(M)
    output.feed(whole(b"out", b"err", 7, b"profile says hi\n"))
    assert (output.pid, output.status, output.take(), output.stderr, output.done) == (42, 7, b"out", b"err", True)
    assert output.noise == b"profile says hi\n"
    assert not output.missing


def test_signals_are_negative() -> None:
    for told, meant in ((0, 0), (127, 127), (128, 128), (137, -9), (143, -15), (192, -64), (193, 193), (255, 255)):
        output = JobOutputParser(M)
        output.feed(whole(b"", status=told))
        assert output.status == meant


def test_what_comes_before_the_command() -> None:
    output = JobOutputParser(M)
    output.feed(f"{M} none\n{M} begin 7\n".encode())
    assert output.missing
    assert output.pid == 7
    failed = JobOutputParser(M)
    failed.feed(f"x\n{M} fail cannot make the folder /a\n".encode())
    assert failed.failure == "cannot make the folder /a"
    assert failed.pid is None


def test_output_comes_at_once_but_for_what_may_be_a_mark() -> None:
    output = JobOutputParser(M)
    output.feed(f"{M} begin 1\nline\n@01".encode())
    assert output.take() == b"line\n"
    output.feed(b"2 not a mark\n")
    assert output.take() == b"@012 not a mark\n"
    output.feed(f"{M} end x\n{M} end 3".encode())
    assert output.take() == f"{M} end x\n".encode()
    assert output.status is None
    output.feed(b"\n")
    assert output.status == 3
    assert not output.done


def test_nothing_is_kept_of_endless_noise() -> None:
    output = JobOutputParser(M)
    for _ in range(100):
        output.feed(b"x" * 10_000)
    assert len(output.noise) <= 4000
    assert len(output._pending) <= 20_000
    output.feed(whole(b"out"))
    assert output.take() == b"out"


pieces = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([M.encode(), M.encode() + b" end ", b"@", b"\n"])))


@given(pieces, st.binary(max_size=40), st.integers(0, 255), st.lists(st.integers(1, 9), max_size=30))
def test_the_result_does_not_depend_on_how_the_bytes_are_split(
    parts: list[bytes], stderr: bytes, status: int, cuts: list[int]
) -> None:
    stdout = b"".join(parts)
    if b" end " in stdout and any(f"{M} end {d}".encode() in stdout for d in range(10)):
        return  # nobody can know the marker
    if M.encode() + b" done\n" in stderr:
        return
    data = whole(stdout, stderr, status)
    output, taken, at = JobOutputParser(M), b"", 0
    for length in [*cuts, len(data)]:
        output.feed(data[at : at + length])
        taken += output.take()
        at += length
    assert taken == stdout
    assert output.stderr == stderr
    assert output.done


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    output = JobOutputParser(M)
    output.feed(data)
    assert not output.done
