"""Importer of layers and whole networks on a server CPU: the tables of dl-energy-estimator.

::

    layers_LAYER.csv                   one random layer per row: sizes, cpu_energy (kWh per forward pass), duration, ...
    NN_architectures-layerwise-raw.csv networks and their layers, one run of many forward passes per row
    NN_architectures-raw.csv           whole networks, likewise

PyTorch without fusion on two Xeon Gold 5120, about 30 s of forward passes per run; energies by CodeCarbon. Only
``cpu_energy`` is used: it was read from the processors' counters (RAPL), while the share of the memory is a constant
288.75 W and the GPU was idle. In the tables of layers it is per forward pass and already a mean over repeats
(``rep_no`` is the mean of 1..n); in those of networks it is the total of a run, and repeats are joined here.

Networks are those of torchvision at 224 x 224 with 1000 classes, so batch and name determine them. Dropout has no
effect at inference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from deepen.datasets.importers.base import (
    ImportNote,
    ImportResult,
    SourceMetadata,
    SourceRow,
    describe_misfit,
    make_kernel_record,
    make_model_record,
    parse_number,
)  # fmt: skip
from deepen.datasets.stored_features import make_model_kernel
from deepen.errors import ConfigError, DatasetError
from deepen.kernels.building.kernel_from_parameters import make_kernel_from_params
from deepen.records import EnergyRecord
from deepen.tables import read_csv_rows

__all__ = ["read"]

KWH_J = 3.6e6

ORIGIN = SourceMetadata(
    device="2x-xeon-gold-5120", meter="rapl", runtime="pytorch", runtime_build="pytorch eager cpu float32", threads=28,
    gross=True,
)  # fmt: skip
"""Two sockets of 14 cores; PyTorch takes one thread per physical core."""

FACTOR = 1.5
"""Largest plausible ratio of a run's power to the median, in either direction: both sockets were always busy."""

_PROJECT = re.compile(
    r"module:(?P<module>\w+),rep_no:(?P<repeat>\d+),macs:(?P<macs>\d+),batch_size:(?P<batch>\d+),"
    r"freeText:architecture=(?P<net>\w+);layer_idx=(?P<layer>\d+),forward_passes:(?P<passes>\d+)"
)

_Module = tuple[str, str, dict[str, Any]]
"""PyTorch module, family, parameters; the family is empty for a module without effect."""

_VGG = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}
"""Channels of the convolutions, M for a max pooling: table 1 of Simonyan and Zisserman (2015)."""


def read(folder: Path) -> ImportResult:
    """Read the folder.

    Raises:
        DatasetError: If it holds none of the tables, or a table is damaged.
    """
    layers = sorted(folder.glob("layers_*.csv"))
    networks = sorted(folder.glob("*architectures*-raw.csv"))
    if not layers and not networks:
        raise DatasetError(f"{folder}: no layers_*.csv and no *architectures*-raw.csv there; give the folder with them")
    runs: list[_RepeatedMeasurement] = []
    rejected: list[ImportNote] = []
    for path in layers:
        for run in _read_layers(path):
            (rejected.append(run) if isinstance(run, ImportNote) else runs.append(run))
    for path in networks:
        for run in _read_networks(path):
            (rejected.append(run) if isinstance(run, ImportNote) else runs.append(run))
    return _make_records(runs, rejected)


@dataclass(slots=True)
class _RepeatedMeasurement:
    """Repeats of one measurement.

    Attributes:
        id: Name in the source.
        name: Readable name.
        energies_j: Energy per forward pass of each repeat.
        latencies_s: Duration per forward pass of each repeat.
        passes: Forward passes of all.
        module: Family and parameters of a layer; empty for a network.
        parts: Layers of a network.
    """

    id: str
    name: str
    energies_j: list[float]
    latencies_s: list[float]
    passes: float
    module: _Module | None = None
    parts: Sequence[_Module] = field(default=())


