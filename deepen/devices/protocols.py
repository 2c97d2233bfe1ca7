"""Protocols of devices, links and runtimes, each of at most six verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from deepen.devices.types import CompletedCommand, DeviceProfile, DeviceState, SettingStatus
from deepen.records import Interval

__all__ = ["Device", "Link", "LoadedModel", "ProcessChannel", "Runtime"]


@runtime_checkable
class ProcessChannel(Protocol):
    """A process on the device that answers lines with lines.

    Attributes:
        pid: Process id on the device; ``None`` if unknown.
    """

    pid: int | None

    def send(self, line: bytes) -> None:
        """Write one line (without its newline).

        Raises:
            LinkError: If the process is gone.
        """

    def receive(self, timeout_s: float) -> bytes | None:
        """Read one line; ``None`` if none came in time.

        Raises:
            LinkError: If the process is gone.
        """

    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""

    def kill(self) -> None:
        """Kill the process and its whole group and wait for its end; harmless when it has ended.

        Never raises: on an unreachable device, the group is killed as soon as it can be reached.
        """

    def last_words(self) -> str:
        """Return the end of its standard error."""


@runtime_checkable
class Link(Protocol):
    """A way to reach a device.

    Every verb but ``close`` raises ``LinkError`` when the device cannot be reached or does not answer in time; the next
    call tries to reach it again. Commands are argument lists, never shell strings. A link may be used by several
    threads at once.

    Attributes:
        description: The device and the route of the link, for example ``adb 0A1B2C through the adb server``.
    """

    @property
    def description(self) -> str: ...  # noqa: D102

    def run(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, timeout_s: float) -> CompletedCommand:
        """Run a command to its end, without input; processes left in its group are killed with it.

        Args:
            argv: Program and arguments.
            env: Variables to add to the device's environment.
            timeout_s: Time it may take, seconds; afterwards its whole process group is killed.

        Raises:
            LinkError: If it did not end in time or the device is gone.
            ConfigError: If an argument cannot be passed on (it holds a NUL byte, or all are too long together).
        """

    def push(self, path: Path, *, name: str | None = None) -> str:
        """Copy a file to the device's work folder; skipped if the same content is there, resumed after a cut.

        Args:
            path: The file.
            name: Its name on the device; ``None`` for the same name. A local link leaves the file in place.

        Returns:
            Its absolute path on the device; the content has been checked to be complete.

        Raises:
            ConfigError: If there is no such file or the name is not the name of a file.
            LinkError: If it could not be copied; the next call resumes where this one ended.
        """

    def pull(self, remote: str, path: Path) -> None:
        """Fetch a file; ``path`` then holds all of it (its hash checked), or on error its previous content.

        Raises:
            ConfigError: If there is no such file on the device.
            LinkError: If it could not be copied.
            StorageError: If the host's disk refuses it.
        """

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> ProcessChannel:
        """Start a process that exchanges lines; it ends when its channel is killed or the link is cut, if not before.

        Raises:
            LinkError: If it cannot be started.
        """

    def alive(self) -> bool:
        """Return whether the device answers now; reconnects if necessary and possible."""

    def close(self) -> None:
        """End everything started over the link and release it; harmless when repeated."""


@runtime_checkable
class LoadedModel(Protocol):
    """A model loaded into a runtime.

    Attributes:
        build: Runtime version, provider, optimisation level and threads.
        alive: True while the model is loaded (its worker has not ended).
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
        """Unload the model; harmless when its worker has ended."""


@runtime_checkable
class Runtime(Protocol):
    """An inference engine on a device.

    Attributes:
        name: For example ``onnxruntime``.
        pid: Process in which models run; ``None`` before the first load or if unknown.
    """

    name: str

    @property
    def pid(self) -> int | None: ...  # noqa: D102

    def load(
        self,
        path: Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> LoadedModel:
        """Load a model and run it once.

        ``inputs`` are values of inputs, by name; only runtimes with a true attribute ``takes_inputs`` are given any.

        Raises:
            ConfigError: If the file is missing, an input needs a shape, or values do not fit their input.
            RunError: If the model cannot be loaded or run; it never will be.
            LinkError: If the device is gone.
        """

    def close(self) -> None:
        """Unload everything and end the worker."""


@runtime_checkable
class Device(Protocol):
    """A device workloads run on.

    Attributes:
        profile: Its profile.
        link: The link that reaches it.
    """

    @property
    def profile(self) -> DeviceProfile: ...  # noqa: D102

    @property
    def link(self) -> Link: ...  # noqa: D102

    def state(self) -> DeviceState:
        """Read temperatures, frequencies and load."""

    def prepare(self) -> tuple[SettingStatus, ...]:
        """Check the settings that make results repeatable; changes nothing it cannot restore."""

    def runtime(self, name: str = "onnxruntime", cpu_mask: Sequence[int] | None = None) -> Runtime:
        """Open a runtime.

        Raises:
            ConfigError: If the device has no such runtime.
        """

    def worker_pid(self) -> int | None:
        """Return the host's process id of the process that runs workloads; ``None`` if there is none."""

    def close(self) -> None:
        """Close every runtime and the link."""
