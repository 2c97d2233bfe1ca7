"""``deepen predictor``: list, train, calibrate, evaluate and describe predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from deepen.cli.evaluation import MEASURES, format_measures, render_cross_validation, render_held_out
from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.errors import DeepenError, make_unknown_name_error

if TYPE_CHECKING:
    from deepen.records import EnergyRecord

__all__ = ["command"]


@click.group(name="predictor")
def command() -> None:
    """List, train, calibrate and evaluate predictors.

    \b
    Example:
      deepen predictor train my-dataset --out mine.deepen
    """


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the predictors that can be used by name.

    \b
    Example:
      deepen predictor list --json
    """
    from deepen import predictors

    entries: list[dict[str, Any]] = []
    for name, path in predictors.list_predictors().items():
        entry: dict[str, Any] = {"name": name, "path": str(path)}
        try:
            card = predictors.load_predictor(path).card
            entry |= {k: card[k] for k in ("id", "device", "meter", "runtime_build", "learnt_from", "rows", "created")}
        except DeepenError as error:
            entry["error"] = str(error)
        entries.append(entry)

    def render() -> str:
        if not entries:
            out = predictors.get_predictor_folder() / "NAME.deepen"
            return f"no predictors; 'deepen predictor train DATASET --out {out}' makes one"
        rows = [
            (e["name"], e.get("device", "-"), e.get("learnt_from", "-"), e.get("rows", "-"), e.get("error", e["path"]))
            for e in entries
        ]
        return format_table(("name", "device", "learnt from", "rows", "file"), rows, right=(3,))

    emit_result(entries, as_json, render)


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

    predictor = predictors.train_predictor(
        Dataset.open(dataset), recipe, seed, on_progress=lambda i, n, name: print_progress(f"[{i}/{n}] {name}")
    )
    path = predictor.save(out)
    emit_result(
        {"path": str(path), "card": predictor.card},
        as_json,
        lambda: f"{_render_card(predictor.card)}\n\nwritten to {path}",
    )


@command.command("calibrate")
@click.argument("base")
@click.argument("measurements")
@click.option("--out", required=True, help="File to write (.deepen).")
@click.option("--seed", default=0, show_default=True, help="Seed of the folds.")
@json_option
def calibrate(base: str, measurements: str, out: str, seed: int, as_json: bool) -> None:
    """Fit a predictor to another device, runtime or version with few MEASUREMENTS.

    BASE is a predictor of any device (file or name), or "none": joules per operation and byte. MEASUREMENTS is a
    dataset of kernels, of whole models only, or of both; twenty to fifty are advisable, and 'deepen dataset plan'
    proposes them. The result is a predictor like any other.

    \b
    Example:
      deepen predictor calibrate none phone-models --out phone.deepen
      deepen predictor calibrate quickstart.deepen phone-models --out phone.deepen
    """
    from deepen import predictors
    from deepen.datasets import Dataset

    start = None if base == "none" else predictors.load_predictor(base)
    predictor = predictors.calibrate_predictor(start, Dataset.open(measurements), seed)
    path = predictor.save(out)
    emit_result(
        {"path": str(path), "card": {k: v for k, v in predictor.card.items() if k != "calibration"}},
        as_json,
        lambda: f"{_render_card(predictor.card)}\n\nwritten to {path}",
    )


