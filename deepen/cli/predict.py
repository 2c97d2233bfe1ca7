"""``deepen predict``: the energy of models that were not measured."""

from __future__ import annotations

import csv
import io
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.fitted_tables import (
    fit_table,
    fold_equal,
    format_operators,
    get_terminal_width,
    merge_names,
    shorten_path,
    wrap_text,
)
from deepen.cli.model_options import model_options
from deepen.cli.output import emit_json_lines, emit_result, json_option, print_progress
from deepen.errors import ConfigError, DeepenError
from deepen.units import format_count, format_si

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepen.graph import ReadOptions
    from deepen.predictors import Predictor
    from deepen.predictors.prediction import KernelPrediction, Prediction

__all__ = ["command"]

_STDIN = "-"


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
@click.option(
    "--top", type=click.IntRange(min=0), default=10, show_default=True, help="Lines of costliest kernels; 0: all."
)
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path), metavar="FILE", help="Write every kernel as a line of a file."
)
@click.option("--jsonl", "as_lines", is_flag=True, help="Print one JSON document a line, one for each model.")
@json_option
def command(
    models: tuple[str, ...],
    predictor_name: str,
    read_options: ReadOptions,
    runtime: str | None,
    jobs: int,
    top: int,
    csv_path: Path | None,
    as_lines: bool,
    as_json: bool,
) -> None:
    """Predict the net energy of one inference of each MODEL, kernel by kernel.

    MODEL is a file, a folder (all .onnx files below it), or - for a model on the standard input. One file gives one
    JSON document; several, or a folder, a list with one entry each, in order. If one of several fails, its entry says
    so (in JSON: "model" and "error"), and the exit status is that of the first failure.

    \b
    Example:
      deepen predict model.onnx --predictor mine.deepen --shape input=1x3x224x224
      deepen predict models/ --predictor mine.deepen --csv kernels.csv
    """
    from deepen import predictors

    if as_json and as_lines:
        raise click.UsageError("--json and --jsonl exclude each other")
    predictor = predictors.load_predictor(predictor_name)
    # 1. Predict; what fails becomes its error.
    sources = _expand_folders(models)
    many = len(models) > 1 or sources != list(models)
    entries = _predict_sources(predictor, sources, read_options, runtime, jobs)
    done = [e for e in entries if not isinstance(e, DeepenError)]
    failed = [e for e in entries if isinstance(e, DeepenError)]
    # 2. Print, each entry in its place.
    if csv_path is not None and done:
        _write_csv(csv_path, done)
    documents = [_build_entry_document(s, e) for s, e in zip(sources, entries, strict=True)]
    if as_lines:
        emit_json_lines(documents)
    elif many or done:
        width = get_terminal_width()
        emit_result(
            documents if many else documents[0],
            as_json,
            lambda: "\n\n".join(_render_entry(s, e, width, top) for s, e in zip(sources, entries, strict=True)),
        )
    # 3. Say on the error stream what a reader should know, and what failed.
    for prediction in done if not (as_json or as_lines) else ():
        for warning in prediction.warnings:
            print_progress(f"note: {prediction.model}: {warning}")
    for failure in dict.fromkeys(map(str, failed[1:])):
        if failure != str(failed[0]):
            print_progress(f"error: {failure}")
    if failed:
        raise failed[0]


def _expand_folders(models: Sequence[str]) -> list[str]:
    """Replace each folder by the ``.onnx`` files below it, sorted; no link leads out of the folder."""
    if models.count(_STDIN) > 1:
        raise ConfigError("the standard input can be read once only", cure="give '-' once")
    found: list[str] = []
    for model in models:
        if model == _STDIN or not Path(model).is_dir():
            found.append(model)
            continue
        root = Path(model).resolve()
        names = [Path(folder) / name for folder, _, files in os.walk(model) for name in files]
        inside = [n for n in names if n.suffix.lower() == ".onnx" and n.is_file() and n.resolve().is_relative_to(root)]
        if not inside:
            raise ConfigError("there is no .onnx file in this folder", subject=model, cure="name a folder with models")
        found += map(str, sorted(inside))
    return found


def _predict_sources(
    predictor: Predictor, sources: Sequence[str], options: ReadOptions, runtime: str | None, jobs: int
) -> list[Prediction | DeepenError]:
    """Predict every source, in order; the error takes the place of one that fails."""
    from deepen.predictors.models_in_memory import predict_model_in_memory

    failures: dict[str, DeepenError] = {}
    files = [s for s in sources if s != _STDIN]
    done = iter(predictor.predict_many(files, options, runtime, jobs, failures) if files else ())
    entries: list[Prediction | DeepenError] = []
    for source in sources:
        if source != _STDIN:
            entries.append(failures[source] if source in failures else next(done))
            continue
        try:
            data = sys.stdin.buffer.read()
            entries.append(replace(predict_model_in_memory(data, predictor, options, runtime), model=_STDIN))
        except DeepenError as error:
            entries.append(error if error.subject else error.with_subject("standard input"))
    return entries


def _build_entry_document(source: str, entry: Prediction | DeepenError) -> dict[str, Any]:
    if isinstance(entry, DeepenError):
        return {"model": source, "error": str(entry)}
    return build_prediction_document(entry)


def build_prediction_document(prediction: Prediction) -> dict[str, Any]:
    """Build the JSON document of a prediction; an upper end that is open is the largest number there is."""
    plain = asdict(replace(prediction, kernels=()))
    low, high = prediction.interval_j
    return plain | {
        "predictor": plain.pop("predictor_id"),
        "interval_j": [low, min(high, sys.float_info.max)],
        "open_above": prediction.open_above,
        "energy_coverage": prediction.energy_coverage,
        "kernels": [_build_kernel_document(k) for k in prediction.kernels],
    }


