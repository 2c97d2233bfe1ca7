"""The virtual bench: devices behind real links, meters on pseudo-terminals, the true energy, and faults to inject."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from deepen.bench.daemons import BenchDaemon, start_adbd, start_sshd
from deepen.bench.player import BlockPlayer, PlayedBlock
from deepen.bench.power_model import DevicePowerModel
from deepen.clock.host_clock import monotonic_s
from deepen.devices.links.local import LocalLink, PipeChannel
from deepen.devices.local import LocalDevice
from deepen.errors import ConfigError
from deepen.records import EnergyRecord
from deepen.storage.temporary_folders import TemporaryFolder
from deepen.testing.instruments.base import Emulator
from deepen.testing.instruments.lvpm import LvpmEmulator
from deepen.testing.instruments.ppk2 import Ppk2Emulator
from deepen.testing.instruments.pty import ServedEmulator, serve_emulator
from deepen.testing.instruments.schedule import PowerSchedule

__all__ = ["LINKS", "METERS", "BenchDevice", "MeasurementWithTruth", "VirtualBench", "measure_with_truth"]

LinkKind = Literal["adb", "ssh", "local"]
MeterKind = Literal["lvpm", "ppk2"]
LINKS: tuple[LinkKind, ...] = ("adb", "ssh", "local")
METERS: tuple[MeterKind, ...] = ("lvpm", "ppk2")

CLOCK_OFFSET_S, CLOCK_PPM = 4321.0, 25.0
"""Clock of a device over SSH or ADB: offset from the host's (seconds) and drift (parts per million)."""

METER_PPM = -30.0
"""Error of the emulated meter's clock."""

MODEL_NAME = "virtual-bench"
"""Model name that a device over SSH or ADB reports."""

_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VOLTAGE_V: dict[MeterKind, float] = {"lvpm": 3.85, "ppk2": 4.2}
_NOISE_A: dict[MeterKind, float] = {"lvpm": 1e-3, "ppk2": 1e-3}
_PROXY = Path(__file__).with_name("runner_proxy.py")


def _make_emulator(kind: MeterKind, seed: int) -> tuple[Emulator, PowerSchedule]:
    signal = PowerSchedule()
    if kind == "lvpm":
        return LvpmEmulator(signal, ppm=METER_PPM, noise_a=_NOISE_A[kind], seed=seed), signal
    return Ppk2Emulator(signal, ppm=METER_PPM, noise_a=_NOISE_A[kind], seed=seed), signal


def _write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def _list_child_processes(parent: int) -> list[int]:
    """Return the ids of the direct child processes of a process."""
    found = []
    for task in Path(f"/proc/{parent}/task").glob("[0-9]*/children"):
        with suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found


class ProxiedLink(LocalLink):
    """This machine, with the runner behind the bench's proxy."""

    def __init__(self, proxy: Sequence[str]) -> None:
        """Take the command that runs the proxy."""
        super().__init__()
        self._proxy = tuple(proxy)

    def spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> PipeChannel:
        """Start a process behind the proxy."""
        return super().spawn([*self._proxy, *argv], env)


class ProxiedDevice(LocalDevice):
    """This machine as a device of the bench."""

    def __init__(self, proxy: Sequence[str]) -> None:
        """Take the command that runs the proxy."""
        super().__init__()
        self._link = ProxiedLink(proxy)


