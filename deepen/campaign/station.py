"""A station: a device and the meter on it, opened together, known by their serial numbers, held against others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from deepen.devices.state.cool_down import select_heat_throttling
from deepen.errors import ConfigError, DeepenError, LinkError, MeterError
from deepen.measure.conditions.device_conditions import get_device_serial, lock_device, log_device_message
from deepen.records import EnergyRecord

if TYPE_CHECKING:
    from deepen.devices.protocols import Device
    from deepen.measure import Session

__all__ = ["DeviceWithMeter", "SessionOpener", "Station", "StationIdentity", "parse_device_meter_pairs"]


_COOL_S = 60.0
"""Longest wait for a device to cool down before it is said to rest, seconds."""


@dataclass(frozen=True, slots=True)
class DeviceWithMeter:
    """A device and its meter, as the user names them.

    Attributes:
        device: As ``--device``.
        meter: As ``--meter``; ``None`` for what the device's profile prefers, else the best source.
    """

    device: str = "local"
    meter: str | None = None

    @property
    def name(self) -> str:
        """Its name in progress and messages: the device without its options."""
        return self.device.partition("?")[0]


def parse_device_meter_pairs(texts: list[str] | tuple[str, ...]) -> tuple[DeviceWithMeter, ...]:
    """Read ``DEVICE,METER`` pairs: the first comma ends the device.

    Raises:
        ConfigError: If one half is empty, or a device or a meter occurs twice.
    """
    pairs = []
    for text in texts:
        device, comma, meter = (part.strip() for part in text.partition(","))
        if not device or (comma and not meter):
            raise ConfigError(f"'{text}' is no pair; write DEVICE,METER, for example adb:0A1B2C,lvpm:12345")
        pairs.append(DeviceWithMeter(device, meter or None))
    for what, names in (
        ("device", [pair.name for pair in pairs]),
        ("meter", [pair.meter.partition("?")[0] for pair in pairs if pair.meter and ":" in pair.meter]),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ConfigError(f"{what} '{twice}' is in two pairs; each pair needs one of its own")
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class StationIdentity:
    """Device and meter of a station; the same ones must answer whenever it is opened again.

    Attributes:
        profile: The device's profile.
        meter: Kind of power source, as records have it.
        source: Label of its numbers.
        device_serial: Serial number of the device; empty where it tells none.
        meter_serial: Serial number of the meter; empty where it tells none.
    """

    profile: str
    meter: str
    source: str
    device_serial: str = ""
    meter_serial: str = ""

    def document(self) -> dict[str, str]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> StationIdentity:
        """From JSON values.

        Raises:
            KeyError: If one is missing.
        """
        return cls(**{name: str(document[name]) for name in cls.__slots__})


class SessionOpener(Protocol):
    """Opens device, meter and session for a station; :func:`deepen.measure.open_session` is one."""

    def __call__(
        self,
        device: str = "local",
        meter: str | None = None,
        *,
        claim: Callable[[Device], AbstractContextManager[object]] | None = None,
        **options: Any,
    ) -> AbstractContextManager[Session]:
        """Open all three; closed at the context's end."""
        ...


def _make_default_opener() -> SessionOpener:
    """Make an opener that does not wait for the device to cool down: that is done before each task."""
    from deepen.measure import open_session

    return partial(open_session, cool_s=0.0)


