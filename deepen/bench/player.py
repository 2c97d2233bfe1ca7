"""Playback: turn blocks of the real runner into power from the kernels of their model, and keep the true energy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepen.bench.power_model import DevicePowerModel, KernelCost, ThermalSimulator, compute_kernel_costs
from deepen.clock.host_clock import monotonic_s
from deepen.errors import DeepenError, LinkError

__all__ = ["BlockPlayer", "PlayedBlock", "compute_model_costs"]

LEAD_S = 5e-3
"""Lead with which a plan begins after it reaches the emulator, seconds."""

PowerPlan = Callable[[float, Sequence[float], Sequence[float]], float]
"""Plans power: lead (s), durations (s), levels (W); returns the start time (see ``ServedEmulator.plan``)."""


def compute_model_costs(
    model: DevicePowerModel, path: Path, shapes: Mapping[str, Sequence[int]], runtime: str
) -> tuple[KernelCost, ...]:
    """Compute the cost of each kernel of a model file on the device, per inference.

    Raises:
        GraphError: If the file cannot be split into kernels.
    """
    from deepen import graph
    from deepen.kernels.splitting.runtime_names import resolve_splitter
    from deepen.kernels.splitting.split import split_graph

    loaded = graph.load_graph(path, {name: tuple(dims) for name, dims in shapes.items()} or None)
    return compute_kernel_costs(model, split_graph(loaded, resolve_splitter(runtime)).kernels)


@dataclass(frozen=True, slots=True)
class PlayedBlock:
    """A block of runs as it was played.

    Attributes:
        model: Hash of the model with its input shapes.
        runs: Number of inferences in it.
        start_s: Its start on the monotonic clock, seconds.
        end_s: Its end on the monotonic clock, seconds.
        net_j: Energy of its runs without static power, joules.
        static_w: Static power during the block, watts.
        temperature_c: Temperature of the device at its start.
        frequency_hz: Frequency of its operating point, hertz.
    """

    model: str
    runs: int
    start_s: float
    end_s: float
    net_j: float
    static_w: float
    temperature_c: float
    frequency_hz: float

    @property
    def gross_j(self) -> float:
        """All energy of the device during the block, joules."""
        return self.net_j + self.static_w * (self.end_s - self.start_s)


class BlockPlayer:
    """Plays blocks for the runner proxies that connect to its socket.

    Attributes:
        path: The socket.
        model: Power model of the device.
        blocks: Blocks played so far, in order.
        costs: Kernels of every model loaded, by hash.
    """

    def __init__(
        self, path: Path, model: DevicePowerModel, plan: PowerPlan, *, frequency_hz: float | None = None
    ) -> None:
        """Listen; :meth:`close` ends it.

        Args:
            path: Path of the socket to make.
            model: Power model of the device.
            plan: Receives the power to play; may be replaced (attribute ``plan``) together with the meter.
            frequency_hz: Highest frequency allowed, hertz.
        """
        self.path = path
        self.model = model
        self.plan = plan
        self.blocks: list[PlayedBlock] = []
        self.costs: dict[str, tuple[KernelCost, ...]] = {}
        self._thermal = ThermalSimulator(model, frequency_hz)
        self._known_s = monotonic_s()
        self._lock = threading.Lock()
        self._splitting = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._accept, name="bench-player", daemon=True).start()

    def load(self, path: Path, shapes: Mapping[str, Sequence[int]], runtime: str) -> str:
        """Compute and keep the kernel costs of a model; return its hash.

        Raises:
            GraphError: If it cannot be split into kernels.
        """
        key = self.key(path, shapes)
        with self._splitting:
            if key not in self.costs:
                self.costs[key] = compute_model_costs(self.model, path, shapes, runtime)
        return key

    @staticmethod
    def key(path: Path, shapes: Mapping[str, Sequence[int]]) -> str:
        """Return the hash of a model file with its input shapes."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        digest.update(json.dumps({k: list(map(int, v)) for k, v in shapes.items()}, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    def play(self, key: str, runs: int, ran_s: float) -> PlayedBlock:
        """Play a block of ``runs`` inferences that took ``ran_s`` seconds, and wait until it is over.

        Raises:
            MeterError: If the emulator is gone.
        """
        with self._lock:
            self._thermal.rest(max(0.0, monotonic_s() - self._known_s))
            block = self._thermal.block(self.costs[key], runs, ran_s)
            start_s = self.plan(LEAD_S, block.durations_s.tolist(), block.levels_w.tolist())
            end_s = start_s + block.duration_s
            self._known_s = end_s
            played = PlayedBlock(
                key, runs, start_s, end_s, block.net_j, block.static_w, block.temperature_c, block.point.frequency_hz
            )
            time.sleep(max(0.0, end_s - monotonic_s()))
            self.blocks.append(played)
        return played

    def rest_plan(self) -> tuple[list[float], list[float]]:
        """Return the plan (durations, levels) of a resting device, with which a newly plugged-in meter begins."""
        return [], [self.model.static_at(self.model.rest_c())]

    def proxies(self) -> list[int]:
        """Return the process ids of the connected proxies (Linux)."""
        found = []
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
                found.append(struct.unpack("3i", peer)[0])
        return [pid for pid in found if pid > 0]

    def close(self) -> None:
        """Close the socket and every connection."""
        self._closed = True
        for one in (self._socket, *self._connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="bench-proxy", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, ValueError), connection.makefile("rw", encoding="utf-8") as lines:
                for line in lines:
                    lines.write(json.dumps(self._answer(json.loads(line))) + "\n")
                    lines.flush()
        finally:  # a client must not wait for an answer forever
            self._connections.discard(connection)
            connection.close()

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            if question["op"] == "load":
                found = self.load(Path(question["path"]), question["shapes"], question["runtime"])
                return {"key": found}
            if question["op"] == "play":
                played = self.play(question["key"], int(question["runs"]), float(question["ran_s"]))
                return {"start_s": played.start_s, "end_s": played.end_s}
            raise LinkError(f"the bench knows no '{question['op']}'")
        except (DeepenError, OSError, KeyError) as error:
            return {"error": f"the virtual bench cannot play it: {error}"}
