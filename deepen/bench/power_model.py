"""Power model of the virtual bench's device: an invented phone whose energy is known exactly.

The complete law:

* **Kernels.** One execution of a kernel takes ``launch_j + factor * (mac_j * macs + op_j * ops + byte_j * bytes)``
  joules at the highest operating point, bytes being those read and written; ``factor`` is the family's, from
  :data:`FACTORS`. It is multiplied by the kernel's ``multiplicity``. A run takes ``run_j`` in addition to its kernels.
* **Operating points.** At a lower point (frequency f, voltage V) the same work takes ``(V / V_top) ** 2`` of the energy
  and ``f_top / f`` of the time: the dynamic power of CMOS is proportional to ``V ** 2 * f``.
* **Static power** depends on the temperature T: ``static_w * (1 + leak_per_k * (T - 25 °C))``.
* **Temperature** follows power through one thermal resistance and one capacity:
  ``tau_s * dT/dt = ambient_c + kelvin_per_w * P - T``. Before each block, the device steps one operating point down
  if it is above ``throttle_c``, and one up if it is below ``throttle_c - 5``.
* **Time.** A block of runs lasts as long as the threads of the real runner computed for it (time in which the host gave
their cores to others does not count), times ``f_top / f``; where it would draw more than ``most_w`` above static
power, it is stretched to draw exactly that.

The orders of magnitude are those of a phone's processor; the numbers are not measurements of one. **Net energy**, with
which measurements are compared, is the energy of runs and kernels without static power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from deepen.kernels.types import Kernel

__all__ = [
    "FACTORS",
    "BlockPower",
    "DevicePowerModel",
    "KernelCost",
    "OperatingPoint",
    "ThermalSimulator",
    "compute_kernel_costs",
]

FACTORS: dict[str, float] = {
    "conv-bn-relu": 1.0,
    "dwconv-bn-relu": 2.6,
    "groupconv": 1.7,
    "convtranspose": 1.4,
    "fc": 1.2,
    "matmul": 1.1,
    "attention": 1.3,
    "qconv": 0.45,
    "qmatmul": 0.5,
    "global-avgpool": 0.8,
    "concat": 0.9,
    "softmax": 1.5,
    "layernorm": 1.3,
}
"""Energy factor of each kernel family; 1 for all others."""

REFERENCE_C = 25.0
HYSTERESIS_K = 5.0
MOST_PIECES = 4000
"""Largest number of power steps in a block; one that needs more is played at its mean power."""
COOLING_STEPS = 24
FLATTEN = 0.7
"""Share of a run's time divided among its kernels by energy, the rest by work: no kernel draws more than ``1 / 0.7``
of the mean power."""


@dataclass(frozen=True, slots=True)
class KernelCost:
    """The cost of one kernel in one inference.

    Attributes:
        name: Name of the kernel.
        family: Its family.
        energy_j: Energy at the highest operating point, joules.
        work: Weight of its share of the run's time; no unit.
    """

    name: str
    family: str
    energy_j: float
    work: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A frequency with its voltage."""

    frequency_hz: float
    volts: float


@dataclass(frozen=True, slots=True)
class DevicePowerModel:
    """Parameters of the device; the module docstring has the law.

    Attributes:
        static_w: Power at rest at 25 °C, watts.
        leak_per_k: Change of static power per kelvin, a share.
        launch_j: Energy of starting a kernel, joules.
        run_j: Energy of starting a run, joules.
        mac_j: Energy per multiply-accumulate, joules.
        op_j: Energy per other operation, joules.
        byte_j: Energy per byte read or written, joules.
        points: Operating points, from the slowest to the fastest.
        ambient_c: Ambient temperature, degrees Celsius.
        kelvin_per_w: Thermal resistance, kelvin per watt.
        tau_s: Thermal time constant, seconds.
        throttle_c: Temperature above which it slows down, degrees Celsius.
        most_w: Highest power of a block above static power, watts.
    """

    static_w: float = 0.6
    leak_per_k: float = 0.002
    launch_j: float = 2e-6
    run_j: float = 2e-5
    mac_j: float = 4e-11
    op_j: float = 2e-11
    byte_j: float = 2e-10
    points: tuple[OperatingPoint, ...] = (
        OperatingPoint(0.6e9, 0.65),
        OperatingPoint(1.2e9, 0.75),
        OperatingPoint(1.8e9, 0.9),
        OperatingPoint(2.4e9, 1.0),
    )
    ambient_c: float = 25.0
    kelvin_per_w: float = 4.0
    tau_s: float = 40.0
    throttle_c: float = 60.0
    most_w: float = 2.0

    def kernel_j(self, kernel: Kernel) -> float:
        """Return the energy of one inference in a kernel at the highest operating point, joules."""
        work_j = self.mac_j * kernel.macs + self.op_j * kernel.ops
        moved_j = self.byte_j * (kernel.bytes_read + kernel.bytes_written)
        return kernel.multiplicity * (self.launch_j + FACTORS.get(kernel.family, 1.0) * (work_j + moved_j))

    def static_at(self, temperature_c: float) -> float:
        """Return the power at rest at a temperature, watts."""
        return self.static_w * (1 + self.leak_per_k * (temperature_c - REFERENCE_C))

    def rest_c(self) -> float:
        """Return the equilibrium temperature of the resting device, degrees Celsius."""
        gain = self.kelvin_per_w * self.static_w * self.leak_per_k
        start = self.ambient_c + self.kelvin_per_w * self.static_w * (1 - self.leak_per_k * REFERENCE_C)
        return start / (1 - gain)

    def step_temperature(self, temperature_c: float, power_w: float, duration_s: float) -> float:
        """Return the temperature after a stretch of constant power, degrees Celsius."""
        end_c = self.ambient_c + self.kelvin_per_w * power_w
        return end_c + (temperature_c - end_c) * math.exp(-duration_s / self.tau_s)


