"""Models with external data: ONNX models whose weights are in files beside the model file.

Every program that loads such a model looks for the data beside the model file, under the relative path the model
names (onnx.proto, ``TensorProto.external_data``, key ``location``). All files are therefore copied to the device into
one folder, in the same relative places; paths out of the model's folder are never followed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from deepen.devices.links.local import LocalLink
from deepen.errors import ConfigError, LinkError

if TYPE_CHECKING:
    import onnx

    from deepen.devices.protocols import Link

__all__ = ["find_external_data", "hash_model", "push_model"]

_MARK = b"location"  # the key that names a data file; a model without this word has none
_CHUNK = 1 << 24
_SETTLED_S = 3.0
"""Longer than the coarsest time stamps of file systems in use (2 s, FAT)."""

_GATHER = r"""
folder=$1
shift
umask 077
while [ "$#" -gt 0 ]; do
    to=$folder/$2
    mkdir -p -- "${to%/*}" || exit 1
    if [ ! -e "$to" ]; then
        # A second name for the same content; where the file system has no such thing, a copy that appears whole.
        ln -- "$1" "$to" 2>/dev/null || { cp -- "$1" "$to.part" && mv -f -- "$to.part" "$to"; } || exit 1
    fi
    shift 2
done
"""
"""Arguments: folder, then pairs of a file on the device and its place in the folder."""
_GATHER_S = 120.0
_PAIRS = 200
"""Pairs per call: argument lists have a limit."""


def find_external_data(path: Path) -> dict[str, Path]:
    """Find the data files of an ONNX model, by the place it names; empty for other files and models without data.

    Missing files are returned as well; the caller that needs them reports them.

    Args:
        path: The model file.

    Raises:
        ConfigError: If the file cannot be read, or names a place outside its own folder.
    """
    if path.suffix.lower() in (".tflite", ".lite") or not _mentions_data(path):
        return {}
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        return {}  # not an ONNX model: the runtime will report it
    found: dict[str, Path] = {}
    for tensor in _iterate_tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            for entry in tensor.external_data:
                if entry.key == "location" and entry.value not in found:
                    found[entry.value] = _resolve_data_file(path, entry.value)
    return found


def hash_model(path: Path) -> str:
    """Hash a model with its data files, 64 hexadecimal characters; the hash of the file alone if it has none.

    Raises:
        OSError: If a file cannot be read.
        ConfigError: If the model names data outside its own folder.
    """
    own = _hash_file(path)
    present = {place: file for place, file in find_external_data(path).items() if file.is_file()}
    if not present:
        return own
    digest = hashlib.sha256(own.encode())
    for place in sorted(present):
        digest.update(f"\0{place}\0{_hash_data_file(present[place])}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def push_model(link: Link, path: Path) -> str:
    """Copy a model to a device, with its data files in the places where the model expects them.

    Returns:
        Its path on the device.

    Raises:
        ConfigError: If a file is missing, or the model names data outside its own folder.
        LinkError: If it could not be copied; the next call resumes where this one ended.
    """
    data = {} if isinstance(link, LocalLink) else find_external_data(path)
    for place, file in data.items():
        if not file.is_file():
            raise ConfigError(
                f"{path.name}: its data file {place!r} is missing; put it beside the model, in {path.parent}"
            )
    model = link.push(path)
    if not data:
        return model
    there = {place: link.push(file, name="data") for place, file in data.items()}
    together = hashlib.sha256(repr([model, sorted(there.items())]).encode()).hexdigest()
    folder = str(PurePosixPath(model).parent.parent / together)
    places = {path.name: model, **{str(PurePosixPath(place)): remote for place, remote in there.items()}}
    if len(places) != 1 + len(there):
        raise ConfigError(f"{path.name}: two of its data files, or the model and one of them, share a place")
    _gather_files(link, folder, places, path.name)
    return f"{folder}/{path.name}"


def _gather_files(link: Link, folder: str, places: Mapping[str, str], name: str) -> None:
    pairs = [[remote, place] for place, remote in places.items()]
    for first in range(0, len(pairs), _PAIRS):
        words = [word for pair in pairs[first : first + _PAIRS] for word in pair]
        done = link.run(["sh", "-c", _GATHER, "deepen", folder, *words], timeout_s=_GATHER_S)
        if done.status:
            output = done.stderr.decode("utf-8", "replace").strip()[-200:]
            raise LinkError(
                f"{link.description}: {name} and its data could not be put together: {output}; free some space there"
            )


def _mentions_data(path: Path) -> bool:
    """Return whether the file contains the key that names data files; most models do not, and need not be parsed."""
    try:
        with path.open("rb") as file:
            tail = b""
            while chunk := file.read(_CHUNK):
                if _MARK in tail + chunk:
                    return True
                tail = chunk[-len(_MARK) :]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a readable model file") from error
    return False


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_data_file(path: Path) -> str:
    """Hash a data file; one that many models share is read again only after it changed.

    A file written to in the last :data:`_SETTLED_S` seconds is always read: a second change may leave its size and, on
    file systems with coarse times, its time of change as they are.
    """
    state = path.stat()
    if time.time() - max(state.st_mtime, state.st_ctime) < _SETTLED_S:
        return _hash_file(path)
    return _hash_settled_file(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


@lru_cache(maxsize=64)
def _hash_settled_file(path: Path, *state: int) -> str:
    """Hash a file; ``state`` is what tells its contents from later ones."""
    return _hash_file(path)


def _resolve_data_file(path: Path, place: str) -> Path:
    """Return the path of a data file, which must be inside the model's folder."""
    outside = any(f.anchor or ".." in f.parts for f in (PurePosixPath(place), PureWindowsPath(place)))
    if not place or "\0" in place or outside or not PurePosixPath(place).parts:
        raise ConfigError(f"{path.name}: it wants data from {place[:200]!r}, outside its own folder; export it again")
    try:
        root = path.resolve().parent
        file = (path.parent / place).resolve()
    except (OSError, RuntimeError) as error:  # a loop of symbolic links
        raise ConfigError(
            f"{path.name}: its data file {place[:200]!r} cannot be found ({error}); export it again"
        ) from error
    if not (file.is_relative_to(root) or file.is_relative_to(path.parent.resolve())):
        raise ConfigError(f"{path.name}: its data file {place[:200]!r} leads outside its own folder; copy it there")
    return file


def _iterate_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model: in its graphs, their attributes and its functions."""
    graphs = [model.graph]
    nodes = [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        for node in nodes:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)
                graphs += [attribute.g, *attribute.graphs]
        nodes = []
