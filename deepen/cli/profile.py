"""``deepen profile``: the energy of a model file, measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from deepen.cli.conditions import conditions_options, delegate_option, inputs_option, parse_settings, sync_option
from deepen.cli.model_options import model_options
from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.graph import ReadOptions
    from deepen.records import EnergyRecord

__all__ = ["build_measurement_document", "command", "render_measurement"]


@click.command(name="profile")
@click.argument("model", metavar="MODEL")
@click.option(
    "--device",
    default="local",
    show_default=True,
    help="local, adb:SERIAL, ssh:USER@HOST, or the name of a profile ('device list').",
)
@click.option("--meter", metavar="METER", help="NAME[:PORT][?key=value]; default: the best source here.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads, one core each.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Time to measure; up to twice this if the spread is above 1 %.",
)
@model_options
@inputs_option
@sync_option
@click.option(
    "--runtime",
    default="auto",
    show_default=True,
    help="Inference engine; auto: the first engine of the device's profile that runs such files.",
)
@delegate_option
@click.option(
    "--detached",
    is_flag=True,
    help="Cut the link during the run: no communication, no power from a cable. Needs an external meter.",
)
@click.option("--collect", is_flag=True, help="Fetch a detached run that could not be collected when it was made.")
@click.option(
    "--trace",
    type=click.Path(exists=True, path_type=Path),
    help="With --collect: power recorded by other means on this machine ('meter record').",
)
@conditions_options
@json_option
def command(
    model: str,
    device: str,
    meter: str | None,
    threads: int,
    seconds: float,
    read_options: ReadOptions,
    given: tuple[str, ...],
    sync: Literal["auto", "pulses", "none"],
    runtime: str,
    delegate: str,
    detached: bool,
    collect: bool,
    trace: Path | None,
    prepare: bool,
    wanted: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure the energy of one inference of MODEL.

    The settings of the device's profile are applied, the device cools down, and its old settings are restored at the
    end, also after Ctrl-C; after a crash, the next run restores them. Settings that could not be made are reported and
    recorded. Settings of this machine are changed only by --set.

    Inputs are random numbers where the model computes with them. Others are filled so that it does its work: lengths
    with the full length, masks with ones, indices and tokens at random in range, loops with at least one round; what
    was chosen is in the result, and --input replaces it. A run that does no work is a warning.

    With --detached a run of fixed length is started on the device, the link is cut (a Monsoon's USB passthrough, or you
    unplug the cable when asked), power is recorded, and the results are collected when the link is back. After a crash
    of this machine, the same command with --collect instead of --detached collects the recorded results.

    \b
    Example:
      deepen profile model.onnx --seconds 5 --shape input=1x3x224x224
      deepen profile decoder.onnx --input max_length=32 --input tokens=prompt.npy
      deepen profile model.onnx --device adb:0A1B2C --meter 'lvpm:/dev/ttyACM0?voltage_v=4.2'
      deepen profile model.tflite --device adb:0A1B2C --runtime benchmark_model --delegate gpu
      deepen profile model.onnx --device adb:0A1B2C --meter 'lvpm?voltage_v=4.2' --detached --seconds 30
    """
    from deepen.measure import profile
    from deepen.measure.detached import collect_detached, profile_detached
    from deepen.measure.input_values import parse_input

    if detached and collect:
        raise click.UsageError("--detached makes a run, --collect fetches one: give one of them")
    if trace is not None and not collect:
        raise click.UsageError("--trace goes with --collect")
    inputs = dict(map(parse_input, given))
    settings = parse_settings(wanted)
    if collect:
        fetched = collect_detached(model, device=device, trace=trace, tell=print_progress)
        emit_result(build_measurement_document(model, fetched), as_json, lambda: render_measurement(model, fetched))
        return
    print_progress(f"measuring {model} on {device.partition('?')[0]} for about {seconds:g} s")
    record = (profile_detached if detached else profile)(
        model,
        device=device,
        meter=meter,
        threads=threads,
        seconds=seconds,
        shapes=read_options,
        runtime=runtime,
        delegate=delegate,
        prepare=prepare,
        settings=settings,
        sync=sync,
        tell=print_progress,
        inputs=inputs,
    )
    emit_result(build_measurement_document(model, record), as_json, lambda: render_measurement(model, record))


