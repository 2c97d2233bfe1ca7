"""Tables of ``deepen predictor evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepen.cli.output import format_table

__all__ = ["format_measure", "format_measures", "render_cross_validation", "render_held_out"]

MEASURES = ("n", "acc5", "acc10", "acc20", "mape", "rmspe", "spearman")
_COLUMNS = (*MEASURES, "in_interval")
_HEADER = (*MEASURES, "inside")


def format_measures(found: Mapping[str, Any]) -> list[str]:
    """Render the cells of a row of measures."""
    return [format_measure(found, k) for k in MEASURES]


def format_measure(found: Mapping[str, Any], key: str) -> str:
    """Render one measure."""
    value = found.get(key)
    if value is None:
        return "-"
    return str(value) if key == "n" else f"{value:.2f}" if key == "spearman" else _format_number(value)


def _format_number(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def _format_row(name: str, found: Mapping[str, Any], last: str = "") -> list[str]:
    return [name, *(format_measure(found, k) for k in _COLUMNS), last]


def _format_range(found: Mapping[str, Any], key: str, kind: str) -> str:
    """Render a range such as ``88.2 to 93.1``; empty if there is none."""
    ends = (found.get(kind) or {}).get(key)
    return "" if ends is None else f"{_format_number(ends[0])} to {_format_number(ends[1])}"


def render_held_out(report: Mapping[str, Any]) -> str:
    """Render the report of :func:`deepen.predictors.evaluation.evaluate`."""
    rows = [_format_row("all kernels", report["overall"])]
    rows += [_format_row(name, m, m["method"]) for name, m in report["families"].items()]
    if report["models"]["n"]:
        rows.append(_format_row("whole models", report["models"]))
    lines = [
        f"{report['predictor']} (learnt from {report['learnt_from']} data), "
        f"against {report['measured_source']} energies",
        _render_measures(rows),
    ]
    for name, found in (("kernels", report["overall"]), ("whole models", report["models"])):
        text = _render_confidence(name, found)
        if text:
            lines.append(text)
    lines += _render_baselines(report.get("baselines") or {})
    if report["models"]["rows"]:
        models = [
            (m["name"], f"{m['error']:+.1f} %", "" if m["inside"] else "outside interval")
            for m in report["models"]["rows"]
        ]
        lines.append(format_table(("model", "error", ""), models, right=(1,)))
    lines += _render_additivity(report.get("additivity") or {})
    return "\n\n".join(lines)


def render_cross_validation(report: Mapping[str, Any]) -> str:
    """Render the report of :func:`deepen.predictors.evaluation.cross_validate`."""
    how = report["split"]
    if report["share"] is not None:
        how += f", {100 * report['share']:.0f} % to train on"
    if report["repeats"] > 1:
        how += f", median of {report['repeats']} repeats"
    lines = [f"recipe {report['recipe']}; {how}; seed {report['seed']}"]
    if report["overall"]["n"]:
        rows = [_format_row("all kernels", report["overall"])]
        rows += [_format_row(name, m) for name, m in report["families"].items()]
        lines.append(_render_measures(rows))
        lines.append(_render_confidence("kernels", report["overall"]))
    if report["models"]["n"]:
        lines.append(_render_measures([_format_row("whole models", report["models"])]))
        lines.append(_render_confidence("whole models", report["models"]))
    lines += _render_baselines(report["baselines"], report)
    if report["models"].get("rows"):
        models = [
            (m["name"], f"{m['error']:+.1f} %", "" if m["inside"] else "outside interval")
            for m in report["models"]["rows"]
        ]
        lines.append(format_table(("model", "error", ""), models, right=(1,)))
    return "\n\n".join(line for line in lines if line)


def _render_measures(rows: Sequence[Sequence[str]]) -> str:
    return format_table(("", *_HEADER, ""), rows, right=range(1, 9))


def _render_confidence(name: str, found: Mapping[str, Any]) -> str:
    """Render bootstrap confidence intervals, and the range over repeats."""
    parts = [(key, _format_range(found, key, "confidence")) for key in ("acc10", "mape", "rmspe", "in_interval")]
    text = ", ".join(f"{key.replace('in_interval', 'inside')} {span}" for key, span in parts if span)
    line = f"{name}, 95 % confidence: {text}" if text else ""
    spread = ", ".join(
        f"{key} {span}" for key in ("acc10", "mape", "rmspe") if (span := _format_range(found, key, "range"))
    )
    return f"{line}\n{name}, range over repeats: {spread}" if spread else line


def _render_baselines(found: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> list[str]:
    """Render methods beside each other: all kernels, then each family by its share within 10 %, then whole models."""
    lines = []
    methods = {"deepen": own, **found} if own else dict(found)
    methods = {name: report for name, report in methods.items() if report}
    for part, title in (("overall", "all kernels"), ("models", "whole models")):
        rows = [
            _format_row(name, report[part], report.get("title", ""))
            for name, report in methods.items()
            if report[part]["n"]
        ]
        if len(rows) > (1 if own else 0):
            lines.append(format_table((f"{title}, same split", *_HEADER, ""), rows, right=range(1, 9)))
    with_kernels = {name: report for name, report in methods.items() if report["families"]}
    names = sorted({family for report in with_kernels.values() for family in report["families"]})
    if with_kernels and len(names) > 1:
        rows = [
            [
                family,
                *(
                    " / ".join(format_measure(r["families"][family], key) for key in ("acc10", "rmspe"))
                    if family in r["families"]
                    else "-"
                    for r in with_kernels.values()
                ),
            ]
            for family in names
        ]
        lines.append(format_table(("acc10 / rmspe", *with_kernels), rows, right=range(1, len(with_kernels) + 1)))
    return lines


def _render_additivity(found: Mapping[str, Any]) -> list[str]:
    """Render the error of the sum of measured kernels against measured models."""
    if not found.get("models"):
        return []

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:+.1f} %"

    rows = [
        (
            r["name"],
            f"{100 * r['measured_share']:.0f} %",
            cell(r["additivity_error"]),
            cell(r["kernel_error"]),
            cell(r["prediction_error"]),
        )
        for r in found["rows"]
        if r["additivity_error"] is not None
    ]
    return [
        f"additivity over {found['models']} models whose kernels were all measured alone: sum over whole "
        f"{found['ratio']:.3f} (median), off by {found['additivity']['mape']:.1f} % on average",
        format_table(
            ("model", "kernels measured", "sum / whole", "predicted / measured kernels", "prediction / whole"),
            rows,
            right=range(1, 5),
        ),
    ]