@dataclass(frozen=True, slots=True)
class BlockPower:
    """A block of runs as the device plays it.

    Attributes:
        duration_s: Its duration, seconds.
        net_j: Energy of its runs without static power, joules.
        static_w: Static power during the block, watts.
        temperature_c: Temperature at its start, degrees Celsius.
        point: Operating point.
        durations_s: Lengths of the pieces of power: the block, then the cooling after it; shape (m,), seconds.
        levels_w: Their power, followed by that of the device at rest; shape (m + 1,), watts.
    """

    duration_s: float
    net_j: float
    static_w: float
    temperature_c: float
    point: OperatingPoint
    durations_s: NDArray[np.float64]
    levels_w: NDArray[np.float64]


class ThermalSimulator:
    """The device's temperature and operating point, carried over from block to block."""

    def __init__(self, model: DevicePowerModel, frequency_hz: float | None = None) -> None:
        """Start at rest.

        Args:
            model: The device.
            frequency_hz: Highest frequency allowed; ``None`` for all.
        """
        self.model = model
        self.temperature_c = model.rest_c()
        allowed = [k for k, p in enumerate(model.points) if frequency_hz is None or p.frequency_hz <= frequency_hz]
        self._top = max(allowed, default=0)
        self._level = self._top

    def rest(self, duration_s: float) -> None:
        """Let time pass at rest."""
        static_w = self.model.static_at(self.temperature_c)
        self.temperature_c = self.model.step_temperature(self.temperature_c, static_w, duration_s)

    def block(self, costs: Sequence[KernelCost], runs: int, ran_s: float) -> BlockPower:
        """Simulate a block of runs.

        Args:
            costs: Cost of each kernel of a run.
            runs: Number of runs.
            ran_s: Time the real runner took for all of them, seconds.
        """
        model, start_c = self.model, self.temperature_c
        if start_c > model.throttle_c:
            self._level = max(0, self._level - 1)
        elif start_c < model.throttle_c - HYSTERESIS_K:
            self._level = min(self._top, self._level + 1)
        point, top = model.points[self._level], model.points[-1]
        scale = (point.volts / top.volts) ** 2
        energy = np.array([model.run_j, *(c.energy_j for c in costs)]) * scale
        work = np.array([0.0, *(c.work for c in costs)])
        net_j = runs * float(energy.sum())
        duration_s = max(ran_s * top.frequency_hz / point.frequency_hz, net_j / model.most_w, 1e-6)
        static_w = model.static_at(start_c)
        share = energy / energy.sum()
        if work.sum() > 0:
            share = FLATTEN * share + (1 - FLATTEN) * work / work.sum()
        spans = share * duration_s / runs
        if energy.size * runs <= MOST_PIECES:
            levels = static_w + np.divide(energy, spans, out=np.zeros(energy.size), where=spans > 0)
            durations, levels = np.tile(spans, runs), np.tile(levels, runs)
        else:
            durations, levels = np.array([duration_s]), np.array([static_w + net_j / duration_s])
        self.temperature_c = model.step_temperature(start_c, static_w + net_j / duration_s, duration_s)
        cool_s, cool_w = self._cooling()
        return BlockPower(
            duration_s, net_j, static_w, start_c, point,
            np.concatenate([durations, cool_s]), np.concatenate([levels, cool_w]),
        )  # fmt: skip

    def _cooling(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the static power of the cooling device in steps of equal height: durations (m,), levels (m + 1,).

        A step begins and ends half its height away from the exponential.
        """
        model, rest_c = self.model, self.model.rest_c()
        away = (self.temperature_c - rest_c) * (1 - (np.arange(COOLING_STEPS) + 0.5) / COOLING_STEPS)
        left = 1 - np.arange(COOLING_STEPS + 1) / COOLING_STEPS
        at_s = -model.tau_s * np.log(np.maximum(left, 0.5 / COOLING_STEPS))
        levels = model.static_w * (1 + model.leak_per_k * (rest_c + away - REFERENCE_C))
        return np.diff(at_s), np.append(levels, model.static_at(rest_c))


def compute_kernel_costs(model: DevicePowerModel, kernels: Sequence[Kernel]) -> tuple[KernelCost, ...]:
    """Compute the cost of an inference kernel by kernel; its time is divided by arithmetic and memory traffic."""
    return tuple(
        KernelCost(
            k.name,
            k.family,
            model.kernel_j(k),
            k.multiplicity * (k.macs + k.ops + 2.0 * (k.bytes_read + k.bytes_written) + 1e4),
        )
        for k in kernels
    )
