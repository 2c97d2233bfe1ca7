"""Joulescope JS110, JS220 and JS320 through the maker's package ``pyjoulescope_driver`` (Python 3.12 or later).

The driver calls back with blocks of samples. They are passed on as framed bytes (``joulescope_parser``), so that
counters, gaps, clock and drain are those of every streaming meter. Samples the instrument lost are NaN in the stream
or missing from its numbers. General-purpose inputs are sampled with the power.

``--meter joulescope`` or ``joulescope:SERIAL``; options ``rate_hz`` (output rate of the driver, which averages the
instrument's 1 or 2 MHz) and ``inputs`` (general-purpose inputs to record, for example ``0,1``).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.joulescope.parser import INPUT, POWER, JoulescopeParser, frame_block
from deepen.meters.ports.locks import InstrumentLock
from deepen.meters.ports.serial_port import describe_udev_fix, get_source_label
from deepen.meters.stream.meter import COMMON_OPTIONS, DEFAULT_MAX_LOSS, StreamMeter, read_number_option
from deepen.meters.stream.types import Parser
from deepen.meters.types import Availability, DetectedInstrument, Driver, Meter, MeterContext, MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "JoulescopeInstrument", "JoulescopePort"]

RATES_HZ = (
    1_000_000,
    500_000,
    200_000,
    100_000,
    50_000,
    20_000,
    10_000,
    5_000,
    2_000,
    1_000,
    500,
    200,
    100,
    50,
    20,
    10,
)
"""Rates the driver can decimate to on every model (metadata of topic ``h/fs``)."""

DEFAULT_HZ = 100_000
MODELS = ("js110", "js220", "js320")

_QUEUE = 4096


def import_joulescope_driver() -> Any:
    """Import the maker's package.

    Raises:
        MeterError: If it is not installed.
    """
    try:
        import pyjoulescope_driver
    except ImportError as error:
        raise MeterError(
            "a Joulescope needs its driver", cure="pip install 'deepen[joulescope]' with Python 3.12 or later"
        ) from error
    return pyjoulescope_driver


@contextlib.contextmanager
def _translate_driver_errors(what: str) -> Iterator[None]:
    """Translate the driver's exceptions to ``MeterError``."""
    try:
        yield
    except TimeoutError as error:
        raise MeterError(f"{what} took too long ({error})", subject="joulescope", cure="plug it in again") from error
    except (RuntimeError, ValueError, OSError) as error:
        raise MeterError(f"{what} failed ({error})", subject="joulescope", cure=describe_udev_fix()) from error


