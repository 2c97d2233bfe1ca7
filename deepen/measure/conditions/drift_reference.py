"""A fixed workload measured again and again: how the device's speed drifts during a session."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["DriftSeries", "ReferencePoint", "write_empty_model", "write_reference_model"]


@dataclass(frozen=True, slots=True)
class ReferencePoint:
    """The reference workload at one moment.

    Attributes:
        t_s: Middle of the measurement on the host's monotonic clock, seconds.
        latency_s: Median wall time per run, seconds.
        energy_j: Mean net energy per run, joules.
    """

    t_s: float
    latency_s: float
    energy_j: float


@dataclass(slots=True)
class DriftSeries:
    """Reference measurements of a session, in order.

    Attributes:
        points: The measurements.
    """

    points: list[ReferencePoint] = field(default_factory=list)

    def relative(self) -> tuple[tuple[float, float], ...]:
        """Change against the first point, as ``(t_s, share)``: 0.05 means 5 % more energy per run than at first."""
        if not self.points:
            return ()
        first = self.points[0].energy_j
        return tuple((p.t_s, p.energy_j / first - 1 if first else 0.0) for p in self.points)

    def change_at(self, t_s: float) -> float:
        """Change against the first point at a moment, interpolated; 0 with fewer than two points."""
        series = self.relative()
        if len(series) < 2:
            return 0.0
        return float(np.interp(t_s, [t for t, _ in series], [c for _, c in series]))

    def speed_at(self, t_s: float) -> float:
        """Speed at a moment over the session's median speed, interpolated; 1 with no points.

        Above 1 the device ran faster than usual: multiply a latency by it to get what the usual speed would give.
        """
        if not self.points:
            return 1.0
        latency = np.array([p.latency_s for p in self.points])
        at = float(np.interp(t_s, [p.t_s for p in self.points], latency))
        return float(np.median(latency)) / at


def write_reference_model(path: Path) -> Path:
    """Write the reference workload: a 3x3 convolution (14 M MACs, compute) and a matrix-vector product (4 MB, memory).

    The weights are seeded, so the file is the same everywhere.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(20240607)
    conv = (rng.standard_normal((64, 32, 3, 3)) / 17).astype(np.float32)
    dense = (rng.standard_normal((1024, 1024)) / 32).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "conv"], ["map"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["map"], ["out"]),
            helper.make_node("MatMul", ["vector", "dense"], ["product"]),
        ],
        "reference",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 32, 28, 28]),
            helper.make_tensor_value_info("vector", TensorProto.FLOAT, [1, 1024]),
        ],
        [
            helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 64, 28, 28]),
            helper.make_tensor_value_info("product", TensorProto.FLOAT, [1, 1024]),
        ],
        [numpy_helper.from_array(conv, "conv"), numpy_helper.from_array(dense, "dense")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def write_empty_model(path: Path) -> Path:
    """Write a model that does nothing: Identity on one element; what it costs is the cost of a call."""
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "empty",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
