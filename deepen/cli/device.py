"""``deepen device``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.conditions import parse_settings
from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.devices import Device
    from deepen.devices.types import DeviceProfile, DeviceState, SettingStatus

__all__ = ["command"]


@click.group(name="device")
def command() -> None:
    """List, probe and prepare devices.

    \b
    Example:
      deepen device probe local
    """


@command.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """List the device profiles, the connected phones, and devices with settings that were not restored.

    \b
    Example:
      deepen device list
    """
    from deepen.devices import list_profile_names, load_profile
    from deepen.devices.settings.restore_journal import list_open_journals

    profiles = [load_profile(name) for name in list_profile_names()]
    connected, note = _list_connected_phones()
    changed = [
        {
            "device": layer.device,
            "settings": count,
            "since": layer.recorded_at,
            "held": layer.hold,
            "journal": str(path),
        }
        for path, layer, count in list_open_journals()
    ]
    document = {
        "devices": [
            {"id": p.id, "title": p.title, "link": p.link, "soc": p.soc, "runtimes": list(p.runtimes)} for p in profiles
        ],
        "connected": connected,
        "connected_note": note,
        "changed": changed,
        "detached": (detached := _list_pending_runs()),
    }

    def render() -> str:
        parts = [format_table(["device", "link", "what"], [(p.id, p.link, p.title) for p in profiles])]
        if connected:
            parts.append(format_table(["connected", "state"], [(c["device"], c["state"]) for c in connected]))
            parts += [f"{c['device']}: {c['cause']}; {c['cure']}" for c in connected if c["cure"]]
        if note:
            parts.append(f"connected phones: {note}")
        for c in changed:
            why = "held" if c["held"] else "left by a run that was interrupted"
            parts.append(
                f"{c['device']}: {c['settings']} settings are still changed ({why}, since {c['since']}); "
                "deepen device prepare DEVICE --restore"
            )
        for d in detached:
            which = f"{d['device']} {d['serial']}: the detached run of {d['model']} started {d['started_at']}"
            cure = f"deepen profile {d['model']} --device DEVICE --collect, or remove {d['folder']}"
            parts.append(f"{which} is under way" if d["in_progress"] else f"{which} has not been collected; {cure}")
        return "\n\n".join(parts)

    emit_result(document, as_json, render)


def _list_connected_phones() -> tuple[list[dict[str, str]], str]:
    """List the phones that an adb server or the kernel sees, with cures for unusable ones, or why there are none."""
    from deepen.doctor.device_checks import check_devices

    found, note = [], ""
    for check in check_devices():
        kind, _, name = check.name.partition(" ")
        if kind == "phone":
            state = "device" if check.status == "ok" else check.found or check.cause
            found.append({"device": name, "state": state, "cause": check.cause, "cure": check.cure})
        elif check.name in ("phones", "adb server"):
            note = f"{check.cause}; {check.cure}"
    return found, note


def _list_pending_runs() -> list[dict[str, Any]]:
    """List the detached runs that are in progress or wait to be collected."""
    from deepen.measure.detached.store import list_pending_runs

    return [
        {
            "model": p.model,
            "device": p.device,
            "serial": p.serial,
            "started_at": p.started_at,
            "in_progress": p.in_progress,
            "folder": str(p.folder),
        }
        for p in list_pending_runs()
    ]


@command.command(name="probe")
@click.argument("name", metavar="DEVICE", default="local")
@json_option
def probe_command(name: str, as_json: bool) -> None:
    """Show the present state of DEVICE (default: local) and its profile.

    \b
    Example:
      deepen device probe local --json
    """
    from deepen.devices import open_device
    from deepen.devices.remote import RemoteDevice

    device = open_device(name)
    try:
        state, profile = device.state(), device.profile
        identity = device.identity if isinstance(device, RemoteDevice) else None
    finally:
        device.close()
    document = {
        "device": profile.id,
        "state": asdict(state),
        "profile": asdict(profile),
        "identity": None if identity is None else asdict(identity),
    }

    def render() -> str:
        rows: list[tuple[str, object]] = []
        if identity is not None:
            rows += [("model", identity.model or "unknown"), ("serial number", identity.serial or "unknown")]
            rows += [("system", identity.system or "unknown")]
        return format_table([profile.id, ""], [*rows, *_state_rows(state), *_profile_rows(profile)])

    emit_result(document, as_json, render)


def _state_rows(state: DeviceState) -> list[tuple[str, object]]:
    """Render the state as rows of a table."""
    rows: list[tuple[str, object]] = [
        ("processor", state.cpu_model or "unknown"),
        ("architecture", state.machine or "unknown"),
        ("cores", f"{state.cores}, usable {', '.join(map(str, state.usable_cores))}"),
        ("governor", state.governor or "unknown"),
        ("frequency", format_si(state.frequency_hz, "Hz") if math.isfinite(state.frequency_hz) else "unknown"),
        ("temperature", f"{state.temperature_c:.1f} °C" if math.isfinite(state.temperature_c) else "unknown"),
        ("load", f"{state.load:.2f}" if math.isfinite(state.load) else "unknown"),
    ]
    for p in state.policies:
        span = f"{format_si(p.min_hz, 'Hz')} to {format_si(p.max_hz, 'Hz')} of {format_si(p.hardware_max_hz, 'Hz')}"
        rows.append((f"  {p.name}", f"cores {', '.join(map(str, p.cores))}: {p.governor}, {span}"))
    if state.thermal is not None:
        rows += [(f"  {s.name}", f"{s.temperature_c:.1f} °C ({s.kind}, {s.origin})") for s in state.thermal.sensors]
        rows.append(("throttled", "; ".join(state.thermal.throttled) or "no"))
        rows += [("  counted", f"{name}: {count}") for name, count in state.thermal.counters.items() if count]
        rows += [("  not readable", words) for words in state.thermal.unreadable]
    return rows


def _profile_rows(profile: DeviceProfile) -> list[tuple[str, object]]:
    """List the entries of a device profile, with their sources."""
    rows: list[tuple[str, object]] = []
    for c in profile.clusters:
        clock = format_si(c.max_hz, "Hz") if c.max_hz else "clock not stated"
        rows.append(("cluster", f"{c.count} x {c.core}, {clock} [{c.source}]"))
    rows += [("rail", f"{r.name}: {r.what} [{r.source}]") for r in profile.rails]
    rows += [(f.name, f"{f.value} [{f.source}]") for f in profile.facts]
    if profile.power is not None:
        rows.append(("power figures", profile.power.calibration_id))
        rows.append(("  their source", " ".join(profile.power.source.split())))
    return rows


@command.command(name="prepare")
@click.argument("name", metavar="DEVICE", default="local")
@click.option("--apply", is_flag=True, help="Set what the profile's [prepare] asks for; it stays set until --restore.")
@click.option(
    "--set",
    "wanted",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set this too; it stays set until --restore.",
)
@click.option("--restore", is_flag=True, help="Give back everything deepen has changed, also after a crash.")
@click.option(
    "--cool-down",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait until it is cool enough, for at most this long.",
)
@json_option
def prepare_command(
    name: str, apply: bool, wanted: Sequence[str], restore: bool, cool_down: float | None, as_json: bool
) -> None:
    """Check the settings on which the repeatability of DEVICE (default: local) depends, with the way to set them.

    Nothing is changed without --apply or --set. The old values are saved on this machine first, so that --restore can
    restore them, even if the program or the device stopped in between. Settings that cannot be made are listed with the
    reason.

    Settings: power_mode, cores_online, governor, frequency_hz, gpu_governor, gpu_frequency_hz, jetson_clocks, fan,
    charging, stay_awake, brightness, fixed_performance, airplane.

    \b
    Example:
      deepen device prepare local
      deepen device prepare adb:0A1B2C --apply --set governor=performance --cool-down 600
      deepen device prepare adb:0A1B2C --restore
    """
    from deepen.devices import open_device

    if restore and (apply or wanted or cool_down is not None):
        raise click.UsageError("--restore goes alone")
    pairs = parse_settings(wanted)
    device = open_device(name)
    try:
        settings = _restore_device(device) if restore else _apply_and_check(device, apply, pairs)
        if cool_down is not None:
            settings = (*settings, _wait_until_cool(device, cool_down))
    finally:
        device.close()
    # The command to copy names this device.
    settings = tuple(replace(s, cure=s.cure.replace(" DEVICE", f" {shlex.quote(name)}")) for s in settings)
    ready = all(s.ok for s in settings)
    document = {"device": device.profile.id, "ready": ready, "settings": [asdict(s) for s in settings]}
    if restore:
        document["restored"] = ready
    emit_result(document, as_json, lambda: _render_settings(settings, restore))
    if restore and not ready:
        raise SystemExit(1)


def _apply_and_check(device: Device, apply: bool, pairs: dict[str, str]) -> tuple[SettingStatus, ...]:
    """Apply the wanted settings, then check the others."""
    from deepen.devices.settings.apply_and_restore import apply_settings

    wanted: dict[str, Any] = {**(device.profile.wanted if apply else {}), **pairs}
    if not wanted:
        return device.prepare()
    preparation = apply_settings(device.link, wanted, hold=True)
    preparation.close()
    done = {s.name for s in preparation.settings}
    return (*preparation.settings, *(s for s in device.prepare() if s.name not in done))


def _restore_device(device: Device) -> tuple[SettingStatus, ...]:
    from deepen.devices.settings.apply_and_restore import restore_settings

    return restore_settings(device.link)


def _wait_until_cool(device: Device, patience_s: float) -> SettingStatus:
    """Wait until the device is cool enough."""
    from deepen.devices.state.cool_down import wait_for_cool_down
    from deepen.devices.state.identity import identify_device
    from deepen.devices.state.shell_files import Shell
    from deepen.devices.state.temperatures import find_processor_temperature, read_thermal
    from deepen.devices.types import SettingStatus

    shell = Shell(device.link)
    kind = identify_device(shell).kind
    limits = device.profile.cool_to_c
    wanted = ", ".join(f"{k} {v:g} °C" for k, v in limits.items()) or "not throttled"
    print_progress(f"waiting until {wanted}, {patience_s:.0f} s at most")
    found = wait_for_cool_down(lambda: read_thermal(shell, kind), limits, patience_s=patience_s)
    now = find_processor_temperature(found.end)
    actual = f"{now:.1f} °C after {found.waited_s:.0f} s" if math.isfinite(now) else f"after {found.waited_s:.0f} s"
    details = {"waited_s": found.waited_s, "start_c": find_processor_temperature(found.start), "end_c": now}
    return SettingStatus("cool_down", wanted, actual, found.reached, found.cause, "", details)


def _render_settings(settings: Sequence[SettingStatus], restore: bool) -> str:
    """Render settings as text."""
    if restore and not settings:
        return "nothing to give back"
    lines = []
    for s in settings:
        lines.append(f"{'ok  ' if s.ok else 'note'}  {s.name}: {s.actual or 'not readable'} (wanted: {s.wanted})")
        if s.cause:
            lines.append(f"        why:  {s.cause}")
        if s.cure:
            lines.append(f"        cure: {s.cure}")
    return "\n".join(lines)
