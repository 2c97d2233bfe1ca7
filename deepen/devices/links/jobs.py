"""Shell scripts that a link runs on a device, and the parser of their output.

A connection carries one stream of bytes, and in ADB no exit status. The scripts insert marks with a random number that
no program can guess: ``begin``, then the output of the command, ``end`` with its status, then its standard error, then
``done``. Output without ``done`` is not trusted.

A job (:func:`make_job_argv`) runs in a session of its own, carries a random token in its environment, and is watched on
the device: when its connection is lost, for whatever reason, its whole group is killed there, without the host.

All values reach the scripts as arguments; the scripts themselves are constants. They need a POSIX shell and a few
programs that Android (toybox), BusyBox and GNU all provide.
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
"""``start`` prints the start time of a process, field 22 of ``/proc/PID/stat`` (proc(5)); its arguments are the fields
after the name."""

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
"""``reap`` ends the job ``$I`` in the folder ``$J``: the group of its first process, unless that number now belongs to
another process, and every process that carries its token, including those that have left the group. It returns when
all are gone."""

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
    """Make the command line of a short script with arguments ``$1`` and so on; its standard error joins its output."""
    return ["sh", "-c", _SCRIPT, "deepen", marker, body, *arguments]


def make_job_argv(
    work: str, token: str, marker: str, argv: Sequence[str], env: Mapping[str, str], *, reads: bool
) -> list[str]:
    """Make the command line that runs a command in a session of its own.

    Args:
        work: The link's folder on the device.
        token: Unique name of the job, of letters and digits.
        marker: Text with which marks begin.
        argv: The command.
        env: Variables to add to its environment.
        reads: True if it reads the connection; otherwise its input is empty.
    """
    variables = format_env_arguments(env)
    mode = "pipe" if reads else "null"
    fixed = ["sh", "-c", _JOB, "deepen", work, token, marker, mode, _INNER]
    return [*fixed, str(len(variables)), *variables, *check_argv(argv)]


def make_kill_argv(work: str, token: str, marker: str) -> list[str]:
    """Make the command line that ends a job and prints the end of its standard error; status 0 once nothing is left."""
    return make_script_argv(marker, _KILL, work, token)


class JobOutputParser:
    """Parser of the output of a script.

    Attributes:
        pid: Process id of the command; ``None`` before ``begin``.
        missing: True if there is no such program.
        failure: Reason the script could not start the command; empty if it could.
        status: Exit status, negative for a signal; ``None`` before ``end``.
        done: True once all output has come.
        stdout: Output of the command that has not been taken yet.
        stderr: Its standard error; complete with ``done``.
        noise: Output before ``begin``: text from a shell's profile, or its error message.
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
        """Parse bytes, in pieces of any size."""
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
        """Return the output of the command since the last call."""
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
            if len(self._pending) > 2 * self._MOST_NOISE:  # a mark is shorter; older bytes are noise
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
        """Return the number of bytes at the end that may belong to a mark."""
        at = self._pending.rfind(self._end_mark)
        if at >= 0 and b"\n" not in self._pending[at:]:
            return len(self._pending) - at
        for length in range(min(len(self._end_mark), len(self._pending)), 0, -1):
            if self._pending.endswith(self._end_mark[:length]):
                return length
        return 0


def decode_exit_status(shell_status: int) -> int:
    """Decode a shell's exit status: above 128 it means a signal (POSIX XCU 2.8.2), returned as its negative number."""
    return 128 - shell_status if 128 < shell_status <= 128 + 64 else shell_status