def _make_records(runs: Sequence[_RepeatedMeasurement], rejected: list[ImportNote]) -> ImportResult:
    powers = [e / t for run in runs for e, t in zip(run.energies_j, run.latencies_s, strict=True)]
    middle = median(powers) if powers else math.nan
    records: list[EnergyRecord] = []
    for run in runs:
        wrong = [e / t for e, t in zip(run.energies_j, run.latencies_s, strict=True)
                 if not middle / FACTOR <= e / t <= middle * FACTOR]  # fmt: skip
        if wrong:
            text = (
                f"power is {wrong[0]:.3g} W where all runs have about {middle:.3g} W: the energy counter was not read"
            )
            rejected.append(ImportNote(run.id, f"{text} through the whole run"))
            continue
        several = len(run.energies_j) > 1
        spread = stdev(run.energies_j) / math.sqrt(len(run.energies_j)) if several else math.nan
        row = SourceRow(
            run.id, run.name, fmean(run.energies_j), fmean(run.latencies_s), spread_j=spread,
            trials=tuple(run.energies_j) if several else (), runs=round(run.passes),
        )  # fmt: skip
        if run.module is None:
            parts = [
                make_model_kernel(make_kernel_from_params(family, params)) for _, family, params in run.parts if family
            ]
            records.append(make_model_record(row, ORIGIN, parts))
            continue
        _, family, params = run.module
        if not family:
            rejected.append(ImportNote(run.id, "Dropout does nothing at inference: no kernel runs"))
            continue
        try:
            records.append(make_kernel_record(row, ORIGIN, family, params))
        except ConfigError as error:
            rejected.append(ImportNote(run.id, describe_misfit(error)))
    return ImportResult(tuple(records), (), tuple(rejected))


def _read_layers(path: Path) -> Iterator[_RepeatedMeasurement | ImportNote]:
    """Read the rows of a table of random layers."""
    kind = path.stem.removeprefix("layers_")
    for line, row in read_csv_rows(path, ("batch_size", "cpu_energy", "duration", "forward_passes"))[1]:
        name = f"{path.stem}-{line - 1}"
        energy_j, passes = parse_number(row["cpu_energy"]) * KWH_J, parse_number(row["forward_passes"])
        latency_s = parse_number(row["duration"]) / passes if passes > 0 else math.nan
        if not (energy_j > 0 and latency_s > 0 and math.isfinite(energy_j) and math.isfinite(latency_s)):
            yield ImportNote(name, f"line {line} has no positive energy, duration and number of forward passes")
            continue
        try:
            family, params = _convert_layer(kind, row)
        except ConfigError as error:
            yield ImportNote(name, describe_misfit(error))
            continue
        # rep_no is the mean of 1..n over the repeats joined in the row
        repeats = max(round(2 * parse_number(row.get("rep_no")) - 1), 1) if row.get("rep_no") else 1
        label = f"random {kind} {line - 1}"
        yield _RepeatedMeasurement(name, label, [energy_j], [latency_s], passes * repeats, (kind, family, params))


