"""An ordeal: a campaign on the bench that is killed, cut off and unplugged at seeded moments, then held to the truth.

The campaign is the real command, ``deepen dataset build``, in a process of its own; the bench's daemons, cables and
meters are struck from here. What counts afterwards is what a user has: records, processes, locks and files.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from deepen.bench.bench import VirtualBench
from deepen.bench.power_model import DevicePowerModel
from deepen.clock.host_clock import Deadline, monotonic_s
from deepen.devices import open_device
from deepen.errors import ConfigError, MeasureError
from deepen.measure.energy.uncertainty_budget import COVERAGE
from deepen.records import EnergyRecord

__all__ = [
    "CampaignFault",
    "FaultCampaign",
    "FaultCampaignReport",
    "FaultCampaignScope",
    "RecordComparison",
    "compare_with_model",
    "draw_campaign_faults",
    "is_lock_held",
    "select_families",
]

CampaignFaultKind = Literal["kill host", "restart device", "cut link", "unplug meter"]

_LOOK_S = 0.25
_LONGEST_DELAY_S = 3.0
_QUIET_S = 60.0
_TRIES = 4
_LEAST_FAMILY = 0.003
"""Families that make up less of every model's work are not worth kernels of a small campaign."""


@dataclass(frozen=True, slots=True)
class CampaignFault:
    """Something that goes wrong.

    Attributes:
        after: Once so many records are stored,
        delay_s: and so long after that, seconds: at any moment of whatever is measured then.
        kind: What happens.
        device: Number of the device it happens to; for ``kill host`` nobody's.
        out_s: How long it lasts, seconds.
    """

    after: int
    delay_s: float
    kind: CampaignFaultKind
    device: int = 0
    out_s: float = 0.0

    def __str__(self) -> str:
        whom = "" if self.kind == "kill host" else f" {self.device} for {self.out_s:.1f} s"
        return f"{self.kind}{whom}, {self.delay_s:.1f} s after record {self.after}"


def draw_campaign_faults(
    count: int, devices: int, seed: int, *, kills: int = 5, gone: int = 2, unplugged: int = 2
) -> tuple[CampaignFault, ...]:
    """Draw what goes wrong and when.

    Args:
        count: Records of the campaign.
        devices: Devices in it.
        seed: Seed.
        kills: Times the host's process is killed.
        gone: Times a device is gone: by turns its daemon is killed and its link is cut, on another device each time.
        unplugged: Times a meter is unplugged.
    """
    rng = random.Random(seed)
    kinds: list[CampaignFaultKind] = ["kill host"] * kills
    kinds += ["restart device" if n % 2 == 0 else "cut link" for n in range(gone)]
    kinds += ["unplug meter"] * unplugged
    if len(kinds) >= count:
        raise ConfigError(f"{count} records leave no room for {len(kinds)} strikes; measure more, or strike less")
    moments = sorted(rng.sample(range(count - 1), len(kinds)))
    first = rng.randrange(devices)
    turns: Counter[bool] = Counter()
    rng.shuffle(kinds)
    strikes = []
    for after, kind in zip(moments, kinds, strict=True):
        meter = kind == "unplug meter"
        whom = 0
        if kind != "kill host":
            whom = (first + turns[meter]) % devices
            turns[meter] += 1
        strikes.append(CampaignFault(after, rng.uniform(0, _LONGEST_DELAY_S), kind, whom, rng.uniform(1.0, 6.0)))
    return tuple(strikes)


@dataclass(frozen=True, slots=True)
class RecordComparison:
    """A record beside the truth, per copy.

    Attributes:
        name: Name of the kernel.
        measured_j: Measured net energy.
        standard_j: Its standard uncertainty.
        true_j: True net energy.
    """

    name: str
    measured_j: float
    standard_j: float
    true_j: float

    @property
    def error(self) -> float:
        """Error, a share of the truth."""
        return self.measured_j / self.true_j - 1

    @property
    def within(self) -> bool:
        """Whether the truth lies within the expanded uncertainty (about 95 %)."""
        return abs(self.measured_j - self.true_j) <= COVERAGE * self.standard_j

    @property
    def wrong(self) -> bool:
        """Whether the number is wrong: further from the truth than twice the expanded uncertainty, and than 2 %."""
        away = abs(self.measured_j - self.true_j)
        return away > 2 * COVERAGE * self.standard_j and away > 0.02 * self.true_j


def compare_with_model(record: EnergyRecord, model: DevicePowerModel) -> RecordComparison:
    """Hold a kernel's record against what the device's model says of its configuration, at the highest clock.

    Raises:
        GraphError: If the kernel cannot be built again.
    """
    from deepen.graph.load import load_graph_from_proto
    from deepen.kernels import build_kernel_model
    from deepen.kernels.splitting.split import split_graph

    kernels = split_graph(
        load_graph_from_proto(build_kernel_model(record.family, dict(record.params), weights=False))
    ).kernels
    one_j = sum(model.kernel_j(kernel) for kernel in kernels)
    return RecordComparison(record.name, record.energy_j, record.uncertainty_j, one_j + model.run_j / record.copies)


