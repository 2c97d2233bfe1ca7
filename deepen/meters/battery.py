"""Battery gauge: power drawn from a discharging battery (Linux ``power_supply`` class).

The kernel's ABI says microvolts, microamperes and microwatts (``Documentation/ABI/testing/sysfs-class-power``), but
vendors report milliamperes and either sign, so unit and sign are found from the values: a computer that runs draws more
than 20 mA and its cells lie between 2 V and 100 V. Gauges update about once a second.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from deepen.clock import monotonic_s
from deepen.errors import MeterError
from deepen.meters.sampler import Sampler
from deepen.meters.types import Availability, Context, Driver, Meter, MeterSpec, Scope
from deepen.records import Interval, PowerTrace, Source

__all__ = ["DRIVER", "Battery", "amperes", "batteries", "volts"]

_UPDATE_S = 1.0


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _integer(folder: Path, name: str) -> int | None:
    text = _text(folder, name)
    try:
        return int(text)
    except ValueError:
        return None


def batteries(root: Path = Path("/")) -> list[Path]:
    """Folders of the system's batteries (those of mice and the like are left out)."""
    return [
        folder
        for folder in sorted((root / "sys/class/power_supply").glob("*"))
        if _text(folder, "type") == "Battery" and _text(folder, "scope") != "Device"
    ]


def amperes(raw: int) -> float:
    """Current from a gauge's reading, whatever its unit and sign: microamperes above 20,000, else milliamperes."""
    magnitude = abs(raw)
    return magnitude / 1e6 if magnitude >= 20_000 else magnitude / 1e3


def volts(raw: int) -> float:
    """Voltage from a gauge's reading: volts below 100, millivolts below 100,000, else microvolts."""
    if raw < 100:
        return float(raw)
    return raw / 1e3 if raw < 100_000 else raw / 1e6


def _power_w(folder: Path) -> float | None:
    """Power drawn, watts; ``None`` where the gauge tells neither power nor current and voltage."""
    power = _integer(folder, "power_now")
    if power is not None and power != 0:
        return abs(power) / 1e6
    current, voltage = _integer(folder, "current_now"), _integer(folder, "voltage_now")
    if current is None or voltage is None:
        return None
    return amperes(current) * volts(voltage)


class Battery:
    """One battery's gauge, read once a second."""

    id = "battery"
    source: Source = "measured"
    scope: Scope = "machine"
    update_s = _UPDATE_S
    resolution_j = 0.0

    def __init__(self, folder: Path) -> None:
        """Open the gauge.

        Raises:
            MeterError: If it tells no power.
        """
        self._folder = folder
        self.calibration_id = f"power_supply {folder.name} {_text(folder, 'model_name')}".strip()
        self._samples: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._sampler = Sampler(self.mark, _UPDATE_S)
        self._read()

    def _read(self) -> float:
        status = _text(self._folder, "status")
        if status != "Discharging":
            raise MeterError(
                f"battery: {self._folder.name} is '{status or 'gone'}', not discharging; unplug the charger"
            )
        power = _power_w(self._folder)
        if power is None:
            raise MeterError(f"battery: {self._folder.name} tells neither power nor current; use another meter")
        return power

    def start(self) -> None:
        """Begin a trace."""
        with self._lock:
            self._samples = []
        self.mark()
        self._sampler.start()

    def mark(self) -> None:
        """Read the gauge."""
        with self._lock:
            power = self._read()
            now = monotonic_s()
            if not self._samples or now > self._samples[-1][0]:
                self._samples.append((now, power))

    def observe(self, interval: Interval) -> None:
        """Ignore: a gauge needs no help."""

    def stop(self) -> PowerTrace:
        """End the trace."""
        self._sampler.stop()
        self.mark()
        data = np.asarray(self._samples, dtype=np.float64).reshape(-1, 2)
        return PowerTrace(data[:, 0], data[:, 1], 1 / _UPDATE_S, self.id, self.calibration_id, self.source)

    def close(self) -> None:
        """Stop sampling."""
        self._sampler.stop()


def _probe(context: Context) -> Availability:
    found = batteries(context.root)
    if not found:
        return Availability("battery", False, "", "measured", "no battery in /sys/class/power_supply", "")
    try:
        Battery(found[0])
    except MeterError as error:
        cause, _, cure = str(error).removeprefix("battery: ").partition("; ")
        return Availability("battery", False, found[0].name, "measured", cause, cure)
    return Availability("battery", True, f"{found[0].name}; one reading a second, so kernels take minutes", "measured")


def _open(spec: MeterSpec, context: Context) -> Meter:
    spec.only()
    found = batteries(context.root)
    names = [f.name for f in found]
    if not found:
        raise MeterError("battery: there is none in /sys/class/power_supply; use another meter")
    if spec.port and spec.port not in names:
        raise MeterError(f"battery: no '{spec.port}' here; found: {', '.join(names)}")
    return Battery(found[names.index(spec.port)] if spec.port else found[0])


DRIVER = Driver("battery", "battery gauge while discharging", _probe, _open, automatic=True)
