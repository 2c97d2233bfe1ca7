"""The worker process on a device, common to all runtimes behind the runner's protocol (``devices/runner/runner.py``).

One worker process serves a whole session, so packages are imported once. Every request has a deadline. Failures are
classified:

* the runner answers with an error: ``RunError`` (the model is at fault, or an accelerator does not take it), or
``ConfigError`` (a missing file, an open shape, a missing package);
* the worker crashes in its own code (SIGSEGV, SIGABRT, SIGILL, SIGFPE, SIGBUS) while it loads or runs a model, or a
model exceeds its deadline: ``RunError``; the next load starts a new worker;
* the worker ends in any other way: ``LinkError``, which may be retried.

A worker on this machine time-stamps its blocks on the host's clock. Elsewhere the stamps are mapped by round trips
(:class:`~deepen.clock.round_trips.DeviceClock`), and the error of the map is in ``Interval.uncertainty_s``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.clock.host_clock import monotonic_s
from deepen.clock.round_trips import DeviceClock, RoundTrip
from deepen.devices.links.local import LocalLink, is_main_thread
from deepen.devices.model_files import push_model
from deepen.devices.state.read_state import get_usable_cores
from deepen.errors import ConfigError, DeepenError, LinkError, RunError
from deepen.records import Interval
from deepen.storage.temporary_folders import TemporaryFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepen.devices.protocols import Link, ProcessChannel

__all__ = ["QUIET", "WorkerLoadedModel", "WorkerRuntime"]

QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""Environment of a worker: no library starts threads on its own account."""

