"""``deepen profile``: the energy of a model file, measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from deepen.cli.output import emit, json_option, progress, table
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.records import EnergyRecord

__all__ = ["command", "document", "render"]


@click.command(name="profile")
@click.argument("model", metavar="MODEL")
@click.option("--device", default="local", show_default=True, help="local, or the name of a profile ('device list').")
@click.option("--meter", metavar="METER", help="NAME[:PORT][?key=value]; default: the best source here.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads, one core each.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Time to measure; up to twice this where the spread is above 1 %.",
)
@click.option("--shape", "shapes", multiple=True, metavar="NAME=DIMS", help="Shape of a symbolic input; repeatable.")
@click.option(
    "--sync",
    type=click.Choice(["auto", "pulses", "none"]),
    default="auto",
    show_default=True,
    help="Put an external meter on the host's clock by a load pattern before and after the runs.",
)
@click.option("--runtime", default="onnxruntime", show_default=True, help="Inference engine.")
@json_option
def command(
    model: str,
    device: str,
    meter: str | None,
    threads: int,
    seconds: float,
    shapes: tuple[str, ...],
    sync: Literal["auto", "pulses", "none"],
    runtime: str,
    as_json: bool,
) -> None:
    """Measure the energy of one inference of MODEL.

    \b
    Example:
      deepen profile model.onnx --seconds 5 --shape input=1x3x224x224
    """
    from deepen.graph import parse_shape
    from deepen.measure import profile

    wanted = dict(parse_shape(s) for s in shapes)
    progress(f"measuring {model} on {device} for about {seconds:g} s")
    record = profile(
        model,
        device=device,
        meter=meter,
        threads=threads,
        seconds=seconds,
        shapes=wanted or None,
        runtime=runtime,
        sync=sync,
    )
    emit(document(model, record), as_json, lambda: render(model, record))


def document(model: str, record: EnergyRecord) -> dict[str, Any]:
    """The JSON document: energies in joules per inference, power in watts."""
    return {
        "model": model,
        "energy_j": record.energy_j,
        "uncertainty_j": record.uncertainty_j,
        "gross_energy_j": record.gross_energy_j,
        "latency_s": record.latency_s,
        "power_w": record.gross_energy_j / record.latency_s,
        "idle_power_before_w": record.idle_power_before_w,
        "idle_power_after_w": record.idle_power_after_w,
        "source": record.source,
        "meter": record.meter,
        "device": record.device,
        "runtime": record.runtime,
        "runtime_build": record.runtime_build,
        "threads": record.threads,
        "temperature_c": record.temperature_c,
        "frequency_hz": record.frequency_hz,
        "governor": record.governor,
        "runs": record.runs,
        "blocks": list(record.trials),
        "alignment": dict(record.alignment),
        "budget": dict(record.budget),
        "rejected": [dict(r) for r in record.rejected],
        "warnings": list(record.warnings),
        "recorded_at": record.recorded_at,
    }


def render(model: str, record: EnergyRecord) -> str:
    """The table for people."""
    share = 100 * record.uncertainty_j / record.energy_j if record.energy_j > 0 else float("nan")
    rows = [
        (
            "energy, net of idle",
            f"{format_si(record.energy_j, 'J')} ± {format_si(record.uncertainty_j, 'J')} ({share:.1f} %)",
        ),
        ("energy, gross", f"{format_si(record.gross_energy_j, 'J')}"),
        ("latency", format_si(record.latency_s, "s")),
        ("power while running", format_si(record.gross_energy_j / record.latency_s, "W")),
        (
            "idle power",
            f"{format_si(record.idle_power_before_w, 'W')}, {format_si(record.idle_power_after_w, 'W')} after",
        ),
        ("meter", f"{record.meter} ({record.source})"),
        ("uncertainty from", _largest_terms(record)),
        ("runtime", record.runtime_build),
        ("blocks", f"{len(record.trials)} counted, {len(record.rejected)} rejected, {record.runs} runs"),
    ]
    notes = [f"warning: {w}" for w in record.warnings]
    return "\n".join([table([model, "per inference"], rows), *notes])


def _largest_terms(record: EnergyRecord) -> str:
    """The three terms that make up most of the uncertainty, and how the trace was aligned."""
    terms = sorted(((v, k) for k, v in record.budget.items() if v > 0), reverse=True)[:3]
    named = ", ".join(f"{name} {format_si(value, 'J')}" for value, name in terms) or "no term is known"
    method = record.alignment.get("method", "")
    error_s = record.alignment.get("error_s")
    error = f" (± {format_si(error_s, 's')})" if error_s is not None else ""
    return f"{named}; clock: {method}{error}" if method else named
