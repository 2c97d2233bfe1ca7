"""Stand-ins for a device, its link and its runtime."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.devices.protocols import Runtime
from deepen.devices.types import CompletedCommand, CpuPower, DeviceProfile, DeviceState, SettingStatus
from deepen.errors import ConfigError, DeepenError, LinkError
from deepen.records import Interval
from deepen.testing.clock import VirtualClock
from deepen.testing.power import PowerTimeline

__all__ = ["FakeChannel", "FakeDevice", "FakeLink", "FakeRuntime", "RunCost", "compute_size_cost"]


@dataclass(frozen=True, slots=True)
class RunCost:
    """Time and power of one run of a workload.

    Attributes:
        latency_s: Wall time, seconds.
        power_w: Power above idle, watts.
        jitter: Relative standard deviation of the latency of a block.
        cpu_share: CPU time over wall time.
        load_error: Raised by ``load``.
        run_error: Raised by the second ``run``.
    """

    latency_s: float = 1e-3
    power_w: float = 2.0
    jitter: float = 0.0
    cpu_share: float = 1.0
    load_error: DeepenError | None = None
    run_error: DeepenError | None = None

    @property
    def energy_j(self) -> float:
        """True net energy of one run, joules."""
        return self.latency_s * self.power_w


def compute_size_cost(path: Path) -> RunCost:
    """Compute the cost of a file from its size, so that files differ: 0.1 ms and 1 ns per byte at 2 W."""
    return RunCost(latency_s=1e-4 + 1e-9 * path.stat().st_size)


class FakeLoadedModel:
    """A loaded model that takes virtual time and draws simulated power."""

    def __init__(self, runtime: FakeRuntime, cost: RunCost, threads: int) -> None:
        """Set the cost and the time already spent."""
        self._runtime = runtime
        self._cost = cost
        self._runs = 0
        self.alive = True
        self.build = f"fake 1.0 level=extended threads={threads}"

    def run(self, n: int) -> Interval:
        """Run n times, with call overhead around the block as with a real worker."""
        self._runs += 1
        if self._cost.run_error is not None and self._runs > 1:
            self.alive = False
            raise self._cost.run_error
        return self._runtime.play(self._cost, n)

    def close(self) -> None:
        """Unload."""
        self.alive = False
        self._runtime.open_models -= 1


class FakeRuntime:
    """A runtime whose workloads have the cost that a function returns.

    Faults: ``stretch(block)`` returns a factor on the wall time of a block without CPU time to match (preemption),
    ``slow_down(t_s)`` a factor on everything (thermal drift).
    """

    name = "onnxruntime"

    def __init__(
        self,
        clock: VirtualClock,
        timeline: PowerTimeline,
        cost: Callable[[Path], RunCost] = compute_size_cost,
        *,
        seed: int = 0,
        stretch: Callable[[int], float] = lambda block: 1.0,
        slow_down: Callable[[float], float] = lambda t_s: 1.0,
        call_s: float = 1e-4,
    ) -> None:
        """Connect the runtime to a clock and a timeline."""
        self.pid: int | None = None
        self.takes_inputs = True
        self.closed = False
        self.open_models = 0
        self.blocks = 0
        self.loads: list[tuple[Path, int, Mapping[str, Sequence[int]]]] = []
        self.inputs: list[dict[str, NDArray[Any]]] = []
        self._clock = clock
        self._timeline = timeline
        self._cost = cost
        self._rng = np.random.default_rng(seed)
        self._stretch = stretch
        self._slow_down = slow_down
        self._call_s = call_s

    def load(
        self,
        path: Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> FakeLoadedModel:
        """Load a model."""
        if self.closed:
            raise LinkError("the runtime is closed")
        if not path.is_file():
            raise ConfigError(f"no such model file: {path}")
        cost = self._cost(path)
        if cost.load_error is not None:
            raise cost.load_error
        self.loads.append((path, threads, dict(shapes or {})))
        self.inputs.append(dict(inputs or {}))
        self.open_models += 1
        return FakeLoadedModel(self, cost, threads)

    def play(self, cost: RunCost, n: int) -> Interval:
        """Play a block."""
        block = self.blocks
        self.blocks += 1
        self._clock.sleep(self._call_s)
        start = self._clock.now()
        noise = 1 + cost.jitter * float(self._rng.standard_normal())
        busy_s = n * cost.latency_s * max(noise, 0.1) * self._slow_down(start)
        wall_s = busy_s * self._stretch(block)
        self._clock.sleep(wall_s)
        end = self._clock.now()
        self._timeline.add(start, start + busy_s, cost.power_w)
        self._clock.sleep(self._call_s)
        return Interval(start, end, "run", runs=n, cpu_s=busy_s * cost.cpu_share)

    def close(self) -> None:
        """End the runtime."""
        self.closed = True


@dataclass(slots=True)
class FakeChannel:
    """A worker process played by a function.

    Attributes:
        answer: Takes a request; returns the answer, ``None`` to stay silent, raw bytes, or an ``int`` to end with that
            exit status.
        pid: Process id it reports.
        words: Content of its standard error.
        requests: Every request received.
        killed: True once it has been killed.
        cut: True if the link was cut while it ran.
    """

    answer: Callable[[dict[str, Any]], dict[str, Any] | bytes | int | None]
    pid: int | None = None
    words: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    killed: bool = False
    cut: bool = False
    _replies: deque[bytes] = field(default_factory=deque)
    _status: int | None = None

    def send(self, line: bytes) -> None:
        """Take a request."""
        if self._status is not None:
            raise LinkError("the worker is gone")
        request = json.loads(line)
        self.requests.append(request)
        reply = self.answer(request)
        if isinstance(reply, int):
            self._status = reply
        elif isinstance(reply, bytes):
            self._replies.append(reply)
        elif reply is not None:
            self._replies.append(json.dumps({"id": request["id"], **reply}).encode())

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the answer; ``None`` at once if it stays silent."""
        if self._replies:
            return self._replies.popleft()
        if self._status is not None:
            raise LinkError("the worker closed its output")
        return None

    def exit_status(self) -> int | None:
        """Exit status."""
        return self._status

    def kill(self) -> None:
        """End it."""
        self.killed = True
        if self._status is None:
            self._status = -9

    def last_words(self) -> str:
        """Content of its standard error."""
        return self.words


