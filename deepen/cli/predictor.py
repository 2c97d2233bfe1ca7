"""``deepen predictor``: list, train, evaluate and describe predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from deepen.cli.output import emit, json_option, progress, table
from deepen.errors import DeepenError

__all__ = ["command"]

_MEASURES = ("n", "acc5", "acc10", "acc20", "mape", "rmspe", "spearman")


@click.group(name="predictor")
def command() -> None:
    """List, train and evaluate predictors.

    \b
    Example:
      deepen predictor train my-dataset --out mine.deepen
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List predictors that can be called by name.

    \b
    Example:
      deepen predictor list --json
    """
    from deepen import predictors

    entries: list[dict[str, Any]] = []
    for name, path in predictors.available().items():
        entry: dict[str, Any] = {"name": name, "path": str(path)}
        try:
            card = predictors.load(path).card
            entry |= {k: card[k] for k in ("id", "device", "meter", "runtime_build", "source", "rows", "created")}
        except DeepenError as error:
            entry["error"] = str(error)
        entries.append(entry)

    def render() -> str:
        if not entries:
            return (
                f"no predictors; 'deepen predictor train DATASET --out {predictors.home() / 'NAME.deepen'}' makes one"
            )
        rows = [
            (e["name"], e.get("device", "-"), e.get("source", "-"), e.get("rows", "-"), e.get("error", e["path"]))
            for e in entries
        ]
        return table(("name", "device", "source", "rows", "file"), rows, right=(3,))

    emit(entries, as_json, render)


@command.command("train")
@click.argument("dataset")
@click.option("--out", required=True, help="File to write (.deepen).")
@click.option("--recipe", default="auto", show_default=True, help="Recipe of predictors/recipes.")
@click.option("--seed", default=0, show_default=True, help="Seed of folds and learners.")
@json_option
def train(dataset: str, out: str, recipe: str, seed: int, as_json: bool) -> None:
    """Train a predictor on a DATASET folder and write it with its card.

    \b
    Example:
      deepen predictor train my-dataset --out mine.deepen --recipe auto
    """
    from deepen import predictors
    from deepen.datasets import Dataset

    predictor = predictors.train(
        Dataset.open(dataset), recipe, seed, on_progress=lambda i, n, name: progress(f"[{i}/{n}] {name}")
    )
    path = predictor.save(out)
    emit(
        {"path": str(path), "card": predictor.card},
        as_json,
        lambda: f"{_card_text(predictor.card)}\n\nwritten to {path}",
    )


@command.command("evaluate")
@click.argument("predictor_name", metavar="PREDICTOR")
@click.argument("dataset")
@json_option
def evaluate(predictor_name: str, dataset: str, as_json: bool) -> None:
    """Compare a PREDICTOR with the measurements of a DATASET.

    Shares (acc5: within 5 % of the measured energy) and errors are in percent.

    \b
    Example:
      deepen predictor evaluate mine.deepen held-out-dataset --json
    """
    from deepen import predictors
    from deepen.datasets import Dataset

    report = predictors.evaluate(predictors.load(predictor_name), Dataset.open(dataset))

    def render() -> str:
        rows = [("all kernels", *_numbers(report["overall"]), "")]
        rows += [(name, *_numbers(m), m["method"]) for name, m in report["families"].items()]
        if report["models"]["n"]:
            rows.append(("whole models", *_numbers(report["models"]), ""))
        lines = [f"{report['predictor']} ({report['source']})", table(("", *_MEASURES, ""), rows, right=range(1, 8))]
        if report["models"]["rows"]:
            models = [
                (m["name"], f"{m['error']:+.1f} %", "" if m["inside"] else "outside interval")
                for m in report["models"]["rows"]
            ]
            lines.append(table(("model", "error", ""), models, right=(1,)))
        return "\n\n".join(lines)

    emit(report, as_json, render)
    for warning in report["warnings"] if not as_json else ():
        progress(f"note: {warning}")


@command.command("card")
@click.argument("predictor_name", metavar="PREDICTOR")
@json_option
def card(predictor_name: str, as_json: bool) -> None:
    """Show what a PREDICTOR was trained on and how well it does.

    \b
    Example:
      deepen predictor card mine.deepen
    """
    from deepen import predictors

    content = predictors.load(predictor_name).card
    emit(dict(content), as_json, lambda: _card_text(content))


def _card_text(card: Mapping[str, Any]) -> str:
    lines = [
        f"{card['id']} ({card['source']})",
        f"device {card['device']}, meter {card['meter']}, {card['runtime_build']}, {card['threads']} thread(s)",
        f"{card['rows']} kernels and {card['models']} models, data {card['data_sha256'][:12]}, features version "
        f"{card['features_version']}, recipe {card['recipe']}, seed {card['seed']}, deepen {card['deepen_version']}, "
        f"{card['created']}",
        f"models: {card['context']['note']}",
        *(f"note: {w}" for w in card["warnings"]),
        "",
    ]
    rows = [("all regressors", *_numbers(card["held_out"]), "")]
    rows += [(name, *_numbers(f["held_out"]), f["learner"]) for name, f in card["families"].items()]
    return "\n".join(lines) + table(("held out", *_MEASURES, "learner"), rows, right=range(1, 8))


def _numbers(measures: Mapping[str, Any]) -> list[str]:
    def text(key: str) -> str:
        value = measures.get(key)
        if value is None:
            return "-"
        return str(value) if key == "n" else f"{value:.2f}" if key == "spearman" else f"{value:.1f}"

    return [text(k) for k in _MEASURES]
