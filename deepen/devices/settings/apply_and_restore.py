"""Set what makes a device's results repeat, read it back, and give everything back.

The rule: a setting is written only when its old value could be read and is on the host's disk (see
:mod:`deepen.devices.settings.restore_journal`); what could not be set is a :class:`SettingStatus` that says why, never
a silence; and a setting counts as given back only when it reads as it did before. The one setting Android does not
tell, fixed performance mode, is given back as a start of the device leaves it.
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
    """Whether an Android device's link may run over its own network: its adbd listens on a port.

    A device that also hangs on USB is taken for one that does not: airplane mode would be refused without need, but a
    link that is cut could not give anything back.
    """
    ports = (identity.facts.get(f"service.adb.{kind}.port", "") for kind in ("tcp", "tls"))
    return any(port.isdecimal() and int(port) > 0 for port in ports)


class AppliedSettings:
    """A device whose settings have been changed, and the way back.

    Attributes:
        identity: Which device.
        settings: What was asked for, what it is now, and why not where it differs; first what an interrupted run had
            left behind.
        restored: What :func:`apply_settings_temporarily` gave back at the end of its block, and why not where it could
            not.
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
        """What has been changed and not been given back."""
        return tuple(self._journal.pending(self._layer)) if self._journal else ()

    def check(self) -> tuple[SettingStatus, ...]:
        """Read everything that was set again: something else on the device may have changed it meanwhile.

        Fixed performance mode is not among it, because Android does not tell it.

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
        """Give back what this preparation changed.

        Raises:
            LinkError: If the device is gone; the journal keeps what is left.
        """
        if self._journal is None:
            return ()
        return _restore_changes(self._shell, self.identity, self._journal, self._journal.pending(self._layer))

    def close(self) -> None:
        """Let go of the journal; what has not been given back stays in it."""
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
        folder: Where the journal is kept; ``None`` for the user's.
        hold: Whether the changes outlive this process until :func:`restore_settings`; else whoever opens the journal
            next restores them if this process dies.
        network: Whether the link runs over the device's own network; ``None`` to ask the device.

    Raises:
        ConfigError: If a setting or value does not exist, the device tells no serial number, or its journal is damaged.
        LinkError: If the device is gone (what had been changed is restored, or stays in the journal), or another
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
    """Give back what was changed before a failure; what cannot be now stays in the journal, and the error says so.

    Raises:
        DeepenError: The error with that added, if it is one of ours; any other one gets a note.
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
    """Change settings for a block and give them back at its end, however it ends; see :func:`apply_settings`.

    What could not be given back is in ``restored`` after the block, and in the journal.

    Raises:
        LinkError: If the device is gone at the end; the journal keeps what is left.
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
    """Give back everything the journal of a device lists, held or left over.

    Raises:
        LinkError: If the device is gone or another process is changing its settings.
        ConfigError: If the journal is damaged, or the device tells no serial number.
    """
    shell = Shell(link)
    identity = identify_device(shell)
    with hold_journal(identity.key, f"{identity.model} {identity.serial}".strip(), folder) as journal:
        return _restore_changes(shell, identity, journal, journal.pending())


def preview_settings(
    link: Link, wanted: Mapping[str, Any], *, network: bool | None = None
) -> tuple[SettingStatus, ...]:
    """Say what :func:`apply_settings` would change, and change nothing.

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
    """Set one knob: journal, write, read back."""
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
        told = _value_after(step.place, step.text, refused, now)
        journal.set(number, told)
        if is_same_value(told, old.text):
            journal.restored(number)  # it never changed
        else:
            changed = True
        after.append((step.place, told))
        if not is_same_value(told, step.text):
            causes.append(refused or now.cause or f"{step.place} took {told} instead of {step.text}")
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
    """Value to give back later."""
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
    """Values of places for people: one where they agree, else each with its place."""
    known = [(place, "unreadable" if text is None else text) for place, text in pairs]
    values = list(dict.fromkeys(text for _, text in known))
    if len(values) <= 1:
        return values[0] if values else ""
    return ", ".join(f"{place.address or place.kind} = {text}" for place, text in known)


# ---- back again ---------------------------------------------------------------------------------------------------


def _restore_changes(
    shell: Shell, identity: Identity, journal: RestoreJournal, changes: list[SettingChange]
) -> tuple[SettingStatus, ...]:
    """Give changes back, the last one first, and note each that reads as it did before."""
    found: dict[int, SettingStatus] = {}
    left = list(reversed(changes))
    # Twice: a limit may be refused until another one has made room for it.
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
