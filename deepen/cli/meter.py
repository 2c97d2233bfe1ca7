"""``deepen meter``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepen.cli.output import emit, json_option, progress, table
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.meters import Meter
    from deepen.records import PowerTrace

__all__ = ["command"]

_meter_option = click.option(
    "--meter", "spec", metavar="METER", help="NAME[:PORT][?key=value]; default: the best here."
)
_seconds_option = click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True, help="How long."
)
_rate_option = click.option(
    "--rate",
    "rate_hz",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Readings per second.",
)


@click.group(name="meter")
def command() -> None:
    """List, record and check power sources.

    \b
    Example:
      deepen meter list
    """


@command.command(name="list")
@json_option
def list_command(as_json: bool) -> None:
    """List the power sources in the order in which they are tried, and why some are not available.

    \b
    Example:
      deepen meter list
    """
    from deepen.devices import open_device
    from deepen.meters import Context, list_meters

    found = list_meters(Context(power=open_device("local").profile.power))

    def render() -> str:
        rows = [(m.name, "yes" if m.available else "no", m.source, m.detail.partition(";")[0]) for m in found]
        lines = [table(["meter", "here", "numbers", "what"], rows), ""]
        for m in found:
            if m.available:
                lines.append(f"{m.name}: {m.detail}")
            if m.cause:
                lines.append(f"{m.name}: {m.cause}" + (f". Cure: {m.cure}" if m.cure else ""))
        return "\n".join(lines)

    emit({"meters": [asdict(m) for m in found]}, as_json, render)


def _open(spec: str | None) -> Meter:
    from deepen.devices import open_device
    from deepen.meters import open_meter

    return open_meter(spec, power=open_device("local").profile.power)


def _record(spec: str | None, seconds: float, rate_hz: float) -> PowerTrace:
    from deepen.meters.check import record

    meter = _open(spec)
    try:
        progress(f"recording {meter.id} ({meter.source}) for {seconds:g} s")
        return record(meter, seconds, rate_hz)
    finally:
        meter.close()


@command.command(name="record")
@_meter_option
@_seconds_option
@_rate_option
@click.option("--out", "out", type=click.Path(path_type=Path, dir_okay=False), help="File to write (.csv or .json).")
@json_option
def record_command(spec: str | None, seconds: float, rate_hz: float, out: Path | None, as_json: bool) -> None:
    """Record power for some seconds, to a file or (with --json) to stdout.

    \b
    Example:
      deepen meter record --seconds 10 --out idle.csv
    """
    from deepen.errors import ConfigError
    from deepen.meters.check import check_trace, write_trace

    if out is not None and out.suffix not in (".csv", ".json"):
        raise ConfigError(f"cannot write '{out.name}'; name a .csv or .json file")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"no folder {out.parent} to write {out.name} into; make it first")
    trace = _record(spec, seconds, rate_hz)
    if out is not None:
        write_trace(trace, out)
    summary = check_trace(trace)
    document: dict[str, object] = {
        "meter": trace.meter_id,
        "source": trace.source,
        "calibration": trace.calibration_id,
        "samples": int(trace.t_s.size),
        "mean_w": summary.mean_w,
        "energy_j": summary.mean_w * summary.duration_s,
        "duration_s": summary.duration_s,
    }
    if out is None:
        document |= {"t_s": trace.t_s, "power_w": trace.power_w}
    else:
        document["file"] = str(out)

    def render() -> str:
        text = (
            f"{trace.meter_id} ({trace.source}): {format_si(summary.mean_w, 'W')} mean over "
            f"{summary.duration_s:.2f} s, {trace.t_s.size} samples"
        )
        return f"{text}; written to {out}" if out is not None else text

    emit(document, as_json, render)


@command.command(name="check")
@_meter_option
@_seconds_option
@_rate_option
@json_option
def check_command(spec: str | None, seconds: float, rate_hz: float, as_json: bool) -> None:
    """Record for some seconds and report rate, noise and losses.

    \b
    Example:
      deepen meter check --meter rapl --rate 100
    """
    from deepen.meters.check import check_trace

    found = check_trace(_record(spec, seconds, rate_hz))

    def render() -> str:
        rows = [
            ("numbers", found.source),
            ("duration", f"{found.duration_s:.2f} s"),
            ("updates", f"{found.updates} ({found.update_hz:.1f} a second)"),
            ("power", f"{format_si(found.mean_w, 'W')} ± {format_si(found.noise_w, 'W')}"),
            ("range", f"{format_si(found.min_w, 'W')} to {format_si(found.max_w, 'W')}"),
            ("longest time between samples", format_si(found.longest_s, "s")),
            ("lost samples", str(found.dropped)),
        ]
        return "\n".join([table([found.meter, ""], rows), *(f"note: {w}" for w in found.warnings)])

    emit(asdict(found), as_json, render)
