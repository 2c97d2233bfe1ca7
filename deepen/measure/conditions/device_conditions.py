"""Settings and temperature a device measures under: set, read back, watched, restored.

This machine is left as it is unless a setting is asked for by name: a newcomer's laptop must not change its governor.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deepen.devices.links.local import LocalLink
from deepen.errors import ConfigError, DeepenError, LinkError, MeterError
from deepen.records import MeasurementWarning

if TYPE_CHECKING:
    from deepen.devices.protocols import Device
    from deepen.devices.settings.apply_and_restore import AppliedSettings
    from deepen.devices.state.cool_down import CoolDownResult
    from deepen.devices.types import SettingStatus

__all__ = [
    "COOL_S",
    "DeviceConditions",
    "MessageHandler",
    "anonymise_serial",
    "apply_device_conditions",
    "describe_unset_settings",
    "get_device_serial",
    "lock_device",
    "log_device_message",
]

_LOG = logging.getLogger("deepen.measure")

MessageHandler = Callable[[str], None]
"""Receives messages about a device, one line at a time."""

COOL_S = 600.0
"""Longest wait for a device to cool down before a measurement, seconds."""

CHECK_EVERY_S = 60.0
"""Time between two readings of the settings during a session, seconds."""


def log_device_message(text: str) -> None:
    """Log a message about a device as a warning, where the caller names no handler."""
    _LOG.warning("%s", text)


def get_device_serial(device: Device) -> str:
    """Get the serial number of a device; empty where it has none, and for this machine."""
    return str(getattr(getattr(device, "identity", None), "serial", ""))


def anonymise_serial(serial: str) -> str:
    """Make a serial number fit for records: a machine id must not be published (machine-id(5)).

    It is replaced by a hash of it, which is the same in every record of the machine.
    """
    if not re.fullmatch(r"[0-9a-f]{32}", serial):
        return serial
    return f"machine-{hashlib.sha256(f'deepen/{serial}'.encode()).hexdigest()[:16]}"


def describe_unset_settings(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """List the settings that are not as they were asked for, in one line; empty where all are."""
    left = [
        f"{name} ({s['actual']}, wanted {s['wanted']})" if s["actual"] else f"{name} ({s['cause']})"
        for name, s in settings.items()
        if not s["ok"] and s["cause"]
    ]
    return f"not set: {', '.join(left)}" if left else ""


class DeviceConditions:
    """Conditions of a device, as a session's records state them.

    Attributes:
        serial: Serial number of the device as records have it; empty where it tells none, and for this machine.
        cooled: Outcome of waiting for it to cool down; ``None`` without a wait.
    """

    def __init__(
        self, serial: str = "", asked: tuple[SettingStatus, ...] = (), preparation: AppliedSettings | None = None
    ) -> None:
        """Take over settings that were applied; :func:`apply_device_conditions` does that.

        Args:
            serial: Serial number of the device.
            asked: Settings asked for, with their outcome.
            preparation: Reads them back later.
        """
        self.serial = anonymise_serial(serial)
        self.cooled: CoolDownResult | None = None
        self._preparation = preparation
        self._asked = {setting.name: setting for setting in asked}
        self._checked_s = -math.inf

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings asked for, as :attr:`deepen.records.EnergyRecord.settings` has them."""
        return {
            name: {"wanted": s.wanted, "actual": s.actual, "ok": s.ok, "cause": s.cause}
            for name, s in self._asked.items()
        }

    @property
    def warnings(self) -> list[MeasurementWarning]:
        """Remarks for the record besides the settings themselves."""
        changed = [s for s in self._asked.values() if not s.ok and s.details.get("changed_later")]
        found = [
            MeasurementWarning("settings", f"{s.name} was {s.wanted} and is {s.actual or 'not readable'} now")
            for s in changed
        ]
        if self.cooled is not None and not self.cooled.reached:
            found.append(MeasurementWarning("temperature", f"too warm to begin: {self.cooled.cause}"))
        return found

    def check(self, now_s: float) -> None:
        """Read the settings back, at most every :data:`CHECK_EVERY_S` seconds.

        Raises:
            LinkError: If the device is gone.
        """
        if self._preparation is None or now_s - self._checked_s < CHECK_EVERY_S:
            return
        first, self._checked_s = math.isinf(self._checked_s), now_s
        if first:  # they were read back when they were set
            return
        for found in self._preparation.check():
            asked = self._asked.get(found.name)
            if asked is not None and asked.ok and not found.ok:
                details = {**asked.details, "changed_later": True}
                self._asked[found.name] = replace(
                    asked, actual=found.actual, ok=False, cause=found.cause, details=details
                )


# ---- around a session ---------------------------------------------------------------------------------------------


