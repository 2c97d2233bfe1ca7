"""Applying settings that make a device's results repeatable, verifying them, and restoring the old values.

1. A setting is written only after its old value has been read and is on the host's disk (see
   :mod:`deepen.devices.settings.restore_journal`).
2. A setting that could not be applied is reported as a :class:`SettingStatus` with the reason.
3. A setting counts as restored only when it reads as before. Fixed performance mode, which Android cannot report, is
   restored to its value after a start of the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepen.devices.protocols import Link
from deepen.devices.settings.access import (
    FIXED_PERFORMANCE_AT_START,
    SettingLocation,
    SettingValue,
    is_same_value,
    read_setting,
    write_setting,
)
from deepen.devices.settings.catalogue import SETTING_DEFINITIONS, PlanningContext, SettingPlan, check_settings
from deepen.devices.settings.restore_journal import RestoreJournal, SettingChange, hold_journal
from deepen.devices.state.identity import Identity, identify_device
from deepen.devices.state.shell_files import Shell
from deepen.devices.types import SettingStatus
from deepen.errors import DeepenError

__all__ = [
    "AppliedSettings",
    "apply_settings",
    "apply_settings_temporarily",
    "preview_settings",
    "restore_settings",
    "uses_device_network",
]

_LEFT_OVER = "left over from a run that was interrupted"


def uses_device_network(identity: Identity) -> bool:
    """Return whether an Android device's link may run over the device's network: its adbd listens on a port.

    A device that is also on USB is treated as if it were not: airplane mode is then refused without need, but over a
    link that was cut nothing could be restored.
    """
    ports = (identity.facts.get(f"service.adb.{kind}.port", "") for kind in ("tcp", "tls"))
    return any(port.isdecimal() and int(port) > 0 for port in ports)


class AppliedSettings:
    """The changed settings of a device, and the means to restore them.

    Attributes:
        identity: Identity of the device.
        settings: Each setting with the value wanted, the value now, and the reason if they differ; settings left by an
            interrupted run come first.
        restored: Settings that :func:`apply_settings_temporarily` restored at the end of its block, with the reason
            where it could not.
    """

    def __init__(self, shell: Shell, identity: Identity, journal: RestoreJournal | None, layer: int) -> None:
        """Take over a journal; see :func:`apply_settings`."""
        self.identity = identity
        self.settings: tuple[SettingStatus, ...] = ()
        self.restored: tuple[SettingStatus, ...] = ()
        self._shell = shell
        self._journal = journal
        self._layer = layer

    @property
    def changes(self) -> tuple[SettingChange, ...]:
        """Changes that have not been restored."""
        return tuple(self._journal.pending(self._layer)) if self._journal else ()

    def check(self) -> tuple[SettingStatus, ...]:
        """Read every applied setting again: other software on the device may have changed it.

        Fixed performance mode is left out, because Android cannot report it.

        Raises:
            LinkError: If the device is gone.
        """
        found = []
        for change in self.changes:
            if change.wanted is None or change.place.kind == "fixed_performance":
                continue
            now = read_setting(self._shell, change.place)
            ok = is_same_value(now.text, change.after)
            cause = "" if ok else now.cause or f"something on the device changed it since (it was {change.after})"
            found.append(_make_status(change, change.after or change.wanted, now.text or "", ok, cause))
        return tuple(found)

    def restore(self) -> tuple[SettingStatus, ...]:
        """Restore the settings that this preparation changed.

        Raises:
            LinkError: If the device is gone; the journal keeps the remaining changes.
        """
        if self._journal is None:
            return ()
        return _restore_changes(self._shell, self.identity, self._journal, self._journal.pending(self._layer))

    def close(self) -> None:
        """Close the journal; changes that have not been restored stay in it."""
        if self._journal is not None:
            self._journal.close()


def apply_settings(
    link: Link,
    wanted: Mapping[str, Any],
    *,
    folder: Path | None = None,
    hold: bool = False,
    network: bool | None = None,
) -> AppliedSettings:
    """Change settings of a device. The caller restores and closes; :func:`apply_settings_temporarily` does both.

    Args:
        link: The device.
        wanted: Setting -> value, see ``deepen.devices.settings.catalogue.SETTING_DEFINITIONS``; empty changes nothing.
        folder: Folder of the journal; ``None`` for the user's.
        hold: If true, the changes outlive this process until :func:`restore_settings`; otherwise, if this process
            dies, the next process that opens the journal restores them.
        network: True if the link runs over the device's own network; ``None`` to ask the device.

    Raises:
        ConfigError: If a setting or value does not exist, the device has no serial number, or its journal is damaged.
        LinkError: If the device is gone (changes already made are restored, or stay in the journal), or another
            process is changing its settings.
        StorageError: If the journal cannot be kept.
    """
    checked = check_settings(wanted)
    shell = Shell(link)
    identity = identify_device(shell)
    if not checked and not identity.serial:
        return AppliedSettings(shell, identity, None, 0)
    journal = RestoreJournal(identity.key, f"{identity.model} {identity.serial}".strip(), folder)
    try:
        left = _restore_changes(
            shell, identity, journal, [c for c in journal.pending() if not journal.layers[c.layer].hold]
        )
        layer = journal.begin(hold=hold, boot_id=identity.boot_id) if checked else 0
    except BaseException:
        journal.close()
        raise
    done = AppliedSettings(shell, identity, journal, layer)
    context = PlanningContext(shell, identity, uses_device_network(identity) if network is None else network)
    settings = [_mark_left_over(s) for s in left]
    try:
        for name, value in checked.items():
            settings.append(_apply_setting(context, journal, layer, name, value))
    except BaseException as error:
        _roll_back(done, error)
        raise
    done.settings = tuple(settings)
    return done


def _roll_back(preparation: AppliedSettings, error: BaseException) -> None:
    """Restore the changes made before a failure; the error names those that stay in the journal.

    Raises:
        DeepenError: The error with that added, if it is a ``DeepenError``; any other one gets a note.
    """
    try:
        preparation.restored = preparation.restore()
        left = [s.name for s in preparation.restored if not s.ok]
        why = f"{', '.join(left)} could not be given back" if left else ""
    except DeepenError as second:
        why = f"settings are still changed ({second})"
    finally:
        preparation.close()
    if not why:
        return
    text = f"{why}: run 'deepen device prepare DEVICE --restore'"
    if isinstance(error, DeepenError):
        raise type(error)(f"{error}; {text}") from error
    error.add_note(text)


@contextmanager
def apply_settings_temporarily(
    link: Link, wanted: Mapping[str, Any], *, folder: Path | None = None, network: bool | None = None
) -> Iterator[AppliedSettings]:
    """Change settings for a ``with`` block and restore them at its end, however it ends; see :func:`apply_settings`.

    Settings that could not be restored are in ``restored`` after the block, and in the journal.

    Raises:
        LinkError: If the device is gone at the end; the journal keeps the remaining changes.
    """
    preparation = apply_settings(link, wanted, folder=folder, network=network)
    try:
        yield preparation
    except BaseException as error:
        _roll_back(preparation, error)
        raise
    try:
        preparation.restored = preparation.restore()
    finally:
        preparation.close()


def restore_settings(link: Link, *, folder: Path | None = None) -> tuple[SettingStatus, ...]:
    """Restore everything that the journal of a device lists, held or left over.

    Raises:
        LinkError: If the device is gone or another process is changing its settings.
        ConfigError: If the journal is damaged, or the device has no serial number.
    """
    shell = Shell(link)
    identity = identify_device(shell)
    with hold_journal(identity.key, f"{identity.model} {identity.serial}".strip(), folder) as journal:
        return _restore_changes(shell, identity, journal, journal.pending())


def preview_settings(
    link: Link, wanted: Mapping[str, Any], *, network: bool | None = None
) -> tuple[SettingStatus, ...]:
    """Return the changes that :func:`apply_settings` would make, without making them.

    Raises:
        ConfigError: If a setting or value does not exist.
        LinkError: If the device is gone.
    """
    checked = check_settings(wanted)
    shell = Shell(link)
    identity = identify_device(shell)
    context = PlanningContext(shell, identity, uses_device_network(identity) if network is None else network)
    found = []
    for name, value in checked.items():
        plan = SETTING_DEFINITIONS[name].plan(context, value)
        rows = [(s.place, s.text, read_setting(shell, s.place)) for s in plan.steps if s.text is not None]
        ok = not plan.cause and all(is_same_value(now.text, text) for _, text, now in rows)
        cause = plan.cause or ("" if ok else "not set yet")
        cure = (
            plan.cure
            if plan.cause
            else ""
            if ok
            else f"deepen device prepare DEVICE --set {name}={_format_value(value)}"
        )
        found.append(
            SettingStatus(
                name, _format_value(value), _format_locations([(p, now.text) for p, _, now in rows]), ok, cause, cure
            )
        )
    return tuple(found)


# ---- one setting --------------------------------------------------------------------------------------------------


def _apply_setting(
    context: PlanningContext, journal: RestoreJournal, layer: int, name: str, value: Any
) -> SettingStatus:
    """Apply one setting, step by step: journal the old value, write the new one, read it back."""
    knob = SETTING_DEFINITIONS[name]
    plan: SettingPlan = knob.plan(context, value)
    causes = [plan.cause] if plan.cause else []
    before: list[tuple[SettingLocation, str | None]] = []
    after: list[tuple[SettingLocation, str | None]] = []
    changed = False
    for step in plan.steps:
        old = _read_value_before(context.shell, step.place)
        if old.text is None:
            if step.text is not None:
                causes.append(f"{step.place} is left alone, because it cannot be read: {old.cause}")
                before.append((step.place, None))
                after.append((step.place, None))
            continue
        if step.text is None:
            journal.change(layer, name, step.place, old.text, None)
            continue
        before.append((step.place, old.text))
        if is_same_value(old.text, step.text) and step.place.kind != "fixed_performance":
            after.append((step.place, old.text))
            continue
        number = journal.change(layer, name, step.place, old.text, step.text)
        refused = write_setting(context.shell, step.place, step.text)
        now = read_setting(context.shell, step.place)
        value_after = _value_after(step.place, step.text, refused, now)
        journal.set(number, value_after)
        if is_same_value(value_after, old.text):
            journal.restored(number)  # it never changed
        else:
            changed = True
        after.append((step.place, value_after))
        if not is_same_value(value_after, step.text):
            causes.append(refused or now.cause or f"{step.place} took {value_after} instead of {step.text}")
    ok = not causes
    details = {
        "changed": changed,
        "before": {str(place): text for place, text in before},
        "now": {str(place): text for place, text in after},
    }
    cause = "; ".join(dict.fromkeys(causes))
    if ok and name == "fixed_performance":
        cause = "set, but Android does not tell it, so it could not be read back"
    cure = plan.cure if plan.cause else knob.cure
    return SettingStatus(name, _format_value(value), _format_locations(after), ok, cause, "" if ok else cure, details)


def _read_value_before(shell: Shell, place: SettingLocation) -> SettingValue:
    """Read the value to restore later."""
    if place.kind == "fixed_performance":
        return SettingValue(FIXED_PERFORMANCE_AT_START)
    return read_setting(shell, place)


def _value_after(place: SettingLocation, text: str, refused: str, now: SettingValue) -> str | None:
    if place.kind == "fixed_performance":
        return FIXED_PERFORMANCE_AT_START if refused else text
    return now.text


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_format_value(v)}" for k, v in value.items())
    return str(value)


def _format_locations(pairs: Iterable[tuple[SettingLocation, str | None]]) -> str:
    """Format the values of places: one value if they agree, else each with its place."""
    known = [(place, "unreadable" if text is None else text) for place, text in pairs]
    values = list(dict.fromkeys(text for _, text in known))
    if len(values) <= 1:
        return values[0] if values else ""
    return ", ".join(f"{place.address or place.kind} = {text}" for place, text in known)


# ---- restoring ----------------------------------------------------------------------------------------------------


def _restore_changes(
    shell: Shell, identity: Identity, journal: RestoreJournal, changes: list[SettingChange]
) -> tuple[SettingStatus, ...]:
    """Restore changes, the last one first, and record each that reads as before."""
    found: dict[int, SettingStatus] = {}
    left = list(reversed(changes))
    # Two passes: a limit may be refused until another one has been moved.
    for _ in range(2):
        for change in left:
            found[change.number] = _restore_change(shell, identity, journal, change)
            if found[change.number].ok:
                journal.restored(change.number)
        left = [c for c in left if not found[c.number].ok]
    return tuple(found.values())


def _restore_change(shell: Shell, identity: Identity, journal: RestoreJournal, change: SettingChange) -> SettingStatus:
    made_in = journal.layers[change.layer].boot_id
    if change.place.volatile and made_in and identity.boot_id and made_in != identity.boot_id:
        return _make_status(
            change, change.before, change.before, True, "the device has started anew since, which undid it"
        )
    if change.place.kind == "fixed_performance":
        refused = write_setting(shell, change.place, change.before)
        return _make_status(change, change.before, "" if refused else change.before, not refused, refused)
    now = read_setting(shell, change.place)
    if is_same_value(now.text, change.before):
        return _make_status(change, change.before, change.before, True, "")
    note = ""
    if (
        change.wanted is not None
        and now.text is not None
        and not is_same_value(now.text, change.after or change.wanted)
    ):
        note = f"something else had set it to {now.text} meanwhile"
    refused = write_setting(shell, change.place, change.before)
    now = read_setting(shell, change.place)
    ok = is_same_value(now.text, change.before)
    cause = note if ok else refused or now.cause or f"it took {now.text} instead of {change.before}"
    return _make_status(change, change.before, now.text or "", ok, cause)


def _make_status(change: SettingChange, wanted: str, actual: str, ok: bool, cause: str) -> SettingStatus:
    details = {"place": str(change.place), "set_to": change.after or change.wanted}
    return SettingStatus(
        change.knob, wanted, actual, ok, cause, "" if ok else SETTING_DEFINITIONS[change.knob].cure, details
    )


def _mark_left_over(setting: SettingStatus) -> SettingStatus:
    cause = f"{_LEFT_OVER}; {setting.cause}" if setting.cause else _LEFT_OVER
    details = dict(setting.details)
    return SettingStatus(setting.name, setting.wanted, setting.actual, setting.ok, cause, setting.cure, details)
