"""A streaming instrument as a meter: a reader thread between the port and the capture, and a guard beside it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

from deepen.clock.host_clock import monotonic_s
from deepen.errors import ConfigError, DeepenError, MeterError
from deepen.meters.ports.discover import UsbId, check_availability, choose_port
from deepen.meters.ports.guard import PortGuard
from deepen.meters.ports.protocol import Port
from deepen.meters.ports.serial_port import SerialPort, get_source_label, open_port
from deepen.meters.stream.capture import OpenSink, StreamCapture, StreamSummary
from deepen.meters.stream.types import Instrument
from deepen.meters.types import Driver, Meter, MeterContext, MeterSpec, Scope
from deepen.records import Interval, PowerTrace, Source, TraceWarning

__all__ = ["COMMON_OPTIONS", "DEFAULT_MAX_LOSS", "StreamMeter", "make_stream_driver", "read_number_option"]

COMMON_OPTIONS = ("source", "max_loss")
"""Options common to all streaming drivers."""

DEFAULT_MAX_LOSS = 1e-3
"""Largest share of samples that may be lost before a recording is refused (the limit of EEMBC's energy runner)."""

_STALL_S = 2.0
_FIRST_SAMPLE_S = 15.0
_DRAIN_S = 5.0
_PAUSE_S = 0.01
_SLOW_PAUSE_S = 0.05
_FAST_HZ = 10_000.0
"""Time between two reads, and the rate up to which the longer one applies: a port returns all bytes received at once.

At 400 kB/s, the fastest instrument here, 4 kB accumulate in the shorter one; a terminal holds three times that. Slow
instruments send at most 100 kB/s.
"""


class StreamMeter:
    """A meter around an instrument that streams.

    ::

        meter = StreamMeter(instrument, port)
        meter.start()
        ...
        trace = meter.stop()
        meter.close()

    Attributes:
        id: Driver name of the instrument.
        source: Label of its samples.
        calibration_id: Name of the calibration applied.
        update_s: Time between two samples, seconds.
        instrument: The instrument.
        sampling: Meaning of its samples (see ``PowerTrace``).
        max_loss: Largest share of samples that may be lost; the same limit applies to the windows of a session.
        ending: Summary of the last stream that ended; ``None`` before, and while one runs.
    """

    scope: Scope = "machine"
    resolution_j: float = 0.0

    def __init__(
        self,
        instrument: Instrument,
        port: Port,
        *,
        now: Callable[[], float] = monotonic_s,
        max_loss: float = DEFAULT_MAX_LOSS,
        threaded: bool = True,
        guard: PortGuard | None = None,
    ) -> None:
        """Take over an instrument and its port; :meth:`close` closes both.

        An instrument may have two attributes beyond its protocol: ``sampling`` (``mean`` where its samples are means
        over a period, see ``PowerTrace``) and ``quantum`` (losses its counter cannot see are multiples of it).

        Args:
            instrument: The instrument behind ``port``.
            port: Port of its stream.
            now: The monotonic clock; replaceable by tests.
            max_loss: Largest share of samples that may be lost.
            threaded: True to read the port in a thread. Without one, for virtual time, :meth:`pump` reads it, and
                :meth:`start` and :meth:`stop` call that themselves.
            guard: Guard of the port, ended by :meth:`close`.
        """
        self.id = instrument.name
        self.source: Source = instrument.source
        self.calibration_id = instrument.calibration_id
        self.update_s = 1 / instrument.rate_hz
        self.instrument = instrument
        self.sampling: Literal["point", "mean"] = getattr(instrument, "sampling", "point")
        self.ending: StreamSummary | None = None
        self._port = port
        self._now = now
        self.max_loss = max_loss
        self._threaded = threaded
        self._guard = guard
        self._capture: StreamCapture | None = None
        self._data_s = 0.0
        self._stall_s = max(_STALL_S, 5 * self.update_s)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    # ---- the protocol of a meter -------------------------------------------------------------------------------------

    def start(self, open_sink: OpenSink | None = None) -> None:
        """Start the stream and wait for its first samples.

        Args:
            open_sink: Makes the receiver of samples; ``None`` keeps them in memory.

        Raises:
            MeterError: If the instrument does not answer or gives no samples.
        """
        if self._capture is not None:
            raise MeterError(f"{self.id} is recording already", cure="stop it first")
        asked_s = self._now()
        parser = self.instrument.begin()
        self._data_s = began = self._now()
        self._error = None
        self.ending = None
        self._capture = StreamCapture(
            parser,
            self.instrument.rate_hz,
            sampling=self.sampling,
            quantum=getattr(self.instrument, "quantum", 1),
            began_s=asked_s,
            open_sink=open_sink,
        )
        if self._threaded:
            self._end.clear()
            self._thread = threading.Thread(target=self._run, name=f"deepen-{self.id}", daemon=True)
            self._thread.start()
        try:
            self._await(self._capture.started, began + max(_FIRST_SAMPLE_S, 5 * self.update_s))
            if not self._capture.samples:
                self._capture.finish(self.id)  # raises an error that describes the bytes received
        except BaseException:
            self._abandon()
            raise

    def mark(self) -> None:
        """Put a mark into the stream if the instrument supports it.

        Raises:
            MeterError: If the stream has broken off.
        """
        self._check()
        self.instrument.mark()
        if not self._threaded:
            self.pump()

    def observe(self, interval: Interval) -> None:
        """Do nothing: a sensor measures by itself."""

    def stop(self) -> PowerTrace:
        """End the stream once it covers this moment, and return the trace.

        Raises:
            MeterError: If the stream broke off, or more samples were lost than allowed.
        """
        ending, capture = self._finish()
        self._refuse_losses(ending)
        return capture.trace(
            ending,
            meter_id=self.id,
            calibration_id=self.calibration_id,
            source=self.source,
            accuracy=self.instrument.accuracy,
        )

    def stop_sink(self) -> StreamSummary:
        """End a stream that goes to a sink; samples in the sink stay, whatever is raised here.

        Raises:
            MeterError: If the stream broke off, or more samples were lost than allowed; ``ending`` tells what is known.
        """
        ending, _ = self._finish()
        self._refuse_losses(ending)
        return ending

    def close(self) -> None:
        """Make the instrument safe and release the port; harmless when closed.

        If the dialogue with the instrument is interrupted or fails, the guard makes it safe.
        """
        try:
            self._abandon()
        finally:
            try:
                self.instrument.close()
            except BaseException:
                if self._guard is not None:
                    self._guard.fire()
                raise
            else:
                if self._guard is not None:
                    self._guard.close()
            finally:
                self._port.close()

    # ---- reading -----------------------------------------------------------------------------------------------------

    def pump(self, timeout_s: float = 0.0) -> int:
        """Read the port once; for meters without a thread.

        Args:
            timeout_s: Longest wait for bytes, seconds.

        Returns:
            Number of samples that came in.

        Raises:
            MeterError: If the port is gone, or nothing has come for two seconds.
        """
        capture = self._capture
        if capture is None:
            raise MeterError(f"{self.id} is not recording", cure="start it first")
        data = self._port.read(timeout_s)
        host_s = self._now()
        if data:
            self._data_s = host_s
            return capture.pump(data, host_s)
        if host_s - self._data_s > self._stall_s:
            raise MeterError(
                f"{self.id} has sent nothing for {self._stall_s:g} s ({self._port.name})",
                cure="check its cable and supply",
            )
        return 0

    def run_until(self, host_s: float) -> None:
        """Read the port until a moment; for meters without a thread.

        Raises:
            MeterError: See :meth:`pump`.
        """
        while (left_s := host_s - self._now()) > 0:
            self.pump(min(left_s, 0.1))

    @property
    def is_streaming(self) -> bool:
        """True while the stream runs, as far as known; :meth:`stop` reports the cause of its end."""
        return self._capture is not None and self._error is None

    def _run(self) -> None:
        fast = self.instrument.rate_hz > _FAST_HZ
        pause_s, fresh = (_PAUSE_S, 1) if fast else (_SLOW_PAUSE_S, 3)
        try:
            while not self._end.is_set():
                self.pump(0.1)  # bytes already received
                for _ in range(fresh):
                    self.pump(0.1)  # the next bytes at the moment they come: these make up the clock's floor
                self._end.wait(pause_s)
        except Exception as error:  # raised to the caller by _check()
            self._error = error

    def _check(self) -> None:
        """Raise the error that ended the reader."""
        error = self._error
        if isinstance(error, DeepenError):
            raise error
        if error is not None:
            raise MeterError(
                f"{self.id}: the reader failed ({type(error).__name__}: {error})", cure="report this"
            ) from error

    def _await(self, there: Callable[[], bool], until_s: float) -> None:
        """Wait until ``there`` is true, or until a moment of host time."""
        while not there() and self._now() < until_s:
            self._check()
            if self._threaded:
                time.sleep(_PAUSE_S / 4)
            else:
                self.pump(_PAUSE_S)
        self._check()

    def _join(self) -> None:
        thread = self._thread
        if thread is not None:
            self._end.set()
            thread.join()
            self._thread = None

    def _finish(self) -> tuple[StreamSummary, StreamCapture]:
        moment_s = self._now()
        capture = self._capture
        if capture is None:
            raise MeterError(f"{self.id} was stopped before it was started", cure="start it first")
        broken: Exception | None = None
        late: list[TraceWarning] = []
        try:
            self._await(lambda: capture.has_reached(moment_s), moment_s + max(_DRAIN_S, self._stall_s + 1))
            if not capture.has_reached(moment_s):
                late.append(
                    TraceWarning(
                        "loss",
                        f"late: the stream had not reached the end after {_DRAIN_S:g} s more; the last part is missing",
                    )
                )
            self._join()
            self.instrument.end()
        except DeepenError as error:
            broken = error
            late.append(TraceWarning("loss", f"cut short: {error}"))
        self._join()
        self._capture = None
        try:
            self.ending = capture.finish(self.id, late)
        except MeterError:
            if broken is None:
                raise
        if broken is not None:
            raise broken
        assert self.ending is not None
        return self.ending, capture

    def _abandon(self) -> None:
        """Abandon a stream, whatever state it is in."""
        if self._capture is not None:
            self._join()
            self._capture = None
            with contextlib.suppress(MeterError):
                self.instrument.end()

    def _refuse_losses(self, ending: StreamSummary) -> None:
        wrong, all_of_them = ending.dropped + ending.doubled, ending.dropped + ending.samples
        if wrong > self.max_loss * all_of_them:
            what = f"{ending.dropped} of {all_of_them} samples were lost"
            if ending.doubled:
                what += f" and {ending.doubled} counted twice"
            raise MeterError(
                f"{self.id}: {what} ({100 * wrong / all_of_them:.3g} %, {100 * self.max_loss:.3g} % allowed)",
                cure="use a USB port of its own and stop other programs, or allow it: ?max_loss=0.05",
            )


def read_number_option(
    spec: MeterSpec, key: str, low: float, high: float, *, unit: str = "", default: float | None = None, why: str = ""
) -> float:
    """Read a number among the options of a specification.

    Args:
        spec: The specification.
        key: The option.
        low: Smallest safe value.
        high: Largest safe value.
        unit: Unit for messages.
        default: Value if the option is not given; ``None`` requires it.
        why: Its purpose, for the message if it is missing.

    Raises:
        ConfigError: If it is missing, not a number, or outside the limits.
    """
    text = spec.options.get(key, "")
    if not text:
        if default is None:
            reason = f" ({why})" if why else ""
            raise ConfigError(f"meter '{spec.name}' needs {key}{reason}", cure=f"write {spec.name}:PORT?{key}={high:g}")
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ConfigError(
            f"meter '{spec.name}': {key}={text} is outside {low:g} to {high:g}{' ' + unit if unit else ''}",
            cure="correct it",
        )
    return value


def make_stream_driver(
    name: str,
    title: str,
    make: Callable[[Port, MeterSpec, Source], Instrument],
    *,
    baud: int | Callable[[MeterSpec], int] = 115200,
    usb_ids: Sequence[UsbId] = (),
    options: Sequence[str] = (),
    safe_bytes: bytes = b"",
) -> Driver:
    """Make the driver of a serial instrument.

    Args:
        name: Its name in ``--meter``.
        title: A description in one line.
        make: Sets up the instrument at an open port and returns it; raises ``MeterError`` if another one answers,
            ``ConfigError`` if an option is wrong or unsafe. The label is for the instrument's ``source``.
        baud: Bits per second, or a function that returns them for a specification.
        usb_ids: USB ids of the instrument; empty if it cannot be distinguished from other devices.
        options: Its options in addition to :data:`COMMON_OPTIONS`.
        safe_bytes: Bytes that make the instrument safe while ``make`` runs; afterwards its own ``safe_bytes`` apply.
    """

    def open_meter(spec: MeterSpec, context: MeterContext) -> Meter:
        spec.only(*COMMON_OPTIONS, *options)
        max_loss = read_number_option(spec, "max_loss", 0.0, 1.0, default=DEFAULT_MAX_LOSS)
        speed = baud if isinstance(baud, int) else baud(spec)
        port = open_port(choose_port(name, spec.port, usb_ids), baud=speed)
        guard: PortGuard | None = None
        try:
            source = get_source_label(port, spec)
            guard = _start_guard(port, safe_bytes)
            instrument = make(port, spec, source)
            if guard is not None:
                guard.arm(instrument.safe_bytes)
        except BaseException:
            _abandon_port(port, guard, safe_bytes)
            raise
        return StreamMeter(instrument, port, max_loss=max_loss, guard=guard)

    return Driver(name, title, lambda context: check_availability(name, usb_ids), open_meter)


def _start_guard(port: SerialPort, safe_bytes: bytes) -> PortGuard | None:
    fd = port.fileno()
    if fd is None:
        return None
    return PortGuard(fd, safe_bytes, keep=() if port.lock is None else (port.lock.fileno(),))


def _abandon_port(port: SerialPort, guard: PortGuard | None, safe_bytes: bytes) -> None:
    """Make an instrument safe after a failed dialogue, and release its port."""
    try:
        if safe_bytes:
            with contextlib.suppress(MeterError):
                port.write(safe_bytes)
        if guard is not None:
            guard.close()
    finally:
        port.close()