def select_families(models: Sequence[tuple[Path, Mapping[str, tuple[int, ...]]]], model: DevicePowerModel) -> list[str]:
    """Families of kernels that matter in model files, by name.

    Raises:
        GraphError: If a file cannot be split.
    """
    from deepen import graph
    from deepen.kernels.splitting.split import split_graph

    found: set[str] = set()
    for path, shapes in models:
        spent: Counter[str] = Counter()
        for kernel in split_graph(graph.load_graph(path, dict(shapes) or None)).kernels:
            spent[kernel.family] += model.kernel_j(kernel)  # type: ignore[assignment]  # joules are no whole numbers
        whole = sum(spent.values())
        found |= {family for family, joules in spent.items() if joules >= _LEAST_FAMILY * whole}
    return sorted(found)


@dataclass(frozen=True, slots=True)
class FaultCampaignReport:
    """What an ordeal has shown.

    Attributes:
        records: Records in the dataset.
        missing: Names of kernels without one.
        repeated: Names of kernels with more than one.
        compared: Every record beside the truth.
        struck: What went wrong, in order.
        starts: Times the command was started.
        codes: Exit codes of the command, in order; -9 where it was killed.
        left: Processes, locks and files that were left behind.
        elapsed_s: Duration.
    """

    records: int
    missing: tuple[str, ...]
    repeated: tuple[str, ...]
    compared: tuple[RecordComparison, ...]
    injected_faults: tuple[CampaignFault, ...]
    starts: int
    codes: tuple[int, ...]
    left: tuple[str, ...]
    elapsed_s: float

    @property
    def wrong(self) -> tuple[RecordComparison, ...]:
        """Records whose number is wrong."""
        return tuple(one for one in self.compared if one.wrong)

    @property
    def passed(self) -> bool:
        """Whether every record is there exactly once, no number is wrong, and nothing was left behind."""
        return not (self.missing or self.repeated or self.wrong or self.left)


@dataclass(frozen=True, slots=True)
class FaultCampaignScope:
    """What a campaign of an ordeal measures.

    Attributes:
        count: Kernels.
        families: Their families.
        seed: Seed of sample, order and inputs.
        exclude: Models whose kernel configurations are left out.
        runtimes: Inference engines.
        max_macs: Largest kernel.
    """

    count: int
    families: tuple[str, ...]
    seed: int = 0
    exclude: tuple[Path, ...] = ()
    runtimes: tuple[str, ...] = ("onnxruntime",)
    max_macs: int | None = None

    def arguments(self) -> list[str]:
        """Options of ``deepen dataset build``."""
        words = ["--count", str(self.count), "--seed", str(self.seed), "--family", ",".join(self.families)]
        words += [word for path in self.exclude for word in ("--exclude", str(path))]
        words += [word for name in self.runtimes for word in ("--runtime", name)]
        return words if self.max_macs is None else [*words, "--max-macs", str(self.max_macs)]


