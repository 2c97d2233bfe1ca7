"""Shell scripts a link runs on a device, and the parser of what they say.

A connection gives one stream of bytes, in ADB without an exit status. The scripts put marks into it which carry a
random number no program can guess: ``begin``, then what the command writes, ``end`` with its status, then what it wrote
on its standard error, then ``done``. Without ``done`` nothing is believed.

A job (:func:`make_job_argv`) runs in a session of its own, carries a random token in its environment, and is watched
from
the device: when its connection goes, for whatever reason, its whole group is killed there, without the host.

All values reach the scripts as arguments; the scripts themselves are constants. They need a POSIX shell and small
programs that Android (toybox), BusyBox and GNU have alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deepen.devices.links.quoting import check_argv, format_env_arguments

__all__ = [
    "END_OF_A_JOB",
    "START_OF_A_PROCESS",
    "JobOutputParser",
    "make_job_argv",
    "make_kill_argv",
    "make_script_argv",
]

START_OF_A_PROCESS = r"""
start() { shift 19; echo "$1"; }
"""
"""``start`` gives the start time of a process, field 22 of ``/proc/PID/stat`` (proc(5)), of what follows its name."""

END_OF_A_JOB = (
    START_OF_A_PROCESS
    + r"""
reap() {
    tries=0
    while :; do
        if read -r p t <"$J/pid" && read -r l <"/proc/$p/stat" && [ "$(start ${l##*) })" = "$t" ]; then
            kill -9 "-$p"
        fi
        found=
        for f in $(grep -ls "DEEPEN_JOB=$I" /proc/[0-9]*/environ); do
            f=${f#/proc/}
            kill -9 "${f%/environ}" && found=1
        done
        [ -n "$found" ] || return 0
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || return 1
        sleep 0.1 || sleep 1
    done 2>/dev/null
}
"""
)
"""``reap`` ends the job ``$I`` in the folder ``$J``: the group of its first process, unless its number belongs to
another process by now, and everything that carries its token, also what has left the group. It returns when all are
gone."""

_INNER = (
    START_OF_A_PROCESS
    + r"""
J=$1 M=$2 n=$3
shift 3
l=
read -r l <"/proc/$$/stat"
echo "$$ $(start ${l##*) })" >"$J/pid"
while [ "$n" -gt 0 ]; do
    export "$1"
    shift
    n=$((n - 1))
done
command -v "$1" >/dev/null 2>&1 || echo "$M none"
echo "$M begin $$"
exec "$@"
"""
)

_JOB = (
    r"""
trap '' HUP
u=$(umask)
umask 077
J=$1/jobs/$2 I=$2 M=$3 mode=$4 inner=$5
shift 5
mkdir -p "$J" 2>/dev/null || { echo "$M fail cannot make the folder $J"; exit 1; }
exec 3<&0 2>/dev/null
"""
    + END_OF_A_JOB
    + r"""
{
    cat <&3 || cat <&3 >/dev/null
    exec >&-
    n=0
    while [ "$mode" = pipe ] && [ -d "$J" ] && [ ! -e "$J/over" ] && [ "$n" -lt 3 ]; do
        sleep 1
        n=$((n + 1))
    done
    [ -e "$J/over" ] || reap
    rm -rf "$J"
} | {
    exec 3<&-
    [ "$mode" = pipe ] || exec </dev/null
    trap - HUP
    umask "$u"
    (
        export DEEPEN_JOB="$I"
        exec setsid sh -c "$inner" deepen "$J" "$M" "$@" 2>"$J/err"
    )
    s=$?
    if read -r p t <"$J/pid"; then kill -9 "-$p"; fi 2>/dev/null
    echo >"$J/over"
    echo "$M end $s"
    cat "$J/err"
    echo "$M done"
}
"""
)

_KILL = (
    r"""
J=$1/jobs/$2 I=$2
"""
    + END_OF_A_JOB
    + r"""
reap || exit 1
tail -c 2000 "$J/err" 2>/dev/null
rm -rf "$J"
"""
)

_SCRIPT = r"""
M=$1 body=$2
shift 2
echo "$M begin $$"
(eval "$body") 2>&1
echo "$M end $?"
echo "$M done"
"""


def make_script_argv(marker: str, body: str, *arguments: str) -> list[str]:
    """A short script, whose standard error goes to its output; its arguments are ``$1`` and so on."""
    return ["sh", "-c", _SCRIPT, "deepen", marker, body, *arguments]


def make_job_argv(
    work: str, token: str, marker: str, argv: Sequence[str], env: Mapping[str, str], *, reads: bool
) -> list[str]:
    """A command in a session of its own.

    Args:
        work: The link's folder on the device.
        token: Name of the job: letters and digits nobody else has.
        marker: What marks begin with.
        argv: The command.
        env: Variables to add to its environment.
        reads: Whether it reads the connection; if not, its input is empty.
    """
    variables = format_env_arguments(env)
    mode = "pipe" if reads else "null"
    fixed = ["sh", "-c", _JOB, "deepen", work, token, marker, mode, _INNER]
    return [*fixed, str(len(variables)), *variables, *check_argv(argv)]


def make_kill_argv(work: str, token: str, marker: str) -> list[str]:
    """End a job; the status is 0 when nothing of it is left, and the output is the end of what it said."""
    return make_script_argv(marker, _KILL, work, token)


class JobOutputParser:
    """Takes apart what a script says.

    Attributes:
        pid: Process id of the command; ``None`` before ``begin``.
        missing: Whether there is no such program.
        failure: Why the script could not start the command; empty if it could.
        status: Exit status, negative for a signal; ``None`` before ``end``.
        done: Whether all of it has come.
        stdout: What the command wrote and nobody has taken yet.
        stderr: What it wrote on its standard error; complete with ``done``.
        noise: What came before ``begin``: words of a shell's profile, or its complaint.
    """

    _MOST_NOISE = 4000

    def __init__(self, marker: str) -> None:
        """Expect marks that begin with a marker."""
        mark = re.escape(marker.encode())
        self._head = re.compile(rb"%s (none|fail (.*)|begin (\d+))\n" % mark)
        self._end = re.compile(rb"%s end (\d+)\n" % mark)
        self._end_mark = f"{marker} end ".encode()
        self._done_mark = f"{marker} done\n".encode()
        self._pending = bytearray()
        self.pid: int | None = None
        self.missing = False
        self.failure = ""
        self.status: int | None = None
        self.done = False
        self.stdout = bytearray()
        self.stderr = b""
        self.noise = b""

    def feed(self, data: bytes) -> None:
        """Take bytes, in pieces of any size."""
        self._pending += data
        if self.pid is None:
            self._read_head()
        if self.pid is not None and self.status is None:
            self._read_body()
        if self.status is not None and not self.done:
            at = self._pending.find(self._done_mark)
            if at >= 0:
                self.stderr = bytes(self._pending[:at])
                self.done = True

    def take(self) -> bytes:
        """What the command has written since the last call."""
        taken = bytes(self.stdout)
        self.stdout.clear()
        return taken

    def _read_head(self) -> None:
        while self.pid is None and (found := self._head.search(self._pending)):
            self.noise += bytes(self._pending[: found.start()])
            if found[3] is not None:
                self.pid = int(found[3])
            elif found[2] is not None:
                self.failure = found[2].decode("utf-8", "replace")
            else:
                self.missing = True
            del self._pending[: found.end()]
        if self.pid is None:
            self.noise = self.noise[-self._MOST_NOISE :]
            if len(self._pending) > 2 * self._MOST_NOISE:  # a mark is shorter; what is older is noise
                self.noise = bytes(self._pending[: -self._MOST_NOISE])[-self._MOST_NOISE :]
                del self._pending[: -self._MOST_NOISE]

    def _read_body(self) -> None:
        found = self._end.search(self._pending)
        if found:
            self.stdout += self._pending[: found.start()]
            self.status = decode_exit_status(int(found[1]))
            del self._pending[: found.end()]
            return
        keep = self._possible_mark()
        self.stdout += self._pending[: len(self._pending) - keep]
        del self._pending[: len(self._pending) - keep]

    def _possible_mark(self) -> int:
        """Number of bytes at the end that may belong to a mark."""
        at = self._pending.rfind(self._end_mark)
        if at >= 0 and b"\n" not in self._pending[at:]:
            return len(self._pending) - at
        for length in range(min(len(self._end_mark), len(self._pending)), 0, -1):
            if self._pending.endswith(self._end_mark[:length]):
                return length
        return 0


def decode_exit_status(told: int) -> int:
    """Meaning of a shell's exit status: above 128 it is the signal that ended the command (POSIX XCU 2.8.2), ``-n``."""
    return 128 - told if 128 < told <= 128 + 64 else told
