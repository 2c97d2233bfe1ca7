"""External data of a model: checks of its location, and reading of the small tensors in it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from deepen.errors import GraphError
from deepen.graph.onnx_reader.proto_values import count_tensor_elements, get_dtype_name, iter_tensors, mark_weightless
from deepen.graph.onnx_reader.without_weights import SMALL_ELEMENTS, WEIGHTLESS

if TYPE_CHECKING:
    import onnx

__all__ = ["detach_external_data", "list_weightless_tensors"]

_MAX_SMALL_BYTES = SMALL_ELEMENTS * 16  # complex128


def detach_external_data(model: onnx.ModelProto, folder: Path | None) -> tuple[str, ...]:
    """Make a model independent of its external data files.

    1. Tensors without data become weightless.
    2. The location of an external tensor must be inside the model's folder.
    3. Small external tensors (shapes, axes: exporters put even these outside) are read if the file exists, because
       shapes may depend on them.
    4. Other external tensors become weightless; they are not read, and their file need not exist.

    Args:
        model: Changed in place.
        folder: The model's folder; ``None`` for a model that was not read from a file.

    Returns:
        Warnings.

    Raises:
        GraphError: If a location leaves the folder, or a small tensor lies outside its file.
    """
    files: dict[str, Path | None] = {}
    unread = 0
    for tensor in iter_tensors(model):
        elements = count_tensor_elements(tensor)
        if not get_dtype_name(tensor.data_type):
            raise GraphError(f"tensor '{tensor.name}' has the unknown data type {tensor.data_type}")
        if tensor.data_location != tensor.EXTERNAL:
            if elements and not _has_data(tensor):  # 1
                mark_weightless(tensor)
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location == WEIGHTLESS:
            continue
        if location not in files:  # 2
            files[location] = _resolve_location(location, folder, tensor.name)
        data = None
        if elements <= SMALL_ELEMENTS:  # 3
            data = _read_small_tensor(files[location], entries, elements, tensor)
            unread += data is None
        mark_weightless(tensor)  # 4
        if data is not None:  # 3
            tensor.data_location = tensor.DEFAULT
            del tensor.external_data[:]
            tensor.raw_data = data
    if unread:
        return (f"{unread} small tensors lie in an external data file that is not there; shapes may depend on them",)
    return ()


def list_weightless_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List the tensors of ``Graph.model`` whose bytes were left out, for a caller that must supply other bytes."""
    return [
        tensor
        for tensor in iter_tensors(model)
        if tensor.data_location == tensor.EXTERNAL
        and any(entry.key == "location" and entry.value == WEIGHTLESS for entry in tensor.external_data)
    ]


def _has_data(tensor: onnx.TensorProto) -> bool:
    return bool(
        tensor.raw_data or tensor.float_data or tensor.int32_data or tensor.int64_data
        or tensor.string_data or tensor.double_data or tensor.uint64_data
    )  # fmt: skip


def _resolve_location(location: str, folder: Path | None, name: str) -> Path | None:
    """Resolve a location to a path inside the model's folder; ``None`` if there is no folder.

    Raises:
        GraphError: If the location is empty, leaves the folder, or cannot be resolved.
    """
    problem = f"external data of tensor '{name}' at '{location}' lies outside the model's folder; refusing to follow it"
    if not location or "\0" in location:
        raise GraphError(f"external data of tensor '{name}' names no file; export the model again")
    for flavour in (PurePosixPath(location), PureWindowsPath(location)):
        if flavour.anchor or ".." in flavour.parts:
            raise GraphError(problem)
    if folder is None:
        return None
    try:
        root = folder.resolve()
        path = (root / location).resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()  # from Python 3.13 on, only this notices a loop of symbolic links
    except (OSError, RuntimeError, ValueError) as error:  # a loop of symbolic links
        raise GraphError(f"external data of tensor '{name}' at '{location}' cannot be resolved: {error}") from error
    if not path.is_relative_to(root):
        raise GraphError(problem)
    return path


def _read_small_tensor(
    path: Path | None, entries: dict[str, str], elements: int, tensor: onnx.TensorProto
) -> bytes | None:
    """Read one small tensor; ``None`` if the file does not exist.

    Raises:
        GraphError: If offset or length are impossible, or the file cannot be read there.
    """
    if path is None:
        return None
    name = tensor.name
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else _compute_tensor_bytes(tensor, elements)
    except ValueError as error:
        raise GraphError(f"external data of tensor '{name}' has a malformed offset or length") from error
    if offset < 0 or not 0 <= length <= _MAX_SMALL_BYTES:
        raise GraphError(f"external data of tensor '{name}' has an impossible offset or length")
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GraphError(f"external data '{path}' cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise GraphError(f"external data '{path}' is not a file")
        os.lseek(handle, offset, os.SEEK_SET)
        data = os.read(handle, length)
    except OSError as error:
        raise GraphError(f"external data '{path}' cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
    if len(data) != length:
        raise GraphError(f"external data of tensor '{name}' lies beyond the end of '{path}'; the file is truncated")
    return data


def _compute_tensor_bytes(tensor: onnx.TensorProto, elements: int) -> int:
    from onnx import helper

    try:
        return int(elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"tensor '{tensor.name}' has the unknown data type {tensor.data_type}") from error
