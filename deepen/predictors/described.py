"""Models as prediction sees them: kernels with features, read from files one after another or in several processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, DeepenError, EnvironmentFailure
from deepen.kernels.splitting.runtime_names import resolve_splitter
from deepen.kernels.types import ModelSplit

__all__ = ["ModelKernels", "describe_file", "describe_files", "describe_split"]

Shapes = Mapping[str, tuple[int, ...]]

MIN_FILES_PER_WORKER = 8
"""A process of its own costs about a second to start; fewer files do not pay for it."""
_CHUNK = 4


@dataclass(frozen=True, slots=True)
class ModelKernels:
    """A model as kernels with features.

    Attributes:
        model: Its file or name.
        names: Kernel names, in execution order.
        families: Their families.
        raw: Their features, float64, shape (n, features).
        multiplicity: Executions per inference, shape (n,).
        warnings: What a reader should know.
    """

    model: str
    names: tuple[str, ...]
    families: tuple[str, ...]
    raw: NDArray[np.float64]
    multiplicity: NDArray[np.float64]
    warnings: tuple[str, ...] = field(default=())


def describe_split(split: ModelSplit, model: str, warnings: Sequence[str] = ()) -> ModelKernels:
    """Describe a model that is already split into kernels."""
    from deepen.kernels.features import build_feature_matrix, compute_features

    kernels = split.kernels
    return ModelKernels(
        model,
        tuple(k.name for k in kernels),
        tuple(k.family for k in kernels),
        build_feature_matrix([compute_features(k) for k in kernels]),
        np.array([k.multiplicity for k in kernels], dtype=np.float64),
        (*warnings, *split.warnings),
    )


def describe_file(path: str, shapes: Shapes | None, runtime: str) -> ModelKernels:
    """Read and split a model file.

    Raises:
        GraphError: If the file cannot be taken as a graph.
        ConfigError: If the runtime is unknown.
    """
    from deepen.graph import load_graph
    from deepen.kernels.splitting.split import split_graph

    loaded = load_graph(path, shapes)
    return describe_split(split_graph(loaded, runtime=resolve_splitter(runtime)), path, loaded.warnings)


def describe_files(
    paths: Sequence[str], shapes: Shapes | None, runtime: str, workers: int
) -> Iterator[ModelKernels | DeepenError]:
    """Describe many files, in order; what fails becomes its error instead of ending the others.

    Args:
        paths: The files.
        shapes: Shapes of symbolic inputs, for every file.
        runtime: Runtime to split for.
        workers: Processes. Only as many are started as have work to do; 1 starts none.

    Raises:
        ConfigError: If ``workers`` is below 1.
        EnvironmentFailure: If the processes cannot be started or one of them is ended from outside.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, not {workers}")
    workers = min(workers, len(paths) // MIN_FILES_PER_WORKER)
    jobs = [(path, shapes, runtime) for path in paths]
    if workers <= 1:
        yield from map(_try_describe_file, jobs)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Fresh interpreters: a copy of this one would share its threads' locks (a runtime may hold some).
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_configure_worker) as pool:
            try:
                yield from pool.map(_try_describe_file, jobs, chunksize=_CHUNK)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except (BrokenProcessPool, OSError) as error:
        raise EnvironmentFailure(
            f"a process that reads models ended ({error}); free memory, or read them with one worker"
        ) from error


def _configure_worker() -> None:
    """Settle a fresh process: graphs are many small objects without cycles, little for the collector to find."""
    import gc
    import signal

    gc.set_threshold(200_000, 20, 20)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one


def _try_describe_file(job: tuple[str, Shapes | None, str]) -> ModelKernels | DeepenError:
    try:
        return describe_file(*job)
    except DeepenError as error:
        name = Path(job[0]).name
        return error if name in str(error) else type(error)(f"{job[0]}: {error}")