class Station:
    """Opens a pair, again and again, and remembers what must stay the same.

    Used by one thread at a time.

    Attributes:
        name: Its name in progress and messages.
        facts: Its identity; ``None`` before it was ever opened.
        sleep: Waits in this station's time; ``None`` for real time.
        tell: Called with messages about the device, each once.
    """

    def __init__(
        self,
        pair: DeviceWithMeter,
        *,
        open_session: SessionOpener | None = None,
        known: StationIdentity | None = None,
        runtime: str = "onnxruntime",
        sleep: Callable[[float], None] | None = None,
        **options: Any,
    ) -> None:
        """Describe the station; nothing is opened.

        Args:
            pair: Device and meter.
            open_session: Opens them; by default :func:`deepen.measure.open_session`.
            known: Its identity in an earlier run; a device that answers at the first opening takes its place, and
                one that is gone then is waited for.
            runtime: Runtime of the first session; ``auto`` for what suits the device.
            sleep: Waits; for stand-ins in virtual time.
            **options: Passed to the session.
        """
        self.pair = pair
        self.name = pair.name
        self.facts = known
        self.sleep = sleep
        self.tell: Callable[[str], None] = log_device_message
        self._told: set[str] = set()
        self._open_session = open_session
        self._options = options
        self._stack = ExitStack()
        self._session: Session | None = None
        self._runtime = runtime
        self._tried = False  # from the second opening on, whoever is there must be who was there
        self._first: dict[str, Any] = {}
        self._drift: tuple[tuple[float, float], ...] = ()

    @property
    def is_open(self) -> bool:
        """True while a session is open."""
        return self._session is not None

    @property
    def runtime(self) -> str:
        """Runtime of the session that is open, or was last."""
        return self._runtime

    @property
    def drift(self) -> tuple[tuple[float, float], ...]:
        """Change of the reference workload over all its sessions, as ``(t_s, share)``."""
        return self._drift + (tuple(self._session.drift) if self._session is not None else ())

    def session(self, runtime: str = "") -> Session:
        """Get the open session; it is opened where there is none or it runs another runtime.

        Args:
            runtime: Runtime wanted; empty for the one it had last.

        Raises:
            ConfigError: If a name is wrong.
            LinkError, MeterError: If the device or the meter does not answer, is in use, or is another one than before.
        """
        if self._session is not None and runtime in ("", self._runtime):
            return self._session
        wanted = runtime or self._runtime
        self.close()
        opener = self._open_session or _make_default_opener()
        strict, self._tried = self._tried, True
        with ExitStack() as stack:
            serials: list[str] = []
            opened = opener(
                self.pair.device,
                self.pair.meter,
                claim=lambda device: self._claim(device, serials, strict),
                runtime=wanted,
                tell=self._report_once,
                **self._options,
            )
            session = stack.enter_context(opened)
            self._check(session, serials[0] if serials else "", strict)
            self._stack = stack.pop_all()
        self._session, self._runtime = session, str(getattr(session, "runtime", wanted))
        self._keep_baseline(session)
        return session

    @contextmanager
    def _claim(self, device: Device, serials: list[str], strict: bool) -> Iterator[None]:
        """Check which device answered, and keep every other campaign away from it."""
        serial = get_device_serial(device)
        serials.append(serial)
        if strict and self.facts is not None and serial != self.facts.device_serial:
            raise LinkError(
                f"device '{serial}' answers where '{self.facts.device_serial}' was",
                subject=self.name,
                cure="connect that one again",
            )
        with lock_device(device, self.name):
            yield

    def _report_once(self, text: str) -> None:
        """Pass a message on, but not again each time the station is opened."""
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

    def _check(self, session: Session, serial: str, strict: bool) -> None:
        meter = session.meter
        meter_serial = str(getattr(getattr(meter, "instrument", None), "serial", ""))
        found = StationIdentity(session.device.profile.id, meter.id, meter.source, serial, meter_serial)
        if self.facts is None or not strict:
            self.facts = found
        elif found.meter_serial != self.facts.meter_serial:
            raise MeterError(
                f"meter '{found.meter_serial}' answers where '{self.facts.meter_serial}' was",
                subject=self.name,
                cure=f"connect that one again, or name it by its serial number ({meter.id}:{self.facts.meter_serial})",
            )
        elif found != self.facts:
            old, new = (f"{f.profile} with {f.meter} ({f.source})" for f in (self.facts, found))
            raise LinkError(f"is {new} now and was {old}", subject=self.name, cure="put it back as it was")

    def _keep_baseline(self, session: Session) -> None:
        """Let drift count from the first session on, also after the device has been gone."""
        points = getattr(getattr(session, "drift_series", None), "points", None)
        if not points:
            return
        first = self._first.setdefault(self._runtime, points[0])
        if first is not points[0]:
            points.insert(0, first)

    def wait_until_cool(self) -> str:
        """Wait until the device is cool enough to begin, where its profile says how cool (``cool_to_c``).

        Returns:
            The reason it cannot begin; empty where it can, or where it has no such temperature.

        Raises:
            LinkError: If it is gone.
        """
        if self._session is None:
            return ""
        device = self._session.device
        limits = getattr(device.profile, "cool_to_c", {})
        cool_down = getattr(device, "cool_down", None)
        if not limits or cool_down is None:
            return ""
        from deepen.devices.state.temperatures import find_processor_temperature

        found = cool_down(patience_s=_COOL_S, **({} if self.sleep is None else {"sleep": self.sleep}))
        end = found.end
        unknown = any(
            math.isnan(find_processor_temperature(end) if kind == "cpu" else end.hottest(kind)) for kind in limits
        )
        return "" if found.reached or unknown else f"too warm to begin: {found.cause}"

    def find_record_fault(self, record: EnergyRecord, max_drift: float) -> str:
        """Find the reason a record just made must not count; empty where it may.

        Args:
            record: The record.
            max_drift: Largest believable change of the reference workload, a share.
        """
        session = self._session
        if session is None:
            return ""
        limit = getattr(session.device.profile, "max_temperature_c", math.inf)
        hottest_c = max(record.temperature_c, record.temperature_max_c, key=lambda t: -math.inf if math.isnan(t) else t)
        if hottest_c > limit:
            return f"too hot: {hottest_c:.0f} °C, the profile allows {limit:g} °C"
        words = select_heat_throttling(record.throttled)
        if words and session.device.profile.link != "local":  # a laptop throttles often; its records say so
            return f"it throttled: {'; '.join(words[:2])}"
        if session.drift and abs(session.drift[-1][1]) > max_drift:
            change = 100 * session.drift[-1][1]
            return f"it drifts: the reference workload takes {change:+.0f} % energy since the campaign began"
        return ""

    def close(self) -> None:
        """Release session, meter and device; harmless when that is done, and when they are gone."""
        session, self._session = self._session, None
        if session is not None:
            self._drift += tuple(session.drift)
        stack, self._stack = self._stack, ExitStack()
        with suppress(DeepenError):  # what is gone cannot be closed; opening it again tells what there is to tell
            stack.close()