class BenchDevice:
    """One device of a bench with its own meter.

    Attributes:
        link: ``adb``, ``ssh`` or ``local``.
        spec: Value for ``--device``; empty for ``local``, which only :meth:`open` reaches.
        meter: Value for ``--meter``; stays the same when the meter is unplugged and plugged in again.
        environment: Environment variables that a command needs to use the device.
        player: Plays its blocks and keeps their true energy.
    """

    def __init__(
        self,
        folder: Path,
        link: LinkKind,
        meter: MeterKind,
        *,
        model: DevicePowerModel | None = None,
        frequency_hz: float | None = None,
        seed: int = 0,
    ) -> None:
        """Start its meter and, for ``adb`` and ``ssh``, its daemon; :meth:`close` ends them.

        Args:
            folder: A new folder for its files; its path must be short and without spaces.
            link: Kind of link that reaches it.
            meter: Kind of meter that measures it.
            model: Its power model; ``None`` for the standard one.
            frequency_hz: Highest operating point allowed.
            seed: Seed of the meter's noise.

        Raises:
            ConfigError: If something it needs is not installed; the message names it and the cure.
            LinkError, MeterError: If something does not start.
        """
        self.link: LinkKind = link
        self.meter_kind: MeterKind = meter
        self.environment: dict[str, str] = {}
        self.spec = ""
        self._folder = folder
        self._programs = folder / "bin"
        self._seed = seed
        self._daemon: BenchDaemon | None = None
        self._meter = ExitStack()
        self._stack = ExitStack()
        folder.mkdir(parents=True)
        try:
            self.player = BlockPlayer(
                folder / "player.sock", model or DevicePowerModel(), self._no_meter, frequency_hz=frequency_hz
            )
            self._stack.callback(self.player.close)
            self._stack.callback(self._meter.close)
            self.plug()
            self._write_commands()
            if link == "adb":
                self._start_adb()
            elif link == "ssh":
                self._start_ssh()
        except BaseException:
            self.close()
            raise

    # ---- the meter --------------------------------------------------------------------------------------------------

    @property
    def meter(self) -> str:
        """Value for ``--meter``."""
        mode = "&mode=source" if self.meter_kind == "ppk2" else ""
        return f"{self.meter_kind}:{self._folder / 'meter'}?voltage_v={_VOLTAGE_V[self.meter_kind]:g}{mode}"

    @property
    def served(self) -> ServedEmulator:
        """The emulator now running."""
        return self._served

    def plug(self) -> None:
        """Plug a meter in, under the same port name as before."""
        self._meter.close()
        emulator, signal = _make_emulator(self.meter_kind, self._seed)
        signal.plan(monotonic_s(), *self.player.rest_plan())
        self._served = self._meter.enter_context(serve_emulator(emulator))
        port = self._folder / "meter"
        port.unlink(missing_ok=True)
        port.symlink_to(self._served.path)
        self.player.plan = self._served.plan

    def unplug(self) -> None:
        """Pull the meter's cable: its port disappears at once, and the device keeps running."""
        self._served.unplug()

    @staticmethod
    def _no_meter(lead_s: float, durations_s: Sequence[float], levels_w: Sequence[float]) -> float:
        return monotonic_s() + lead_s

    # ---- the link ---------------------------------------------------------------------------------------------------

    def cut(self, out_s: float = 0.0) -> None:
        """Cut the link, and keep it cut for ``out_s`` seconds.

        Raises:
            ConfigError: If the device is local.
        """
        self._require_daemon().cable.cut(out_s)

    def restart(self, down_s: float = 0.0) -> None:
        """Kill the daemon with all its descendants, as a restart does; start it again after ``down_s`` seconds.

        Raises:
            ConfigError: If the device is local.
            LinkError: If it does not come back.
        """
        self._require_daemon().restart(down_s)

    def mend(self) -> None:
        """Restore a link that was cut."""
        self._require_daemon().cable.mend()

    def open(self) -> ProxiedDevice | str:
        """Return the device in the form that ``open_session`` and ``profile`` take."""
        return self.spec or ProxiedDevice(shlex.split(self._make_proxy_command()))

    def truth(self, model: str | None = None) -> list[PlayedBlock]:
        """Return the blocks played so far, of one model (a hash from ``BlockPlayer.key``) or of all."""
        return [b for b in self.player.blocks if model in (None, b.model)]

    def close(self) -> None:
        """Stop the daemon, the player and the meter."""
        if self._daemon is not None:
            self._daemon.close()
        self._stack.close()

    def _require_daemon(self) -> BenchDaemon:
        if self._daemon is None:
            raise ConfigError("a local device has no link that could be cut; use ssh or adb")
        return self._daemon

    def _make_proxy_command(self) -> str:
        """Return the shell words that run the proxy; a device over a link has a clock of its own."""
        clock = ("0", "0") if self.link == "local" else (f"{CLOCK_OFFSET_S:g}", f"{CLOCK_PPM:g}")
        return shlex.join([sys.executable, str(_PROXY), str(self.player.path), *clock])

    def _write_commands(self) -> None:
        """Write the device's programs: a Python that starts the runner through the proxy."""
        self._programs.mkdir()
        python = shlex.quote(sys.executable)
        case = (
            f'case "$1" in\n  */runner.py) exec {self._make_proxy_command()} {python} "$@" ;;\n'
            f'  *) exec {python} "$@" ;;\nesac\n'
        )
        for name in ("python3", "python"):
            _write_program(self._programs / name, case)
        self._write_identity()

    def _write_identity(self) -> None:
        """Write stand-ins for ``cat`` and ``uname`` that report the device's own name and serial number.

        All devices of a bench would otherwise report this machine's serial number and be taken for one device.
        """
        serial = hashlib.sha256(str(self._folder).encode()).hexdigest()[:32]
        path = f"PATH={_USUAL_PATH} exec"
        reply = f'[ "$#" -eq 1 ] && [ "$1" = /etc/machine-id ] && {{ echo {serial}; exit; }}'
        _write_program(self._programs / "cat", f'{reply}\n{path} cat "$@"\n')
        reply = f'[ "$#" -eq 1 ] && [ "$1" = -n ] && {{ echo {MODEL_NAME}; exit; }}'
        _write_program(self._programs / "uname", f'{reply}\n{path} uname "$@"\n')

    def use_c_runner(self) -> None:
        """Let ``crunner`` and ``crunner-litert`` go through the bench too, by :attr:`override_environment`.

        The device that :meth:`open` returns for ``local`` needs none of this.

        Raises:
            ConfigError: If the C runner cannot be built here.
        """
        from deepen.devices.runtimes.c_runner.build import build_runner
        from deepen.devices.runtimes.c_runner.runtime import find_installed_library

        script = self._programs / "crunner"
        proxy = self._make_proxy_command()
        find = ""
        if self.link != "local":
            # One variable names the runner for every device: each finds its own player beside its own programs, which
            # come first on its PATH; HOME would not do, because sshd and adbd set it differently.
            find = f"own=$(command -v uname)\nown=${{own%/{self._programs.name}/uname}}\n"
            proxy = proxy.replace(shlex.quote(str(self.player.path)), f'"$own/{self.player.path.name}"')
        _write_program(script, f'{find}exec {proxy} {shlex.quote(str(build_runner("native")))} "$@"\n')
        self.environment["DEEPEN_RUNNER"] = str(script)
        library = find_installed_library("onnxruntime", "capi/libonnxruntime.so*")
        if library is not None and self.link != "local":
            self.environment["DEEPEN_RUNNER_LIBRARY"] = str(library)

    def kill_runner(self) -> int:
        """Kill every runner now active on the device, as a system short of memory does; return their number."""
        victims = [pid for proxy in self.player.proxies() for pid in _list_child_processes(proxy)]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(victims)

    def list_leftover_files(self) -> list[str]:
        """List the files that running commands have left in the device's work folder."""
        return [f"jobs/{path.name}" for path in (self._folder / "work" / "jobs").glob("*")]

    def _path(self) -> str:
        return f"{self._programs}:{_USUAL_PATH}"

    def _start_ssh(self) -> None:
        self._daemon, key, known = start_sshd(self._folder, self._path())
        where = f"{getpass.getuser()}@127.0.0.1:{self._daemon.cable.port}"
        self.spec = f"ssh:{where}?key={key}&known_hosts={known}&work={self._folder / 'work'}"

    def _start_adb(self) -> None:
        key = self._folder / "adb_key"
        try:
            from adb_shell.auth.keygen import keygen
        except ImportError as error:
            raise ConfigError("the bench needs the package adb-shell for this: pip install 'deepen[adb]'") from error
        keygen(str(key))
        self._daemon = start_adbd(self._folder, self._path(), [key.with_name("adb_key.pub")])
        where = f"127.0.0.1:{self._daemon.cable.port}"
        self.spec = f"adb:{where}?via=direct&key={key}&work={self._folder / 'work'}"


