"""Polled SCPI power analysers over a serial line, TCP, USBTMC, VXI-11 or GPIB, as a profile describes them.

``scpi:/dev/ttyUSB0``, ``scpi:tcp://HOST:PORT`` and VISA names such as ``scpi:USB0::0x0B21::0x0025::C2PC1234::INSTR``
name the connection. The answer to ``*IDN?`` must match the profile, the error queue must be empty after the setup, and
ranges are read before and after a trace, since an analyser does not measure while it changes its range by itself.
Numbers from 9.9e37 on stand for infinity and not-a-number (SCPI-99, volume 1, 7.2.1.4 and 7.2.1.5).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from deepen.clock.host_clock import monotonic_s
from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.profile_file import get_unit_scale, load_profile_table, read_accuracy
from deepen.meters.polled_meter import PolledMeter
from deepen.meters.ports.discover import choose_port
from deepen.meters.ports.protocol import Port
from deepen.meters.ports.serial_port import get_source_label, open_port
from deepen.meters.ports.visa_port import VisaPort, is_visa_resource
from deepen.meters.stream.supply_voltage import read_optional_number
from deepen.meters.types import Availability, Driver, Meter, MeterContext, MeterSpec
from deepen.records import Accuracy, PowerTrace, Source, TraceWarning

__all__ = ["DRIVER", "ScpiConnection", "ScpiMeter", "ScpiProfile"]

_BAUD = 9600
_TIMEOUT_S = 2.0
_NO_NUMBER = 9.9e37
_MOST_ERRORS = 64
_LONGEST = 65_536


@dataclass(frozen=True, slots=True)
class ScpiProfile:
    """The table ``[scpi]`` of a profile.

    Attributes:
        name: Name of the profile.
        identity: Pattern that the answer to ``*IDN?`` must contain.
        baud: Bits per second on a serial line.
        line_end: Ends a command and an answer.
        setup: Commands before measuring.
        finish: Commands at the end (back to local control).
        query: Query of the reading.
        field: Number of the value in the answer, from 1.
        scale: Watts, or amperes, in one unit of the answer.
        tells_current: True if the answer is a current.
        ranges: Queries whose answers must not change while measuring.
        errors: Query of the oldest error; empty for none.
        update_s: Time between two updates of the reading, seconds.
        poll_s: Time between two queries, seconds.
        resolution_w: Last figure of the reading, watts.
        accuracy: Accuracy the maker states.
    """

    name: str
    identity: re.Pattern[str]
    baud: int
    line_end: str
    setup: tuple[str, ...]
    finish: tuple[str, ...]
    query: str
    field: int
    scale: float
    tells_current: bool
    ranges: tuple[str, ...]
    errors: str
    update_s: float
    poll_s: float
    resolution_w: float
    accuracy: Accuracy

    @classmethod
    def load(cls, spec: MeterSpec) -> ScpiProfile:
        """Load the profile that a specification names.

        Raises:
            ConfigError: If there is none, or it is wrong.
        """
        name, table = load_profile_table(spec, "scpi")
        identity = table.pattern("identity")
        if identity is None:
            raise ConfigError(f"{table.where}: identity is missing", cure="add what the answer to *IDN? must contain")
        unit = table.text("unit")
        tells_current = unit.endswith("A")
        update_s = table.number("update_s")
        profile = cls(
            name=name,
            identity=identity,
            baud=int(table.number("baud", _BAUD)),
            line_end=table.text("line_end", "\n"),
            setup=table.texts("setup"),
            finish=table.texts("finish"),
            query=table.text("query"),
            field=int(table.number("field", 1.0)),
            scale=get_unit_scale("current" if tells_current else "power", unit, table.where),
            tells_current=tells_current,
            ranges=table.texts("ranges"),
            errors=table.text("errors", "SYST:ERR?"),
            update_s=update_s,
            poll_s=table.number("poll_s", update_s),
            resolution_w=table.number("resolution_w", 0.0),
            accuracy=read_accuracy(table.table("accuracy")),
        )
        table.end()
        return profile


class ScpiConnection:
    """Commands and queries over a port."""

    def __init__(self, port: Port, line_end: str) -> None:
        """Take over a port."""
        self._port = port
        self._end = line_end.encode("ascii")

    def say(self, command: str) -> None:
        """Send a command without an answer.

        Raises:
            MeterError: If the port is gone.
        """
        self._port.write(command.encode("ascii") + self._end)

    def ask(self, question: str) -> str:
        """Send a query and return its answer; a late answer to an earlier one is discarded.

        Raises:
            MeterError: If no answer comes, with the usual causes.
        """
        self._port.flush_input()
        self.say(question)
        answer, waited_s = b"", 0.0
        last = self._end[-1:]
        while last not in answer:
            data = self._port.read(0.1)
            answer += data
            waited_s += 0.0 if data else 0.1
            if waited_s > _TIMEOUT_S or len(answer) > _LONGEST:
                got = "".join(c for c in answer[:60].decode("ascii", "replace") if c.isprintable())
                raise MeterError(
                    f"scpi: no answer to '{question}' at {self._port.name} within {_TIMEOUT_S:g} s"
                    + (f", only '{got}'" if got else "")
                    + "; check that it is set to this interface and speed, and line_end in its profile"
                )
        return answer[: answer.index(last)].decode("ascii", "replace").strip()

    def errors(self, question: str) -> tuple[str, ...]:
        """Drain the instrument's error queue.

        Raises:
            MeterError: If the answers are not those of an error queue, or do not end.
        """
        found: list[str] = []
        while question and len(found) < _MOST_ERRORS:
            answer = self.ask(question)
            code = re.match(r"[+-]?\d+", answer)
            if code is None:
                raise MeterError(
                    f"'{question}' answers '{answer[:60]}', no error number",
                    subject="scpi",
                    cure="correct 'errors' in its profile",
                )
            if int(code[0]) == 0:
                break
            found.append(answer[:80])
        return tuple(found)

    def close(self) -> None:
        """Release the port."""
        self._port.close()


class ScpiMeter(PolledMeter):
    """One analyser.

    Attributes:
        serial: Its answer to ``*IDN?``.
    """

    def __init__(
        self,
        port: Port,
        profile: ScpiProfile,
        source: Source,
        *,
        voltage_v: float = math.nan,
        poll_s: float | None = None,
        now: Callable[[], float] = monotonic_s,
    ) -> None:
        """Identify the instrument and set it up.

        Args:
            port: Open port; :meth:`close` closes it.
            profile: Its profile.
            source: Label.
            voltage_v: Supply voltage, volts, if it measures the current alone.
            poll_s: Time between two queries in place of the profile's, seconds.
            now: The monotonic clock; replaceable by tests.

        Raises:
            MeterError: If another instrument answers, or it refuses a command.
        """
        self._talk = ScpiConnection(port, profile.line_end)
        self._profile = profile
        self._volts = voltage_v
        # TCP, USBTMC and GPIB have checksums; a serial line does not.
        self._unchecked = not (isinstance(port, VisaPort) or port.name.startswith("socket://"))
        self._factor = profile.scale * (voltage_v if profile.tells_current else 1.0)
        self.serial = self._identify(port.name)
        self._talk.errors(profile.errors)  # clear errors of earlier users
        for command in profile.setup:
            self._talk.say(command)
            refused = self._talk.errors(profile.errors)
            if refused:
                raise MeterError(
                    f"{self.serial} refuses '{command}' ({refused[0]})",
                    subject="scpi",
                    cure=f"correct 'setup' in profile {profile.name}",
                )
        self._ranges = self._read_ranges()
        supply = f", {voltage_v:g} V given" if profile.tells_current else ""
        ranges_text = f", ranges {self._ranges}" if self._ranges else ""
        super().__init__(
            "scpi",
            f"profile {profile.name}, {self.serial}{ranges_text}{supply}",
            self._read_w,
            update_s=profile.update_s,
            resolution_j=profile.resolution_w * profile.update_s,
            poll_s=poll_s or profile.poll_s,
            accuracy=profile.accuracy,
            source=source,
            now=now,
            on_close=self._leave,
        )
        first = self._talk.ask(profile.query)
        if self._field(first) is None:
            raise MeterError(
                f"'{profile.query}' answers '{first[:60]}', which has no number in field {profile.field}",
                subject="scpi",
                cure=f"correct 'query' and 'field' in profile {profile.name}",
            )

    def start(self) -> None:
        """Begin a trace, with the ranges as they are now.

        Raises:
            MeterError: If the instrument does not answer.
        """
        self._ranges = self._read_ranges()
        super().start()

    def stop(self) -> PowerTrace:
        """End the trace, with warnings if ranges have changed or errors occurred.

        Raises:
            MeterError: If the instrument stopped answering, or fewer than two readings were numbers.
        """
        trace = super().stop()
        warnings = list(trace.warnings)
        if self._unchecked:
            text = "unchecked: answers over this line have no checksum; a damaged digit may pass for a value"
            warnings.append(TraceWarning("trace", text))
        if self._profile.tells_current:
            text = f"voltage: not measured with the current; power is current times {self._volts:g} V"
            warnings.append(TraceWarning("trace", text))
        ranges = self._read_ranges()
        if ranges != self._ranges:
            text = f"range switches: the ranges went from {self._ranges} to {ranges}; fix them before measuring"
            warnings.append(TraceWarning("range-switching", text))
        reported = self._talk.errors(self._profile.errors)
        warnings += [TraceWarning("trace", f"the instrument reports: {text}") for text in reported]
        return replace(trace, warnings=tuple(warnings))

    def _identify(self, name: str) -> str:
        answer = self._talk.ask("*IDN?")
        if not self._profile.identity.search(answer):
            raise MeterError(
                f"{name} is '{answer[:80]}', not what profile {self._profile.name} is for "
                f"({self._profile.identity.pattern})",
                subject="scpi",
                cure="choose its profile, or another port",
            )
        return answer[:80]

    def _read_ranges(self) -> str:
        return ", ".join(self._talk.ask(question)[:40] for question in self._profile.ranges)

    def _field(self, answer: str) -> float | None:
        """Return the value of the field: infinite or NaN if so reported, ``None`` if it is not a number."""
        fields = answer.split(",")
        if len(fields) < self._profile.field:
            return None
        text = fields[self._profile.field - 1].strip().rpartition(" ")[2]  # some put a header before the number
        if re.fullmatch(r"-{2,}[.-]*|\*+|[+-]?(over|ovr)\w*", text, re.IGNORECASE):
            return math.nan  # shown by displays over the range
        try:
            return float(text)
        except ValueError:
            return None

    def _read_w(self) -> float:
        value = self._field(self._talk.ask(self._profile.query))
        if value is None or not abs(value) < _NO_NUMBER:
            return math.nan
        return value * self._factor

    def _leave(self) -> None:
        try:
            with contextlib.suppress(MeterError):
                for command in self._profile.finish:
                    self._talk.say(command)
        finally:
            self._talk.close()


def _open(spec: MeterSpec, context: MeterContext) -> Meter:
    spec.only("profile", "rate_hz", "voltage_v", "source")
    profile = ScpiProfile.load(spec)
    rate_hz = read_optional_number(spec, "rate_hz", 1e-3, 1e3, "Hz")
    voltage_v = read_optional_number(spec, "voltage_v", 0.0, 1000.0, "V")
    if profile.tells_current and not voltage_v:
        raise ConfigError(
            f"meter profile '{profile.name}' tells the current alone", cure="measure the supply and add ?voltage_v=5.0"
        )
    if voltage_v and not profile.tells_current:
        raise ConfigError(f"meter profile '{profile.name}' tells the power itself", cure="leave voltage_v out")
    if not spec.port:
        raise ConfigError(
            "meter 'scpi' needs to know where the instrument is",
            cure="write scpi:/dev/ttyUSB0, scpi:tcp://HOST:PORT or scpi:VISA_NAME",
        )
    port: Port
    if is_visa_resource(spec.port):
        port = VisaPort(spec.port, profile.line_end)
    else:
        name = re.sub(r"^tcp://", "socket://", spec.port)
        port = open_port(choose_port("scpi", name, ()), baud=profile.baud)
    try:
        return ScpiMeter(
            port,
            profile,
            get_source_label(port, spec),
            voltage_v=voltage_v or math.nan,
            poll_s=1 / rate_hz if rate_hz else None,
        )
    except BaseException:
        port.close()
        raise


def _probe(context: MeterContext) -> Availability:
    cure = "name it: --meter 'scpi:tcp://HOST:PORT?profile=NAME'"
    return Availability("scpi", False, "", "measured", "it cannot be recognised by itself", cure)


DRIVER = Driver("scpi", "power analyser with SCPI commands, over serial, TCP or VISA (from a profile)", _probe, _open)
