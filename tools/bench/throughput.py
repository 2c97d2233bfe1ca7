#!/usr/bin/env python3
"""Throughput of a warm predictor over many models: a whole search space, and different model files.

* all 15,625 NAS-Bench-201 networks, from their cells' strings to joules and intervals (target: 2 s on 2 cores);
* 1,000 different ONNX files of 100 nodes, from the files to joules per kernel, parsing included (target: 20 s on 2
  cores). The files are random networks of convolutions, depthwise convolutions, pooling, gates and concatenations,
  written once into ``--files DIR`` (a temporary folder by default).

Examples:
    tools/bench/throughput.py --predictor deepen-quickstart/quickstart.deepen
    tools/bench/throughput.py --count 200 --jobs 1 --times 1
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import report

from deepen import load_predictor
from deepen.errors import DeepenError
from deepen.predictors import Predictor
from deepen.predictors.kernel_counts import KernelCounts
from deepen.spaces.nasbench201_kernels import count_kernels
from deepen.spaces.nasbench201_networks import iter_cells
from deepen.testing.synthetic import train_synthetic_predictor

NODES = 100


class Network:
    """Writes a random network of :data:`NODES` nodes."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[object] = []
        self.weights: list[object] = []

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        """Append a node and return the name of its output."""
        from onnx import helper

        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Append a constant and return its name."""
        from onnx import numpy_helper

        name = f"w{len(self.weights)}"
        values = self.rng.standard_normal(shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, x: str, channels: int) -> str:
        """Append a batch normalisation."""
        return self.add("BatchNormalization", [x, *(self.weight(channels) for _ in range(4))])

    def conv(self, x: str, c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1) -> str:
        """Append a convolution."""
        weight = self.weight(c_out, c_in // groups, k, k)
        return self.add("Conv", [x, weight], kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4, group=groups)

    def write(self, path: Path) -> None:
        """Draw the network and write it."""
        import onnx
        from onnx import TensorProto, helper

        rng = self.rng
        size = int(rng.choice([64, 96, 112, 128]))
        x, channels, now = "input", 3, size
        while len(self.nodes) < NODES - 4:
            kind = rng.random()
            if kind < 0.5 or not self.nodes:
                out = int(rng.choice([8, 12, 16, 24, 32, 40, 48, 64]))
                stride = 2 if now > 8 and rng.random() < 0.12 else 1
                x = self.conv(x, channels, out, int(rng.choice([1, 3, 5])), stride)
                channels, now = out, -(-now // stride)
                x = self.add("Relu", [self.normal(x, channels)])
            elif kind < 0.75:
                inner = self.conv(x, channels, channels, int(rng.choice([3, 5])), groups=channels)
                x = self.add("Add", [self.normal(inner, channels), x])
            elif kind < 0.85:
                x = self.add("Mul", [x, self.add("Sigmoid", [x])])
            elif kind < 0.93:
                x = self.add("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
            else:
                pooled = self.add("AveragePool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
                x = self.conv(self.add("Concat", [x, pooled], axis=1), 2 * channels, channels, 1)
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        x = self.add("Gemm", [x, self.weight(10, channels)], transB=1)
        while len(self.nodes) < NODES:
            x = self.add("Relu", [x])
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, size, size])],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 10])],
            self.weights,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_files(folder: Path, count: int) -> list[Path]:
    """Write the networks that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"network-{number:04d}.onnx" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            Network(number).write(path)
    return paths


def cpu_s() -> float:
    """CPU time of this process and of its ended children, seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def space(predictor: Predictor, runtime: str) -> float:
    """Seconds for the whole of NAS-Bench-201."""
    start = time.perf_counter()
    kernels, counts = count_kernels(list(iter_cells()), runtime)
    found = predictor.predict_counts(KernelCounts.from_kernels(kernels, counts))
    taken = time.perf_counter() - start
    if not (np.isfinite(found.energy_j).all() and len(found.energy_j) == len(counts)):
        sys.exit("error: a network has no energy")
    return taken


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictor", help="name or path (default: one trained here on simulated kernels)")
    parser.add_argument("--files", type=Path, help="folder of the model files; kept (default: a temporary one)")
    parser.add_argument("--count", type=int, default=1000, help="model files (1000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that read files (cores)")
    parser.add_argument("--times", type=int, default=3, help="runs to take the median of (3)")
    parser.add_argument("--runtime", default="onnxruntime", help="runtime the networks of the space are split for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        made = options.predictor or str(train_synthetic_predictor(Path(temporary) / "simulated", recipe="extra-trees"))
        predictor = load_predictor(made)
        first = space(predictor, options.runtime)
        again = [space(predictor, options.runtime) for _ in range(options.times)]
        paths = write_files(options.files or Path(temporary) / "files", options.count)
        wall, busy = [], []
        for _ in range(options.times):
            start, used = time.perf_counter(), cpu_s()
            found = predictor.predict_many(paths, runtime="onnxruntime", workers=options.jobs)
            wall.append(time.perf_counter() - start)
            busy.append(cpu_s() - used)
            if len({p.energy_j for p in found}) != len(paths):
                sys.exit("error: different files should have different energies")
    kernels = sum(len(p.kernels) for p in found)
    report(
        f"Throughput; predictor: {options.predictor or 'trained on simulated kernels'}; {options.jobs} process(es)",
        [
            ("15,625 NAS-Bench-201 networks, first", [first], "s", 2.0),
            ("15,625 NAS-Bench-201 networks, again", again, "s", 2.0),
            (f"{len(paths)} ONNX files of {NODES} nodes ({kernels} kernels)", wall, "s", 20.0 * len(paths) / 1000),
            ("the same, CPU time of all processes", busy, "s", None),
            ("per file, wall", [1e3 * statistics.median(wall) / len(paths)], "ms", 20.0),
        ],
    )


if __name__ == "__main__":
    try:
        main()
    except DeepenError as error:
        sys.exit(f"error: {error}")