class JoulescopePort:
    """A port that yields the blocks of the driver's thread as bytes; commands go through :meth:`publish`.

    Attributes:
        name: Name the user gave it.
        path: The driver's name of the instrument, for example ``u/js220/000415``.
    """

    def __init__(self, driver: Any, path: str, lock: InstrumentLock | None = None) -> None:
        """Open an instrument.

        Args:
            driver: The maker's ``Driver``; finalised with the port.
            path: The driver's name of the instrument.
            lock: Lock of the instrument; released with the port.

        Raises:
            MeterError: If it cannot be opened.
        """
        self.path = path
        self.name = f"joulescope:{path.rpartition('/')[2]}"
        self._driver = driver
        self._lock = lock
        self._ready = threading.Condition()
        self._blocks: deque[bytes] = deque(maxlen=_QUEUE)  # an overflow shows in the sample numbers
        self._gone = False
        self._topics: list[str] = []
        self._kinds: dict[str, int] = {}
        self._hear, self._lose = self._on_data, self._on_remove  # the driver compares callbacks by identity
        with _translate_driver_errors("opening"):
            driver.open(path, "defaults")
            driver.subscribe("@/!remove", "pub", self._lose)

    def publish(self, topic: str, value: Any) -> None:
        """Set a topic of the instrument.

        Raises:
            MeterError: If it refuses or does not answer.
        """
        with _translate_driver_errors(f"setting {topic}"):
            self._driver.publish(f"{self.path}/{topic}", value)

    def listen(self, signal: str, kind: int) -> None:
        """Start a signal, whose blocks :meth:`read` then returns.

        Raises:
            MeterError: If the instrument does not know it.
        """
        topic = f"{self.path}/{signal}/!data"
        self._kinds[topic] = kind
        self._topics.append(signal)
        with _translate_driver_errors(f"starting {signal}"):
            self._driver.subscribe(topic, "pub", self._hear)
            self._driver.publish(f"{self.path}/{signal}/ctrl", 1)

    def silence(self) -> None:
        """Stop all signals.

        Raises:
            MeterError: If the instrument does not answer.
        """
        topics, self._topics = self._topics, []
        with _translate_driver_errors("stopping"):
            for signal in topics:
                self._driver.publish(f"{self.path}/{signal}/ctrl", 0)
                self._driver.unsubscribe(f"{self.path}/{signal}/!data", self._hear)

    def read(self, timeout_s: float) -> bytes:
        """Wait for blocks and return all that have come; empty if none came in time.

        Raises:
            MeterError: If the instrument is gone.
        """
        with self._ready:
            if not self._blocks and not self._gone:
                self._ready.wait(timeout_s)
            data = b"".join(self._blocks)
            self._blocks.clear()
        if not data and self._gone:
            raise MeterError(f"{self.name} is gone", cure="check the cable and plug it in again")
        return data

    def write(self, data: bytes) -> None:
        """Do nothing: commands go through :meth:`publish`."""

    def flush_input(self) -> None:
        """Discard the bytes received."""
        with self._ready:
            self._blocks.clear()

    def fileno(self) -> None:
        """None: the driver has the device."""

    def close(self) -> None:
        """Close the instrument and end the driver; harmless when closed."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        try:
            with contextlib.suppress(RuntimeError, TimeoutError, ValueError, OSError):
                driver.close(self.path)
        finally:
            try:
                driver.finalize()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _on_data(self, topic: str, value: Any) -> None:
        data = np.ascontiguousarray(value["data"]).tobytes()
        framed = frame_block(self._kinds[topic], int(value["sample_id"]), int(value["decimate_factor"]), data)
        with self._ready:
            self._blocks.append(framed)
            self._ready.notify()

    def _on_remove(self, topic: str, value: Any) -> None:
        if str(value) == self.path:
            with self._ready:
                self._gone = True
                self._ready.notify()


class JoulescopeInstrument:
    """An instrument the maker's driver has open.

    Attributes:
        name: Driver name.
        serial: Serial number.
        rate_hz: Samples in a second.
        calibration_id: Which calibration is applied: the instrument's own.
        accuracy: Unknown: no source at hand states the maker's figures.
        source: Label.
        safe_bytes: None: it feeds nothing.
    """

    name = "joulescope"
    safe_bytes = b""

    def __init__(self, port: JoulescopePort, spec: MeterSpec, source: Source) -> None:
        """Set the instrument up.

        Raises:
            ConfigError: If an option is wrong.
            MeterError: If the instrument refuses.
        """
        rate_hz = read_number_option(spec, "rate_hz", RATES_HZ[-1], RATES_HZ[0], unit="Hz", default=DEFAULT_HZ)
        if rate_hz not in RATES_HZ:
            raise ConfigError(f"meter 'joulescope': rate_hz is one of {', '.join(map(str, sorted(RATES_HZ)))}")
        self._inputs = _parse_inputs(spec.options.get("inputs", ""))
        self._port = port
        _, model, self.serial = port.path.split("/")
        self.source: Source = source
        self.rate_hz = rate_hz
        self.accuracy = Accuracy()
        self.calibration_id = f"{model.upper()} {self.serial}, its own calibration"
        port.publish("h/fs", int(rate_hz))
        if model == "js110":
            port.publish("s/i/range/select", "auto")
        else:  # off by default, so that the current would be 0
            port.publish("s/i/range/mode", "auto")
            port.publish("s/v/range/mode", "auto")

    def begin(self) -> Parser:
        """Start streaming."""
        parser = JoulescopeParser(self.rate_hz, self._inputs)
        self._port.flush_input()
        for k in self._inputs:
            self._port.listen(f"s/gpi/{k}", INPUT + k)
        self._port.listen("s/p", POWER)
        return parser

    def mark(self) -> None:
        """Do nothing: marks come through the inputs."""

    def end(self) -> None:
        """Stop streaming."""
        self._port.silence()

    def close(self) -> None:
        """Stop; harmless when the instrument is gone."""
        with contextlib.suppress(MeterError):
            self._port.silence()


def _parse_inputs(text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",") if part.strip()]
    if any(n not in ("0", "1", "2", "3", "7") for n in numbers):
        raise ConfigError(f"meter 'joulescope': inputs={text} names inputs 0 to 3 and 7 (the trigger), for example 0,1")
    return tuple(sorted({int(n) for n in numbers}))


def _list_device_paths(driver: Any) -> list[str]:
    with _translate_driver_errors("listing"):
        return [str(p) for p in driver.device_paths() if str(p).split("/")[1] in MODELS]


def _probe(context: MeterContext) -> Availability:
    try:
        with _translate_driver_errors("starting the driver"):
            driver = import_joulescope_driver().Driver()
        try:
            paths = _list_device_paths(driver)
        finally:
            driver.finalize()
    except MeterError as error:
        return Availability("joulescope", False, "", "measured", error.cause, error.cure)
    if not paths:
        return Availability("joulescope", False, "", "measured", "none is plugged in", "plug it in")
    found = tuple(DetectedInstrument(p, p.rpartition("/")[2], p.split("/")[1].upper()) for p in paths)
    return Availability("joulescope", True, ", ".join(paths), "measured", found=found)


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only(*COMMON_OPTIONS, "rate_hz", "inputs")
    max_loss = read_number_option(spec, "max_loss", 0.0, 1.0, default=DEFAULT_MAX_LOSS)
    with _translate_driver_errors("starting the driver"):
        driver = import_joulescope_driver().Driver()
    lock: InstrumentLock | None = None
    try:
        paths = _list_device_paths(driver)
        wanted = spec.port.casefold()
        chosen = [p for p in paths if not wanted or wanted in (p.casefold(), p.rpartition("/")[2].casefold())]
        here = ", ".join(paths) or "none"
        if not chosen:
            what = f"no instrument '{spec.port}'" if spec.port else "no instrument"
            raise MeterError(f"{what} is plugged in", subject="joulescope", cure=f"here: {here}; plug it in")
        if len(chosen) > 1:
            raise MeterError(
                f"there are several here, {here}", subject="joulescope", cure="name one: joulescope:SERIAL"
            )
        lock = InstrumentLock(f"joulescope {chosen[0]}", chosen[0])
        port = JoulescopePort(driver, chosen[0], lock)
    except BaseException:
        driver.finalize()
        if lock is not None:
            lock.release()
        raise
    try:
        instrument = JoulescopeInstrument(port, spec, get_source_label(port, spec))
    except BaseException:
        port.close()
        raise
    return StreamMeter(instrument, port, max_loss=max_loss)


DRIVER = Driver("joulescope", "Joulescope JS110, JS220, JS320, through the maker's driver", _probe, _open)
