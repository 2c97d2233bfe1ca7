"""Benchmark tools as runtimes: every block is a run of the tool, observed through the lines it prints.

The tool is named by an environment variable of the host (a local file, which is pushed), or is the first one found on
the device. Standard output and standard error are read as one stream, since versions differ in their use, and the host
records the arrival of each line. The delay of a line is measured with quick round trips to a ``cat`` on the device.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deepen.clock.host_clock import Deadline, monotonic_s
from deepen.devices.links.local import LocalLink
from deepen.devices.model_files import push_model
from deepen.devices.runtimes.parsers.text import parse_log_lines
from deepen.devices.runtimes.sync_load import ShellLoad
from deepen.devices.types import CompletedCommand
from deepen.errors import ConfigError, LinkError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from deepen.devices.protocols import Link, ProcessChannel
    from deepen.records import Interval

__all__ = ["ToolLine", "ToolLoadedModel", "ToolLog", "ToolModel", "ToolRuntime"]

_MERGE = 'exec "$0" "$@" 2>&1'
_FIND = 'for p in "$@"; do command -v -- "$p" && exit 0; done; exit 1'
_CALL_S = 20.0
_PINGS = 12
_LONGEST_OUTPUT = 200_000  # lines


@dataclass(frozen=True, slots=True)
class ToolLine:
    """A line with its time of arrival.

    Attributes:
        text: The line, unchanged.
        at_s: Its arrival in host time, seconds.
    """

    text: str
    at_s: float


@dataclass(frozen=True, slots=True)
class ToolLog:
    """Output of a run of a tool.

    Attributes:
        begun_s: Host time just before it was started, seconds.
        status: Its exit status.
        heard: Its lines.
    """

    begun_s: float
    status: int
    log_lines: tuple[ToolLine, ...]

    @property
    def text(self) -> str:
        """The complete output."""
        return "\n".join(h.text for h in self.log_lines)

    def arrivals(self, pattern: re.Pattern[str]) -> list[float]:
        """Return the host times at which matching lines arrived (prefixes of loggers are ignored), seconds."""
        return [h.at_s for h in self.log_lines for line in parse_log_lines(h.text) if pattern.match(line.text.strip())]

    @property
    def complaint(self) -> str:
        """The last line that mentions an error, else the last line; for messages."""
        found = [x.text.strip() for h in self.log_lines for x in parse_log_lines(h.text) if x.text.strip()]
        bad = [t for t in found if re.search(r"error|fail|fatal|abort|cannot|unable", t, re.I)]
        return (bad or found or ["it printed nothing"])[-1][:300]


class ToolLoadedModel:
    """A model that a tool can run.

    Attributes:
        build: The tool and its settings.
    """

    def __init__(self, runtime: ToolRuntime, model: ToolModel, build: str, first_run_s: float) -> None:
        """Keep the model and its settings."""
        self._runtime = runtime
        self._model = model
        self._expected_s = first_run_s
        self._open = True
        self.build = build

    @property
    def alive(self) -> bool:
        """True until it is closed."""
        return self._open and not self._runtime.closed

    @property
    def pulses(self) -> ShellLoad:
        """Return a load with sharp edges for the sync pattern; the tool's own runs begin with loading the model.

        Raises:
            LinkError: If the device is gone.
        """
        return self._runtime.pulses()

    @property
    def first_run_s(self) -> float:
        """Duration of a run in the trial at loading, seconds."""
        return self._expected_s

    def run(self, n: int) -> Interval:
        """Run n inferences in one run of the tool.

        Returns:
            The block; ``uncertainty_s`` is the uncertainty of its place in time. CPU time is unknown.

        Raises:
            RunError: If the tool fails, runs a different number, or falls back to the CPU.
            LinkError: If the device is gone.
        """
        if n < 1:
            raise ConfigError(f"a block needs at least one run, not {n}")
        if not self.alive:
            raise LinkError(f"{self._model.name}: its runtime was closed", cure="load it again")
        return self._runtime.block(self._model, n, self._runtime.run_timeout_s + 20 * n * self._expected_s)

    def close(self) -> None:
        """Mark the model as closed."""
        self._open = False


@dataclass(frozen=True, slots=True)
class ToolModel:
    """A model on the device, with its settings.

    Attributes:
        name: Its file name, for messages.
        remote: Its path on the device.
        threads: Threads to run on.
        shapes: Shapes of inputs, by name.
        note: Placement of the graph, which must stay the same from block to block.
    """

    name: str
    remote: str
    threads: int
    shapes: Mapping[str, Sequence[int]]
    note: str = ""


class ToolRuntime:
    """Base class of tools behind a link; a subclass overrides the few methods in which tools differ.

    Attributes:
        name: Name of the runtime; it includes the accelerator, so that results of different ones never mix.
        programs: Paths at which the tool is looked for on the device.
        variable: Environment variable of the host that names the tool.
        suffixes: Suffixes of the model files it runs.
        takes_inputs: False: a tool makes up the values of inputs.
    """

    name: ClassVar[str] = ""
    programs: ClassVar[tuple[str, ...]] = ()
    variable: ClassVar[str] = ""
    suffixes: ClassVar[tuple[str, ...]] = ()
    takes_inputs: ClassVar[bool] = False

    def __init__(
        self, link: Link, *, cpu_mask: Sequence[int] = (), tool: Path | None = None, load_timeout_s: float = 600.0,
        run_timeout_s: float = 120.0,
    ) -> None:  # fmt: skip
        """Set up the runtime; the first load looks for the tool.

        Args:
            link: Link to the device.
            cpu_mask: Cores to run on, one per thread; empty for all.
            tool: The tool, built for the device; ``None`` for the one the variable names, else one on the device.
            load_timeout_s: Time a model may take to be loaded and run once, seconds.
            run_timeout_s: Time granted to a block on top of twenty times what its runs should take, seconds.
        """
        self._link = link
        self._mask = tuple(cpu_mask)
        self._given = tool
        self._load_timeout_s = load_timeout_s
        self.run_timeout_s = run_timeout_s
        self.closed = False
        self._program = ""
        self._identity = ""
        self._delay_s: float | None = None
        self._pulses: ShellLoad | None = None

    # ---- to override ----------------------------------------------------------------------------------------------

    def try_out(self, model: ToolModel) -> tuple[ToolModel, str, float]:
        """Load a model and run it once; return the model with its note, the build string, and seconds per run.

        Raises:
            RunError: If it cannot be run, or not on the accelerator.
        """
        raise NotImplementedError

    def block(self, model: ToolModel, n: int, timeout_s: float) -> Interval:
        """Run n inferences.

        Raises:
            RunError, LinkError: As :meth:`ToolLoadedModel.run`.
        """
        raise NotImplementedError

    # ---- Runtime ----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """None: every block is a process of its own."""
        return None

    def load(
        self,
        path: Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> ToolLoadedModel:
        """Copy a model to the device and run it once.

        Args:
            path: The model file.
            threads: Threads; with a ``cpu_mask`` it needs as many cores.
            shapes: Shapes of inputs, by name.
            seed: Not used: the tools make up input values of their own.
            inputs: Refused, for the same reason.

        Raises:
            ConfigError: If the file is missing or of another kind, there is no such tool, or there are too few cores.
            RunError: If the model cannot be run, or would fall back to the CPU.
            LinkError: If the device is gone.
        """
        if self.closed:
            raise LinkError(f"the runtime {self.name} is closed", cure="open it again")
        if path.suffix.lower() not in self.suffixes:
            raise ConfigError(f"{path.name}: {self.name} runs {', '.join(self.suffixes)} files only")
        if not path.is_file():
            raise ConfigError(f"no such model file: {path}")
        if inputs:
            raise ConfigError(
                f"{path.name}: {self.name} makes up the values of inputs and takes none",
                cure="use the runtime onnxruntime, litert, crunner or crunner-litert",
            )
        if self._mask and len(self._mask) < threads:
            raise ConfigError(f"{threads} threads need as many cores", cure=f"cpu_mask {list(self._mask)} are fewer")
        self.find()
        model = ToolModel(path.name, push_model(self._link, path), threads, dict(shapes or {}))
        model, build, first_run_s = self.try_out(model)
        return ToolLoadedModel(self, model, build, first_run_s)

    def close(self) -> None:
        """End the load for the sync pattern; the tool itself does not run between blocks."""
        self.closed = True
        if self._pulses is not None:
            self._pulses.close()

    # ---- for tools --------------------------------------------------------------------------------------------------

    def find(self) -> str:
        """Find the path of the tool on the device, pushing it first if it is a local file.

        Raises:
            ConfigError: If there is none.
            LinkError: If the device is gone.
        """
        if self._program:
            return self._program
        named = os.environ.get(self.variable)
        given = self._given or (Path(named) if named else None)
        if given is not None:
            program = self._link.push(given)
            if self._call(["test", "-x", program]).status != 0:
                if isinstance(self._link, LocalLink):
                    raise ConfigError(f"{given} is not executable", cure="chmod +x it")
                self._call(["chmod", "755", program])
        else:
            found = self._call(["sh", "-c", _FIND, "sh", *self.programs])
            program = found.stdout.decode("utf-8", "replace").strip().split("\n")[0]
            if found.status != 0 or not program:
                raise ConfigError(
                    f"there is no {self.programs[0]} on {self._link.description}",
                    cure=f"put it at {self.programs[-1]}, or set {self.variable} to one on this machine that was "
                    "built for the device",
                )
        self._program = program
        digest = self._call(["sha256sum", program]).stdout.split(b" ")[0].decode("ascii", "replace").lstrip("\\")
        self._identity = digest[:12] if re.fullmatch(r"[0-9a-f]{64}", digest) else "unknown"
        return program

    def identity(self) -> str:
        """Return the tool's identity for the build string: the program's hash, because no tool states its version."""
        cores = f" cpus={','.join(map(str, self._mask))}" if self._mask else ""
        return f"{self.programs[0]} sha256={self._identity}{cores}"

    def pulses(self) -> ShellLoad:
        """Return the load for the sync pattern."""
        if self._pulses is None or not self._pulses.alive:
            self._pulses = ShellLoad(self._link, self._mask[:1], self.delay_s())
        return self._pulses

    def delay_s(self) -> float:
        """Measure the longest delay of a line from device to host, seconds: the longest of some quick round trips.

        Raises:
            LinkError: If the device is gone.
        """
        if self._delay_s is None:
            channel = self._link.spawn(["cat"], {})
            try:
                trips = []
                for k in range(_PINGS):
                    sent = monotonic_s()
                    channel.send(b"%d" % k)
                    if channel.receive(_CALL_S) != b"%d" % k:
                        raise LinkError(f"{self._link.description}: a line did not come back", cure="try again")
                    trips.append(monotonic_s() - sent)
            finally:
                channel.kill()
            self._delay_s = max(trips[1:])  # the first one waits for the process to start
        return self._delay_s

    def listen(self, model: ToolModel, arguments: Sequence[str], timeout_s: float) -> ToolLog:
        """Run the tool to its end and record the arrival of its lines.

        Raises:
            RunError: If it fails, or takes too long.
            LinkError: If the device is gone.
        """
        mask = sum(1 << c for c in self._mask[: max(1, model.threads)])
        argv = [*(["taskset", f"{mask:x}"] if mask else []), self.find(), *arguments]
        begun = monotonic_s()
        channel = self._link.spawn(["sh", "-c", _MERGE, *argv], {})
        try:
            done = self._drain(channel, begun, timeout_s, model)
        finally:
            channel.kill()
        if done.status < 0:
            word = _signal_name(-done.status)
            if word in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGPIPE"):
                raise LinkError(
                    f"{model.name}: {self.programs[0]} was ended by {word} ({done.complaint})", cure="try again"
                )
            raise RunError(f"{model.name}: {self.programs[0]} crashed with {word} ({done.complaint})")
        return done

    def _drain(self, channel: ProcessChannel, begun: float, timeout_s: float, model: ToolModel) -> ToolLog:
        deadline = Deadline(timeout_s)
        heard: list[ToolLine] = []
        while True:
            try:
                line = channel.receive(deadline.remaining_s)
            except LinkError:
                status = channel.exit_status()
                if status is None:
                    raise
                return ToolLog(begun, status, tuple(heard))
            if line is None:
                raise RunError(
                    f"{model.name}: {self.programs[0]} took more than {timeout_s:.0f} s",
                    cure="the model is too slow here",
                )
            heard.append(ToolLine(line.decode("utf-8", "replace"), monotonic_s()))
            if len(heard) > _LONGEST_OUTPUT:
                raise RunError(f"{model.name}: {self.programs[0]} prints without end ({heard[-1].text[:80]!r})")

    def _call(self, argv: Sequence[str]) -> CompletedCommand:
        return self._link.run(argv, timeout_s=_CALL_S)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
