"""``deepen quickstart``: the main job from end to end, on this machine, in a few minutes."""

from __future__ import annotations

import math
import shutil
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepen.cli.output import emit_result, format_table, json_option
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.quickstart import ModelResult, QuickstartProgress, QuickstartResult

__all__ = ["command"]

_TOP = 8
_MODELLED = (
    "Modelled is CPU time times a documented power profile: the comparison tests the predicted work of a model, "
    "not this machine's watts."
)


@click.command(name="quickstart")
@click.argument("models", nargs=-1, type=click.Path(path_type=Path), metavar="[MODEL...]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("deepen-quickstart"),
    show_default=True,
    help="Folder for all results; an existing one is resumed and extended.",
)
@click.option("--minutes", type=float, default=5.5, show_default=True, help="Time to spend; more is more accurate.")
@click.option("--device", default="local", show_default=True, help="Device to measure on.")
@click.option("--meter", default=None, help="Power source; default: the best one of the device.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per inference.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of samples and order.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=DIMS", help="Shape of a symbolic input; repeatable.")
@json_option
def command(
    models: tuple[Path, ...],
    out: Path,
    minutes: float,
    device: str,
    meter: str | None,
    threads: int,
    seed: int,
    shapes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure kernels here, train a predictor, predict models it has not seen, then measure them and compare.

    The models are the nine full architectures inside the onnx package, whose kernel configurations are kept out of the
    training data, and any MODEL files you name. After Ctrl-C the results so far can be used and the run resumed.

    \b
    Example:
      deepen quickstart
      deepen quickstart my-model.onnx --minutes 15
    """
    from deepen import graph
    from deepen.quickstart import QuickstartOptions, make_result_document, run_quickstart

    wanted = dict(graph.parse_shape(s) for s in shapes)
    options = QuickstartOptions(out, minutes, models, device, meter, threads, seed, wanted)
    line = _StatusLine()
    try:
        found = run_quickstart(options, line)
    finally:
        line.end()
    emit_result(make_result_document(found), as_json, lambda: render_quickstart(found))
    if found.interrupted:
        sys.exit(130)


class _StatusLine:
    """Progress on stderr: one redrawn line on a terminal; elsewhere a line per stage and per tenth of a stage."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = ("", -1)
        self._drawn = False

    def __call__(self, progress: QuickstartProgress) -> None:
        left = f", {_format_minutes(progress.eta_s)} left" if math.isfinite(progress.eta_s) else ""
        count = f" {progress.done}/{progress.total}" if progress.total else ""
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            text = f"{progress.stage}{count}{left}  {progress.detail}"
            click.echo("\r\x1b[K" + text[:width], err=True, nl=False)
            self._drawn = True
            return
        part = 10 * progress.done // progress.total if progress.total else 0
        if (progress.stage, part) != self._last:
            self._last = (progress.stage, part)
            click.echo(f"{progress.stage}{count}{left}", err=True)

    def end(self) -> None:
        """Clear the line, so that other output starts on a line of its own."""
        if self._drawn:
            click.echo("\r\x1b[K", err=True, nl=False)


def _format_minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def render_quickstart(found: QuickstartResult) -> str:
    """Render the result of a quickstart as text."""
    measured = [m for m in found.models if math.isfinite(m.measured_j)]
    source = found.measured_source
    lines = [
        f"Energy per inference, net of idle: predicted, beside {source} ({found.meter} on {found.device}; "
        f"{found.runtime_build}).",
        f"Trained on {found.kernels_measured} kernels and {found.networks_measured} random networks measured here; "
        "no model below was among them.",
        *([_MODELLED] if source == "modelled" else []),
        "",
        format_table(
            ("model", "predicted", "90 % interval", source, "error", "repeat", "coverage", "seen"),
            [_format_row(m) for m in found.models],
            right=(1, 2, 3, 4, 5, 6, 7),
        ),
        "",
        f"repeat: variation of the {source} total over rounds. coverage: share of kernels with a regressor of their "
        "family. seen: share whose exact configuration was measured.",
    ]
    if measured:
        errors = [abs(m.error) for m in measured]
        inside = sum(m.prediction.interval_j[0] <= m.measured_j <= m.prediction.interval_j[1] for m in measured)
        lines += [
            "",
            f"Median error {100 * statistics.median(errors):.1f} %; {sum(e <= 0.15 for e in errors)} of {len(errors)} "
            f"within 15 %; {inside} of {len(errors)} inside their interval. "
            f"The machine's speed varied by {100 * found.drift:.0f} % meanwhile.",
        ]
    lines += [f"{m.name}: not measured, {m.failure}" for m in found.models if m.failure]
    lines += [f"{m.name}: {warning}" for m in found.models for warning in m.prediction.warnings]
    lines += ["", *_render_breakdown(_choose_example(found))]
    lines += [f"note: {warning}" for warning in found.warnings]
    if found.failed:
        lines.append(
            f"note: {len(found.failed)} kernels could not be measured; the first: {': '.join(found.failed[0])}"
        )
    lines += [
        "",
        f"Dataset    {found.out / 'kernels'}   (deepen dataset summary {found.out / 'kernels'})",
        f"Predictor  {found.out / 'quickstart.deepen'}   "
        f"(deepen predict MODEL.onnx --predictor {found.out / 'quickstart.deepen'})",
        f"Result     {found.out / 'result.json'}",
        f"Took {_format_minutes(found.elapsed_s)}. Run it again with the same --out to add kernels.",
    ]
    if found.interrupted:
        lines.append("Interrupted: what was measured is kept; run it again to go on.")
    return "\n".join(lines)


def _format_row(m: ModelResult) -> tuple[str, ...]:
    low, high = m.prediction.interval_j
    return (
        m.name,
        format_si(m.prediction.energy_j, "J"),
        f"{format_si(low, 'J')} .. {format_si(high, 'J')}",
        format_si(m.measured_j, "J") if math.isfinite(m.measured_j) else "-",
        f"{100 * m.error:+.1f} %" if math.isfinite(m.error) else "-",
        f"{100 * m.measured_cv:.1f} %" if math.isfinite(m.measured_cv) else "-",
        f"{100 * m.prediction.coverage:.0f} %",
        f"{100 * m.seen_share:.0f} %",
    )


def _choose_example(found: QuickstartResult) -> ModelResult:
    """Choose the model to show kernel by kernel: the user's first, else ResNet-50, else the first."""
    named = {m.name: m for m in found.models}
    return found.models[9] if len(found.models) > 9 else named.get("resnet50", found.models[0])


def _render_breakdown(model: ModelResult) -> list[str]:
    p = model.prediction
    groups: dict[str, list[float]] = {}
    for kernel in p.kernels:
        groups.setdefault(kernel.family, []).append(kernel.energy_j)
    total = p.energy_j or 1.0
    families = sorted(groups.items(), key=lambda item: -sum(item[1]))
    top = sorted(p.kernels, key=lambda k: -k.energy_j)[:_TOP]
    return [
        f"{model.name}, predicted: {len(p.kernels)} kernels, overhead {format_si(p.overhead_j, 'J')}",
        format_table(
            ("family", "kernels", "energy", "share"),
            [(f, len(e), format_si(sum(e), "J"), f"{100 * sum(e) / total:.1f} %") for f, e in families],
            right=(1, 2, 3),
        ),
        "",
        format_table(
            ("costliest kernels", "family", "energy", "share"),
            [(k.name, k.family, format_si(k.energy_j, "J"), f"{100 * k.energy_j / total:.1f} %") for k in top],
            right=(2, 3),
        ),
        "",
    ]
