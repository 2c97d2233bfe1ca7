"""What a device, a link and a runtime must be able to do; each at most six verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from deepen.devices.types import DeviceProfile, DeviceState, Setting
from deepen.records import Interval

__all__ = ["Channel", "Device", "Link", "Loaded", "Runtime"]


@runtime_checkable
class Channel(Protocol):
    """A process on the device that answers lines with lines.

    Attributes:
        pid: Process id on the device; ``None`` where it cannot be told.
    """

    pid: int | None

    def send(self, line: bytes) -> None:
        """Write one line (without its newline).

        Raises:
            LinkError: If the process is gone.
        """

    def receive(self, timeout_s: float) -> bytes | None:
        """Read one line; ``None`` when none came in time.

        Raises:
            LinkError: If the process is gone.
        """

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""

    def kill(self) -> None:
        """End the process for good and wait for it; harmless when it has ended."""

    def last_words(self) -> str:
        """The end of what it wrote on its standard error."""


@runtime_checkable
class Link(Protocol):
    """A way to reach a device."""

    def push(self, path: Path) -> str:
        """Bring a file to the device; returns its path there."""

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> Channel:
        """Start a process (an argument list, never a shell string).

        Raises:
            LinkError: If it cannot be started.
        """

    def close(self) -> None:
        """Release the link."""


@runtime_checkable
class Loaded(Protocol):
    """A model loaded into a runtime.

    Attributes:
        build: Runtime version, provider, optimisation level and threads.
        alive: Whether the model is still loaded (its worker has not ended).
    """

    @property
    def build(self) -> str: ...  # noqa: D102

    @property
    def alive(self) -> bool: ...  # noqa: D102

    def run(self, n: int) -> Interval:
        """Run n inferences back to back; the interval carries their number and the worker's CPU time.

        Raises:
            RunError: If the model fails; it will fail again.
            LinkError: If the device is gone.
        """

    def close(self) -> None:
        """Unload; harmless when its worker has ended."""


@runtime_checkable
class Runtime(Protocol):
    """An inference engine on a device.

    Attributes:
        name: For example ``onnxruntime``.
        pid: Process in which models run; ``None`` before the first load or where it cannot be told.
    """

    name: str

    @property
    def pid(self) -> int | None: ...  # noqa: D102

    def load(
        self, path: Path, *, threads: int = 1, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
    ) -> Loaded:
        """Load a model and run it once.

        Raises:
            ConfigError: If the file is missing or an input needs a shape.
            RunError: If the model cannot be loaded or run; it never will be.
            LinkError: If the device is gone.
        """

    def close(self) -> None:
        """Unload everything and end the worker."""


@runtime_checkable
class Device(Protocol):
    """A device workloads run on.

    Attributes:
        profile: What is known about it.
        link: How it is reached.
    """

    @property
    def profile(self) -> DeviceProfile: ...  # noqa: D102

    @property
    def link(self) -> Link: ...  # noqa: D102

    def state(self) -> DeviceState:
        """Read temperatures, frequencies and load."""

    def prepare(self) -> tuple[Setting, ...]:
        """Look at everything that decides whether results repeat; changes nothing it cannot restore."""

    def runtime(self, name: str = "onnxruntime", cpu_mask: Sequence[int] | None = None) -> Runtime:
        """Open a runtime.

        Raises:
            ConfigError: If the device has no such runtime.
        """

    def worker_pid(self) -> int | None:
        """Process id in which workloads run, seen from the host; ``None`` where there is none."""

    def close(self) -> None:
        """Close every runtime and the link."""
