"""Qoitech Otii Arc and Ace through the maker's package ``otii_tcp_client`` and the Otii server or desktop program.

The server records and returns the data afterwards, so this is not a streaming meter: ``start`` and ``stop`` are
requests, and a sample's host time is known from their round trips. Current comes at 4 kHz from an Arc, voltage at 1
kHz (facts of the maker); power is their product at the times of the current samples.

``--meter otii``, ``otii:HOST`` or ``otii:HOST:PORT``; options ``device`` (name or id, where there are several),
``voltage_v``, ``current_limit_a``, ``inputs`` (1,2: the digital inputs of the expansion port) and ``leave`` (the
output when the meter is closed: on, off). The Automation Toolbox licence must be at hand (log in with the desktop
program, or set OTII_USERNAME and OTII_PASSWORD for the maker's package).
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepen.clock.host_clock import ClockMap, monotonic_s
from deepen.errors import ConfigError, DeepenError, MeterError
from deepen.meters.stream.meter import DEFAULT_MAX_LOSS, read_number_option
from deepen.meters.stream.supply_voltage import read_choice_option, read_optional_number
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec, Scope
from deepen.records import Accuracy, Interval, PowerTrace, Source, TraceWarning

__all__ = ["DRIVER", "OtiiMeter"]

PORT = 1905
CONNECT_S = 5

LIMITS_V = {"Arc": (0.5, 5.0), "Ace": (0.5, 25.0), "Simulator": (0.5, 5.0)}
"""Output voltage: an Arc gives up to 5 V (with a supply of its own), an Ace up to 25 V."""

MAX_A = 5.0
"""Largest current limit (``Arc.set_max_current`` of the maker's package)."""

ACCURACY = {"Arc": (1e-3, 50e-9), "Ace": (5e-4, 25e-9)}
"""Limits of error of the current: share of the reading, and amperes (qoitech.com)."""

LICENCES = ("Automation", "All", "Admin", "Enterprise")
"""Licences that allow automation (``LICENSE_MAP`` of the maker's package)."""

_LATE_S = 0.5
"""Time by which a recording may be shorter than that between the requests before samples count as lost, seconds."""


@contextlib.contextmanager
def _translate_package_errors(what: str) -> Iterator[None]:
    """Translate the exceptions of the maker's package to ``MeterError``; its output goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except DeepenError:
        raise
    except Exception as error:  # the package raises bare Exception for many failures
        text = " ".join(str(getattr(error, "message", "") or error).split()) or type(error).__name__
        if "icense" in text:
            cure = "reserve an Automation Toolbox licence in the Otii program, and log in"
        else:
            cure = "start the Otii program or otii_server, and check that the instrument is connected to it"
        raise MeterError(f"{what} failed ({text})", subject="otii", cure=cure) from error


def _connect_to_server(host: str, port: int) -> Any:
    """Connect to the server and return the maker's ``OtiiMeter``.

    Raises:
        MeterError: If the package is missing or nothing answers.
    """
    try:
        from otii_tcp_client.otii_client import LicensingMode, OtiiClient
    except ImportError as error:
        raise MeterError("an Otii needs its client", cure="pip install 'deepen[otii]'") from error
    with _translate_package_errors(f"connecting to {host}:{port}"):
        return OtiiClient().connect(host=host, port=port, try_for_seconds=CONNECT_S, licensing=LicensingMode.MANUAL)


class _OtiiLogin:
    """Login and licence of a connection, acquired if missing and returned at the end.

    The package could do this itself, but leaves its connection open when it fails.
    """

    def __init__(self, server: Any) -> None:
        """Acquire the login and licence if missing.

        Raises:
            MeterError: If there is no login or no licence.
        """
        self._server = server
        self._license: int | None = None
        self._logged_in = False
        with _translate_package_errors("getting a licence"):
            if not server.is_logged_in():
                name, password = os.environ.get("OTII_USERNAME"), os.environ.get("OTII_PASSWORD")
                if not (name and password):
                    raise MeterError(
                        "nobody is logged in",
                        subject="otii",
                        cure="log in with the Otii program, or set OTII_USERNAME, OTII_PASSWORD",
                    )
                server.login(name, password)
                self._logged_in = True
            usable = [one for one in server.get_licenses() if one["available"] and one["type"] in LICENCES]
            if any(one["reserved_to"] for one in usable):  # ours: those of others are not available
                return
            if not usable:
                raise MeterError(
                    "no licence is free",
                    subject="otii",
                    cure="reserve an Automation Toolbox licence in the Otii program",
                )
            server.reserve_license(usable[0]["id"])
            self._license = usable[0]["id"]

    def close(self) -> None:
        """Return the acquired login and licence, and disconnect."""
        with contextlib.suppress(MeterError), _translate_package_errors("returning the licence"):
            if self._license is not None:
                self._server.return_license(self._license)
            if self._logged_in:
                self._server.logout()
        with contextlib.suppress(MeterError), _translate_package_errors("disconnecting"):
            self._server.disconnect()


class OtiiMeter:
    """An Arc or Ace behind a server.

    Attributes:
        id: ``otii``.
        source: Label; ``simulated`` for the server's own simulator.
        calibration_id: Model, id and firmware of the instrument.
        scope: The whole machine.
        update_s: Time between two current samples, seconds.
        resolution_j: 0: it has no smallest step.
        accuracy: Accuracy the maker states.
    """

    id = "otii"
    scope: Scope = "machine"
    resolution_j = 0.0

    def __init__(
        self,
        server: Any,
        device: Any,
        spec: MeterSpec,
        *,
        disconnect: Callable[[], None],
        now: Callable[[], float] = monotonic_s,
        max_loss: float = DEFAULT_MAX_LOSS,
    ) -> None:
        """Set up an instrument.

        1. Parse and check the options.
        2. Set current limit and voltage, verify the voltage, and switch the output on.
        3. Enable the channels, and read sample rate and firmware.
        4. Derive the accuracy and the calibration id.

        Args:
            server: The maker's ``OtiiMeter``, connected.
            device: The maker's ``Arc``.
            spec: Options, see the module.
            disconnect: Disconnects from the server; called by :meth:`close`.
            now: The monotonic clock; replaceable by tests.
            max_loss: Largest share of samples that may be missing.

        Raises:
            ConfigError: If an option is outside what the instrument allows, or the output is off and no voltage given.
            MeterError: If the server or the instrument refuses.
        """
        # 1. Options.
        low, high = LIMITS_V.get(device.type, LIMITS_V["Arc"])
        wanted_v = read_optional_number(spec, "voltage_v", low, high, "V")
        limit_a = read_optional_number(spec, "current_limit_a", 0.001, MAX_A, "A")
        self._off_at_end = read_choice_option(spec, "leave", ("on", "off")) == "off"
        self._inputs = _parse_inputs(spec.options.get("inputs", ""))
        self.source: Source = "simulated" if device.type == "Simulator" else "measured"
        if (given := read_choice_option(spec, "source", ("measured", "simulated"))) is not None:
            self.source = "measured" if given == "measured" else "simulated"
        self._server, self._device = server, device
        self._disconnect = disconnect
        self._closed = False
        self._now = now
        self._max_loss = max_loss
        self._project: Any = None
        self._started: tuple[float, float] | None = None
        with _translate_package_errors("setting the instrument up"):
            # 2. Supply.
            device.add_to_project()
            if limit_a is not None:
                device.set_max_current(limit_a)
            if wanted_v is not None and abs(device.get_main_voltage() - wanted_v) > 5e-4:
                device.set_main_voltage(wanted_v)
            self._volts = float(device.get_main_voltage())
            if wanted_v is not None and abs(self._volts - wanted_v) > 0.01:
                raise MeterError(
                    f"{device.name} did not take {wanted_v:g} V (it says {self._volts:g} V)",
                    subject="otii",
                    cure="restart it",
                )
            if not device.get_main():
                if wanted_v is None:
                    raise ConfigError(
                        f"the output of {device.name} is off",
                        subject="otii",
                        cure=f"give the device's supply voltage: ?voltage_v=3.7 ({low:g} to {high:g})",
                    )
                device.set_main(True)
            # 3. Channels.
            for channel in ("mc", "mv", *(f"i{k}" for k in self._inputs)):
                device.enable_channel(channel, True)
            self._rate_hz = float(device.get_channel_samplerate("mc"))
            version = device.get_version()
        if not self._rate_hz > 0:
            raise MeterError(
                f"{device.name} states a sample rate of {self._rate_hz:g} Hz", subject="otii", cure="restart it"
            )
        self.update_s = 1 / self._rate_hz
        # 4. Accuracy: the voltage counts as exact.
        gain, offset_a = ACCURACY.get(device.type, (0.0, 0.0))
        self.accuracy = Accuracy(
            gain / math.sqrt(3),
            offset_a * self._volts / math.sqrt(3),
            f"Qoitech: current within {100 * gain:g} % + {offset_a * 1e9:g} nA" if gain else "",
        )
        self.calibration_id = (
            f"{device.type} {device.id}, firmware {version.get('fw_version', 'unknown')}, its own calibration, "
            f"{self._volts:g} V"
        )

    def start(self) -> None:
        """Start a recording.

        Raises:
            MeterError: If it records already, or the server refuses.
        """
        if self._started is not None:
            raise MeterError("otii is recording already", cure="stop it first")
        with _translate_package_errors("starting a recording"):
            if self._project is None:
                self._project = self._server.get_active_project()
            before = self._now()
            self._project.start_recording()
            self._started = before, self._now()

    def mark(self) -> None:
        """Do nothing: the server samples by itself."""

    def observe(self, interval: Interval) -> None:
        """Do nothing: a sensor measures by itself."""

    def stop(self) -> PowerTrace:
        """End the recording, fetch it, and make a trace of it.

        Raises:
            MeterError: If the server refuses, nothing was recorded, or more samples are missing than allowed.
        """
        if self._started is None:
            raise MeterError("otii was stopped before it was started", cure="start it first")
        started, self._started = self._started, None
        with _translate_package_errors("fetching the recording"):
            before = self._now()
            self._project.stop_recording()
            stopped = before, self._now()
            recording = self._project.get_last_recording()
            if recording is None:
                raise MeterError(
                    "the server recorded nothing", subject="otii", cure="check that a project is open in it"
                )
            current_a = self._channel(recording, "mc")
            voltage_v = self._channel(recording, "mv")
            edges = {k: recording.get_channel_data(self._device.id, f"i{k}", 0, self._count(recording, f"i{k}"))
                     for k in self._inputs}  # fmt: skip
        with _translate_package_errors("reading the recording"):
            return self._trace(current_a, voltage_v, edges, started, stopped)

    def close(self) -> None:
        """Abandon a running recording, switch the output off if requested, and disconnect."""
        if self._closed:
            return
        self._closed = True
        try:
            with contextlib.suppress(MeterError), _translate_package_errors("stopping"):
                if self._started is not None:
                    self._project.stop_recording()
                if self._off_at_end:
                    self._device.set_main(False)
        finally:
            self._disconnect()

    def _count(self, recording: Any, channel: str) -> int:
        return int(recording.get_channel_data_count(self._device.id, channel))

    def _channel(self, recording: Any, channel: str) -> tuple[float, float, NDArray[np.float64]]:
        """Fetch a channel: time of its first value and interval (seconds of the recording), and its values.

        Raises:
            MeterError: If it has no values.
        """
        count = self._count(recording, channel)
        if count < 1:
            raise MeterError(
                f"{self._device.name} recorded nothing on channel {channel}", subject="otii", cure="is its output on?"
            )
        data = recording.get_channel_data(self._device.id, channel, 0, count)
        return float(data["timestamp"]), float(data["interval"]), np.asarray(data["values"], dtype=np.float64)

    def _trace(
        self,
        current_a: tuple[float, float, NDArray[np.float64]],
        voltage_v: tuple[float, float, NDArray[np.float64]],
        edges: dict[int, Any],
        started: tuple[float, float],
        stopped: tuple[float, float],
    ) -> PowerTrace:
        """Assemble the trace of a recording.

        The recording begins at its second 0, somewhere between the request and its answer, and ends likewise. The
        difference between its length and the time between the requests is a delay whose division between both ends is
        unknown, and is stated as error.
        """
        first_s, interval_s, amps = current_a
        if not (interval_s > 0 and voltage_v[1] > 0):
            raise MeterError(
                "the server states no interval between samples", subject="otii", cure="update the Otii program"
            )
        times = first_s + interval_s * np.arange(amps.size)
        volts = np.interp(times, voltage_v[0] + voltage_v[1] * np.arange(voltage_v[2].size), voltage_v[2])
        power = amps * volts
        good = np.isfinite(power)
        host_s = (sum(stopped) - sum(started)) / 2
        short_s = host_s - float(times[-1] + interval_s)
        lost = int(np.count_nonzero(~good)) + (round(short_s / interval_s) if short_s > _LATE_S else 0)
        warnings = []
        if lost:
            text = f"lost: {lost} samples are missing from the recording of {host_s:.3f} s"
            warnings.append(TraceWarning("loss", text))
        loss = lost / (lost + int(np.count_nonzero(good)))
        if loss > self._max_loss:
            raise MeterError(
                f"{lost} samples were lost ({100 * loss:.3g} %, {100 * self._max_loss:.3g} % allowed)",
                subject="otii",
                cure="close other programs, or allow it: ?max_loss=0.05",
            )
        if self._volts and abs(float(np.median(volts)) - self._volts) > 0.1 * self._volts:
            text = f"the output was more than 10% away from the {self._volts:g} V it is set to"
            warnings.append(TraceWarning("trace", text))
        clock = ClockMap(
            device_s=0.0,
            host_s=sum(started) / 2,
            rate=1.0,
            error_s=math.hypot((started[1] - started[0]) / math.sqrt(12), abs(short_s) / math.sqrt(3)),
            method="ping",
        )
        holes = np.flatnonzero(np.diff(np.flatnonzero(good)) > 1)
        kept = times[good]
        host_times = np.asarray(clock.to_host(kept))
        return PowerTrace(
            t_s=host_times,
            power_w=power[good],
            rate_hz=1 / interval_s,
            meter_id=self.id,
            calibration_id=self.calibration_id,
            source=self.source,
            gaps=tuple((float(host_times[k]), float(host_times[k + 1])) for k in holes),
            dropped=lost,
            logic=_sample_logic_levels(kept, edges) if edges else None,
            clock=clock,
            accuracy=self.accuracy,
            warnings=tuple(warnings),
        )


def _sample_logic_levels(times: NDArray[np.float64], edges: dict[int, Any]) -> NDArray[np.uint8]:
    """Return the levels of the digital inputs at sample times; input k is bit k."""
    logic = np.zeros(times.size, np.uint8)
    for k, data in edges.items():
        changes = [(float(v["timestamp"]), bool(v["value"])) for v in (data or {}).get("values", [])]
        if changes:
            moments, levels = (np.array(part) for part in zip(*changes, strict=True))
            at = np.searchsorted(moments, times, side="right") - 1
            logic |= (np.where(at >= 0, levels[np.maximum(at, 0)], ~levels[0])).astype(np.uint8) << np.uint8(k)
    return logic


def _parse_inputs(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if any(n not in ("1", "2") for n in numbers):
        raise ConfigError(f"meter 'otii': inputs={text} names inputs 1 and 2 of the expansion port, for example 1,2")
    return tuple(sorted({int(n) for n in numbers}))


def _parse_address(port: str) -> tuple[str, int]:
    """Parse host and port of the server.

    Raises:
        ConfigError: If the port is not a number.
    """
    host, _, number = port.partition(":")
    try:
        return host or "127.0.0.1", int(number) if number else PORT
    except ValueError as error:
        raise ConfigError(f"meter 'otii:{port}': write otii:HOST:PORT with a number for PORT") from error


def _probe(context: MeterContext) -> Availability:
    try:
        import otii_tcp_client  # noqa: F401
    except ImportError:
        return Availability("otii", False, "", "measured", "its client is not installed", "pip install 'deepen[otii]'")
    cause, cure = "its server is asked only when it is named", f"--meter otii (server at 127.0.0.1:{PORT})"
    return Availability("otii", False, "", "measured", cause, cure)


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only("source", "max_loss", "device", "voltage_v", "current_limit_a", "inputs", "leave")
    max_loss = read_number_option(spec, "max_loss", 0.0, 1.0, default=DEFAULT_MAX_LOSS)
    server = _connect_to_server(*_parse_address(spec.port))
    leave: Callable[[], None] = server.disconnect
    try:
        access = _OtiiLogin(server)
        leave = access.close
        with _translate_package_errors("listing instruments"):
            devices = server.get_devices()
        wanted = spec.options.get("device", "")
        chosen = [d for d in devices if not wanted or wanted in (d.id, d.name)]
        here = ", ".join(f"{d.name} ({d.id})" for d in devices) or "none"
        if not chosen:
            what = f"no instrument '{wanted}'" if wanted else "no instrument"
            raise MeterError(
                f"{what} is connected to the Otii program", subject="otii", cure=f"here: {here}; plug it in there"
            )
        if len(chosen) > 1:
            raise MeterError(
                f"there are {len(chosen)} here, {here}", subject="otii", cure=f"name one: ?device={chosen[0].id}"
            )
        return OtiiMeter(server, chosen[0], spec, disconnect=leave, max_loss=max_loss)
    except BaseException:
        leave()
        raise


DRIVER = Driver("otii", "Qoitech Otii Arc and Ace, through the Otii server", _probe, _open)
