"""Detached runs, which continue without the host: the worker reads requests from a file and writes answers to another.

Everything else that a link starts ends with the link, on purpose. A detached run has a session of its own; its requests
are stored beside it, and its answers (each with time stamps of the device) are fetched when the link is back. It ends
by
itself: after its last request, or when its time is up.

A run begins to measure when its *gate process* has ended (:func:`start_gate_process`). That is an ordinary process of
the link, which the watchdog on the device ends when the link is cut, however it is cut; the worker waits for its end
(operation ``wait``). No time has to be agreed on, and no message is needed at the moment of the cut.

All files of a run are in the folder ``detached/TOKEN`` of the link's work folder; :func:`discard_job` removes them.
Runs that have not been collected for a month are removed when another one starts.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepen.devices.links.jobs import END_OF_A_JOB, START_OF_A_PROCESS
from deepen.devices.links.quoting import format_env_arguments
from deepen.devices.links.remote import RemoteLink
from deepen.errors import ConfigError, LinkError

if TYPE_CHECKING:
    from deepen.devices.protocols import Link, ProcessChannel

__all__ = [
    "DetachedJob",
    "DetachedOutput",
    "JobState",
    "create_job",
    "discard_job",
    "fetch_job_output",
    "query_job_state",
    "start_detached",
    "start_gate_process",
    "try_discard_job",
]

_CALL_S = 60.0
_TOKEN = re.compile(r"[0-9a-f]{32}")

_INNER = (
    START_OF_A_PROCESS
    + r"""
trap '' HUP
J=$1 limit=$2 n=$3
shift 3
l=
read -r l <"/proc/$$/stat"
while [ "$n" -gt 0 ]; do
    export "$1"
    shift
    n=$((n - 1))
done
echo "$$ $(start ${l##*) })" >"$J/pid.new"
mv -f "$J/pid.new" "$J/pid"
{
    sleep "$limit"
    kill -9 "-$$"
} &
"$@" <"$J/plan" >"$J/answers" 2>"$J/err"
echo "$?" >"$J/status.new"
mv -f "$J/status.new" "$J/status"
kill -9 "-$$"
"""
)
"""Runs the worker; at its end, or when its time is up, the whole process group is killed, the timer included."""

_START = r"""
J=$1 I=$2 plan=$3 limit=$4 inner=$5
shift 5
umask 077
mkdir -p "${J%/*}" && mkdir "$J" && mv -f "$plan" "$J/plan" || exit 1
rmdir "${plan%/*}" 2>/dev/null
find "${J%/*}" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} \; 2>/dev/null
(
    export DEEPEN_JOB="$I"
    exec setsid sh -c "$inner" deepen "$J" "$limit" "$@" </dev/null >/dev/null 2>&1
) &
n=0
while [ ! -s "$J/pid" ] && [ "$n" -lt 20 ]; do
    sleep 0.1 || sleep 1
    n=$((n + 1))
done
[ -s "$J/pid" ]
"""

_LOOK = (
    START_OF_A_PROCESS
    + r"""
J=$1
[ -d "$J" ] || { echo absent; exit 0; }
if read -r s <"$J/status"; then echo "ended $s"; exit 0; fi 2>/dev/null
if read -r p t <"$J/pid" && read -r l <"/proc/$p/stat" && [ "$(start ${l##*) })" = "$t" ]; then
    echo running
elif read -r s <"$J/status"; then
    echo "ended $s"
else
    echo lost
fi 2>/dev/null
"""
)

_DISCARD = (
    "J=$1 I=$2\n"
    + END_OF_A_JOB
    + r"""