@command.command("evaluate")
@click.argument("names", nargs=-1, required=True, metavar="PREDICTOR DATASET | --cv DATASET")
@click.option("--cv", is_flag=True, help="Train on parts of DATASET and evaluate on the rest; no PREDICTOR is given.")
@click.option(
    "--split",
    type=click.Choice(("random", "leave-family-out", "leave-size-out")),
    default="random",
    show_default=True,
    help="With --cv: rule by which records are held out.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, True, True),
    default=0.7,
    show_default=True,
    help="With --cv: share of records to train on.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="With --cv: random splits.")
@click.option("--recipe", default="auto", show_default=True, help="With --cv: recipe of predictors/recipes.")
@click.option("--seed", default=0, show_default=True, help="With --cv: seed of splits, folds and learners.")
@click.option("--family", "families", multiple=True, help="Only kernels of this family; repeatable.")
@click.option("--baseline", "baselines", multiple=True, help="Only this baseline; repeatable; 'none' for none.")
@click.option("--trained-on", metavar="DATASET", help="Without --cv: fit baselines to this, beside it.")
@json_option
def evaluate(
    names: tuple[str, ...],
    cv: bool,
    split: str,
    share: float,
    repeats: int,
    recipe: str,
    seed: int,
    families: tuple[str, ...],
    baselines: tuple[str, ...],
    trained_on: str | None,
    as_json: bool,
) -> None:
    """Compare a PREDICTOR with the measurements of a DATASET, or cross-validate a recipe on one (--cv).

    Shares (acc5: within 5 % of the measured energy; inside: within the nominal 90 % interval) and errors are in
    percent. Published recipes and linear baselines are fitted and evaluated on the same splits.

    \b
    Example:
      deepen predictor evaluate mine.deepen held-out-dataset --json
      deepen predictor evaluate --cv my-dataset --repeats 5
      deepen predictor evaluate --cv my-dataset --split leave-size-out --baseline none
    """
    if len(names) != (1 if cv else 2):
        wanted = "one DATASET with --cv" if cv else "PREDICTOR and DATASET (or --cv DATASET)"
        raise click.UsageError(f"give {wanted}, not {len(names)} argument(s)")
    if cv and trained_on:
        raise click.UsageError("--trained-on is for a trained PREDICTOR; --cv divides DATASET itself")
    from deepen import predictors
    from deepen.datasets import Dataset
    from deepen.predictors.evaluation.baselines import BASELINES

    records = _select_families(list(Dataset.open(names[-1]).records()), families)
    beside = () if "none" in baselines else baselines or tuple(BASELINES)
    if cv:
        from deepen.predictors.evaluation.cross_validation import cross_validate
        from deepen.predictors.evaluation.splits import SplitOptions

        report = cross_validate(
            records,
            split,
            SplitOptions(share, repeats, seed),
            recipe,
            beside,
            on_progress=lambda i, n, name: print_progress(f"[{i}/{n}] {name}"),
        )
    else:
        report = predictors.evaluate_predictor(predictors.load_predictor(names[0]), records)
        if trained_on:
            from deepen.predictors.evaluation.cross_validation import evaluate_baselines

            given = _select_families(list(Dataset.open(trained_on).records()), families)
            report["baselines"] = evaluate_baselines(given, records, beside)
    emit_result(report, as_json, lambda: render_cross_validation(report) if cv else render_held_out(report))
    for warning in report["warnings"] if not as_json else ():
        print_progress(f"note: {warning}")


def _select_families(records: list[EnergyRecord], families: tuple[str, ...]) -> list[EnergyRecord]:
    """Keep the records of some kernel families; all records if none is named."""
    if not families:
        return records
    known = {r.family for r in records if r.kind == "kernel"}
    for name in families:
        if name not in known:
            raise make_unknown_name_error("family of this dataset", name, known)
    return [r for r in records if r.kind == "kernel" and r.family in families]


@command.command("card")
@click.argument("predictor_name", metavar="PREDICTOR")
@json_option
def card(predictor_name: str, as_json: bool) -> None:
    """Show the training data and the accuracy of a PREDICTOR.

    \b
    Example:
      deepen predictor card mine.deepen
    """
    from deepen import predictors

    content = predictors.load_predictor(predictor_name).card
    emit_result(dict(content), as_json, lambda: _render_card(content))


def _render_calibration(start: Mapping[str, Any]) -> str:
    base = "the physical form" if start["base"] == "none" else f"{start['base']} ({start['base_runtime_build']})"
    return (
        f"calibrated from {base} on {start['models']} models and {start['kernels']} kernels, "
        f"by {'measured times, then power' if start['way'] == 'time' else 'energies'}; "
        f"noise {100 * start['noise']:.1f} %"
    )


def _render_card(card: Mapping[str, Any]) -> str:
    lines = [
        f"{card['id']} (learnt from {card['learnt_from']} data)",
        f"device {card['device']}, meter {card['meter']}, {card['runtime_build']}, {card['threads']} thread(s)",
        f"{card['rows']} kernels and {card['models']} models, data {card['data_sha256'][:12]}, features version "
        f"{card['features_version']}, recipe {card['recipe']}, seed {card['seed']}, deepen {card['deepen_version']}, "
        f"{card['created']}",
        f"models: {card['context']['note']}",
        *([_render_calibration(card["calibrated_from"])] if "calibrated_from" in card else []),
        *(f"note: {w}" for w in card["warnings"]),
        "",
    ]
    if "calibrated_from" in card:
        start = card["calibrated_from"]
        rows = [
            ("whole models", *format_measures(start["left_out_models"]), ""),
            ("kernels", *format_measures(card["held_out"]), ""),
        ]
        return "\n".join(lines) + format_table(("cross-validated", *MEASURES, ""), rows, right=range(1, 8))
    rows = [("all regressors", *format_measures(card["held_out"]), "")]
    rows += [(name, *format_measures(f["held_out"]), f["learner"]) for name, f in card["families"].items()]
    return "\n".join(lines) + format_table(("held out", *MEASURES, "learner"), rows, right=range(1, 8))
