"""``deepen lifecycle``: models ranked by the energy of training and use together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress
from deepen.units import format_si

if TYPE_CHECKING:
    from deepen.scoring.lifecycle import BreakEven, Lifecycle, RankedCandidate
    from deepen.scoring.lifecycle.spread import CrossingSpread

__all__ = ["build_lifecycle_document", "command"]

_TOP = 10
_MOST_PAIRS = 6
_MOST_NAMES = 1000


@click.command(name="lifecycle")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--tau", type=float, default=1.0, show_default=True, help="Weight of accuracy against energy; 0 for none."
)
@click.option("--min-accuracy", metavar="SHARE", help="Leave out candidates below this accuracy: 0.74 or '74 %'.")
@click.option(
    "--usage",
    "usages",
    multiple=True,
    metavar="COUNT",
    help="Number of inferences in a life cycle to rank at: 2.5e5, '3 million'; repeatable.",
)
@click.option(
    "--compare", "pairs", nargs=2, multiple=True, metavar="A B", help="Break-even of two candidates; repeatable."
)
@click.option("--pue", type=float, default=1.0, show_default=True, help="PUE of the building where training runs.")
@click.option("--inference-pue", type=float, default=1.0, show_default=True, help="PUE where inference runs.")
@click.option("--grid", type=float, metavar="GRAMS", help="Carbon intensity of the grid, gCO2e per kWh.")
@click.option("--inference-grid", type=float, metavar="GRAMS", help="The same where inference runs; default: --grid.")
@click.option(
    "--objective",
    type=click.Choice(["energy", "carbon"]),
    default="energy",
    show_default=True,
    help="Quantity to rank by.",
)
@click.option("--predictor", "-p", metavar="NAME", help="Predictor for candidates that give a model file.")
@click.option("--orders", is_flag=True, help="Also the order of all candidates at every usage (up to 64 candidates).")
@click.option(
    "--draws",
    type=click.IntRange(100, 1_000_000),
    default=2000,
    show_default=True,
    help="Monte Carlo draws, if uncertainties are given.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), metavar="OUT", help="Draw to .svg, .png or .pdf.")
@json_option
def command(
    file: Path,
    tau: float,
    min_accuracy: str | None,
    usages: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
    pue: float,
    inference_pue: float,
    grid: float | None,
    inference_grid: float | None,
    objective: Literal["energy", "carbon"],
    predictor: str | None,
    orders: bool,
    draws: int,
    seed: int,
    plot_file: Path | None,
    as_json: bool,
) -> None:
    """Rank models by accuracy^tau / (training + usage x inference energy), for every usage at once.

    FILE is a CSV or TOML file of candidates: name, accuracy, training, search, retraining and inference, energies with
    their unit in the cell (12.5 kWh) or in the header (inference_mJ), and uncertainties (training_uncertainty: 5 %).
    Instead of inference: record (output of 'deepen profile --json') or model (with --predictor); instead of training:
    training_run (a file of deepen.measure_training). A PUE contained in training energies is given as pue_included.

    \b
    Example:
      deepen lifecycle candidates.csv --usage "3 million" --pue 1.59 --grid 300
      deepen lifecycle candidates.toml --compare small large --plot lifecycle.svg
    """
    from deepen.scoring.lifecycle import LifecycleConditions, analyse_lifecycle, read_candidates
    from deepen.scoring.lifecycle.quantity import parse_count, parse_fraction

    where = math.nan if grid is None else grid
    used = where if inference_grid is None else inference_grid
    conditions = LifecycleConditions(tau, pue, inference_pue, where, used, objective)
    counts = [parse_count(text) for text in usages]
    candidates = read_candidates(file, predictor)
    if min_accuracy is not None:
        candidates = candidates.filter_by_accuracy(parse_fraction(min_accuracy, "--min-accuracy"))
    result = analyse_lifecycle(candidates, conditions, draws=draws, seed=seed)
    compared = [result.compare(a, b) for a, b in pairs]
    if not pairs and len(candidates) <= _MOST_PAIRS:
        names = candidates.names
        compared = [result.compare(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    rankings = {count: result.at(count) for count in counts}
    every = result.orders() if orders else None
    if plot_file is not None:
        from deepen.scoring.lifecycle.plot import plot_lifecycle

        print_progress(f"wrote {plot_lifecycle(result, plot_file)}")
    emit_result(
        build_lifecycle_document(result, compared, rankings, every),
        as_json,
        lambda: _render_lifecycle(result, compared, rankings, every),
    )
    for warning in () if as_json else result.warnings:
        print_progress(f"note: {warning}")


def _build_crossing_document(spread: CrossingSpread | None) -> dict[str, Any] | None:
    return (
        None
        if spread is None
        else {
            "share": spread.share,
            "interval": [spread.low, spread.high],
            "always": spread.always,
        }
    )


def build_lifecycle_document(
    result: Lifecycle,
    compared: list[BreakEven],
    rankings: dict[float, list[RankedCandidate]],
    orders: list[tuple[float, float, tuple[str, ...]]] | None,
) -> dict[str, Any]:
    """Build the JSON document: energies in joules, usages in inferences; null for an infinite end.

    1. The candidates, the label of their figures, and the conditions.
    2. The best candidate for every usage, and where two candidates break even.
    3. The ranking at each number of inferences, and every order in between.
    4. Candidates that are best at no usage, random draws, and warnings.
    """
    c = result.conditions
    never = result.never_best()
    return {
        # 1. The candidates, the label of their figures, and the conditions.
        "candidates": len(result.candidates),
        **result.candidates.label._asdict(),
        "conditions": {
            "tau": c.tau,
            "training_pue": c.training_pue,
            "inference_pue": c.inference_pue,
            "training_g_per_kwh": c.training_g_per_kwh,
            "inference_g_per_kwh": c.inference_g_per_kwh,
            "objective": c.objective,
        },
        # 2. The best candidate for every usage, and where two candidates break even.
        "regimes": [
            {
                "candidate": r.candidate,
                "from": r.start,
                "to": r.end,
                "equal": r.equal,
                "words": r.words,
                "confidence": r.confidence,
                "from_spread": _build_crossing_document(r.start_spread),
            }
            for r in result.regimes
        ],
        "break_even": [
            {
                "a": b.a,
                "b": b.b,
                "inferences": b.inferences,
                "spread": _build_crossing_document(b.spread),
                "words": b.words,
            }
            for b in compared
        ],
        # 3. The ranking at each number of inferences, and every order in between.
        "at": [
            {
                "inferences": count,
                "ranking": [
                    {
                        "rank": r.rank,
                        "candidate": r.candidate,
                        "greenness": r.greenness,
                        "training_j": r.training_j,
                        "inference_j": r.inference_j,
                        "energy_j": r.energy_j,
                        "carbon_g": r.carbon_g,
                        "probability": r.probability,
                    }
                    for r in ranking[:_MOST_NAMES]
                ],
            }
            for count, ranking in rankings.items()
        ],
        "orders": None if orders is None else [{"from": a, "to": b, "order": names} for a, b, names in orders],
        # 4. Candidates that are best at no usage, random draws, and warnings.
        "never_best": never[:_MOST_NAMES],
        "never_best_count": len(never),
        "draws": 0 if result.draws is None else result.draws.a.shape[0],
        "warnings": result.warnings,
    }


def _render_lifecycle(
    result: Lifecycle,
    compared: list[BreakEven],
    rankings: dict[float, list[RankedCandidate]],
    orders: list[tuple[float, float, tuple[str, ...]]] | None,
) -> str:
    from deepen.scoring.lifecycle.quantity import spell_count

    lines = []
    for r in result.regimes[:50]:
        sure = []
        if r.start_spread is not None and not math.isnan(r.start_spread.low):
            share = f" in {100 * r.start_spread.share:.0f} % of draws" if r.start_spread.share <= 0.995 else ""
            sure.append(f"from {spell_count(r.start_spread.low)} to {spell_count(r.start_spread.high)}, 95 %{share}")
        if not math.isnan(r.confidence):
            sure.append(f"best in {100 * r.confidence:.0f} % of draws")
        lines.append(r.words + (f"  ({'; '.join(sure)})" if sure else ""))
    if len(result.regimes) > 50:
        lines.append(f"... and {len(result.regimes) - 50} more regimes")
    never = result.never_best()
    if never:
        some = ", ".join(never[:_TOP]) + (f" and {len(never) - _TOP} more" if len(never) > _TOP else "")
        lines.append(f"best at no usage: {some}")
    if compared:
        lines += ["", *(b.words for b in compared)]
    for count, ranking in rankings.items():
        lines += ["", f"at {spell_count(count)} inferences:", _render_ranking(ranking, result)]
        if len(ranking) > _TOP:
            lines.append(f"... and {len(ranking) - _TOP} more")
    if orders is not None:
        rows = [(spell_count(a), spell_count(b), " < ".join(names)) for a, b, names in orders]
        lines += ["", format_table(("from", "to", "order, best first"), rows, right=(0, 1))]
    c = result.conditions
    used = [f"tau {c.tau:g}", f"PUE {c.training_pue:g} for training and {c.inference_pue:g} for inference"]
    if c.with_carbon:
        used.append(f"{c.training_g_per_kwh:g} and {c.inference_g_per_kwh:g} gCO2e/kWh")
    lines += [
        "",
        f"{len(result.candidates)} candidates ({result.candidates.label}), ranked by {c.objective}; {', '.join(used)}",
    ]
    return "\n".join(lines)


def _render_ranking(ranking: list[RankedCandidate], result: Lifecycle) -> str:
    carbon, sure = result.conditions.with_carbon, result.draws is not None
    titles = ["rank", "candidate", "training", "inference", "together", "CO2e", "greenness", "best in"]
    rows = [
        (
            *(r.rank, r.candidate, format_si(r.training_j, "J"), format_si(r.inference_j, "J")),
            *(format_si(r.energy_j, "J"), format_si(r.carbon_g, "g"), f"{r.greenness:.4g}"),
            f"{100 * r.probability:.0f} % of draws" if sure else "",
        )
        for r in ranking[:_TOP]
    ]
    kept = [k for k in range(len(titles)) if (k != 5 or carbon) and (k != 7 or sure)]
    return format_table(
        [titles[k] for k in kept], [[row[k] for k in kept] for row in rows], right=[0, *range(2, len(kept))]
    )
