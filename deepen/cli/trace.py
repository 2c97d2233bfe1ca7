"""``deepen trace``."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.traces import TraceFile

__all__ = ["command", "open_trace_with_options", "reading_options"]

_ROLES = ("time", "power", "current", "voltage")


@click.group(name="trace")
def command() -> None:
    """Show, integrate and convert stored power traces.

    \b
    Example:
      deepen trace show idle.csv
    """


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of reading a trace; they arrive in ``given`` (see :func:`open_trace_with_options`)."""
    options = (
        click.option("--format", "format_", metavar="NAME", help="Format of FILE; found from its content by default."),
        click.option("--voltage-v", type=float, help="Supply voltage, for files that hold only current."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="ROLE=NAME:UNIT",
            help="Column of a CSV file: power=P1:mW, current=I:uA, voltage=U:mV.",
        ),
        click.option("--time", metavar="NAME:UNIT", help="Column that holds the time: stamp:ms."),
        click.option("--rate-hz", type=float, help="Number the rows at this rate instead of reading a time."),
        click.option("--source", help="Label of the numbers: measured, modelled or simulated."),
        click.option("--run", type=int, help="Number of the run in a file with several, counted from 0."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def open_trace_with_options(file: Path, given: dict[str, Any]) -> TraceFile:
    """Open a trace with the options of :func:`reading_options`.

    Raises:
        ConfigError: If an option is wrong, or unknown to the format.
        MeasureError: If the file is damaged or of no known format.
    """
    from deepen.errors import ConfigError
    from deepen.traces import open_trace

    options = {k: str(v) for k, v in given.items() if k not in ("format_", "columns") and v is not None}
    for text in given["columns"]:
        role, separator, column = text.partition("=")
        if role not in _ROLES or not separator:
            raise ConfigError(f"--column {text}: write ROLE=NAME:UNIT with a role of {', '.join(_ROLES)}")
        options[role] = column
    return open_trace(file, format=given["format_"] or "", **options)


@command.command(name="show")
@click.argument("file", type=click.Path(path_type=Path))
@reading_options
@json_option
def show_command(file: Path, as_json: bool, **given: Any) -> None:
    """Summarise a trace: metadata, rate, losses, power, warnings, the windows it reports, and a plot.

    \b
    Example:
      deepen trace show idle.csv
      deepen trace show ppk2-export.csv --voltage-v 3.3
    """
    from deepen.traces.summary import plot_summary, summarise_trace

    # 1. Read and compute.
    opened = open_trace_with_options(file, given)
    found = summarise_trace(opened)
    info = opened.info
    windows = opened.windows()
    # 2. The JSON document.
    document = {
        "file": str(file),
        "format": info.format,
        "meter": info.meter_id,
        "calibration": info.calibration_id,
        "source": info.source,
        "complete": info.complete,
        "samples": info.samples,
        "rate_hz": info.rate_hz,
        "sampling": info.sampling,
        "start_s": info.start_s,
        "end_s": info.end_s,
        "duration_s": info.duration_s,
        "dropped": info.dropped,
        "loss": info.loss,
        "gaps": info.gaps,
        "min_w": found.min_w,
        "mean_w": found.mean_w,
        "max_w": found.max_w,
        "energy_j": found.energy_j,
        "clock": None
        if info.clock is None
        else {"method": info.clock.method, "rate": info.clock.rate, "error_s": info.clock.error_s},
        "accuracy": {
            "gain": info.accuracy.gain,
            "offset_w": info.accuracy.offset_w,
            "reference": info.accuracy.reference,
        },
        "windows": [
            {
                "start_s": w.interval.start_s,
                "end_s": w.interval.end_s,
                "label": w.interval.label,
                "runs": w.interval.runs,
                "energy_j": w.energy_j,
            }
            for w in windows
        ],
        "warnings": info.warnings,
    }

    # 3. The text.
    def render() -> str:
        clock = info.clock
        rows = [
            ("format", info.format),
            ("numbers", info.source),
            ("calibration", info.calibration_id),
            ("samples", f"{info.samples} at {info.rate_hz:.6g} a second ({info.sampling})"),
            ("time", f"{info.start_s:.6f} to {info.end_s:.6f} s ({info.duration_s:.3f} s)"),
            ("lost samples", f"{info.dropped} ({info.loss:.4%}) in {len(info.gaps)} gaps"),
            (
                "power",
                f"{format_si(found.mean_w, 'W')} mean, {format_si(found.min_w, 'W')} to {format_si(found.max_w, 'W')}",
            ),
            ("energy", format_si(found.energy_j, "J")),
        ]
        if clock is not None:
            error = format_si(clock.error_s, "s")
            rows.append(("clock", f"{clock.method}, {(clock.rate - 1) * 1e6:+.1f} ppm, error {error}"))
        lines = [format_table([info.meter_id or str(file), ""], rows), "", plot_summary(found)]
        lines += [f"note: {w}" for w in info.warnings]
        if windows:
            cells = [
                (w.interval.label, f"{w.interval.start_s:.6f}", f"{w.interval.end_s:.6f}", format_si(w.energy_j, "J"))
                for w in windows
            ]
            lines += ["", format_table(["window", "start s", "end s", "reported"], cells, right=(1, 2, 3))]
        return "\n".join(lines)

    emit_result(document, as_json, render)


@command.command(name="convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@reading_options
@click.option(
    "--precision",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="Type in which .trace and .parquet store power.",
)
@json_option
def convert_command(
    file: Path, out: Path, precision: Literal["float64", "float32"], as_json: bool, **given: Any
) -> None:
    """Write a trace as .trace, .parquet, .csv or .json; OUT is replaced in one step.

    \b
    Example:
      deepen trace convert monsoon.csv run.trace
    """
    from deepen.traces import hash_trace, open_trace, write_trace

    opened = open_trace_with_options(file, given)
    print_progress(f"writing {opened.info.samples} samples to {out}")
    write_trace(opened, out, precision=precision)
    written = open_trace(out)
    document = {
        "file": str(out),
        "samples": opened.info.samples,
        "dropped": opened.info.dropped,
        "source": opened.info.source,
        "sha256": hash_trace(written),
        "warnings": opened.info.warnings,
    }

    def render() -> str:
        return "\n".join(
            [f"{opened.info.samples} samples written to {out}", *(f"note: {w}" for w in opened.info.warnings)]
        )

    emit_result(document, as_json, render)


@command.command(name="energy")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--windows",
    "windows_file",
    type=click.Path(path_type=Path),
    help="CSV with start_s,end_s,label; label 'idle' counts.",
)
@click.option(
    "--idle-w", type=click.FloatRange(min=0), help="Idle power to subtract, instead of windows labelled 'idle'."
)
@click.option("--max-loss", type=float, default=0.001, show_default=True, help="Share of samples that may be lost.")
@click.option("--edge-error-s", type=float, default=0.0, help="Standard uncertainty of each edge of a window, seconds.")
@reading_options
@json_option
def energy_command(
    file: Path,
    windows_file: Path | None,
    idle_w: float | None,
    max_loss: float,
    edge_error_s: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Integrate power over windows, net of idle power, with uncertainty (95 %).

    Without --windows, the windows that FILE itself reports are integrated, or else the whole trace.

    \b
    Example:
      deepen trace energy run.trace --windows windows.csv --max-loss 0.01
    """
    from deepen.measure.energy.trace_file_energy import integrate_trace_file
    from deepen.traces import read_windows

    # 1. Read and compute.
    opened = open_trace_with_options(file, given)
    wanted = read_windows(windows_file) if windows_file is not None else ()
    found = integrate_trace_file(opened, wanted, idle_w=idle_w, max_loss=max_loss, edge_error_s=edge_error_s)
    info = opened.info
    clock = info.clock
    # 2. The JSON document.
    document = {
        "file": str(file),
        "windows": [
            {
                "start_s": w.interval.start_s,
                "end_s": w.interval.end_s,
                "label": w.interval.label,
                "runs": w.interval.runs,
                "energy_j": w.gross_j,
                "uncertainty_j": w.gross_budget.expanded_j,
                "net_j": w.net_j,
                "net_uncertainty_j": w.uncertainty_j,
                "reported_j": reported,
                "budget": w.gross_budget.terms(),
                "net_budget": w.budget.terms(),
                "warnings": [c.document() for c in w.warnings],
            }
            for w, reported in zip(found.windows, found.reported_j, strict=True)
        ],
        "dropped": info.dropped,
        "gaps": info.gaps,
        "loss": info.loss,
        "meter": info.meter_id,
        "source": info.source,
        "clock": None if clock is None else {"method": clock.method, "rate": clock.rate, "error_s": clock.error_s},
        "warnings": [w.document() for w in found.warnings],
    }

    # 3. The text.
    def render() -> str:
        rows = [
            (
                w.interval.label,
                f"{w.interval.start_s:.6f}",
                format_si(w.interval.duration_s, "s"),
                f"{format_si(w.gross_j, 'J')} ± {format_si(w.gross_budget.expanded_j, 'J')}",
                "" if w.budget is w.gross_budget else f"{format_si(w.net_j, 'J')} ± {format_si(w.uncertainty_j, 'J')}",
                "" if isnan(reported) else f"{format_si(reported, 'J')} ({100 * (w.gross_j / reported - 1):+.4f} %)",
            )
            for w, reported in zip(found.windows, found.reported_j, strict=True)
        ]
        titles = ["window", "start s", "length", "energy", "net of idle", "reported by the file (difference)"]
        used = [k for k, _ in enumerate(titles) if k < 4 or any(row[k] for row in rows)]
        cells = [tuple(row[k] for k in used) for row in rows]
        lines = [format_table([titles[k] for k in used], cells, right=tuple(range(1, len(used))))]
        lines.append(f"{info.meter_id or file} ({info.source}); uncertainties are for 95 %")
        lines += [f"{w.interval.label}: {c}" for w in found.windows for c in w.warnings]
        lines += [f"warning: {w}" for w in found.warnings]
        return "\n".join(lines)

    emit_result(document, as_json, render)
