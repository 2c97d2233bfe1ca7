"""Which engine is behind a runtime's name: several programs run the same one, and so the same kernels.

Our C runner and ``onnxruntime_perf_test`` load ONNX Runtime itself; ``benchmark_model`` and both runners of ``.tflite``
files load LiteRT. What they measure is the same kernels, so records of all of them train one predictor. An accelerator
is another matter: it is handed the nodes of the graph, so a kernel that is one node or one fused node on the CPU is one
there too, but its energy is that of another processor.
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
    """Engine and accelerator of a runtime's name; a name nobody knows is its own engine."""
    if runtime in _PROGRAMS:
        return _PROGRAMS[runtime], ""
    program, _, accelerator = runtime.rpartition("-")
    return (_PROGRAMS[program], accelerator) if program in _PROGRAMS else (runtime, "")


def resolve_engine(runtime: str) -> str:
    """Engine that runs the kernels, with its accelerator: records of the same one belong together.

    >>> engine_of("crunner"), engine_of("perf_test-cuda"), engine_of("benchmark_model")
    ('onnxruntime', 'onnxruntime-cuda', 'litert')
    """
    engine, accelerator = _split_runtime_name(runtime)
    return f"{engine}-{accelerator}" if accelerator else engine


def resolve_splitter(runtime: str) -> str:
    """Name under which :func:`deepen.kernels.splitting.split.split_graph` knows how a runtime fuses.

    >>> splitter_of("perf_test-cuda"), splitter_of("crunner-litert")
    ('onnxruntime', 'tflite-cpu')
    """
    engine, _ = _split_runtime_name(runtime)
    return _SPLITTERS.get(engine, engine)