def build_measurement_document(model: str, record: EnergyRecord) -> dict[str, Any]:
    """Build the JSON document: energies in joules per inference, power in watts."""
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
        "serial": record.serial,
        "settings": dict(record.settings),
        "temperature_c": record.temperature_c,
        "temperature_before_c": record.temperature_before_c,
        "temperature_max_c": record.temperature_max_c,
        "throttled": list(record.throttled),
        "frequency_hz": record.frequency_hz,
        "governor": record.governor,
        "runs": record.runs,
        "blocks": list(record.trials),
        "alignment": dict(record.alignment),
        "budget": dict(record.budget),
        "rejected": [dict(r) for r in record.rejected],
        "inputs": {name: dict(facts) for name, facts in record.inputs.items()},
        "warnings": list(record.warnings),
        "recorded_at": record.recorded_at,
    }


def render_measurement(model: str, record: EnergyRecord) -> str:
    """Render a measurement as a table."""
    from deepen.measure.conditions.device_conditions import describe_unset_settings
    from deepen.measure.input_values import describe_inputs

    share = 100 * record.uncertainty_j / record.energy_j if record.energy_j > 0 else float("nan")
    digits = 1 if share >= 0.1 else 2
    rows = [
        (
            "energy, net of idle",
            f"{format_si(record.energy_j, 'J')} ± {format_si(record.uncertainty_j, 'J')} ({share:.{digits}f} %)",
        ),
        ("energy, gross", f"{format_si(record.gross_energy_j, 'J')}"),
        ("latency", format_si(record.latency_s, "s")),
        ("power while running", format_si(record.gross_energy_j / record.latency_s, "W")),
        (
            "idle power",
            f"{format_si(record.idle_power_before_w, 'W')}, {format_si(record.idle_power_after_w, 'W')} after",
        ),
        ("meter", f"{record.meter} ({record.source})"),
        ("uncertainty from", _format_largest_terms(record)),
        ("device", _describe_device(record)),
        ("runtime", f"{record.runtime}: {record.runtime_build}"),
        ("blocks", f"{len(record.trials)} counted, {len(record.rejected)} rejected, {record.runs} runs"),
    ]
    if record.inputs:
        rows.append(("inputs", describe_inputs(record.inputs)))
    left = describe_unset_settings(record.settings)
    notes = [f"warning: {w}" for w in ([left] if left else []) + list(record.warnings)]
    return "\n".join([format_table([Path(model).name, "per inference"], rows), *notes])


def _describe_device(record: EnergyRecord) -> str:
    """Render the device, its temperature and clock, and the settings that were made."""
    parts = [f"{record.device} {record.serial}".strip()]
    before, after, hottest = record.temperature_before_c, record.temperature_c, record.temperature_max_c
    if math.isfinite(hottest):
        parts.append(f"{before:.0f} to {after:.0f} °C, at most {hottest:.0f} °C")
    if math.isfinite(record.frequency_hz):
        parts.append(format_si(record.frequency_hz, "Hz"))
    if record.governor:
        parts.append(f"governor {record.governor}")
    done = [f"{name} {s['actual']}" for name, s in record.settings.items() if s["ok"] and name != "governor"]
    if done:
        parts.append(f"set: {', '.join(done)}")
    return "; ".join(parts)


def _format_largest_terms(record: EnergyRecord) -> str:
    """Render the three largest terms of the uncertainty, and the alignment of the trace."""
    terms = sorted(((v, k) for k, v in record.budget.items() if v > 0), reverse=True)[:3]
    named = ", ".join(f"{name} {format_si(value, 'J')}" for value, name in terms) or "no term is known"
    method = record.alignment.get("method", "")
    error_s = record.alignment.get("error_s")
    error = f" (± {format_si(error_s, 's')})" if error_s is not None else ""
    return f"{named}; clock: {method}{error}" if method else named
