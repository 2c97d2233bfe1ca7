"""Make workloads from model files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from deepen.devices.model_files import hash_model
from deepen.errors import ConfigError
from deepen.records import StoppingRule, Workload

__all__ = ["make_workload"]


def make_workload(
    path: str | Path,
    *,
    kind: Literal["kernel", "model"] = "model",
    runtime: str = "onnxruntime",
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    warmup_s: float = 0.05,
    rule: StoppingRule | None = None,
) -> Workload:
    """Describe a model file as a workload; its id is the hash of the file, shapes, runtime and threads.

    Raises:
        ConfigError: If there is no such file or it cannot be read.
    """
    file = Path(path)
    try:
        content = hash_model(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", cure="name a readable ONNX file") from error
    how = json.dumps([content, {k: list(v) for k, v in (shapes or {}).items()}, runtime, threads], sort_keys=True)
    return Workload(
        id=hashlib.sha256(how.encode()).hexdigest()[:16],
        path=file,
        kind=kind,
        runtime=runtime,
        threads=threads,
        warmup_s=warmup_s,
        shapes=dict(shapes or {}),
        rule=rule or StoppingRule(),
    )
