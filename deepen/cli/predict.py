"""``deepen predict``: the energy of models that were not measured."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.model_options import model_options
from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.errors import DeepenError
    from deepen.graph import ReadOptions
    from deepen.records import Prediction

__all__ = ["command"]

_TOP = 10


@click.command(name="predict")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--predictor", "-p", "predictor_name", required=True, help="Predictor file, or a name of 'predictor list'."
)
@model_options
@click.option("--runtime", help="Runtime to split for; default: the one the predictor was trained on.")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="Processes that read models; a few models are always read by one process.",
)
@json_option
def command(
    models: tuple[str, ...],
    predictor_name: str,
    read_options: ReadOptions,
    runtime: str | None,
    jobs: int,
    as_json: bool,
) -> None:
    """Predict the net energy of one inference of each MODEL, kernel by kernel.

    One MODEL gives one JSON document, several give a list. If a model fails, the others are still printed (with --json,
    nothing is printed), and the exit status is that of the first failure.

    \b
    Example:
      deepen predict model.onnx --predictor mine.deepen --shape input=1x3x224x224
    """
    from deepen import predictors

    predictor = predictors.load_predictor(predictor_name)
    failures: dict[str, DeepenError] = {}
    done = predictor.predict_many(models, shapes=read_options, runtime=runtime, workers=jobs, failures=failures)
    failed = list(failures.values())
    if not (failed and (as_json or not done)):
        documents = [build_prediction_document(p) for p in done]
        emit_result(
            documents[0] if len(models) == 1 else documents, as_json, lambda: "\n\n".join(map(render_prediction, done))
        )
    for failure in failed[1:]:
        print_progress(f"error: {failure}")
    if failed:
        raise failed[0]
    for prediction in done:
        for warning in prediction.warnings if not as_json else ():
            print_progress(f"note: {prediction.model}: {warning}")


def build_prediction_document(prediction: Prediction) -> dict[str, Any]:
    """Build the JSON document of a prediction."""
    plain = asdict(prediction)
    plain["predictor"] = plain.pop("predictor_id")
    return plain


def render_prediction(prediction: Prediction) -> str:
    """Render a headline, shares by family, and the costliest kernels."""
    p = prediction
    low, high = p.interval_j
    lines = [
        f"{p.model}: {format_si(p.energy_j, 'J')} per inference "
        f"(90 %: {format_si(low, 'J')} to {format_si(high, 'J')}) "
        f"on {p.device or 'an unnamed device'} with {p.runtime}, {_format_threads(p.threads)}; {p.label}",
        f"{len(p.kernels)} kernels, {100 * p.coverage:.0f} % answered by a regressor, {p.extrapolated} extrapolated, "
        f"overhead {format_si(p.overhead_j, 'J')}; predictor {p.predictor_id}",
    ]
    if not p.kernels:
        return "\n".join(lines)
    families: dict[str, list[float]] = {}
    for kernel in p.kernels:
        families.setdefault(kernel.family, []).append(kernel.energy_j)
    by_share = sorted(families.items(), key=lambda item: -sum(item[1]))
    share_rows = [(f, len(e), format_si(sum(e), "J"), _format_share(sum(e), p.energy_j)) for f, e in by_share]
    top = sorted(p.kernels, key=lambda k: -k.energy_j)[:_TOP]
    kernel_rows = [
        (
            k.name,
            k.family,
            format_si(k.energy_j, "J"),
            _format_share(k.energy_j, p.energy_j),
            "roofline" if k.method == "roofline" else ("extrapolated" if k.extrapolated else ""),
        )
        for k in top
    ]
    return "\n".join(
        [
            *lines,
            "",
            format_table(("family", "kernels", "energy", "share"), share_rows, right=(1, 2, 3)),
            "",
            format_table(("costliest kernels", "family", "energy", "share", ""), kernel_rows, right=(2, 3)),
        ]
    )


def _format_threads(threads: int) -> str:
    return "threads unknown" if not threads else "1 thread" if threads == 1 else f"{threads} threads"


def _format_share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"
