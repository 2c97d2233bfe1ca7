"""Opens sessions of ONNX Runtime on models that hold no weights: the one boundary to the runtime for reading models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.errors import ConfigError
from deepen.graph.onnx_reader.proto_values import get_dtype_name
from deepen.graph.types import DTYPE_BYTES

if TYPE_CHECKING:
    import onnxruntime

__all__ = [
    "STAND_IN",
    "RuntimeRefusal",
    "is_onnxruntime_available",
    "map_runtime_operators",
    "open_session",
    "redirect_to_stand_in",
    "write_stand_in",
]

STAND_IN = "weights.bin"
"""Name of the file that all large constants alias, in the runtime's folder for external initialisers."""


class RuntimeRefusal(Exception):
    """The runtime does not take a model.

    Attributes:
        reason: Its own words, one line.
        lacks_kernel: Whether it takes the model as such, but has no implementation of an operator for these types.
    """

    def __init__(self, reason: str, *, lacks_kernel: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lacks_kernel = lacks_kernel


@cache
def is_onnxruntime_available() -> bool:
    """Return whether ONNX Runtime can be imported."""
    import importlib.util

    return importlib.util.find_spec("onnxruntime") is not None


@cache
def map_runtime_operators() -> dict[tuple[str, str], tuple[int, ...]]:
    """Map each operator that the runtime knows, (domain, type), to the versions of its domain that changed it.

    A version that removed it is negative.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[tuple[str, str], list[int]] = {}
    for schema in state.get_all_operator_schema():
        version = -schema.since_version if schema.deprecated else schema.since_version
        found.setdefault((schema.domain, schema.name), []).append(version)
    return {key: tuple(sorted(versions, key=abs)) for key, versions in found.items()}


def open_session(
    data: bytes, folder: Path, *, optimised: Path | None = None, custom_ops: Sequence[str] = ()
) -> onnxruntime.InferenceSession:
    """Open a session on a model, on the CPU; it is not meant to be run.

    Args:
        data: Serialised ``ModelProto``.
        folder: Folder with the file :data:`STAND_IN`.
        optimised: File to write the graph at level EXTENDED to; without it the model is not optimised.
        custom_ops: Libraries of custom operators.

    Raises:
        ConfigError: If a library cannot be loaded.
        RuntimeRefusal: If the runtime does not take the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if optimised else level.ORT_DISABLE_ALL
    if optimised:
        options.optimized_model_filepath = str(optimised)
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    for library in custom_ops:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:  # its exceptions share no base class
            reason = " ".join(str(error).split())[-160:]
            cure = "check the path, and that it was built for this onnxruntime and processor"
            cause = f"the library of custom operators cannot be loaded: {reason}"
            raise ConfigError(cause, subject=library, cure=cure) from error
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # its exceptions share no base class
        text = str(error).strip()
        reason = text.splitlines()[0] if text else type(error).__name__
        raise RuntimeRefusal(reason, lacks_kernel=type(error).__name__ == "NotImplemented") from error


def redirect_to_stand_in(tensor: Any) -> int:
    """Let a tensor alias the file :data:`STAND_IN`; returns the bytes it needs there."""
    elements = prod(tensor.dims)
    size = int(-(-elements * DTYPE_BYTES.get(get_dtype_name(tensor.data_type), 4) // 1))
    del tensor.external_data[:]
    if tensor.data_type == tensor.STRING:
        tensor.data_location = tensor.DEFAULT
        tensor.string_data.extend([b""] * elements)
        return 0
    tensor.data_location = tensor.EXTERNAL
    for key, value in (("location", STAND_IN), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return size


def write_stand_in(folder: Path, size: int) -> None:
    """Make the file :data:`STAND_IN` of zeros; sparse where the file system can, and never written."""
    with (folder / STAND_IN).open("wb") as file:
        file.truncate(size)
