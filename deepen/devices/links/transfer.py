"""Atomic file transfer to and from a device, over the streams of a link."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import IO, Protocol

from deepen.clock.host_clock import Deadline
from deepen.devices.links.files import open_atomic_file, require_readable_file
from deepen.devices.links.jobs import JobOutputParser
from deepen.devices.links.transport import CommandStream
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, LinkError

__all__ = ["ScriptLink", "pull_file", "push_file"]

_CHUNK = 1 << 16
_LAST_S = 5.0
_HASH_RATE = 5e6
"""Hashing rate assumed of the slowest device, for deadlines, bytes per second."""

_LOOK = r"""
umask 077
mkdir -p "$1/files/$2" || exit 1
if [ -f "$1/files/$2/$3" ]; then
    [ -n "$4" ] && n=$(wc -c <"$1/files/$2/$3") && [ $((n)) -eq "$4" ] && { echo there; exit 0; }
    h=$(sha256sum <"$1/files/$2/$3")
    [ "${h%% *}" = "$2" ] && { echo there; exit 0; }
fi
n=0 tries=20
if [ -f "$1/files/$2.part" ]; then
    n=$(wc -c <"$1/files/$2.part")
    while [ "$tries" -gt 0 ] && sleep 1 && m=$(wc -c <"$1/files/$2.part") && [ $((m)) -ne $((n)) ]; do
        n=$m tries=$((tries - 1))
    done
fi
echo $((n))
"""
"""Arguments: work folder, hash, name, and the size if this link has seen the file complete before, else nothing.

