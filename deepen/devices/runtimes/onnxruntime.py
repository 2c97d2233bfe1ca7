"""ONNX Runtime on a device, through the portable runner (``devices/runner/runner.py``).

One worker process serves a whole session, so packages are imported once. Every request has a deadline. What went wrong
is told apart:

* the runner answers with an error: ``RunError`` (the model), or ``ConfigError`` (a missing file, an open shape);
* the worker dies of a fault of its own code (SIGSEGV, SIGABRT, SIGILL, SIGFPE, SIGBUS) while it loads or runs a model,
  or a model exceeds its deadline: ``RunError``; the next load starts a fresh worker;
* the worker ends in any other way: ``LinkError``, which may be retried.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen import catalog
from deepen.devices.links.local import on_main_thread
from deepen.devices.state import usable_cores
from deepen.errors import ConfigError, DeepenError, LinkError, RunError
from deepen.records import Interval

if TYPE_CHECKING:
    from deepen.devices.protocols import Channel, Link

__all__ = ["OnnxLoaded", "OnnxRuntime"]

_FAULTS = {"SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "SIGBUS"}
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class OnnxLoaded:
    """A model loaded in the worker."""

    def __init__(self, runtime: OnnxRuntime, channel: Channel, reply: Mapping[str, Any], name: str) -> None:
        """Take over a handle the worker has just answered with."""
        self._runtime = runtime
        self._channel = channel
        self._handle = int(reply["handle"])
        self._expected_s = float(reply["first_run_s"])
        self._name = name
        self._open = True
        self.build = str(reply["build"])
        self.inputs: list[dict[str, Any]] = list(reply["inputs"])
        self.outputs: list[dict[str, Any]] = list(reply["outputs"])

    @property
    def alive(self) -> bool:
        """Whether the model is still loaded."""
        return self._open and self._runtime.serves(self._channel)

    @property
    def first_run_s(self) -> float:
        """Duration of the run made while loading, seconds."""
        return self._expected_s

    def run(self, n: int) -> Interval:
        """Run n inferences back to back.

        Raises:
            RunError: If the model fails, crashes the worker or takes far longer than before.
            LinkError: If the worker is gone.
        """
        if n < 1:
            raise ConfigError(f"a block needs at least one run, not {n}")
        if not self.alive:
            raise LinkError(f"{self._name}: its worker has ended; load it again")
        timeout_s = self._runtime.run_timeout_s + 20 * n * self._expected_s
        reply = self._runtime.ask({"op": "run", "handle": self._handle, "n": n}, timeout_s, self._name)
        return Interval(
            start_s=reply["start_ns"] / 1e9,
            end_s=reply["end_ns"] / 1e9,
            label="run",
            runs=n,
            cpu_s=reply["cpu_ns"] / 1e9,
        )

    def close(self) -> None:
        """Unload the model."""
        if self.alive:
            self._runtime.ask({"op": "unload", "handle": self._handle}, self._runtime.run_timeout_s, "")
        self._open = False


class OnnxRuntime:
    """ONNX Runtime behind a link."""

    name = "onnxruntime"
    _missing_cure = "install it: pip install onnxruntime"

    def __init__(
        self,
        link: Link,
        *,
        cpu_mask: Sequence[int] = (),
        level: str = "extended",
        python: str = sys.executable,
        hello_timeout_s: float = 120.0,
        load_timeout_s: float = 300.0,
        run_timeout_s: float = 120.0,
    ) -> None:
        """Describe the runtime; the worker starts with the first load.

        Args:
            link: How to reach the device.
            cpu_mask: Cores to run on, one per thread; empty for the last usable ones.
            level: Graph optimisation level: disable, basic, extended or all.
            python: Interpreter on the device.
            hello_timeout_s: Time a worker may take to start, seconds.
            load_timeout_s: Time a model may take to load and run once, seconds.
            run_timeout_s: Time granted to a block on top of twenty times what its runs should take, seconds.
        """
        self._link = link
        self._mask = tuple(cpu_mask)
        self._level = level
        self._python = python
        self._hello_timeout_s = hello_timeout_s
        self._load_timeout_s = load_timeout_s
        self.run_timeout_s = run_timeout_s
        self._channel: Channel | None = None
        self._count = 0
        self._busy = False
        self.versions: dict[str, Any] = {}

    @property
    def pid(self) -> int | None:
        """The worker's process id; ``None`` while there is none."""
        return None if self._channel is None else self._channel.pid

    def serves(self, channel: Channel) -> bool:
        """Whether a channel is the worker's current one, the worker runs, and no request was left unanswered."""
        return self._channel is channel and not self._busy and channel.exit_status() is None

    def start(self) -> None:
        """Start the worker unless it runs.

        Raises:
            LinkError: If it cannot be started or does not answer.
            ConfigError: If ONNX Runtime is not installed there.
        """
        if self._channel is not None and self.serves(self._channel):
            return
        self._drop()
        argv = self._command()
        if on_main_thread():
            argv += ["--parent", str(os.getpid())]
        self._channel = self._link.spawn(argv, _QUIET)
        self.versions = self.ask({"op": "hello"}, self._hello_timeout_s, "")
        if self.versions.get("protocol") != 1:
            self._drop()
            raise LinkError(f"the runner speaks protocol {self.versions.get('protocol')}, not 1; use the one shipped")

    def _command(self) -> list[str]:
        """Bring the runner to the device; returns how it is started there."""
        return [self._python, self._link.push(catalog.path("devices", "runner", "runner.py"))]

    def _check(self, path: Path) -> None:
        """Refuse files the runner cannot load."""
        if path.suffix.lower() in (".tflite", ".lite"):
            raise ConfigError(f"{path.name}: this version measures .onnx models only; convert it to ONNX")

    def cores(self, threads: int) -> tuple[int, ...]:
        """Choose one core per thread: the mask's first ones, else the last usable ones; empty where not possible.

        Raises:
            ConfigError: If there are fewer cores than threads.
        """
        usable = usable_cores()
        chosen = self._mask[:threads] if self._mask else usable[-threads:]
        if len(chosen) < threads:
            where = f"cpu_mask {list(self._mask)}" if self._mask else f"the {len(usable)} usable cores"
            raise ConfigError(f"{threads} threads need as many cores; {where} are fewer: lower --threads")
        missing = sorted(set(chosen) - set(usable))
        if missing:
            raise ConfigError(f"core {missing[0]} of cpu_mask is not usable here; usable: {list(usable)}")
        return chosen if hasattr(os, "sched_setaffinity") else ()

    def load(
        self, path: Path, *, threads: int = 1, shapes: Mapping[str, Sequence[int]] | None = None, seed: int = 0
    ) -> OnnxLoaded:
        """Load a model and run it once.

        Args:
            path: The ONNX file.
            threads: Intra-operator threads, each on a core of its own.
            shapes: Shapes of inputs that leave dimensions open, by input name.
            seed: Seed of the input values.

        Raises:
            ConfigError: If the file is missing, an input needs a shape, or there are too few cores.
            RunError: If the model cannot be loaded or run.
            LinkError: If the worker is gone or cannot be started.
        """
        self._check(path)
        if not path.is_file():
            raise ConfigError(f"no such model file: {path}")
        cores = self.cores(threads)
        self.start()
        request = {
            "op": "load",
            "path": self._link.push(path),
            "threads": threads,
            "level": self._level,
            "cpus": list(cores),
            "shapes": {k: [int(d) for d in v] for k, v in (shapes or {}).items()},
            "seed": seed,
        }
        reply = self.ask(request, self._load_timeout_s, path.name)
        if self._channel is None:
            raise LinkError("the worker ended while it loaded a model; try again")
        return OnnxLoaded(self, self._channel, reply, path.name)

    def ask(self, request: dict[str, Any], timeout_s: float, name: str) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Args:
            request: Operation and arguments.
            timeout_s: Seconds to wait; the worker is killed when they pass.
            name: Model the request is about, for messages; empty for none.

        Raises:
            RunError: If the model is to blame.
            ConfigError: If the request is.
            LinkError: If the worker is.
        """
        channel = self._channel
        if channel is None:
            raise LinkError("no worker runs; load a model first")
        self._count += 1
        self._busy = True
        try:
            channel.send(json.dumps({**request, "id": self._count}).encode())
            line = channel.receive(timeout_s)
        except LinkError as error:
            failure = self._post_mortem(channel, request["op"], name)
            self._drop()
            raise failure from error
        if line is None:
            self._drop()
            if name:
                raise RunError(
                    f"{name}: '{request['op']}' took more than {timeout_s:.0f} s; the model is too slow here"
                )
            raise LinkError(f"the worker did not answer '{request['op']}' within {timeout_s:.0f} s; try again")
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
            raise LinkError(f"the worker answered request {reply.get('id')} instead of {self._count}; try again")
        return reply

    def close(self) -> None:
        """End the worker: politely when it is idle, else at once."""
        if self._channel is not None and self.serves(self._channel):
            with contextlib.suppress(LinkError):
                self.ask({"op": "bye"}, 2.0, "")
        self._drop()

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        self._busy = False
        if channel is not None:
            channel.kill()

    def _refusal(self, text: str, kind: str, name: str) -> DeepenError:
        where = f"{name}: " if name else ""
        short = text if len(text) <= 400 else text[:400] + " ..."
        if kind == "shape":
            return ConfigError(f"{where}{short} (--shape NAME=1x3x224x224)")
        if kind == "missing":
            return ConfigError(f"{where}{short}")
        if kind == "runtime":
            return ConfigError(f"{short}; {self._missing_cure}")
        if kind == "memory":
            return RunError(f"{where}the device has too little memory for it ({short})")
        if kind == "model":
            return RunError(f"{where}{self.name} cannot run it: {short}")
        return LinkError(f"{where}the worker refused the request: {short}")

    @staticmethod
    def _post_mortem(channel: Channel, op: str, name: str) -> DeepenError:
        status = channel.exit_status()
        words = channel.last_words().splitlines()
        last = f" ({words[-1][:200]})" if words else ""
        if status is not None and status < 0:
            signame = signal.Signals(-status).name
            if name and signame in _FAULTS:
                return RunError(f"{name}: the runtime crashed with {signame} during '{op}'{last}")
            hint = "; often the system ran out of memory" if signame == "SIGKILL" else ""
            return LinkError(f"the worker was ended by {signame} during '{op}'{hint}{last}; try again")
        return LinkError(f"the worker ended with status {status} during '{op}'{last}; try again")