@contextmanager
def lock_device(device: Device, name: str) -> Iterator[None]:
    """Keep every other session of this host away from a device that tells its serial number.

    Args:
        device: The device.
        name: Its name in an error message, where options after ``?`` are left out.

    Raises:
        LinkError: If another process or session has it.
    """
    from deepen.meters.ports.locks import InstrumentLock

    serial = get_device_serial(device)
    if not serial:
        yield
        return
    try:
        lock = InstrumentLock(f"device {serial}", f"device {name.partition('?')[0]}")
    except MeterError as error:
        raise LinkError(str(error)) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def apply_device_conditions(
    device: Device,
    *,
    prepare: bool = True,
    wanted: Mapping[str, Any] | None = None,
    cool_s: float = COOL_S,
    tell: MessageHandler = log_device_message,
) -> Iterator[DeviceConditions]:
    """Bring a device into the conditions its profile asks for, and restore everything at the end of the block.

    1. The settings are those of the profile, unless the device is this machine, and ``wanted`` before them.
    2. A remote device without a serial number is left as it is: its journal could not be found again.
    3. With nothing to set and nothing left changed by an interrupted run, only the temperature is waited for.
    4. Else settings left by an interrupted run are restored first; then ours are applied and read back.
    5. The device is given time to become as cool as its profile asks for.

    A setting that is refused, or a device that stays warm, is no error: ``tell`` hears of it and the conditions state
    it.

    Args:
        device: An open device.
        prepare: Whether the profile's settings are set and the device is waited for.
        wanted: Settings to set besides, see ``deepen.devices.settings.catalogue.SETTING_DEFINITIONS``; they go before
            the profile's.
        cool_s: Longest wait for it to cool down, seconds.
        tell: Called with messages about the device.

    Raises:
        ConfigError: If a setting does not exist, or one is asked for and could not be given back.
        LinkError: If the device is gone, or another process is changing its settings.
        StorageError: If the journal of changed settings cannot be kept.
    """
    from deepen.devices.settings.apply_and_restore import apply_settings_temporarily
    from deepen.devices.settings.catalogue import check_settings

    # 1. The settings.
    local = isinstance(device.link, LocalLink)
    of_profile = device.profile.wanted if prepare and not local else {}
    asked = check_settings({**of_profile, **(wanted or {})})
    # 2. No serial number.
    serial = get_device_serial(device)
    remote = hasattr(device, "identity")
    if remote and not serial and not wanted:
        cause = "the device tells no serial number, so it could not be given back"
        conditions = DeviceConditions(
            serial, tuple(_make_refused_setting(name, value, cause) for name, value in asked.items())
        )
        _wait_until_cool(device, conditions, prepare, cool_s, tell)
        yield conditions
        return
    # 3. Nothing to set or restore.
    if not asked and not (prepare and (_has_leftover_changes() if local else remote)):
        conditions = DeviceConditions(serial)
        _wait_until_cool(device, conditions, prepare, cool_s, tell)
        yield conditions
        return
    # 4. Restore, apply, read back.
    name = device.profile.id
    with _report_failed_restore(apply_settings_temporarily(device.link, asked), name, tell) as preparation:
        own = tuple(s for s in preparation.settings if "changed" in s.details)
        for setting in preparation.settings:
            if setting not in own:
                _report_leftover_change(setting, tell)
        conditions = DeviceConditions(serial, own, preparation)
        for setting in own:
            _LOG.info("%s: %s, wanted %s%s", setting.name, setting.actual, setting.wanted, _format_cause(setting))
        if line := describe_unset_settings(conditions.settings):
            tell(line)
        # 5. Cool down.
        _wait_until_cool(device, conditions, prepare, cool_s, tell)
        yield conditions


@contextmanager
def _report_failed_restore(preparing: Any, name: str, tell: MessageHandler) -> Iterator[AppliedSettings]:
    """Report settings that cannot be restored instead of raising: the measurement is done and must not be lost."""
    done = False
    try:
        with preparing as preparation:
            yield preparation
            done = True
    except DeepenError as error:
        if not done:
            raise
        tell(f"{name}: settings are still changed ({error}); 'deepen device prepare DEVICE --restore' gives them back")
        return
    for setting in preparation.restored:
        if not setting.ok:
            tell(
                f"{name}: {setting.name} could not be given back ({setting.cause}); "
                "'deepen device prepare DEVICE --restore' tries again"
            )


def _format_cause(setting: SettingStatus) -> str:
    cure = f"; {setting.cure}" if setting.cure else ""
    return f" ({setting.cause}{cure})" if setting.cause else ""


def _has_leftover_changes() -> bool:
    """Tell whether a journal lists settings that an interrupted run has left changed."""
    from deepen.devices.settings.restore_journal import list_open_journals

    try:
        return any(not layer.hold for _, layer, _ in list_open_journals())
    except ConfigError as error:
        log_device_message(str(error))
        return False


def _report_leftover_change(setting: SettingStatus, tell: MessageHandler) -> None:
    became = "given back" if setting.ok else "not given back"
    tell(f"{setting.name} {became} ({setting.actual or 'not readable'}): {setting.cause}")


def _make_refused_setting(name: str, value: Any, cause: str) -> SettingStatus:
    from deepen.devices.types import SettingStatus

    return SettingStatus(name, str(value), "", False, cause)


def _wait_until_cool(
    device: Device, conditions: DeviceConditions, prepare: bool, cool_s: float, tell: MessageHandler
) -> None:
    """Wait until a device is as cool as its profile wants, for at most ``cool_s``.

    Raises:
        LinkError: If it is gone.
    """
    limits = device.profile.cool_to_c
    cool_down = getattr(device, "cool_down", None)
    if not (prepare and limits and cool_s > 0 and cool_down is not None):
        return
    found = cool_down(patience_s=0.0)
    if not (found.reached or found.hopeless):
        told = ", ".join(f"{kind} {limit:g} °C" for kind, limit in limits.items())
        tell(f"waiting until it has cooled down to {told}, {cool_s / 60:.0f} min at most")
        found = cool_down(patience_s=cool_s)
    conditions.cooled = found
    if not found.reached:
        tell(f"too warm to begin: {found.cause}")
    elif found.waited_s >= 1:
        tell(f"cooled down in {found.waited_s:.0f} s")