def _convert_layer(kind: str, row: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Convert a random layer to family and parameters."""

    def size(name: str) -> int:
        value = parse_number(row.get(name))
        if not value == round(value):
            raise ConfigError(f"{name} is '{row.get(name, '')}', not a whole number")
        return round(value)

    batch = size("batch_size")
    match kind:
        case "conv2d":
            return "conv-bn-relu", _make_conv_params(
                batch, size("in_channels"), size("out_channels"), size("image_size"), size("kernel_size"),
                size("stride"), size("padding"),
            )  # fmt: skip
        case "maxpool2d":
            side, window = size("image_size"), size("kernel_size")
            return "maxpool", _make_pool_params(
                batch, size("in_channels"), side, window, size("stride"), size("padding")
            )
        case "linear":
            return "fc", _make_linear_params(batch, size("input_size"), size("output_size"))
        case "relu":
            return "relu", {"shape": [batch, size("input_size")]}
        case "sigmoid" | "tanh":
            return "elementwise", {"op": kind.capitalize(), "shape": [batch, size("input_size")]}
        case "softmax":
            return "softmax", {"shape": [batch, size("input_size")], "axis": 1}
        case _:
            raise ConfigError(f"no layer '{kind}'")


def _make_conv_params(
    batch: int, c_in: int, c_out: int, side: int, kernel: int, stride: int, pad: int
) -> dict[str, Any]:
    return {
        "batch": batch, "c_in": c_in, "c_out": c_out, "spatial": [side, side], "kernel": [kernel] * 2,
        "stride": [stride] * 2, "dilation": [1, 1], "pads": [pad] * 4, "bias": True,
    }  # fmt: skip


def _make_pool_params(batch: int, channels: int, side: int, kernel: int, stride: int, pad: int = 0) -> dict[str, Any]:
    return {
        "batch": batch, "c": channels, "spatial": [side, side], "kernel": [kernel] * 2, "stride": [stride] * 2,
        "dilation": [1, 1], "pads": [pad] * 4,
    }  # fmt: skip


def _make_linear_params(batch: int, k: int, n: int) -> dict[str, Any]:
    return {"m": batch, "k": k, "n": n, "bias": True, "trans_b": True}


def _read_networks(path: Path) -> Iterator[_RepeatedMeasurement | ImportNote]:
    """Read the rows of a table of networks and their layers, repeats joined."""
    found: dict[tuple[str, int, int], _RepeatedMeasurement] = {}
    known: dict[tuple[str, int], list[_Module]] = {}
    for line, row in read_csv_rows(path, ("project_name", "cpu_energy", "duration"))[1]:
        match = _PROJECT.fullmatch(row["project_name"])
        name = f"{path.stem}-{line - 1}"
        if match is None:
            yield ImportNote(name, f"line {line}: project_name does not say what ran")
            continue
        net, batch, layer, passes = match["net"], int(match["batch"]), int(match["layer"]), int(match["passes"])
        energy_j, seconds = parse_number(row["cpu_energy"]) * KWH_J, parse_number(row["duration"])
        if not (passes > 0 and energy_j > 0 and seconds > 0):
            yield ImportNote(name, f"line {line} has no positive energy, duration and number of forward passes")
            continue
        try:
            modules = known.setdefault((net, batch), _list_modules(net, batch))
        except ConfigError as error:
            yield ImportNote(name, str(error))
            continue
        if layer > len(modules) or (layer and modules[layer - 1][0] != match["module"]):
            yield ImportNote(name, f"layer {layer} of {net} is no {match['module']}: another version of the network")
            continue
        key = net, batch, layer
        if key not in found:
            about = f"{net} batch {batch}" + (f" layer {layer} {match['module']}" if layer else "")
            label = f"{path.stem}-{net}-{batch}-{layer}"
            found[key] = _RepeatedMeasurement(
                label, about, [], [], 0, modules[layer - 1] if layer else None, () if layer else tuple(modules)
            )  # fmt: skip
        run = found[key]
        run.energies_j.append(energy_j / passes)
        run.latencies_s.append(seconds / passes)
        run.passes += passes
    yield from found.values()


def _list_modules(net: str, batch: int) -> list[_Module]:
    """List the modules of a network in order, as torchvision defines them.

    Raises:
        ConfigError: If the network is not known.
    """
    maker = _TorchNetworkBuilder(batch)
    if net == "alexnet":  # Krizhevsky, "One weird trick" (2014), as torchvision has it
        for c_out, kernel, stride, pad, pooled in (
            (64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):  # fmt: skip
            maker.conv(c_out, kernel, stride, pad)
            maker.relu()
            if pooled:
                maker.pool(3, 2)
        maker.flatten(6)
        for units in (4096, 4096):
            maker.dropout()
            maker.linear(units)
            maker.relu()
        maker.linear(1000)
    elif net in _VGG:
        for word in _VGG[net].split():
            if word == "M":
                maker.pool(2, 2)
            else:
                maker.conv(int(word), 3, 1, 1)
                maker.relu()
        maker.flatten(7)
        for units in (4096, 4096):
            maker.linear(units)
            maker.relu()
            maker.dropout()
        maker.linear(1000)
    else:
        raise ConfigError(f"no network '{net}' is known; known are alexnet, {', '.join(_VGG)}")
    return maker.modules


class _TorchNetworkBuilder:
    """Modules of a network under construction."""

    def __init__(self, batch: int) -> None:
        self.modules: list[_Module] = []
        self._batch, self._channels, self._side = batch, 3, 224

    def conv(self, c_out: int, kernel: int, stride: int, pad: int) -> None:
        params = _make_conv_params(self._batch, self._channels, c_out, self._side, kernel, stride, pad)
        self.modules.append(("Conv2d", "conv-bn-relu", params))
        self._channels, self._side = c_out, (self._side + 2 * pad - kernel) // stride + 1

    def relu(self) -> None:
        shape = [self._batch, self._channels] + ([self._side] * 2 if self._side else [])
        self.modules.append(("ReLU", "relu", {"shape": shape}))

    def pool(self, kernel: int, stride: int) -> None:
        params = _make_pool_params(self._batch, self._channels, self._side, kernel, stride)
        self.modules.append(("MaxPool2d", "maxpool", params))
        self._side = (self._side - kernel) // stride + 1

    def flatten(self, side: int) -> None:
        """Adaptive average pooling to the size it has (one element per bin), then a view."""
        if side != self._side:
            raise ConfigError(f"the network ends in {self._side} pixels, not {side}")
        params = _make_pool_params(self._batch, self._channels, side, 1, 1)
        self.modules.append(("AdaptiveAvgPool2d", "avgpool", params))
        self._channels, self._side = self._channels * side * side, 0

    def dropout(self) -> None:
        self.modules.append(("Dropout", "", {}))

    def linear(self, units: int) -> None:
        self.modules.append(("Linear", "fc", _make_linear_params(self._batch, self._channels, units)))
        self._channels = units
