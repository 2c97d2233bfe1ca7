"""``deepen score``: scores of devices from measurements of applications."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deepen.cli.output import emit_result, format_table, json_option, print_progress

if TYPE_CHECKING:
    from deepen.scoring.iecs import ScoreAgreement
    from deepen.scoring.pcs import TdpOrder

__all__ = ["command"]

_ROWS = click.argument("rows", type=click.Path(path_type=Path), metavar="ROWS")
_KEY = click.option(
    "--key", "keys", multiple=True, metavar="COLUMN", help="Column that names the workload; repeatable."
)


@click.group(name="score")
def command() -> None:
    """Score devices from measurements of applications: ROWS is a CSV file or a dataset folder.

    A CSV file has the columns device (or phone), some that name the workload (dnn, app, model, dtype, input_px,
    delegate, ...), mean_power_w, and energy_per_inference_j; an empty cell is a missing figure.

    \b
    Example:
      deepen score relative rows.csv
    """


@command.command(name="pcs")
@_ROWS
@click.option(
    "--tdp",
    "tdp_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="CSV with the columns device and tdp_w; a column pcs_published is shown for comparison.",
)
@click.option(
    "--tdp-order",
    type=click.Choice(["own", "published"]),
    default="own",
    show_default=True,
    help="Each device with its own TDP, or with the TDP that the published scores used.",
)
@_KEY
@json_option
def pcs_command(rows: Path, tdp_file: Path, tdp_order: TdpOrder, keys: tuple[str, ...], as_json: bool) -> None:
    """Score mean power against TDP: 100 x mean of (1 - power / TDP), larger is better.

    The published scores take the TDPs in alphabetical order of the phones' names, so most phones are scored with
    another phone's TDP. Both scores are always shown; --tdp-order selects the one that is 'pcs'.

    \b
    Example:
      deepen score pcs app_measurements.csv --tdp published_scores.csv
      deepen score pcs app_measurements.csv --tdp published_scores.csv --tdp-order published --json
    """
    from deepen.scoring import compute_pcs, read_app_rows, read_device_reference_values

    # 1. Read and compute.
    measured = read_app_rows(rows, keys)
    facts = read_device_reference_values(tdp_file)
    scores = compute_pcs(measured, facts.tdp_w)
    # 2. The JSON document.
    document = {
        "score": "pcs",
        "formula": "round(100 * mean(1 - mean power / TDP))",
        "tdp_order": tdp_order,
        **measured.label._asdict(),
        "scores": [
            {
                "device": s.device,
                "pcs": s.score(tdp_order),
                "pcs_own_tdp": s.own,
                "pcs_published_order": s.published_order,
                "pcs_published": facts.pcs.get(s.device),
                "pcs_exact": s.exact,
                "rows": s.rows,
                "mean_power_w": s.mean_power_w,
                "tdp_w": s.tdp_w,
                "published_order_tdp_w": s.published_tdp_w,
            }
            for s in scores
        ],
        "warnings": measured.warnings,
    }

    # 3. The text.
    def render() -> str:
        own, published = "PCS, own TDP", "PCS, published order"
        titles = ["device", "rows", "mean power", "TDP", own, "TDP taken", published, "as published"]
        cells: list[tuple[object, ...]] = [
            (
                *(s.device, s.rows, f"{s.mean_power_w:.3f} W", f"{s.tdp_w:g} W", s.own, f"{s.published_tdp_w:g} W"),
                *(s.published_order, f"{facts.pcs[s.device]:g}" if s.device in facts.pcs else ""),
            )
            for s in scores
        ]
        if not facts.pcs:
            titles, cells = titles[:-1], [c[:-1] for c in cells]
        lines = [format_table(titles, cells, right=range(1, len(titles)))]
        chosen = own if tdp_order == "own" else published
        lines.append(f"score: {chosen}; larger is better; {measured.label}")
        compared = [s for s in scores if s.device in facts.pcs]
        if compared:
            same = sum(s.published_order == facts.pcs[s.device] for s in compared)
            others = sum(s.tdp_w != s.published_tdp_w for s in scores)
            lines.append(
                f"{same} of {len(compared)} published values reproduced, with TDPs in alphabetical order of the names; "
                f"{others} devices are scored with another TDP than their own there"
            )
        return "\n".join(lines)

    emit_result(document, as_json, render)
    _print_notes(measured.warnings, as_json)


@command.command(name="iecs")
@_ROWS
@click.option(
    "--published",
    "published_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="CSV with the columns device and iecs_published, to compare with.",
)
@_KEY
@json_option
def iecs_command(rows: Path, published_file: Path | None, keys: tuple[str, ...], as_json: bool) -> None:
    """Sum inferences per joule over rows: a substitute for IECS, whose formula is not public.

    \b
    Example:
      deepen score iecs app_measurements.csv --published published_scores.csv
    """
    from deepen.errors import DatasetError
    from deepen.scoring import (
        compare_with_published,
        read_app_rows,
        read_device_reference_values,
        sum_inferences_per_joule,
    )

    # 1. Read and compute.
    measured = read_app_rows(rows, keys)
    scores = sum_inferences_per_joule(measured)
    published = read_device_reference_values(published_file, need_tdp=False).iecs if published_file else {}
    if published_file and not published:
        raise DatasetError(f"{published_file}: no column iecs_published with values; add it, or leave --published out")
    agreement = compare_with_published(scores, published) if published_file else None
    # 2. The JSON document.
    document = {
        "score": "iecs",
        "formula": "sum over rows of inferences per joule; a substitute, the formula of IECS is not public",
        **measured.label._asdict(),
        "scores": [
            {
                "device": s.device,
                "iecs": s.value,
                "inferences_per_joule": s.value,
                "iecs_published": published.get(s.device),
                "rows": s.rows,
                "missing": s.missing,
                "largest_share": s.largest_share,
                "largest_row": s.largest_row,
            }
            for s in scores
        ],
        "agreement": None if agreement is None else _build_agreement_document(agreement),
        "warnings": measured.warnings,
    }

    # 3. The text.
    def render() -> str:
        titles = ["device", "rows", "inferences per joule", "largest row's share", "largest row", "IECS as published"]
        cells: list[tuple[object, ...]] = [
            (
                *(s.device, s.rows, f"{s.value:.1f}", f"{100 * s.largest_share:.0f} %", s.largest_row),
                f"{published[s.device]:g}" if s.device in published else "",
            )
            for s in scores
        ]
        if agreement is None:
            titles, cells = titles[:-1], [c[:-1] for c in cells]
        lines = [format_table(titles, cells, right=(1, 2, 3, 5))]
        lines.append(
            f"score: sum over rows of inferences per joule, a substitute for IECS; larger is better; {measured.label}"
        )
        if agreement is not None:
            lines.append(
                f"against {agreement.devices} published values: correlation {agreement.pearson:.2f}, rank correlation "
                f"{agreement.spearman:.2f}, published / ours {agreement.ratio_min:.2f} to {agreement.ratio_max:.2f} "
                f"(median {agreement.ratio_median:.2f})"
            )
        return "\n".join(lines)

    emit_result(document, as_json, render)
    _print_notes(measured.warnings, as_json)


def _build_agreement_document(agreement: ScoreAgreement) -> dict[str, float]:
    return {
        "devices": agreement.devices,
        "pearson": agreement.pearson,
        "spearman": agreement.spearman,
        "ratio_min": agreement.ratio_min,
        "ratio_median": agreement.ratio_median,
        "ratio_max": agreement.ratio_max,
    }


@command.command(name="relative")
@_ROWS
@click.option("--reference", metavar="DEVICE", help="Device that gets 100; the median device by default.")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    default=0.95,
    show_default=True,
    help="Probability of the intervals.",
)
@click.option(
    "--resamples", type=click.IntRange(20, 100_000), default=1000, show_default=True, help="Bootstrap samples."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@_KEY
@json_option
def relative_command(
    rows: Path,
    reference: str | None,
    confidence: float,
    resamples: int,
    seed: int,
    keys: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score energy per inference against the median device: 200 does the same work with half the energy.

    The score is robust: a missing row does not lower a device's score, and a single wrong value moves it by no more
    than a few percent. Intervals are from a bootstrap over networks.

    \b
    Example:
      deepen score relative app_measurements.csv
      deepen score relative app_measurements.csv --reference "Huawei P40 Pro" --json
    """
    from deepen.scoring import compute_relative_scores, read_app_rows

    # 1. Read and compute.
    measured = read_app_rows(rows, keys)
    found = compute_relative_scores(
        measured, reference=reference, confidence=confidence, resamples=resamples, seed=seed
    )
    names = measured.devices
    # 2. The JSON document.
    document = {
        "score": "relative",
        "formula": "100 * exp(efficiency - reference), log energy = work of the row - efficiency of the device (Huber)",
        **measured.label._asdict(),
        "reference": found.reference,
        "confidence": found.confidence,
        "resamples": found.resamples,
        "groups": found.groups,
        "scale": found.scale,
        "scores": [
            {
                "device": s.device,
                "relative": s.score,
                "interval": s.interval,
                "rank": s.rank,
                "rank_interval": s.rank_interval,
                "rows": s.rows,
                "bounded": s.bounded,
                "better_than": {n: float(p) for n, p in zip(names, found.better[i], strict=True) if n != s.device},
            }
            for i, s in enumerate(found.scores)
        ],
        "warnings": found.warnings,
    }

    # 3. The text.
    def render() -> str:
        percent = f"{100 * found.confidence:g} %"
        titles = ["rank", "device", "score", percent, f"rank, {percent}", "rows", "bounded"]
        cells: list[tuple[object, ...]] = [
            (
                *(s.rank, s.device, f"{s.score:.0f}", f"{s.interval[0]:.0f} to {s.interval[1]:.0f}"),
                *("{} to {}".format(*s.rank_interval), s.rows, s.bounded),
            )
            for s in sorted(found.scores, key=lambda s: s.rank)
        ]
        reference_name = "the median device" if found.reference == "median" else found.reference
        return "\n".join(
            [
                format_table(titles, cells, right=(0, 2, 3, 4, 5, 6)),
                f"score: 100 is {reference_name}, 200 does the same work with half the energy; {measured.label}",
                f"rows scatter by {100 * found.scale:.0f} % around the fit; intervals from {found.resamples} bootstrap "
                f"samples of {found.groups} networks",
            ]
        )

    emit_result(document, as_json, render)
    _print_notes(found.warnings, as_json)


def _print_notes(warnings: tuple[str, ...], as_json: bool) -> None:
    for warning in () if as_json else warnings:
        print_progress(f"note: {warning}")
