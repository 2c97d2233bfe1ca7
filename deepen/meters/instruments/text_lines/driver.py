"""Driver of any instrument that sends lines of text by itself, as a profile in ``devices/meters`` describes it.

::

    meter = "line?profile=csv-example"          # so that --meter csv-example:/dev/ttyUSB0 is enough

    [line]
    rate_hz = 10.0                              # lines per second
    baud = 115200
    columns = ["time", "current", "voltage"]    # or: pattern = "P=(?P<power>[^ ]+) .*"
    units = { time = "ms", current = "mA", voltage = "V" }
    start = ["LOG ON"]                          # lines sent before and after, where it needs any
    stop = ["LOG OFF"]

Values are ``power``, ``current``, ``voltage``, ``energy`` (of the line's period), ``energy_total`` (running), and
``time`` or ``counter``, which reveal lost lines. Lines without either are counted by the host's clock alone.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from deepen.errors import ConfigError, MeterError
from deepen.meters.instruments.profile_file import load_profile_table, read_accuracy
from deepen.meters.instruments.text_lines.parser import LineFormat, LineParser
from deepen.meters.ports.protocol import Port
from deepen.meters.stream.dialogue import query_instrument, wait_until_silent
from deepen.meters.stream.meter import make_stream_driver
from deepen.meters.stream.stopped_by_command import StoppedByCommand
from deepen.meters.stream.supply_voltage import read_optional_number
from deepen.meters.stream.types import Parser
from deepen.meters.types import MeterSpec
from deepen.records import Accuracy, Source

__all__ = ["DRIVER", "LineInstrument", "LineProfile"]

_BAUD = 115_200
_ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class LineProfile:
    """The table ``[line]`` of a profile.

    Attributes:
        name: Name of the profile.
        rate_hz: Lines per second.
        baud: Bits per second.
        form: Format of a line.
        start: Lines sent before the stream.
        stop: Lines sent after it, and when the program dies.
        line_end: End of each line sent.
        identify: Line sent to identify the instrument; empty for none.
        identity: Pattern that the answer must contain.
        sampling: ``mean`` if a line is the mean since the previous line.
        max_w: End of the range, watts.
        accuracy: Accuracy the maker states.
    """

    name: str
    rate_hz: float
    baud: int
    form: LineFormat
    start: tuple[str, ...]
    stop: tuple[str, ...]
    line_end: str
    identify: str
    identity: re.Pattern[str] | None
    sampling: Literal["point", "mean"]
    max_w: float
    accuracy: Accuracy

    @classmethod
    def load(cls, spec: MeterSpec) -> LineProfile:
        """Load the profile that a specification names.

        Raises:
            ConfigError: If there is none, or it is wrong.
        """
        name, table = load_profile_table(spec, "line")
        form = LineFormat.read(table)
        means = bool({"energy", "energy_total"} & form.values)
        sampling = table.text("sampling", "mean" if means else "point")
        if sampling not in ("point", "mean") or (means and sampling == "point"):
            raise ConfigError(f"{table.where}: sampling is 'point' or 'mean', and 'mean' where lines tell energy")
        profile = cls(
            name=name,
            rate_hz=table.number("rate_hz"),
            baud=int(table.number("baud", _BAUD)),
            form=form,
            start=table.texts("start"),
            stop=table.texts("stop"),
            line_end=table.text("line_end", "\r\n"),
            identify=table.text("identify", ""),
            identity=table.pattern("identity"),
            sampling="mean" if sampling == "mean" else "point",
            max_w=table.number("max_w", math.inf) if "max_w" in table.keys else math.inf,
            accuracy=read_accuracy(table.table("accuracy")),
        )
        table.end()
        if bool(profile.identify) != (profile.identity is not None):
            raise ConfigError(f"{table.where}: identify (the question) and identity (the answer) belong together")
        return profile

    def sent(self, lines: tuple[str, ...]) -> bytes:
        """Encode lines as bytes to send."""
        return "".join(line + self.line_end for line in lines).encode("utf-8")


class LineInstrument(StoppedByCommand):
    """The conversation with one instrument.

    Attributes:
        serial: Its answer to ``identify``; empty if there is none.
        rate_hz: Lines per second.
        calibration_id: The profile, and the answer.
        sampling: Meaning of a sample (see ``PowerTrace``).
    """

    name = "line"

    def __init__(self, port: Port, spec: MeterSpec, source: Source) -> None:
        """Check that it is the right instrument.

        Args:
            port: Open port.
            spec: Options ``profile``, ``rate_hz`` (instead of the profile's), ``voltage_v`` (if lines have only the
                current).
            source: Label.

        Raises:
            ConfigError: If the profile is wrong, or the voltage is missing or not needed.
            MeterError: If another instrument answers.
        """
        profile = self._profile = LineProfile.load(spec)
        self._port = port
        self.rate_hz = read_optional_number(spec, "rate_hz", 1e-3, 1e5, "Hz") or profile.rate_hz
        self._voltage_v = _parse_supply_voltage(spec, profile)
        self.source: Source = source
        self.accuracy = profile.accuracy
        self.sampling = profile.sampling
        self.safe_bytes = profile.sent(profile.stop)
        self.serial = self._identify()
        supply = "" if math.isnan(self._voltage_v) else f", {self._voltage_v:g} V given"
        self.calibration_id = f"profile {profile.name}{supply}" + (f", {self.serial}" if self.serial else "")

    def begin(self) -> Parser:
        """Start the stream."""
        self._port.flush_input()
        if self._profile.start:
            self._port.write(self._profile.sent(self._profile.start))
        parser = LineParser(self._profile.form, self.rate_hz, voltage_v=self._voltage_v, max_w=self._profile.max_w)
        parser.tally.note("unchecked: lines have no checksum; a damaged digit may pass for a value")
        if not math.isnan(self._voltage_v):
            parser.tally.note(f"voltage: not measured; power is current times {self._voltage_v:g} V")
        return parser

    def end(self) -> None:
        """Stop the stream, if it can be stopped.

        Raises:
            MeterError: If it continues.
        """
        if not self._profile.stop:
            return
        self._port.write(self.safe_bytes)
        if not wait_until_silent(self._port, max(0.15, 3 / self.rate_hz)):
            raise MeterError(
                f"{self._port.name} goes on sending",
                subject="line",
                cure=f"correct 'stop' in meter profile {self._profile.name}",
            )

    def _identify(self) -> str:
        profile = self._profile
        if profile.identity is None:
            return ""
        if profile.stop:
            self._port.write(self.safe_bytes)
            wait_until_silent(self._port)
        question = profile.sent((profile.identify,))
        wanted = profile.identity

        def answered(data: bytes) -> bool:
            whole = data[: data.rfind(b"\n") + 1].decode("utf-8", "replace")
            return wanted.search(whole) is not None

        answer = query_instrument(self._port, question, answered, timeout_s=_ANSWER_S).decode("utf-8", "replace")
        for line in answer.splitlines():
            if wanted.search(line):
                return "".join(c for c in line.strip() if c.isprintable())[:80]
        got = "".join(c for c in answer.strip()[:60] if c.isprintable())
        raise MeterError(
            f"line: {self._port.name} is not what profile {profile.name} describes (asked '{profile.identify}', "
            + (f"got '{got}'" if got else "got nothing")
            + "); check port, speed and profile"
        )


def _parse_supply_voltage(spec: MeterSpec, profile: LineProfile) -> float:
    """Parse the supply voltage given by the user; ``nan`` if lines have the power.

    Raises:
        ConfigError: If it is missing or not needed.
    """
    values = profile.form.values
    needed = "current" in values and not {"power", "energy", "energy_total", "voltage"} & values
    given = read_optional_number(spec, "voltage_v", 0.0, 1000.0, "V")
    if needed and not given:
        raise ConfigError(
            f"meter profile '{profile.name}' tells the current alone", cure="measure the supply and add ?voltage_v=3.3"
        )
    if given and not needed:
        raise ConfigError(f"meter profile '{profile.name}' tells the power itself", cure="leave voltage_v out")
    return given if given else math.nan


DRIVER = make_stream_driver(
    "line",
    "any instrument that sends lines of text (CSV or a pattern, from a profile)",
    LineInstrument,
    baud=lambda spec: LineProfile.load(spec).baud,
    options=("profile", "rate_hz", "voltage_v"),
)
