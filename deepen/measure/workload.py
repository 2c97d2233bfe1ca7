"""Make workloads from model files, and load them with the values of their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepen.devices.model_files import hash_model
from deepen.errors import ConfigError, RunError
from deepen.measure.input_values import describe_inputs, warn_empty_outputs
from deepen.records import FilledInput, MeasurementWarning, StoppingRule, Workload

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepen.devices.protocols import LoadedModel, Runtime

__all__ = ["hash_values", "list_loaded_inputs", "load_workload", "make_workload"]


_WHOLE = frozenset({"tensor(int64)", "tensor(int32)", "int64", "int32"})
"""Types, as runtimes name them, of inputs that often decide how much work is done."""


def make_workload(
    path: str | Path,
    *,
    kind: Literal["kernel", "model"] = "model",
    runtime: str = "onnxruntime",
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    warmup_s: float = 0.05,
    rule: StoppingRule | None = None,
    inputs: Mapping[str, FilledInput] | None = None,
    input_warnings: Iterable[MeasurementWarning] = (),
) -> Workload:
    """Describe a model file as a workload; its id is the hash of the file, shapes, given inputs, runtime and threads.

    Raises:
        ConfigError: If there is no such file or it cannot be read.
    """
    file = Path(path)
    try:
        content = hash_model(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", cure="name a readable ONNX file") from error
    given = {k: hash_values(f.values) for k, f in (inputs or {}).items() if f.role == "given"}
    known = [content, {k: list(v) for k, v in (shapes or {}).items()}, runtime, threads]
    how = json.dumps([*known, given] if given else known, sort_keys=True)
    return Workload(
        id=hashlib.sha256(how.encode()).hexdigest()[:16],
        path=file,
        kind=kind,
        runtime=runtime,
        threads=threads,
        warmup_s=warmup_s,
        shapes=dict(shapes or {}),
        rule=rule or StoppingRule(),
        inputs=dict(inputs or {}),
        input_warnings=tuple(input_warnings),
    )


def hash_values(values: NDArray[Any]) -> str:
    """Hash of an array's type, shape and content, 64 hexadecimal characters."""
    digest = hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def list_loaded_inputs(loaded: LoadedModel | None, runtime: str) -> list[Mapping[str, Any]]:
    """List name, shape and type of every input of a loaded model (``None``: of one that does not state them).

    Raises:
        ConfigError: If its runtime does not state them, and so takes no values of inputs.
    """
    found = getattr(loaded, "inputs", None)
    if found is None:
        raise ConfigError(
            f"the runtime {runtime} takes no values of inputs",
            cure="use onnxruntime, litert, crunner or crunner-litert",
        )
    return list(found)


def load_workload(runtime: Runtime, workload: Workload, seed: int) -> tuple[LoadedModel, Workload]:
    """Load a workload with the values of its inputs; returns the workload with those it really runs on.

    A model that refuses values deepen has chosen runs on the runtime's own (integers are zero), with a warning.

    Raises:
        ConfigError: If the runtime takes no values of inputs and the user gives some; else as ``Runtime.load``.
        RunError, LinkError: As ``Runtime.load``.
    """
    values = {name: found.values for name, found in workload.inputs.items()}
    given = [name for name, found in workload.inputs.items() if found.role == "given"]
    plain = partial(
        runtime.load, workload.path, threads=workload.threads, shapes=workload.shapes, seed=seed
    )  # fmt: skip
    refusal = ""
    if not values:
        loaded = plain()
    elif not getattr(runtime, "takes_inputs", False):
        if given:
            list_loaded_inputs(None, workload.runtime)
        loaded, refusal = plain(), f"the runtime {workload.runtime} makes up the values of inputs"
    else:
        try:
            loaded = plain(inputs=values)
        except RunError as error:
            if given:
                raise
            told = describe_inputs({name: found.document() for name, found in workload.inputs.items()})
            loaded, refusal = plain(), f"it did not run with {told[:150]} ({error.cause[:150]})"
    warnings = list(workload.input_warnings)
    if refusal:
        text = (
            f"input '{next(iter(values))}' and the like were left to the runtime: {refusal}; choose: --input NAME=VALUE"
        )
        warnings.append(MeasurementWarning("inputs", text))
    warnings += warn_empty_outputs(getattr(loaded, "outputs", ()), workload.inputs)
    used = {} if refusal else workload.inputs
    blind = [e["name"] for e in getattr(loaded, "inputs", ()) if e["type"] in _WHOLE and e["name"] not in used]
    if blind and not refusal:
        text = f"input '{blind[0]}' is 0 everywhere, because its meaning is not known; give --input {blind[0]}=VALUE"
        warnings.append(MeasurementWarning("inputs", text))
    return loaded, replace(workload, inputs=used, input_warnings=tuple(warnings))