Prints ``there``, or the number of bytes that arrived before. Bytes that a cut link left in buffers may still be on
their way into the file, so the script waits until the file has stopped growing.
"""

_TAKE = r"""
umask 077
part=$1/files/$2.part
[ "$5" != 0 ] || rm -f "$part"
head -c "$4" >>"$part" || exit 1
n=$(wc -c <"$part")
[ $((n)) -eq $(($5 + $4)) ] || { echo "only $((n)) bytes came"; exit 4; }
h=$(sha256sum <"$part")
[ "${h%% *}" = "$2" ] || { rm -f "$part"; exit 3; }
[ "$6" = plain ] || chmod 700 "$part"
mv -f "$part" "$1/files/$2/$3"
"""
"""Arguments: work folder, hash, name, number of bytes that follow, number already there, ``plain`` or ``program``."""

_GIVE = r"""
[ -f "$1" ] || exit 4
[ -r "$1" ] || exit 5
s=$(wc -c <"$1")
h=$(sha256sum <"$1")
echo "$((s)) ${h%% *}"
head -c "$s" <"$1"
"""


class ScriptLink(Protocol):
    """The part of a link that a transfer needs.

    Attributes:
        name: Name of the device, for messages.
        call_s: Time a short script may take on the device, seconds.
        stall_s: Time after which a transfer without progress counts as stuck, seconds.
        transfer_lock: Held while a file is copied to the device.
        digests: Path of a local file -> its state on the disk, hash and size, valid while it does not change.
        pushed: Hash and name of files known to be complete on the device.
    """

    name: str
    call_s: float
    stall_s: float
    transfer_lock: threading.Lock
    digests: dict[Path, tuple[tuple[int, ...], str, int]]
    pushed: set[tuple[str, str]]

    @property
    def work(self) -> str: ...  # noqa: D102

    def script(self, body: str, *arguments: str, timeout_s: float | None = None) -> CompletedCommand:
        """Run a short script that needs no watching."""

    def script_stream(
        self, body: str, *arguments: str
    ) -> contextlib.AbstractContextManager[tuple[CommandStream, JobOutputParser]]:
        """Run a script that reads or writes a stream of bytes."""


def push_file(link: ScriptLink, path: Path, name: str) -> str:
    """Copy a file to ``WORK/files/HASH/NAME``; see :meth:`deepen.devices.protocols.Link.push`."""
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > 255:
        raise ConfigError(f"{name[:80]!r} is not the name of a file; give push another name")
    require_readable_file(path)
    with link.transfer_lock, path.open("rb") as source:
        digest, size = _known_digest(link, path, source)
        for attempt in (1, 2):
            if _push_once(link, source, digest, size, name, program=os.access(path, os.X_OK), fresh=attempt == 2):
                link.pushed.add((digest, name))
                return f"{link.work}/files/{digest}/{name}"
        link.digests.clear()
    raise LinkError(f"{link.name}: {path.name} did not arrive as it is here; was it changed meanwhile? Try again")


def _known_digest(link: ScriptLink, path: Path, source: IO[bytes]) -> tuple[str, int]:
    """Return hash and size of a local file, computed again if its size, time or place on the disk has changed.

    A campaign pushes the same weights for every kernel; hashing them each time would take longer than measuring.
    """
    found = os.fstat(source.fileno())
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    known = link.digests.get(path)
    if known is None or known[0] != state:
        known = (state, *_hash_stream(source))
        link.digests[path] = known
    return known[1:]


def _hash_stream(source: IO[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def _push_once(
    link: ScriptLink, source: IO[bytes], digest: str, size: int, name: str, *, program: bool, fresh: bool
) -> bool:
    """Copy the missing bytes; return whether the file is then correct (else the bytes there were not its beginning)."""
    patience_s = link.call_s + size / _HASH_RATE
    link.script(":")  # the work folder is known from here
    seen = str(size) if (digest, name) in link.pushed else ""
    look = link.script(_LOOK, link.work, digest, name, seen, timeout_s=patience_s)
    answer = look.stdout.decode("utf-8", "replace").strip()
    if answer == "there":
        return True
    if look.status != 0 or not answer.isdigit():
        raise LinkError(f"{link.name}: cannot make a folder for {name}: {answer[-200:]}; free some space there")
    offset = 0 if fresh or int(answer) > size else int(answer)
    source.seek(offset)
    kind = "program" if program else "plain"
    with link.script_stream(_TAKE, link.work, digest, name, str(size - offset), str(offset), kind) as (stream, output):
        try:
            _send_source(link, stream, output, source, size - offset)
        except LinkError:
            # A script that stopped before it had read everything gives a reason; a cut link does not.
            with contextlib.suppress(LinkError):
                _read_to_end(stream, output, Deadline(_LAST_S), f"{link.name}: {name} was not stored")
            if not output.done:
                raise
        _read_to_end(stream, output, Deadline(patience_s), f"{link.name}: {name} was not stored")
    if output.status == 0:
        return True
    if output.status == 3:
        return False
    answer = output.take().decode("utf-8", "replace").strip()
    raise LinkError(
        f"{link.name}: {name} could not be stored: {answer[-200:] or 'no reason given'}; free some space there"
    )


def _send_source(
    link: ScriptLink, stream: CommandStream, output: JobOutputParser, source: IO[bytes], left: int
) -> None:
    """Send the remaining bytes, unless the script ends first."""
    while left and (chunk := source.read(min(_CHUNK, left))):
        data = stream.read(0.0)
        if data:
            output.feed(data)
        if data == b"" or output.status is not None:
            return
        stream.write(chunk, link.stall_s)
        left -= len(chunk)


def _read_to_end(stream: CommandStream, output: JobOutputParser, deadline: Deadline, what: str) -> None:
    """Read to the end of a script.

    Raises:
        LinkError: If it does not end in time or the link is cut.
    """
    while not output.done:
        data = stream.read(deadline.remaining_s)
        if data is None:
            raise LinkError(f"{what} within {deadline.duration_s:.0f} s; try again")
        if not data:
            raise LinkError(f"{what}: the link was cut; try again, it goes on from there")
        output.feed(data)


def pull_file(link: ScriptLink, remote: str, path: Path) -> None:
    """Fetch a file; see :meth:`deepen.devices.protocols.Link.pull`."""
    if not remote or "\0" in remote:
        raise ConfigError(f"{remote[:80]!r} is not the name of a file on the device")
    for _ in range(2):
        with contextlib.suppress(_FileChanged):
            _pull_once(link, remote, path)
            return
    raise LinkError(f"{link.name}: {remote} changes while it is copied; end what writes it, then try again")


def _pull_once(link: ScriptLink, remote: str, path: Path) -> None:
    """Copy a file; if it changes during the copy, raise ``_FileChanged`` and leave nothing."""
    digest, size, expected = hashlib.sha256(), 0, b""
    head = bytearray()
    with open_atomic_file(path) as target, link.script_stream(_GIVE, remote) as (stream, output):
        deadline = Deadline(max(link.stall_s, 600.0))  # its hash is computed first, and its size is not known here
        while not output.done:
            data = stream.read(deadline.remaining_s)
            if data is None:
                raise LinkError(f"{link.name}: {remote} stopped coming; try again")
            if not data:
                raise LinkError(f"{link.name}: the link was cut while {remote} was fetched; try again")
            output.feed(data)
            content = output.take()
            if not expected:
                head += content
                line, newline, content = bytes(head).partition(b"\n")
                if not newline:
                    continue
                expected = line
                deadline = Deadline(link.stall_s)
            if content:
                digest.update(content)
                size += len(content)
                target.write(content)
                deadline = Deadline(link.stall_s)
        if output.status == 4:
            raise ConfigError(f"{link.name}: no such file: {remote}")
        if output.status == 5:
            raise ConfigError(f"{link.name}: no permission to read {remote}; change its mode there")
        if expected != f"{size} {digest.hexdigest()}".encode():
            raise _FileChanged


class _FileChanged(Exception):
    """Raised when the copied content does not match the hash of the file."""