class VirtualBench:
    """A context manager that holds virtual devices and removes their folder at the end.

    ::

        with VirtualBench() as bench:
            device = bench.add("ssh", "ppk2")
            record = deepen.measure.profile("model.onnx", device=device.open(), meter=device.meter)

    Attributes:
        devices: Devices added so far.
    """

    def __init__(self) -> None:
        """Make a bench without devices."""
        self.devices: list[BenchDevice] = []
        self._folder: Path | None = None
        self._scratch: TemporaryFolder | None = None
        self._count = 0  # includes devices that failed to start

    def __enter__(self) -> VirtualBench:
        """Make the folder, and remove one left by a bench that was killed."""
        self._scratch = TemporaryFolder("deepen-bench-")
        self._folder = self._scratch.path
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every device and remove the folder."""
        with ExitStack() as stack:
            if self._scratch is not None:
                stack.callback(self._scratch.close)
            for device in self.devices:
                stack.callback(device.close)

    def add(self, link: LinkKind, meter: MeterKind, **options: Any) -> BenchDevice:
        """Add a device; options are those of :class:`BenchDevice`."""
        if self._folder is None:
            raise ConfigError("the bench is not up; use it in a 'with' statement")
        self._count += 1
        device = BenchDevice(self._folder / f"d{self._count}", link, meter, **options)
        self.devices.append(device)
        return device


@dataclass(frozen=True, slots=True)
class MeasurementWithTruth:
    """A measurement on the bench together with the true energy.

    Attributes:
        record: The measurement.
        true_net_j: Energy of one inference without static power, joules.
        true_gross_j: Energy of one inference with static power, mean over the blocks, joules.
        blocks: Blocks of the model that were played.
        kernels: Kernels of the model with their true energy.
    """

    record: EnergyRecord
    true_net_j: float
    true_gross_j: float
    blocks: tuple[PlayedBlock, ...]
    kernels: tuple[Any, ...]

    @property
    def error(self) -> float:
        """Relative error of the measured net energy."""
        return self.record.energy_j / self.true_net_j - 1


def measure_with_truth(
    device: BenchDevice, path: str | Path, *, shapes: Mapping[str, tuple[int, ...]] | None = None, **options: Any
) -> MeasurementWithTruth:
    """Measure a model on a device of the bench, as ``deepen profile`` does, and look up the true energy.

    Args:
        device: The device.
        path: Model file.
        shapes: Shapes of open inputs.
        options: Further options of :func:`deepen.measure.profile`.

    Raises:
        DeepenError: As :func:`deepen.measure.profile`.
    """
    from deepen.measure import profile

    first = len(device.player.blocks)
    if str(options.get("runtime", "")).startswith("crunner") and device.spec:
        device.use_c_runner()
    with override_environment(device.environment):
        record = profile(path, device=device.open(), meter=device.meter, shapes=shapes, **options)
    key = BlockPlayer.key(Path(path), shapes or {})
    blocks = [b for b in device.player.blocks[first:] if b.model == key]
    runs = sum(b.runs for b in blocks)
    return MeasurementWithTruth(
        record,
        sum(b.net_j for b in blocks) / runs,
        sum(b.gross_j for b in blocks) / runs,
        tuple(blocks),
        device.player.costs[key],
    )


@contextmanager
def override_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a ``with`` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