_FAULTS = {"SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "SIGBUS"}
_FIRST_PINGS = 12  # quick round trips after a load
_PINGS = 4  # round trips after a block
_PING_SHARE = 0.05  # largest share of the time since the last round trips that they may take


class WorkerLoadedModel:
    """A model loaded in a worker.

    Attributes:
        build: Runtime version, provider or delegate (with the nodes it took), optimisation level and threads.
        inputs: Name, shape and type of every input.
        outputs: Name, shape and type of every output.
        placement: Placement on the requested accelerator (see the protocol); ``None`` if none was requested.
    """

    def __init__(self, runtime: WorkerRuntime, channel: ProcessChannel, reply: Mapping[str, Any], name: str) -> None:
        """Take over a handle from the worker's reply."""
        self._runtime = runtime
        self._channel = channel
        self._handle = int(reply["handle"])
        self._expected_s = float(reply["first_run_s"])
        self._name = name
        self._open = True
        self.build = str(reply["build"])
        self.inputs: list[dict[str, Any]] = list(reply["inputs"])
        self.outputs: list[dict[str, Any]] = list(reply["outputs"])
        self.placement: dict[str, Any] | None = reply.get("placement")

    @property
    def alive(self) -> bool:
        """True while the model is loaded."""
        return self._open and self._runtime.is_serving(self._channel)

    @property
    def first_run_s(self) -> float:
        """Duration of the run made at loading, seconds."""
        return self._expected_s

    def run(self, n: int) -> Interval:
        """Run n inferences back to back.

        Returns:
            The interval of the runs on the host's clock. On a device with a clock of its own, ``uncertainty_s`` is the
            uncertainty of the map between the clocks.

        Raises:
            RunError: If the model fails, crashes the worker or takes far longer than before.
            LinkError: If the worker is gone, or the device slept during the block.
        """
        if n < 1:
            raise ConfigError(f"a block needs at least one run, not {n}")
        if not self.alive:
            raise LinkError(f"{self._name}: its worker has ended", cure="load it again")
        timeout_s = self._runtime.run_timeout_s + 20 * n * self._expected_s
        trip, reply = self._runtime.run_with_timestamps(self._handle, n, timeout_s, self._name)
        start_s, end_s, uncertainty_s = self._runtime.locate(trip, self._handle)
        return Interval(start_s, end_s, "run", runs=n, uncertainty_s=uncertainty_s, cpu_s=reply["cpu_ns"] / 1e9)

    def close(self) -> None:
        """Unload the model."""
        if self.alive:
            self._runtime.ask({"op": "unload", "handle": self._handle}, self._runtime.run_timeout_s, "")
        self._open = False


class WorkerRuntime:
    """Base class of runtimes in a worker behind a link; a subclass overrides the few methods in which they differ.

    Attributes:
        name: For example ``onnxruntime``.
        takes_inputs: True: values of inputs can be given.
        versions: The worker's answer to ``hello``.
        clock: Map from the device's clock to the host's; unused where they are the same.
    """

    name = ""
    takes_inputs = True
    _missing_cure = ""
    """Cure for a runtime that is missing on the device."""

    def __init__(
        self,
        link: Link,
        *,
        cpu_mask: Sequence[int] = (),
        level: str = "extended",
        delegate: Mapping[str, Any] | None = None,
        hello_timeout_s: float = 120.0,
        load_timeout_s: float = 300.0,
        run_timeout_s: float = 120.0,
    ) -> None:
        """Set up the runtime; the first load starts the worker.

        Args:
            link: Link to the device.
            cpu_mask: Cores to run on, one per thread; empty for the last usable ones.
            level: Graph optimisation level: disable, basic, extended or all.
            delegate: Accelerator to run on, in the form of the protocol; ``None`` for the CPU.
            hello_timeout_s: Time a worker may take to start, seconds.
            load_timeout_s: Time a model may take to load and run once, seconds.
            run_timeout_s: Time granted to a block on top of twenty times what its runs should take, seconds.
        """
        self._link = link
        self._mask = tuple(cpu_mask)
        self._level = level
        self._delegate = dict(delegate or {})
        self._hello_timeout_s = hello_timeout_s
        self._load_timeout_s = load_timeout_s
        self.run_timeout_s = run_timeout_s
        self._channel: ProcessChannel | None = None
        self._count = 0
        self._busy = False
        self._pinged_s = 0.0
        self._environment: dict[str, str] = {}
        self._same_clock = isinstance(link, LocalLink)
        self.clock = DeviceClock()
        self.versions: dict[str, Any] = {}

    # ---- to override ----------------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        """Copy the runner to the device and return its command line there. May add to ``_environment``.

        Raises:
            ConfigError, LinkError: If that is not possible.
        """
        raise NotImplementedError

    def _check(self, path: Path) -> None:
        """Refuse a file that this runtime cannot run.

        Raises:
            ConfigError: If it is of another kind.
        """

    # ---- the worker -----------------------------------------------------------------------------------------------

    @property
    def local(self) -> bool:
        """True if the worker runs on this machine."""
        return self._same_clock

    @property
    def pid(self) -> int | None:
        """The worker's process id; ``None`` while there is no worker."""
        return None if self._channel is None else self._channel.pid

    def is_serving(self, channel: ProcessChannel) -> bool:
        """Return whether a channel is the worker's current one, the worker runs, and no request is unanswered."""
        return self._channel is channel and not self._busy and channel.exit_status() is None

    def start(self) -> None:
        """Start the worker unless it runs.

        Raises:
            LinkError: If it cannot be started or does not answer.
            ConfigError: If the runtime is not installed there.
        """
        if self._channel is not None and self.is_serving(self._channel):
            return
        self._drop()
        argv = self._command()
        if self.local and is_main_thread():
            argv = [*argv, "--parent", str(os.getpid())]
        self.clock = DeviceClock()
        self._channel = self._link.spawn(argv, {**QUIET, **self._environment})
        try:
            self.versions = self.ask({"op": "hello", "runtime": self.name}, self._hello_timeout_s, "")
            if self.versions.get("protocol") != 1:
                spoken = self.versions.get("protocol")
                raise LinkError(f"the runner speaks protocol {spoken}, not 1", cure="use the one shipped")
        except DeepenError:
            self._drop()
            raise

    def cores(self, threads: int) -> tuple[int, ...]:
        """Choose one core per thread: the first of the mask, else the last usable ones; empty if pinning is impossible.

        Raises:
            ConfigError: If there are fewer cores than threads.
        """
        usable = get_usable_cores() if self.local else tuple(int(c) for c in self.versions.get("cpus") or ())
        if not usable and not self.local:
            if self._mask:
                raise ConfigError("this device cannot pin a process to cores", cure="leave cpu_mask out")
            return ()
        chosen = self._mask[:threads] if self._mask else usable[-threads:]
        if len(chosen) < threads:
            where = f"cpu_mask {list(self._mask)}" if self._mask else f"the {len(usable)} usable cores"
            raise ConfigError(f"{threads} threads need as many cores", cure=f"{where} are fewer: lower --threads")
        missing = sorted(set(chosen) - set(usable))
        if missing:
            raise ConfigError(f"core {missing[0]} of cpu_mask is not usable here", cure=f"usable: {list(usable)}")
        return chosen if not self.local or hasattr(os, "sched_setaffinity") else ()

    def load(
        self,
        path: Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> WorkerLoadedModel:
        """Load a model and run it once.

        Args:
            path: The model file.
            threads: Intra-operator threads, each on a core of its own.
            shapes: Shapes of inputs that leave dimensions open, by input name.
            seed: Seed of the input values.
            inputs: Values of inputs, by name, of the shapes and types that the model declares.

        Raises:
            ConfigError: If the file is missing or of another kind, an input needs a shape, values do not fit their
                input, or there are too few cores.
            RunError: If the model cannot be loaded or run, or would fall back to the CPU.
            LinkError: If the worker is gone or cannot be started.
        """
        self._check(path)
        if not path.is_file():
            raise ConfigError(f"no such model file: {path}")
        if self.local:  # before a process is started for nothing
            self.cores(threads)
        self.start()
        with contextlib.ExitStack() as files:
            request = self._load_request(path, threads, shapes, seed, inputs, files)
            reply = self.ask(request, self._load_timeout_s, path.name)
        if self._channel is None:
            raise LinkError("the worker ended while it loaded a model", cure="try again")
        loaded = WorkerLoadedModel(self, self._channel, reply, path.name)
        if not self.local:
            self._ping(int(reply["handle"]), _FIRST_PINGS)
        return loaded

    def _load_request(
        self,
        path: Path,
        threads: int,
        shapes: Mapping[str, Sequence[int]] | None,
        seed: int,
        inputs: Mapping[str, NDArray[Any]] | None,
        files: contextlib.ExitStack,
    ) -> dict[str, Any]:
        """Make the request that loads a model; values of inputs go there as files, kept until ``files`` ends."""
        request = {
            "op": "load",
            "path": push_model(self._link, path),
            "threads": threads,
            "level": self._level,
            "cpus": list(self.cores(threads)),
            "shapes": {k: [int(d) for d in v] for k, v in (shapes or {}).items()},
            "seed": seed,
        }
        if inputs:
            folder = files.enter_context(contextlib.closing(TemporaryFolder("deepen-inputs-"))).path
            request["inputs"] = {name: self._push_values(folder, k, v) for k, (name, v) in enumerate(inputs.items())}
        return {**request, "delegate": self._delegate} if self._delegate else request

    def _push_values(self, folder: Path, number: int, values: NDArray[Any]) -> str:
        """Copy the values of an input to the device as little-endian numbers in C order; return the path there."""
        import numpy as np

        array = np.ascontiguousarray(values)
        path = folder / f"input-{number}.bin"
        path.write_bytes(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return self._link.push(path)

    def plan_unattended_run(
        self,
        path: Path,
        *,
        threads: int = 1,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        inputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> tuple[list[str], dict[str, str], list[dict[str, Any]]]:
        """Plan a separate worker that runs a model without the host: its command, environment and first requests.

        After these requests the model has the handle 1. The model must have been loaded by this runtime before.

        Raises:
            ConfigError, RunError, LinkError: As :meth:`load`.
        """
        self.start()
        hello = {"op": "hello", "runtime": self.name}
        with contextlib.ExitStack() as files:
            request = self._load_request(path, threads, shapes, seed, inputs, files)
        return self._command(), {**QUIET, **self._environment}, [hello, request]

    # ---- time -----------------------------------------------------------------------------------------------------

    def run_with_timestamps(self, handle: int, n: int, timeout_s: float, name: str) -> tuple[RoundTrip, dict[str, Any]]:
        """Run n inferences (0 only reads the clocks); return the round trip and the reply.

        Raises:
            RunError, LinkError: As :meth:`ask`; also if the device slept during the runs.
        """
        sent = monotonic_s()
        reply = self.ask({"op": "run", "handle": handle, "n": n}, timeout_s, name)
        received = monotonic_s()
        trip = RoundTrip.of(sent, reply, received)
        if not self.local:
            self.clock.add(trip)
        return trip, reply

    def locate(self, trip: RoundTrip, handle: int) -> tuple[float, float, float]:
        """Return the host times of a block's start and end, and their standard uncertainty, seconds.

        Raises:
            LinkError: If the device's clock cannot be mapped to the host's.
        """
        if self.local:
            return trip.start_s, trip.end_s, 0.0
        if _PING_SHARE * (trip.receive_s - self._pinged_s) > _PINGS * self.clock.least_slack_s:
            self._ping(handle, _PINGS)
        return self.clock.locate(trip)

    def round_trips(self, count: int) -> list[RoundTrip]:
        """Measure a few round trips to the device's clocks; needs no model.

        Raises:
            LinkError: If the device is gone.
        """
        self.start()
        found = []
        for _ in range(count):
            sent = monotonic_s()
            reply = self.ask({"op": "wait", "ns": 0}, self.run_timeout_s, "")
            found.append(RoundTrip.of(sent, reply, monotonic_s()))
        return found

    def _ping(self, handle: int, count: int) -> None:
        for _ in range(count):
            self.run_with_timestamps(handle, 0, self.run_timeout_s, "")
        self._pinged_s = monotonic_s()

    # ---- requests -------------------------------------------------------------------------------------------------

    def ask(self, request: dict[str, Any], timeout_s: float, name: str) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Args:
            request: Operation and arguments.
            timeout_s: Time to wait, seconds; afterwards the worker is killed.
            name: Model the request is about, for messages; empty for none.

        Raises:
            RunError: If the model is at fault.
            ConfigError: If the request is at fault.
            LinkError: If the worker is at fault.
        """
        channel = self._channel
        if channel is None:
            raise LinkError("no worker runs", cure="load a model first")
        self._count += 1
        self._busy = True
        try:
            channel.send(json.dumps({**request, "id": self._count}).encode())
            line = channel.receive(timeout_s)
        except LinkError as error:
            if getattr(channel, "cut", False):  # it counts as killed, but the cause is the link's error
                self._drop()
                raise
            failure = self._post_mortem(channel, request["op"], name)
            self._drop()
            raise failure from error
        if line is None:
            self._drop()
            if name:
                raise RunError(
                    f"{name}: '{request['op']}' took more than {timeout_s:.0f} s", cure="the model is too slow here"
                )
            raise LinkError(f"the worker did not answer '{request['op']}' within {timeout_s:.0f} s", cure="try again")
        self._busy = False
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError as error:
            self._drop()
            raise LinkError(f"the worker sent something that is not JSON: {line[:80]!r}") from error
        if "error" in reply:
            raise self._refusal(str(reply["error"]), str(reply.get("kind")), name)
        if reply.get("id") != self._count:
            self._drop()
            raise LinkError(f"the worker answered request {reply.get('id')} instead of {self._count}", cure="try again")
        return reply

    def close(self) -> None:
        """End the worker: by a request when it is idle, else by killing it."""
        if self._channel is not None and self.is_serving(self._channel):
            with contextlib.suppress(LinkError):
                self.ask({"op": "bye"}, 2.0, "")
        self._drop()

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        self._busy = False
        self._pinged_s = 0.0
        if channel is not None:
            channel.kill()

    def _refusal(self, text: str, kind: str, name: str) -> DeepenError:
        where = f"{name}: " if name else ""
        short = text if len(text) <= 400 else text[:400] + " ..."
        if kind == "shape":
            return ConfigError(f"{where}{short} (--shape NAME=1x3x224x224)")
        if kind == "inputs":
            return ConfigError(f"{where}{short}", cure="give values that fit by --input NAME=VALUE or NAME=FILE.npy")
        if kind == "missing":
            return ConfigError(f"{where}{short}")
        if kind == "runtime":
            return ConfigError(f"{short}", cure=self._missing_cure)
        if kind == "memory":
            return RunError(f"{where}the device has too little memory for it ({short})")
        if kind == "fallback":
            return RunError(
                f"{where}{short}", cure="measure it on the CPU by name, or use a model the accelerator takes"
            )
        if kind == "model":
            return RunError(f"{where}{self.name} cannot run it: {short}")
        return LinkError(f"{where}the worker refused the request: {short}")

    @staticmethod
    def _post_mortem(channel: ProcessChannel, op: str, name: str) -> DeepenError:
        status = channel.exit_status()
        words = channel.last_words().splitlines()
        last = f" ({words[-1][:200]})" if words else ""
        if status is not None and status < 0:
            try:
                signame = signal.Signals(-status).name
            except ValueError:
                signame = f"signal {-status}"
            if name and signame in _FAULTS:
                return RunError(f"{name}: the runtime crashed with {signame} during '{op}'{last}")
            hint = "; often the system ran out of memory" if signame == "SIGKILL" else ""
            return LinkError(f"the worker was ended by {signame} during '{op}'{hint}{last}", cure="try again")
        return LinkError(f"the worker ended with status {status} during '{op}'{last}", cure="try again")