@dataclass(slots=True)
class FakeLink:
    """A link that hands out prepared channels and answers commands by a function.

    Attributes:
        channels: Channels for the next processes, in order.
        answer: Answers ``run``: a completed command, or an error to raise; ``None`` answers "no such program" to all.
        files: Content of the files for ``pull``.
        spawned: Argument lists of the processes started.
        ran: Argument lists of the commands run.
        pushed: Files pushed to the device, with their names there.
        closed: True once it has been closed.
    """

    channels: list[FakeChannel] = field(default_factory=list)
    answer: Callable[[Sequence[str]], CompletedCommand | DeepenError] | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    spawned: list[list[str]] = field(default_factory=list)
    ran: list[list[str]] = field(default_factory=list)
    pushed: list[tuple[Path, str]] = field(default_factory=list)
    closed: bool = False
    description: str = "a stand-in"

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float) -> CompletedCommand:
        """Return the answer of the function."""
        self.ran.append(list(argv))
        if self.closed:
            raise LinkError("the link is closed")
        found = (
            CompletedCommand(127, b"", f"{argv[0]}: not found\n".encode()) if self.answer is None else self.answer(argv)
        )
        if isinstance(found, DeepenError):
            raise found
        return found

    def push(self, path: Path, *, name: str | None = None) -> str:
        """Return the path itself."""
        self.pushed.append((path, name or path.name))
        return str(path)

    def pull(self, remote: str, path: Path) -> None:
        """Write the prepared content."""
        if remote not in self.files:
            raise ConfigError(f"no such file on the device: {remote}")
        path.write_bytes(self.files[remote])

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> FakeChannel:
        """Return the next channel."""
        self.spawned.append(list(argv))
        if not self.channels:
            raise LinkError("the device is gone")
        return self.channels.pop(0)

    def alive(self) -> bool:
        """Return True until it is closed."""
        return not self.closed

    def close(self) -> None:
        """Close."""
        self.closed = True


class FakeDevice:
    """A device with a given state and runtime."""

    def __init__(self, runtime: FakeRuntime, *, state: DeviceState | None = None, **profile: Any) -> None:
        """Wrap a runtime; keyword arguments are fields of the profile."""
        power = CpuPower("fake", 1.0, 5.0, 4, "a figure for tests")
        self.profile = DeviceProfile(**{"id": "fake", "power": power, **profile})
        self.link = FakeLink()
        self.current = state or DeviceState("Fake CPU", "fake64", 4, (0, 1, 2, 3), "performance", 2e9, 40.0, 0.1)
        self.opened: list[Runtime] = []
        self.closed = False
        self._runtime = runtime

    def state(self) -> DeviceState:
        """Return the state that was set."""
        return self.current

    def prepare(self) -> tuple[SettingStatus, ...]:
        """Return a fixed status: there is nothing to prepare."""
        return (SettingStatus("affinity", "threads pinned", "4 of 4 cores usable", True),)

    def runtime(self, name: str = "onnxruntime", cpu_mask: Sequence[int] | None = None) -> Runtime:
        """Return the wrapped runtime."""
        self._runtime.closed = False
        self.opened.append(self._runtime)
        return self._runtime

    def worker_pid(self) -> int | None:
        """Return None: it is not a process."""
        return self._runtime.pid

    def close(self) -> None:
        """Close."""
        self._runtime.close()
        self.closed = True
