"""``deepen meter``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.output import INTERRUPTED, emit_result, format_table, json_option, print_progress
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.meters import Meter
    from deepen.meters.record import Recording
    from deepen.meters.stream.capture import StreamSummary
    from deepen.meters.trace_quality import TraceQuality
    from deepen.records import PowerTrace

__all__ = ["command"]

_meter_option = click.option(
    "--meter", "spec", metavar="METER", help="NAME[:PORT or SERIAL][?key=value]; default: the best here."
)
_device_option = click.option(
    "--device", default="local", show_default=True, metavar="DEVICE", help="Device to use the sensors of."
)
_seconds_option = click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, help="Duration."
)
_rate_option = click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Readings per second; meters that stream have a rate of their own.",
)


@click.group(name="meter")
def command() -> None:
    """List, record and check power sources.

    \b
    Example:
      deepen meter list
    """


@command.command(name="list")
@_device_option
@json_option
def list_command(device: str, as_json: bool) -> None:
    """List the power sources in the order in which they are tried, the instruments found, and why others are unusable.

    \b
    Example:
      deepen meter list
    """
    from deepen.devices import open_device
    from deepen.measure.conditions.remote_sensors import access_device_files
    from deepen.meters import MeterContext, explain_unavailable, list_meters
    from deepen.meters.registry import load_driver

    opened = open_device(device)
    try:
        found = list_meters(MeterContext(power=opened.profile.power, link=access_device_files(opened)))
    finally:
        opened.close()

    def render() -> str:
        rows = [(m.name, "yes" if m.available else "no", m.source, load_driver(m.name).title) for m in found]
        lines = [format_table(["meter", "here", "numbers", "what"], rows), ""]
        plugged = [(f"{m.name}:{f.serial or f.port}", f.port, f.serial, f.product) for m in found for f in m.found]
        if plugged:
            lines += [format_table(["--meter", "port", "serial number", "instrument"], plugged), ""]
        lines += [f"{m.name}: {m.detail}" for m in found if m.available]
        lines += [
            f"{names}: {cause}" + (f". Cure: {cure}" if cure else "")
            for names, cause, cure in explain_unavailable(found)
        ]
        return "\n".join(lines)

    emit_result({"meters": [asdict(m) for m in found]}, as_json, render)


def _record_power(
    spec: str | None, device: str, seconds: float, rate_hz: float, folder: Path | None = None
) -> tuple[Meter, Recording]:
    """Record power; a streaming source writes to the trace folder, if one is named, while it records."""
    from contextlib import ExitStack

    from deepen.devices import open_device
    from deepen.measure.conditions.remote_sensors import access_device_files
    from deepen.meters import open_meter
    from deepen.meters.record import record_folder, record_trace
    from deepen.meters.stream.meter import StreamMeter

    with ExitStack() as stack:
        opened = open_device(device)
        stack.callback(opened.close)
        meter = open_meter(spec, power=opened.profile.power, link=access_device_files(opened))
        stack.callback(meter.close)
        print_progress(
            f"recording {meter.id} ({meter.source}) for {seconds:g} s; Ctrl-C ends it early and keeps what there is"
        )
        if folder is not None and isinstance(meter, StreamMeter):
            return meter, record_folder(meter, folder, seconds)
        return meter, record_trace(meter, seconds, rate_hz)


@command.command(name="record")
@_meter_option
@_device_option
@_seconds_option
@_rate_option
@click.option("--out", "out", type=click.Path(path_type=Path), help="File to write: .trace, .parquet, .csv or .json.")
@json_option
def record_command(
    spec: str | None, device: str, seconds: float, rate_hz: float, out: Path | None, as_json: bool
) -> None:
    """Record power for some seconds, to a file or (with --json) to stdout.

    A meter that streams into a .trace folder needs the same memory for a second and for a day, and what was recorded
    survives whatever ends it. Ctrl-C ends a recording early, keeps it, and exits with 130.

    \b
    Example:
      deepen meter record --seconds 10 --out idle.csv
      deepen meter record --meter ppk2?voltage_v=3.7 --seconds 3600 --out hour.trace
    """
    from deepen.traces import write_trace

    if out is not None:
        _check_output_path(out)
    meter, found = _record_power(
        spec, device, seconds, rate_hz, out if out is not None and out.suffix == ".trace" else None
    )
    if out is not None and found.trace is not None:
        write_trace(found.trace, out)
    facts = _summarise_trace(found.trace) if found.trace is not None else _summarise_stream(found.ending)
    document: dict[str, Any] = {
        "meter": meter.id,
        "source": meter.source,
        "calibration": meter.calibration_id,
        **facts,
        "interrupted": found.interrupted,
    }
    if out is not None:
        document["file"] = str(out)
    elif found.trace is not None:
        document |= {"t_s": found.trace.t_s, "power_w": found.trace.power_w}

    def render() -> str:
        lost = f", {facts['dropped']} lost" if facts["dropped"] else ""
        text = (
            f"{meter.id} ({meter.source}): {format_si(facts['mean_w'], 'W')} mean over "
            f"{facts['duration_s']:.2f} s, {facts['samples']} samples{lost}"
        )
        if out is not None:
            text += f"; written to {out}"
        return "\n".join([text, *(f"note: {w}" for w in facts["warnings"])])

    emit_result(document, as_json, render)
    if found.interrupted:
        print_progress("interrupted: the recording is shorter than asked for")
        sys.exit(INTERRUPTED)


def _check_output_path(out: Path) -> None:
    """Check that the file can be written before recording starts."""
    from deepen.errors import ConfigError
    from deepen.traces import SUFFIXES

    if out.suffix not in SUFFIXES:
        raise ConfigError(f"cannot write '{out.name}'; name a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if not out.parent.is_dir():
        raise ConfigError(f"no folder {out.parent} to write {out.name} into; make it first")
    if out.suffix == ".trace" and out.exists():
        raise ConfigError(f"{out} exists; name another file or remove it first")
    if out.suffix != ".trace" and out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file")


def _summarise_trace(trace: PowerTrace) -> dict[str, Any]:
    from deepen.meters.trace_quality import check_trace_quality

    found = check_trace_quality(trace)
    return {
        "samples": found.samples,
        "mean_w": found.mean_w,
        "energy_j": found.mean_w * found.duration_s,
        "duration_s": found.duration_s,
        "dropped": trace.dropped,
        "loss": trace.loss,
        "gaps": len(trace.gaps),
        "warnings": trace.warnings,
    }


def _summarise_stream(ending: StreamSummary | None) -> dict[str, Any]:
    assert ending is not None  # every stream that was recorded has ended
    duration_s = ending.end_s - ending.start_s
    return {
        "samples": ending.samples,
        "mean_w": ending.mean_w,
        "energy_j": ending.mean_w * duration_s,
        "duration_s": duration_s,
        "dropped": ending.dropped,
        "loss": ending.loss,
        "gaps": len(ending.gaps),
        "warnings": ending.warnings,
    }


@command.command(name="check")
@_meter_option
@_device_option
@_seconds_option
@_rate_option
@json_option
def check_command(spec: str | None, device: str, seconds: float, rate_hz: float, as_json: bool) -> None:
    """Record for some seconds and report rate, clock drift, jitter, noise, losses and gaps.

    \b
    Example:
      deepen meter check --meter rapl --rate 100
      deepen meter check --meter ppk2?voltage_v=3.7 --seconds 30
    """
    from deepen.meters.trace_quality import check_trace_quality

    _, recording = _record_power(spec, device, seconds, rate_hz)
    assert recording.trace is not None  # only recordings to disk have none
    found = check_trace_quality(recording.trace, recording.ending)
    emit_result(asdict(found), as_json, lambda: _render_check(found))
    if recording.interrupted:
        sys.exit(INTERRUPTED)


def _render_check(found: TraceQuality) -> str:
    from math import isfinite

    rows = [
        ("numbers", found.source),
        ("duration", f"{found.duration_s:.2f} s"),
        ("rate", f"{found.rate_hz:.6g} a second, {found.nominal_hz:.6g} nominal"),
        ("updates", f"{found.updates} ({found.update_hz:.1f} a second)"),
        ("power", f"{format_si(found.mean_w, 'W')} ± {format_si(found.noise_w, 'W')}"),
        ("range", f"{format_si(found.min_w, 'W')} to {format_si(found.max_w, 'W')}"),
        ("longest time between samples", format_si(found.longest_s, "s")),
        ("jitter", format_si(found.jitter_s, "s")),
        ("lost samples", f"{found.dropped} ({100 * found.loss:.3g} %)"),
        ("gaps", f"{found.gaps} ({format_si(found.gap_s, 's')})"),
    ]
    if isfinite(found.clock_error_s):
        drift = f"{found.drift_ppm:+.1f} ppm" if isfinite(found.drift_ppm) else "unknown"
        rows.insert(3, ("clock", f"drift {drift}, a sample's time is known to {format_si(found.clock_error_s, 's')}"))
    return "\n".join([format_table([found.meter, ""], rows), *(f"note: {w}" for w in found.warnings)])