@dataclass
class FaultCampaign:
    """Runs a campaign through its strikes.

    Attributes:
        bench: The bench; its devices are up.
        folder: A new folder for the dataset (``dataset``), the log (``log``) and everything the command keeps.
        aim: What is measured.
        strikes: What goes wrong.
        say: Told what happens.
        patience_s: Longest time for all of it, seconds.
    """

    bench: VirtualBench
    folder: Path
    aim: FaultCampaignScope
    strikes: tuple[CampaignFault, ...]
    say: Callable[[str], None] = lambda text: None
    patience_s: float = 3600.0
    _codes: list[int] = field(default_factory=list)

    @property
    def dataset(self) -> Path:
        """Folder of the records."""
        return self.folder / "dataset"

    def run(self) -> FaultCampaignReport:
        """Measure, strike, start again until the campaign says it is through; then look at what there is.

        Raises:
            MeasureError: If it does not come to an end, or fails again and again.
        """
        for name in ("tmp", "run", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "run").chmod(0o700)
        started_s, deadline = monotonic_s(), Deadline(self.patience_s)
        left = list(self.strikes)
        process: subprocess.Popen[bytes] | None = None
        try:
            while not self._codes or self._codes[-1] != 0 or left:
                if deadline.expired:
                    raise MeasureError(f"no end after {self.patience_s:.0f} s; see {self.folder / 'log'}")
                if process is None:
                    process = self._start()
                code = process.poll()
                if code is not None:
                    self.say(f"the command ended by itself with {code}")
                    self._codes.append(code)
                    process = None
                    if code == 0:
                        break
                    if self._codes[-_TRIES:] == [code] * _TRIES:
                        raise MeasureError(f"{_TRIES} times in a row it ended with {code}: {self._last_words()}")
                    continue
                if left and self._stored() >= left[0].after:
                    time.sleep(left[0].delay_s)
                    process = self._strike(left.pop(0), process)
                time.sleep(_LOOK_S)
        finally:
            if process is not None:
                process.kill()
                process.wait()
        if left:
            self.say(f"{len(left)} strikes never came: the campaign was through before")
        return self._verdict(tuple(s for s in self.strikes if s not in left), monotonic_s() - started_s)

    # ---- the command ------------------------------------------------------------------------------------------------

    def _start(self) -> subprocess.Popen[bytes]:
        pairs = [word for device in self.bench.devices for word in ("--on", f"{device.spec},{device.meter}")]
        command = [sys.executable, "-m", "deepen", "dataset", "build", "--out", str(self.dataset), "--json"]
        variables = {name: value for device in self.bench.devices for name, value in device.environment.items()}
        kept = {"TMPDIR": "tmp", "XDG_RUNTIME_DIR": "run", "DEEPEN_STATE": "state"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *self.aim.arguments(), *pairs],
                env={
                    **os.environ,
                    **variables,
                    **{name: str(self.folder / place) for name, place in kept.items()},
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _last_words(self) -> str:
        lines = (self.folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1][:500] if lines else "it said nothing"

    def _stored(self) -> int:
        return len(self._records()) if (self.dataset / "records.db").exists() else 0

    def _records(self) -> list[EnergyRecord]:
        from deepen.datasets import Dataset

        return Dataset.open(self.dataset).records()

    def _strike(self, strike: CampaignFault, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes] | None:
        self.say(str(strike))
        if strike.kind == "kill host":
            process.send_signal(signal.SIGKILL)  # the command alone: what it has started must end by itself
            self._codes.append(process.wait())
            return None
        device = self.bench.devices[strike.device]
        if strike.kind == "restart device":
            device.restart(strike.out_s)
        elif strike.kind == "cut link":
            device.cut(strike.out_s)
        else:
            device.unplug()
            time.sleep(strike.out_s)
            device.plug()
        return process

    # ---- what is there afterwards -----------------------------------------------------------------------------------

    def _verdict(self, struck: tuple[CampaignFault, ...], elapsed_s: float) -> FaultCampaignReport:
        from deepen.campaign.plan import CampaignPlan, KernelItem
        from deepen.kernels.types import hash_params

        records = self._records()
        wanted = {
            (item.key, runtime): item.name
            for item in CampaignPlan.load(self.dataset / "plan.json").items
            if isinstance(item, KernelItem)
            for runtime in self.aim.runtimes
        }
        found = Counter((hash_params(r.family, r.params), r.runtime) for r in records)
        model = self.bench.devices[0].player.model
        return FaultCampaignReport(
            records=len(records),
            missing=tuple(name for key, name in wanted.items() if not found[key]),
            repeated=tuple(wanted.get(key, str(key)) for key, times in found.items() if times > 1 or key not in wanted),
            compared=tuple(compare_with_model(record, model) for record in records),
            injected_faults=struck,
            starts=len(self._codes),
            codes=tuple(self._codes),
            left=tuple(self._left()),
            elapsed_s=elapsed_s,
        )

    def _left(self) -> list[str]:
        """What the campaign has left behind, once everything had time to end."""
        deadline = Deadline(_QUIET_S)
        while (found := self._processes()) and not deadline.expired:
            time.sleep(_LOOK_S)
        found += [f"lock {path.name} is held" for path in (self.folder / "run").rglob("*.lock") if is_lock_held(path)]
        found += [f"temporary file {path.name}" for path in (self.folder / "tmp").glob("deepen-*")]
        found += [f"setting to give back: {path.name}" for path in (self.folder / "state").rglob("*.jsonl")]
        if (self.dataset / ".work").exists():
            found.append("the campaign's work folder")
        for device in self.bench.devices:
            if device.list_leftover_files():
                open_device(device.spec).close()  # what died with a device goes with the next connection
            while (jobs := device.list_leftover_files()) and not deadline.expired:
                time.sleep(_LOOK_S)
            found += [f"on {device.link}: {name}" for name in jobs]
        return found

    def _processes(self) -> list[str]:
        """Runners on the devices, and processes of this host that know the ordeal's folder."""
        found = [f"runner {pid} on {device.link}" for device in self.bench.devices for pid in device.player.proxies()]
        for file in Path("/proc").glob("[0-9]*/environ"):
            try:
                known = str(self.folder).encode() in file.read_bytes()
            except OSError:
                continue
            if known and int(file.parent.name) != os.getpid():
                found.append(f"process {file.parent.name}")
        return found


def is_lock_held(path: Path) -> bool:
    """Whether somebody holds a lock file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
