#!/usr/bin/env python3
"""Runs one ONNX model on inputs that make it do its work, and prints the processor time of a run as JSON.

ONNX Runtime on the CPU, optimisation level "extended", one thread: what deepen's predictors of a quickstart stand for.
The time is the least mean of blocks of at least 20 ms, user and system time of the process, so that other work on the
machine counts little.

Examples:
    tools/bench/run_model.py model.onnx --shape input=1x3x224x224
    tools/bench/run_model.py decoder.onnx --dim tokens=16 --fill lengths=16 --fill ids="below 1000"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_S = 0.02
DTYPES = {
    "float": np.float32, "double": np.float64, "float16": np.float16, "bool": np.bool_, "string": np.object_,
    "int8": np.int8, "uint8": np.uint8, "int16": np.int16, "uint16": np.uint16,
    "int32": np.int32, "uint32": np.uint32, "int64": np.int64, "uint64": np.uint64,
}  # fmt: skip
"""NumPy type by ONNX Runtime's word for it in ``tensor(...)``."""


def split_sizes(values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Split ``NAME=2x3`` into names and sizes; a name may hold ``=`` and ``:``."""
    pairs = [value.rpartition("=") for value in values]
    return {name: tuple(int(size) for size in sizes.split("x")) for name, _, sizes in pairs}


def resolve_shape(
    name: str, declared: Sequence[int | str | None], shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]
) -> tuple[int, ...]:
    """Find the shape of an input: as given, else its static sizes and symbols that are known.

    Raises:
        ValueError: If a size is open.
    """
    if name in shapes:
        return shapes[name]
    sizes = [dims.get(size) if isinstance(size, str) else size for size in declared]
    if any(size is None or size < 0 for size in sizes):
        raise ValueError(f"the shape of '{name}' is open: {list(declared)}")
    return tuple(int(size) for size in sizes if size is not None)


def make_input(kind: str, shape: tuple[int, ...], fill: Any, generator: np.random.Generator) -> NDArray[Any]:
    """Make one input.

    Args:
        kind: Its type in ONNX Runtime's words, for example ``tensor(float)``.
        shape: Its shape.
        fill: A number, ``below N``, a text for strings, or None: normal floats, ones, true, ``a``.
        generator: Source of chance.
    """
    dtype = np.dtype(DTYPES[kind.removeprefix("tensor(").removesuffix(")")])
    if isinstance(fill, str) and fill.startswith("below "):
        return generator.integers(0, int(fill.removeprefix("below ")), shape).astype(dtype)
    if dtype == np.object_:
        return np.full(shape, "a" if fill is None else str(fill), dtype)
    if fill is not None:
        return np.full(shape, float(fill)).astype(dtype)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype)


def measure_cpu_s(
    path: Path, shapes: Sequence[str], dims: Sequence[str], fill: Mapping[str, Any], seconds: float
) -> float:
    """Measure the processor time of one run, seconds.

    Args:
        path: Model file.
        shapes: ``NAME=DIMS`` of inputs with open sizes.
        dims: ``SYMBOL=N``.
        fill: What inputs hold, by name.
        seconds: How long to run.
    """
    import onnxruntime

    # 1. The session that predictions are about.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    # 2. Inputs; a symbol has the size that a given shape says.
    given = split_sizes(shapes)
    symbols: dict[str, int] = {name: sizes[0] for name, sizes in split_sizes(dims).items()}
    for tensor in session.get_inputs():
        symbols |= {s: n for s, n in zip(tensor.shape, given.get(tensor.name, ()), strict=False) if isinstance(s, str)}
    generator = np.random.default_rng(0)
    feeds = {
        tensor.name: make_input(
            tensor.type, resolve_shape(tensor.name, tensor.shape, given, symbols), fill.get(tensor.name), generator
        )
        for tensor in session.get_inputs()
    }

    # 3. The first run allocates; then blocks, the fastest counts.
    session.run(None, feeds)
    start = time.process_time()
    session.run(None, feeds)
    runs = max(1, round(BLOCK_S / max(time.process_time() - start, 1e-6)))
    best, deadline = float("inf"), time.monotonic() + seconds
    while best == float("inf") or time.monotonic() < deadline:
        start = time.process_time()
        for _ in range(runs):
            session.run(None, feeds)
        best = min(best, (time.process_time() - start) / runs)
    return best


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=DIMS")
    parser.add_argument("--dim", action="append", default=[], metavar="SYMBOL=N")
    parser.add_argument("--fill", action="append", default=[], metavar="NAME=VALUE", help="a number, or 'below N'")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to run (2)")
    given = parser.parse_args()
    fill = {name: value for name, _, value in (text.rpartition("=") for text in given.fill)}
    try:
        cpu_s = measure_cpu_s(given.model, given.shape, given.dim, fill, given.seconds)
    except Exception as error:  # whatever the runtime or a wrong list entry raises is the answer, in one line
        sys.exit("error: " + " ".join(str(error).split())[:300])
    print(json.dumps({"cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
