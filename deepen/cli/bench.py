"""``deepen bench``: real links and runners and emulated meters, for anyone without hardware."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.errors import ConfigError, DeepenError
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.bench import BenchDevice, VirtualBench
    from deepen.bench.bench import LinkKind, MeasurementWithTruth, MeterKind

__all__ = ["command"]

_LINKS = ("adb", "ssh", "local")
_METERS = ("lvpm", "ppk2")
_FAULTS = ("cut", "mend", "restart", "unplug", "plug", "kill")
_LASTING = ("cut", "restart")
"""Faults that take a duration."""
_frequency = click.option(
    "--frequency",
    "frequency_hz",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HZ",
    help="Highest clock of the device; slower saves energy.",
)


@click.group(name="bench")
def command() -> None:
    """Measure without hardware: a real sshd or adbd, the real runner, and an emulated meter with known true energy.

    Everything measured on it is labelled 'simulated'.

    \b
    Example:
      deepen bench run model.onnx --link ssh --meter ppk2
    """


@command.command(name="up")
@click.option(
    "--link", "links", multiple=True, type=click.Choice(_LINKS), help="Devices to start; default: adb and ssh."
)
@click.option("--meter", type=click.Choice(_METERS), default="lvpm", show_default=True, help="Meter of each device.")
@click.option("--c-runner", is_flag=True, help="Let --runtime crunner go through the bench too.")
@_frequency
@json_option
def up_command(
    links: tuple[LinkKind, ...], meter: MeterKind, c_runner: bool, frequency_hz: float | None, as_json: bool
) -> None:
    """Start devices and meters for other commands; Ctrl-C ends them.

    If no adbd can run, it says so and starts the others. It reads commands from standard input, one per line: 'cut
    [SECONDS]' and 'mend' a link, 'restart [SECONDS]' a device, 'unplug' and 'plug' a meter, 'kill' the runner, 'truth',
    'quit'; with several devices the number of the device comes last ('unplug 1').

    \b
    Example:
      deepen bench up --link ssh --meter ppk2
    """
    from deepen.bench import VirtualBench

    with _exit_on_sigterm(), VirtualBench() as bench:
        missing = _start_devices(bench, links, meter, frequency_hz, c_runner)
        document = {
            "devices": [
                {"link": d.link, "device": d.spec or "local", "meter": d.meter, "environment": d.environment}
                for d in bench.devices
            ],
            "missing": missing,
            "source": "simulated",
        }
        emit_result(document, as_json, lambda: _render_welcome(bench))
        sys.stdout.flush()
        _process_orders(bench)


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Clean up on SIGTERM too."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_devices(
    bench: VirtualBench, links: tuple[LinkKind, ...], meter: MeterKind, frequency_hz: float | None, c_runner: bool
) -> list[dict[str, str]]:
    """Start devices; default ones that cannot be started are left out."""
    missing = []
    wanted: tuple[LinkKind, ...] = links or ("adb", "ssh")
    for link in wanted:
        try:
            device = bench.add(link, meter, frequency_hz=frequency_hz)
            if c_runner or link == "local":
                device.use_c_runner()
        except ConfigError as error:
            if links:
                raise
            missing.append({"link": link, "reason": str(error)})
            print_progress(f"no {link}: {error}")
    if not bench.devices:
        print_progress("neither adb nor ssh can be used here; the local device takes its place, with the C runner")
        bench.add("local", meter, frequency_hz=frequency_hz).use_c_runner()
    return missing


def _render_welcome(bench: VirtualBench) -> str:
    lines = ["the bench is up; everything measured on it is simulated. Ctrl-C ends it. In another terminal:"]
    for number, device in enumerate(bench.devices):
        variables = "".join(f"{name}={value} " for name, value in device.environment.items())
        runtime = " --runtime crunner" if not device.spec else ""
        lines += [
            f"[{number}] {device.link}, {device.meter_kind}",
            f"  {variables}deepen profile MODEL --device '{device.spec or 'local'}' --meter '{device.meter}'{runtime}",
        ]
    return "\n".join(lines)


def _process_orders(bench: VirtualBench) -> None:
    """Execute commands from standard input until it ends; without standard input, wait for Ctrl-C."""
    for line in iter(sys.stdin.readline, ""):
        words = line.split()
        if words == ["quit"]:
            return
        if words:
            try:
                print_progress(_execute_order(bench, words))
            except (DeepenError, ValueError, IndexError) as error:
                print_progress(f"not done: {error}")
    while True:
        threading.Event().wait(3600)


def _execute_order(bench: VirtualBench, words: list[str]) -> str:
    """Execute a command; returns the text to print."""
    verb, *rest = words
    if verb not in (*_FAULTS, "truth"):
        raise ConfigError(f"unknown order '{verb}'; known: {', '.join((*_FAULTS, 'truth', 'quit'))}")
    seconds = float(rest.pop(0)) if verb in _LASTING and len(rest) > (len(bench.devices) > 1) else 0.0
    device = bench.devices[int(rest[0]) if rest else 0]
    if verb == "truth":
        return "\n".join(_summarise_truth(device)) or "nothing was played yet"
    return _inject_fault(device, verb, seconds)


def _summarise_truth(device: BenchDevice) -> list[str]:
    """Render the true energy, one line per model that was run."""
    lines = []
    for model in dict.fromkeys(b.model for b in device.truth()):
        blocks = device.truth(model)
        runs = sum(b.runs for b in blocks)
        net_j = sum(b.net_j for b in blocks) / runs
        lines.append(f"{model}: {format_si(net_j, 'J')} net per inference, {runs} runs in {len(blocks)} blocks")
    return lines


def _inject_fault(device: BenchDevice, verb: str, seconds: float = 0.0) -> str:
    """Cause a fault or end it; returns a description."""
    if verb == "kill":
        return f"killed {device.kill_runner()} runners"
    if verb in _LASTING:
        {"cut": device.cut, "restart": device.restart}[verb](seconds)
    else:
        {"mend": device.mend, "unplug": device.unplug, "plug": device.plug}[verb]()
    return f"{verb}: done"


def _inject_fault_later(device: BenchDevice, verb: str, moment: float, over: threading.Event) -> None:
    """Cause a fault a given time after the first block was run."""
    while not device.player.blocks:
        if over.wait(0.01):
            return
    if not over.wait(moment):
        try:
            print_progress(f"fault: {_inject_fault(device, verb)}")
        except DeepenError as error:
            print_progress(f"fault: {verb} could not be done: {error}")


def _parse_faults(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, float]]:
    """Read ``VERB@SECONDS``."""
    found = []
    for value in values:
        verb, _, when = value.partition("@")
        try:
            moment = float(when)
        except ValueError:
            moment = -1.0
        if verb not in _FAULTS or not 0 <= moment < float("inf"):
            raise click.BadParameter(f"'{value}' is not one of {', '.join(_FAULTS)}, then @ and seconds: cut@2.5")
        found.append((verb, moment))
    return found


@command.command(name="run")
@click.argument("model", metavar="MODEL")
@click.option("--link", type=click.Choice(_LINKS), default="ssh", show_default=True, help="How it is reached.")
@click.option("--meter", type=click.Choice(_METERS), default="lvpm", show_default=True, help="What measures it.")
@click.option("--runtime", default="onnxruntime", show_default=True, help="Inference engine.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True, help="Time to measure."
)
@click.option("--shape", "shapes", multiple=True, metavar="NAME=DIMS", help="Shape of a symbolic input; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the meter's noise.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_parse_faults,
    metavar="VERB@SECONDS",
    help="cut, mend, restart, unplug, plug or kill SECONDS after the first block; repeatable.",
)
@_frequency
@json_option
def run_command(
    model: str,
    link: LinkKind,
    meter: MeterKind,
    runtime: str,
    threads: int,
    seconds: float,
    shapes: tuple[str, ...],
    seed: int,
    faults: list[tuple[str, float]],
    frequency_hz: float | None,
    as_json: bool,
) -> None:
    """Measure MODEL on a bench of its own, as 'deepen profile' does, and compare with the truth.

    \b
    Example:
      deepen bench run model.onnx --link adb --meter lvpm --json
    """
    from deepen.bench import VirtualBench, measure_with_truth
    from deepen.graph import parse_shape

    wanted = dict(parse_shape(s) for s in shapes)
    with _exit_on_sigterm(), VirtualBench() as bench, ExitStack() as stack:
        print_progress(f"starting a device over {link} and its {meter}")
        device = bench.add(link, meter, frequency_hz=frequency_hz, seed=seed)
        print_progress(f"measuring {Path(model).name} for about {2 * seconds:g} s")
        over = threading.Event()
        stack.callback(over.set)
        for verb, moment in faults:
            threading.Thread(target=_inject_fault_later, args=(device, verb, moment, over), daemon=True).start()
        found = measure_with_truth(
            device, model, shapes=wanted or None, seconds=seconds, runtime=runtime, threads=threads
        )
    emit_result(_build_document(model, link, found), as_json, lambda: _render_comparison(model, link, found))


def _build_document(model: str, link: str, found: MeasurementWithTruth) -> dict[str, Any]:
    """Build the JSON document: the measurement as ``deepen profile`` gives it, beside the true energy."""
    from deepen.cli.profile import build_measurement_document

    return {
        "model": model,
        "link": link,
        "source": found.record.source,
        "energy_j": found.record.energy_j,
        "uncertainty_j": found.record.uncertainty_j,
        "true_j": found.true_net_j,
        "error_percent": 100 * found.error,
        "gross_energy_j": found.record.gross_energy_j,
        "true_gross_j": found.true_gross_j,
        "blocks": [
            {"runs": b.runs, "start_s": b.start_s, "end_s": b.end_s, "net_j": b.net_j, "static_w": b.static_w,
             "temperature_c": b.temperature_c, "frequency_hz": b.frequency_hz}
            for b in found.blocks
        ],
        "kernels": [{"name": k.name, "family": k.family, "energy_j": k.energy_j} for k in found.kernels],
        "measured": build_measurement_document(model, found.record),
    }  # fmt: skip


def _render_comparison(model: str, link: str, found: MeasurementWithTruth) -> str:
    record = found.record
    rows = [
        ("measured, net", f"{format_si(record.energy_j, 'J')} ± {format_si(record.uncertainty_j, 'J')}"),
        ("true, net", format_si(found.true_net_j, "J")),
        ("error", f"{100 * found.error:+.2f} %"),
        ("measured, gross", format_si(record.gross_energy_j, "J")),
        ("latency", format_si(record.latency_s, "s")),
        ("chain", f"{link}, {record.runtime_build}, {record.meter} ({record.source})"),
        ("blocks", f"{len(record.trials)} counted, {len(record.rejected)} rejected, {record.runs} runs"),
    ]
    notes = [f"warning: {w}" for w in record.warnings]
    return "\n".join([format_table([Path(model).name, "per inference"], rows), *notes])
