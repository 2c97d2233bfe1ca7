"""Which engine is behind a runtime's name."""

from __future__ import annotations

import pytest

from deepen.devices.local import RUNTIMES
from deepen.kernels.splitting.runtime_names import resolve_engine, resolve_splitter
from deepen.kernels.splitting.split import list_split_runtimes


@pytest.mark.parametrize(
    ("runtime", "engine", "splitter"),
    [
        ("onnxruntime", "onnxruntime", "onnxruntime"),
        ("crunner", "onnxruntime", "onnxruntime"),
        ("perf_test", "onnxruntime", "onnxruntime"),
        ("perf_test-cuda", "onnxruntime-cuda", "onnxruntime"),
        ("litert", "litert", "tflite-cpu"),
        ("crunner-litert", "litert", "tflite-cpu"),
        ("benchmark_model", "litert", "tflite-cpu"),
        ("benchmark_model-gpu", "litert-gpu", "tflite-cpu"),
        ("somebody-elses", "somebody-elses", "somebody-elses"),
    ],
)
def test_programs_that_run_one_engine_have_its_name(runtime: str, engine: str, splitter: str) -> None:
    assert resolve_engine(runtime) == engine
    assert resolve_splitter(runtime) == splitter


def test_every_runtime_but_tensorrt_can_be_split_for() -> None:
    without = {name for name in RUNTIMES if resolve_splitter(name) not in list_split_runtimes()}
    assert without == {"trtexec", "trtexec-dla"}