def _build_kernel_document(kernel: KernelPrediction) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "layer": kernel.label.layer or kernel.name,
        "family": kernel.family,
        "op_types": kernel.label.op_types,
        "input_shape": kernel.label.input_shape,
        "weight_shape": kernel.label.weight_shape,
        "output_shape": kernel.label.output_shape,
        "times": kernel.times,
        "macs": kernel.macs,
        "energy_j": kernel.energy_j,
        "interval_j": kernel.interval_j,
        "pj_per_mac": kernel.pj_per_mac,
        "bound": kernel.bound,
        "method": kernel.method,
        "extrapolated": kernel.extrapolated,
    }


def _write_csv(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write one line for each kernel of each model, after a header."""
    from deepen.predictors.prediction import KERNEL_COLUMNS
    from deepen.storage import write_file_atomically

    text = io.StringIO()
    rows = csv.DictWriter(text, ("model", *KERNEL_COLUMNS), lineterminator="\n")
    rows.writeheader()
    rows.writerows({"model": p.model, **kernel.to_row()} for p in predictions for kernel in p.kernels)
    write_file_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))


def _render_entry(source: str, entry: Prediction | DeepenError, width: int, top: int) -> str:
    if isinstance(entry, DeepenError):
        where = "" if entry.subject in ("", source) else f"{entry.subject}: "
        return wrap_text(f"{source}: error: {where}{entry.cause}" + (f"; {entry.cure}" if entry.cure else ""), width)
    return render_prediction(entry, width, top)


def render_prediction(prediction: Prediction, width: int, top: int = 10) -> str:
    """Render a headline, shares by family, and the costliest kernels, equal ones in one line.

    Args:
        prediction: The prediction.
        width: Most characters of a line.
        top: Most lines of kernels; 0 for all.
    """
    p = prediction
    answered = sum(k.method == "regressor" for k in p.kernels)
    lines = [
        wrap_text(f"{p.model}: {p.describe_energy()}", width),
        wrap_text(
            f"{p.label}, on {p.device or 'an unnamed device'} with {p.runtime}, {_format_threads(p.threads)}; "
            f"predictor {p.predictor_id}",
            width,
        ),
        wrap_text(
            f"{_format_percent(p.energy_coverage)} of the energy answered by regressors ({answered} of "
            f"{len(p.kernels)} kernels), {p.extrapolated} extrapolated, overhead {format_si(p.overhead_j, 'J')}",
            width,
        ),
    ]
    if not p.kernels:
        return "\n".join(lines)
    return "\n".join([*lines, "", _render_families(p, width), "", _render_kernels(p, width, top)])


def _render_families(p: Prediction, width: int) -> str:
    found = [(g[0].family, len(g), sum(k.energy_j for k in g)) for g in fold_equal(p.kernels, lambda k: k.family)]
    ranked = sorted(found, key=lambda row: -row[2])
    rows = [(name, str(n), format_si(e, "J"), _format_share(e, p.energy_j)) for name, n, e in ranked]
    return fit_table(("family", "kernels", "energy", "share"), rows, width, right=(1, 2, 3))


def _render_kernels(p: Prediction, width: int, top: int) -> str:

    def describe(k: KernelPrediction) -> tuple[Any, ...]:
        return k.family, k.label[2:] if k.label.op_types else k.name, k.energy_j, k.times, k.method, k.extrapolated

    folded = fold_equal(p.kernels, describe)
    ranked = sorted(folded, key=lambda group: -sum(k.energy_j for k in group))
    shown = ranked[:top] if top else ranked
    rows = [_make_kernel_row(group, p.energy_j) for group in shown]
    header = ("costliest kernels", "", "family", "operators", "input", "output", "MACs", "energy", "share", "pJ/MAC",
              "bound", "")  # fmt: skip
    lines = [
        fit_table(header, rows, width, right=(1, 6, 7, 8, 9), elastic=(0, 3, 4, 5), dispensable=(2, 4, 8, 5, 11, 3))
    ]
    rest = [k for group in ranked[len(shown) :] for k in group]
    if rest:
        joules = sum(k.energy_j for k in rest)
        lines.append(
            wrap_text(
                f"{len(rest)} more kernels: {format_si(joules, 'J')} ({_format_share(joules, p.energy_j)}); "
                "--top 0 lists all",
                width,
            )
        )
    return "\n".join(lines)


def _make_kernel_row(group: Sequence[KernelPrediction], whole_j: float) -> tuple[str, ...]:
    """One line for kernels that are equal: figures of all of them together."""
    from deepen.kernels.layer_labels import format_shape

    first, joules, macs = group[0], sum(k.energy_j for k in group), sum(k.macs for k in group)
    runs = sum(k.times for k in group)
    return (
        shorten_path(merge_names([k.label.layer or k.name for k in group])),
        f"{runs:g}x" if runs != 1 else "",
        first.family,
        format_operators(first.label.op_types),
        format_shape(first.label.input_shape) if first.label.op_types else "",
        format_shape(first.label.output_shape) if first.label.op_types else "",
        format_count(macs) if macs else "",
        format_si(joules, "J"),
        _format_share(joules, whole_j),
        f"{joules / macs * 1e12:.3g}" if macs else "",
        first.bound,
        "roofline" if first.method == "roofline" else ("extrapolated" if first.extrapolated else ""),
    )


def _format_threads(threads: int) -> str:
    return "threads unknown" if not threads else "1 thread" if threads == 1 else f"{threads} threads"


def _format_percent(share: float) -> str:
    """Percent without decimals; not 100 unless it is all, not 0 unless it is nothing."""
    return "100 %" if share == 1 else f"{min(max(round(100 * share), 1 if share > 0 else 0), 99)} %"


def _format_share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole > 0 else "-"
