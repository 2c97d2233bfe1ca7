"""``deepen device``."""

from __future__ import annotations

from dataclasses import asdict

import click

from deepen.cli.output import emit, json_option, table
from deepen.units import format_si

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
    """List the device profiles.

    \b
    Example:
      deepen device list
    """
    from deepen.devices import load_profile, profile_names

    profiles = [load_profile(name) for name in profile_names()]
    document = {
        "devices": [
            {"id": p.id, "title": p.title, "link": p.link, "soc": p.soc, "runtimes": list(p.runtimes)} for p in profiles
        ]
    }
    rows = [(p.id, p.link, p.title) for p in profiles]
    emit(document, as_json, lambda: table(["device", "link", "what"], rows))


@command.command(name="probe")
@click.argument("name", metavar="DEVICE", default="local")
@json_option
def probe_command(name: str, as_json: bool) -> None:
    """Show what DEVICE (default: local) reports about itself now.

    \b
    Example:
      deepen device probe local --json
    """
    from deepen.devices import open_device

    device = open_device(name)
    try:
        state, profile = device.state(), device.profile
    finally:
        device.close()
    document = {"device": profile.id, "state": asdict(state), "profile": asdict(profile)}

    def render() -> str:
        rows: list[tuple[str, object]] = [
            ("processor", state.cpu_model or "unknown"),
            ("architecture", state.machine),
            ("cores", f"{state.cores}, usable {', '.join(map(str, state.usable_cores))}"),
            ("governor", state.governor or "unknown"),
            ("frequency", format_si(state.frequency_hz, "Hz")),
            ("temperature", f"{state.temperature_c:.1f} °C" if state.temperature_c > 0 else "unknown"),
            ("load", f"{state.load:.2f}"),
        ]
        if profile.power is not None:
            rows.append(("power figures", profile.power.calibration_id))
            rows.append(("  their source", " ".join(profile.power.source.split())))
        return table([profile.id, ""], rows)

    emit(document, as_json, render)


@command.command(name="prepare")
@click.argument("name", metavar="DEVICE", default="local")
@json_option
def prepare_command(name: str, as_json: bool) -> None:
    """Check what decides whether results of DEVICE (default: local) repeat, and say how to set it.

    Nothing is changed: what needs root is printed as a command.

    \b
    Example:
      deepen device prepare local
    """
    from deepen.devices import open_device

    device = open_device(name)
    try:
        settings = device.prepare()
    finally:
        device.close()

    def render() -> str:
        lines = []
        for s in settings:
            lines.append(f"{'ok  ' if s.ok else 'note'}  {s.name}: {s.actual or 'not readable'} (wanted: {s.wanted})")
            if s.cause:
                lines.append(f"        why:  {s.cause}")
            if s.cure:
                lines.append(f"        cure: {s.cure}")
        return "\n".join(lines)

    ready = all(s.ok for s in settings)
    emit({"device": device.profile.id, "ready": ready, "settings": [asdict(s) for s in settings]}, as_json, render)
