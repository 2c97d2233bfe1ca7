"""Maps the name of a runtime to the inference engine behind it, and to the way that engine fuses nodes.

Several programs run the same engine, and so the same kernels: our C runner and ``onnxruntime_perf_test`` load ONNX
Runtime; ``benchmark_model`` and both runners of ``.tflite`` files load LiteRT. Records of all programs of an engine
train one predictor. An accelerator counts as an engine of its own: it gets the same nodes of the graph, so it has the
same kernels as the CPU, but their energy is that of another processor.
"""

from __future__ import annotations

__all__ = ["resolve_engine", "resolve_splitter"]

_PROGRAMS = {
    "benchmark_model": "litert",
    "crunner": "onnxruntime",
    "crunner-litert": "litert",
    "litert": "litert",
    "onnxruntime": "onnxruntime",
    "perf_test": "onnxruntime",
}
_SPLITTERS = {"litert": "tflite-cpu"}


def _split_runtime_name(runtime: str) -> tuple[str, str]:
    """Split a runtime's name into engine and accelerator; an unknown name is its own engine."""
    if runtime in _PROGRAMS:
        return _PROGRAMS[runtime], ""
    program, _, accelerator = runtime.rpartition("-")
    return (_PROGRAMS[program], accelerator) if program in _PROGRAMS else (runtime, "")


def resolve_engine(runtime: str) -> str:
    """Engine that runs the kernels, with its accelerator: records of the same one belong together.

    >>> resolve_engine("crunner"), resolve_engine("perf_test-cuda"), resolve_engine("benchmark_model")
    ('onnxruntime', 'onnxruntime-cuda', 'litert')
    """
    engine, accelerator = _split_runtime_name(runtime)
    return f"{engine}-{accelerator}" if accelerator else engine


def resolve_splitter(runtime: str) -> str:
    """Name of the runtime to pass to :func:`deepen.kernels.splitting.split.split_graph`.

    >>> resolve_splitter("perf_test-cuda"), resolve_splitter("crunner-litert")
    ('onnxruntime', 'tflite-cpu')
    """
    engine, _ = _split_runtime_name(runtime)
    return _SPLITTERS.get(engine, engine)