[ -d "$J" ] || exit 0
reap || exit 1
rm -rf "$J"
"""
)


@dataclass(frozen=True, slots=True)
class DetachedJob:
    """A detached run.

    Attributes:
        token: Its name: 32 hexadecimal digits.
        folder: Its folder on the device.
    """

    token: str
    folder: str

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.token) or not self.folder.startswith("/"):
            raise ConfigError("a detached run needs a token of 32 hexadecimal digits and an absolute folder")


@dataclass(frozen=True, slots=True)
class JobState:
    """State of a detached run.

    Attributes:
        kind: ``running``; ``ended``; ``lost`` if it stopped without an exit status (the device was restarted, or killed
            it); ``absent`` if the device has no such run.
        status: Exit status of the worker, negative for a signal; ``None`` unless it has ended.
    """

    kind: Literal["running", "ended", "lost", "absent"]
    status: int | None = None


@dataclass(frozen=True, slots=True)
class DetachedOutput:
    """Output of a detached run.

    Attributes:
        replies: Answers to its requests, in order; fewer than the requests if it was ended early.
        words: The end of its standard error.
    """

    replies: tuple[dict[str, Any], ...]
    words: str


def start_gate_process(link: Link) -> ProcessChannel:
    """Start the process whose end, by ``kill`` or by a cut of the link, lets detached runs begin.

    Raises:
        LinkError: If the device is gone.
    """
    return link.spawn(["cat"], {})


def create_job(link: Link) -> DetachedJob:
    """Create the name and folder path of a run that is to be started.

    Raises:
        ConfigError: If the link is to this machine, from which a run cannot be detached.
        LinkError: If the device does not answer.
    """
    if not isinstance(link, RemoteLink):
        raise ConfigError(f"{link.description}: a detached run needs a device behind a link; use adb: or ssh:")
    link.run(["true"], timeout_s=_CALL_S)  # the work folder is known from here on
    token = secrets.token_hex(16)
    return DetachedJob(token, f"{link.work}/detached/{token}")


def start_detached(
    link: Link,
    job: DetachedJob,
    argv: Sequence[str],
    env: Mapping[str, str],
    requests: Sequence[Mapping[str, Any]],
    *,
    limit_s: float,
) -> None:
    """Start a worker with all its requests.

    Args:
        link: Link to the device.
        job: Its name and folder, from :func:`create_job`; a caller that wants to find it after a crash records them
            first.
        argv: Command line of the worker on the device.
        env: Variables of its environment.
        requests: The requests; each carries its ``id``.
        limit_s: Time after which it is killed on the device, seconds.

    Raises:
        LinkError: If it could not be started; then it has left nothing behind, or ends by itself.
    """
    variables = format_env_arguments(env)
    with tempfile.TemporaryDirectory(prefix="deepen-detached-") as folder:
        plan = Path(folder) / f"plan-{job.token}"
        plan.write_text("".join(json.dumps(r) + "\n" for r in requests), encoding="utf-8")
        there = link.push(plan)
    fixed = ["sh", "-c", _START, "deepen", job.folder, job.token, there, str(max(1, round(limit_s))), _INNER]
    try:
        done = link.run([*fixed, str(len(variables)), *variables, *argv], timeout_s=_CALL_S)
    except LinkError:
        try_discard_job(link, job)
        raise
    if done.status:
        output = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-200:]
        try_discard_job(link, job)
        raise LinkError(
            f"{link.description}: a detached run could not be started: {output or 'no reason given'}; try again"
        )


def query_job_state(link: Link, job: DetachedJob) -> JobState:
    """Query the state of a run.

    Raises:
        LinkError: If the device is gone.
    """
    answer = (
        link.run(["sh", "-c", _LOOK, "deepen", job.folder], timeout_s=_CALL_S).stdout.decode("utf-8", "replace").split()
    )
    if answer[:1] == ["ended"] and len(answer) == 2 and answer[1].isdecimal():
        code = int(answer[1])
        return JobState("ended", 128 - code if 128 < code <= 192 else code)
    for kind in ("running", "lost", "absent"):
        if answer == [kind]:
            return JobState(kind)
    raise LinkError(f"{link.description}: nobody can tell how the detached run {job.token} is; try again")


def fetch_job_output(link: Link, job: DetachedJob) -> DetachedOutput:
    """Fetch the output of a run; the hash of each file is checked.

    Raises:
        LinkError: If the device is gone, or an answer cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="deepen-detached-") as folder:
        answers, words = Path(folder) / "answers", Path(folder) / "err"
        link.pull(f"{job.folder}/answers", answers)
        link.pull(f"{job.folder}/err", words)
        lines = answers.read_bytes().split(b"\n")[:-1]  # bytes after the last line break are torn
        stderr_end = words.read_bytes()[-2000:].decode("utf-8", "replace").strip()
    try:
        replies = tuple(json.loads(line) for line in lines)
    except ValueError as error:
        raise LinkError(
            f"{link.description}: an answer of the detached run cannot be read ({error}); run it again"
        ) from error
    if not all(isinstance(r, dict) for r in replies):
        raise LinkError(f"{link.description}: an answer of the detached run is no object; run it again")
    return DetachedOutput(replies, stderr_end)


def discard_job(link: Link, job: DetachedJob) -> None:
    """End a run and remove its files; harmless when there is none.

    Raises:
        LinkError: If the device is gone, or one of its processes cannot be ended.
    """
    done = link.run(["sh", "-c", _DISCARD, "deepen", job.folder, job.token], timeout_s=_CALL_S)
    if done.status:
        raise LinkError(
            f"{link.description}: something of the detached run {job.token} cannot be ended; restart the device"
        )


def try_discard_job(link: Link, job: DetachedJob) -> bool:
    """Discard a run if the device can be reached; return whether it could. An unreachable run ends by itself."""
    try:
        discard_job(link, job)
    except LinkError:
        return False
    return True
