"""What a device, a link and a runtime must be able to do; each at most six verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from deepen.devices.types import CompletedCommand, DeviceProfile, DeviceState, SettingStatus
from deepen.records import Interval

__all__ = ["Device", "Link", "LoadedModel", "ProcessChannel", "Runtime"]


@runtime_checkable
class ProcessChannel(Protocol):
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
        """End the process and its whole group for good and wait for it; harmless when it has ended.

        Never raises: where the device cannot be reached, the group is ended as soon as it can be.
        """

    def last_words(self) -> str:
        """The end of what it wrote on its standard error."""


@runtime_checkable
class Link(Protocol):
    """A way to reach a device.

    Every verb but ``close`` raises ``LinkError`` when the device cannot be reached or does not answer in time; the next
    call tries to reach it again. Commands are argument lists, never shell strings. A link may be used by several
    threads at once.

    Attributes:
        description: What the link is and which way it takes, for example ``adb 0A1B2C through the adb server``.
    """

    @property
    def description(self) -> str: ...  # noqa: D102

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float) -> CompletedCommand:
        """Run a command to its end, without input; what it leaves in its process group is ended with it.

        Args:
            argv: Program and arguments.
            env: Variables to add to the device's environment.
            timeout_s: Seconds it may take; when they pass, its whole process group is killed.

        Raises:
            LinkError: If it did not end in time or the device is gone.
            ConfigError: If an argument cannot be passed on (it holds a NUL byte, or all are too long together).
        """

    def push(self, path: Path, *, name: str | None = None) -> str:
        """Bring a file to the device's work folder; skipped if the same content is there, resumed after a cut.

        Args:
            path: The file.
            name: Name it gets there; ``None`` for its own. A local link leaves the file where it is.

        Returns:
            Its absolute path on the device; the content is known to be complete.

        Raises:
            ConfigError: If there is no such file or the name is not the name of a file.
            LinkError: If it could not be copied; the next call goes on where this one ended.
        """

    def pull(self, remote: str, path: Path) -> None:
        """Fetch a file; ``path`` holds all of it (its hash checked) or what it held before.

        Raises:
            ConfigError: If there is no such file on the device.
            LinkError: If it could not be copied.
            StorageError: If the host's disk does not take it.
        """

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> ProcessChannel:
        """Start a process that speaks lines; it ends at the latest when its channel is killed or the link is cut.

        Raises:
            LinkError: If it cannot be started.
        """

    def alive(self) -> bool:
        """Whether the device answers now; reconnects where that is possible."""

    def close(self) -> None:
        """End what was started and release the link; harmless when repeated."""


@runtime_checkable
class LoadedModel(Protocol):
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
    ) -> LoadedModel:
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

    def prepare(self) -> tuple[SettingStatus, ...]:
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
