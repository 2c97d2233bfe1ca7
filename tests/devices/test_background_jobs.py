"""Runs that go on without the host, on this machine's own shell behind a link that can be cut."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deepen import catalog
from deepen.devices.background_jobs import (
    DetachedJob,
    JobState,
    create_job,
    discard_job,
    fetch_job_output,
    query_job_state,
    start_detached,
    start_gate_process,
)
from deepen.devices.links.local import LocalLink
from deepen.devices.links.remote import RemoteLink
from deepen.devices.runtimes.python_runner import OnnxRuntime
from deepen.errors import ConfigError, LinkError
from deepen.testing.links import ShellLinkFaults, make_shell_link

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="devices run Linux")

RUNNER = [sys.executable, str(catalog.find_path("devices", "runner", "runner.py"))]
WAIT = {"op": "wait", "ns": 0}


@pytest.fixture(params=["sh", "bash --posix"])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RemoteLink]:
    home = tmp_path / "home of '$(id)"
    home.mkdir()
    opened = make_shell_link(str(home), shell=request.param)
    yield opened
    opened.close()
    left = [p for p in Path("/proc").glob("[0-9]*/environ") if str(home).encode() in _content(p)]
    until(lambda: not [p for p in left if p.exists() and str(home).encode() in _content(p)], f"left: {left}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def until(condition: Callable[[], bool], what: str, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def start(link: RemoteLink, argv: list[str], env: dict[str, str], requests: Any, limit_s: float) -> DetachedJob:
    job = create_job(link)
    start_detached(link, job, argv, env, requests, limit_s=limit_s)
    return job


def ended(link: RemoteLink, job: DetachedJob) -> JobState:
    found = query_job_state(link, job)
    end = time.monotonic() + 60
    while found.kind == "running":
        assert time.monotonic() < end
        time.sleep(0.05)
        found = query_job_state(link, job)
    return found


def numbered(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**r, "id": k} for k, r in enumerate(requests)]


def test_a_run_answers_into_a_file(link: RemoteLink, models: Path) -> None:
    load = {"op": "load", "path": str(models / "add.onnx")}
    requests = numbered({"op": "hello"}, load, {"op": "run", "handle": 1, "n": 3}, WAIT, {"op": "bye"})
    job = start(link, RUNNER, {"OMP_NUM_THREADS": "1"}, requests, limit_s=300)
    assert ended(link, job) == JobState("ended", 0)
    found = fetch_job_output(link, job)
    assert [r["id"] for r in found.replies] == [0, 1, 2, 3, 4]
    assert found.replies[2]["start_ns"] < found.replies[2]["end_ns"] <= found.replies[3]["start_ns"]
    discard_job(link, job)
    assert not Path(job.folder).exists()
    assert query_job_state(link, job) == JobState("absent")
    discard_job(link, job)


def test_it_begins_when_the_link_is_cut_and_goes_on_without_it(link: RemoteLink, tmp_path: Path) -> None:
    held = start_gate_process(link)
    requests = numbered({"op": "wait", "ns": 600 * 10**9, "pid": held.pid}, {"op": "wait", "ns": 10**8}, {"op": "bye"})
    job = start(link, RUNNER, {}, requests, limit_s=300)
    time.sleep(0.5)
    assert query_job_state(link, job) == JobState("running")
    assert fetch_job_output(link, job).replies == ()
    link.disconnect()
    until(lambda: Path(job.folder, "status").exists(), "it did not begin, or did not end, without the link")
    assert ended(link, job) == JobState("ended", 0)
    first, second, _ = fetch_job_output(link, job).replies
    assert first["end_ns"] - first["start_ns"] < 60e9
    assert second["end_ns"] - second["start_ns"] >= 10**8
    held.kill()
    discard_job(link, job)


def test_a_run_whose_time_is_up_is_ended_on_the_device(link: RemoteLink) -> None:
    job = start(link, RUNNER, {}, numbered({"op": "wait", "ns": 600 * 10**9}), limit_s=1)
    until(lambda: query_job_state(link, job).kind == "lost", "it goes on")
    assert fetch_job_output(link, job).replies == ()
    discard_job(link, job)


def test_discarding_ends_it(link: RemoteLink) -> None:
    job = start(link, RUNNER, {}, numbered({"op": "wait", "ns": 600 * 10**9}), limit_s=300)
    pid = int(Path(job.folder, "pid").read_text().split()[0])
    discard_job(link, job)
    assert not Path(job.folder).exists()
    until(lambda: not _content(Path(f"/proc/{pid}/environ")), "it goes on")  # one nobody has waited for has none


def test_what_nobody_collected_in_a_month_goes_with_the_next_start(link: RemoteLink) -> None:
    assert link.alive()
    folder = Path(link.work) / "detached"
    for name, age_s in (("old", 40 * 86400), ("new", 86400)):
        (folder / name).mkdir(parents=True)
        (folder / name / "answers").touch()
        os.utime(folder / name, (time.time() - age_s, time.time() - age_s))
    job = start(link, RUNNER, {}, numbered({"op": "bye"}), limit_s=60)
    assert sorted(p.name for p in folder.iterdir()) == sorted(["new", job.token])
    ended(link, job)
    discard_job(link, job)


def test_a_worker_that_dies_says_how(link: RemoteLink) -> None:
    job = start(link, ["sh", "-c", "read -r line; echo last words >&2; kill -SEGV $$"], {}, [WAIT], limit_s=60)
    assert ended(link, job) == JobState("ended", -signal.SIGSEGV)
    assert fetch_job_output(link, job).words.splitlines()[0] == "last words"
    discard_job(link, job)


def test_a_run_that_was_ended_by_others_is_lost(link: RemoteLink) -> None:
    job = start(link, RUNNER, {}, numbered(WAIT, {"op": "wait", "ns": 600 * 10**9}), limit_s=300)
    until(lambda: len(fetch_job_output(link, job).replies) == 1, "no answer")
    os.killpg(int(Path(job.folder, "pid").read_text().split()[0]), signal.SIGKILL)
    until(lambda: query_job_state(link, job).kind == "lost", "still there")
    assert len(fetch_job_output(link, job).replies) == 1  # what it had said is there
    discard_job(link, job)


def test_a_missing_program_is_told_by_its_status(link: RemoteLink) -> None:
    job = start(link, ["deepen-has-no-such-program"], {}, [WAIT], limit_s=60)
    assert ended(link, job) == JobState("ended", 127)
    discard_job(link, job)


def test_hostile_words_reach_nothing(link: RemoteLink, tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/was-here)`touch {tmp_path}/was-here`'\"\n;*"
    script = 'cat >/dev/null; printf "{\\"said\\": %d}\\n" "${#1}"; printf %s "$DEEPEN_VALUE" >&2'
    job = start(link, ["sh", "-c", script, "x", evil], {"DEEPEN_VALUE": evil}, [{"evil": evil}], limit_s=60)
    assert ended(link, job) == JobState("ended", 0)
    assert fetch_job_output(link, job).replies == ({"said": len(evil)},)
    assert fetch_job_output(link, job).words == evil.strip()
    assert not (tmp_path / "was-here").exists()
    discard_job(link, job)


@pytest.mark.parametrize("line", ["[1]\n", "{\n"])
def test_answers_that_are_none_are_refused(link: RemoteLink, line: str) -> None:
    job = start(link, ["sh", "-c", 'printf %s "$1"', "x", line], {}, [WAIT], limit_s=60)
    ended(link, job)
    with pytest.raises(LinkError, match="run it again"):
        fetch_job_output(link, job)
    discard_job(link, job)


def test_a_torn_last_answer_is_left_out(link: RemoteLink) -> None:
    job = start(link, ["sh", "-c", 'printf %s "$1"', "x", '{"id": 1}\n{"id"'], {}, [WAIT], limit_s=60)
    ended(link, job)
    assert fetch_job_output(link, job).replies == ({"id": 1},)
    discard_job(link, job)


def test_this_machine_is_nothing_to_be_detached_from() -> None:
    with pytest.raises(ConfigError, match="use adb: or ssh:"):
        create_job(LocalLink())


def test_a_cut_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    faults = ShellLinkFaults()
    opened = make_shell_link(str(tmp_path), faults)
    job = create_job(opened)
    faults.read_bytes = 2  # of any stream from now on
    with pytest.raises(LinkError):
        start_detached(opened, job, RUNNER, {}, [{"op": "wait", "ns": 600 * 10**9}], limit_s=300)
    faults.read_bytes = None
    opened.close()


@pytest.mark.parametrize(("token", "folder"), [("x", "/a"), ("0" * 32, "a"), ("../" * 10 + "aa", "/a")])
def test_a_name_that_is_none(token: str, folder: str) -> None:
    with pytest.raises(ConfigError):
        DetachedJob(token, folder)


def test_a_runtime_says_how_it_runs_unattended(tmp_path: Path, models: Path) -> None:
    link = make_shell_link(str(tmp_path))
    runtime = OnnxRuntime(link, python=sys.executable)
    runtime.load(models / "add.onnx")
    argv, env, requests = runtime.plan_unattended_run(models / "add.onnx")
    trips = runtime.round_trips(3)
    assert len(trips) == 3
    job = start(link, argv, env, numbered(*requests, {"op": "run", "handle": 1, "n": 2}, {"op": "bye"}), limit_s=300)
    assert ended(link, job) == JobState("ended", 0)
    replies = fetch_job_output(link, job).replies
    assert replies[1]["handle"] == 1
    assert trips[-1].end_s < replies[2]["start_ns"] / 1e9
    discard_job(link, job)
    runtime.close()
    link.close()
