"""Tables of ``deepen predictor evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepen.cli.output import table

__all__ = ["cv_text", "held_out_text", "measures", "numbers"]

MEASURES = ("n", "acc5", "acc10", "acc20", "mape", "rmspe", "spearman")
_COLUMNS = (*MEASURES, "in_interval")
_HEADER = (*MEASURES, "inside")


def numbers(found: Mapping[str, Any]) -> list[str]:
    """The cells of some measures."""
    return [measures(found, k) for k in MEASURES]


def measures(found: Mapping[str, Any], key: str) -> str:
    """One cell."""
    value = found.get(key)
    if value is None:
        return "-"
    return str(value) if key == "n" else f"{value:.2f}" if key == "spearman" else _short(value)


def _short(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def _row(name: str, found: Mapping[str, Any], last: str = "") -> list[str]:
    return [name, *(measures(found, k) for k in _COLUMNS), last]


def _span(found: Mapping[str, Any], key: str, kind: str) -> str:
    """``acc10 88.2 to 93.1``; empty where there is none."""
    ends = (found.get(kind) or {}).get(key)
    return "" if ends is None else f"{_short(ends[0])} to {_short(ends[1])}"


def held_out_text(report: Mapping[str, Any]) -> str:
    """Text of :func:`deepen.predictors.evaluation.evaluate`."""
    rows = [_row("all kernels", report["overall"])]
    rows += [_row(name, m, m["method"]) for name, m in report["families"].items()]
    if report["models"]["n"]:
        rows.append(_row("whole models", report["models"]))
    lines = [f"{report['predictor']} ({report['source']})", _table(rows)]
    for name, found in (("kernels", report["overall"]), ("whole models", report["models"])):
        text = _confidence(name, found)
        if text:
            lines.append(text)
    lines += _baselines(report.get("baselines") or {})
    if report["models"]["rows"]:
        models = [
            (m["name"], f"{m['error']:+.1f} %", "" if m["inside"] else "outside interval")
            for m in report["models"]["rows"]
        ]
        lines.append(table(("model", "error", ""), models, right=(1,)))
    lines += _additivity(report.get("additivity") or {})
    return "\n\n".join(lines)


def cv_text(report: Mapping[str, Any]) -> str:
    """Text of :func:`deepen.predictors.evaluation.cross_validate`."""
    how = report["split"]
    if report["share"] is not None:
        how += f", {100 * report['share']:.0f} % to train on"
    if report["repeats"] > 1:
        how += f", median of {report['repeats']} repeats"
    lines = [f"recipe {report['recipe']}; {how}; seed {report['seed']}"]
    if report["overall"]["n"]:
        rows = [_row("all kernels", report["overall"])]
        rows += [_row(name, m) for name, m in report["families"].items()]
        lines.append(_table(rows))
        lines.append(_confidence("kernels", report["overall"]))
    if report["models"]["n"]:
        lines.append(_table([_row("whole models", report["models"])]))
        lines.append(_confidence("whole models", report["models"]))
    lines += _baselines(report["baselines"], report)
    if report["models"].get("rows"):
        models = [
            (m["name"], f"{m['error']:+.1f} %", "" if m["inside"] else "outside interval")
            for m in report["models"]["rows"]
        ]
        lines.append(table(("model", "error", ""), models, right=(1,)))
    return "\n\n".join(line for line in lines if line)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return table(("", *_HEADER, ""), rows, right=range(1, 9))


def _confidence(name: str, found: Mapping[str, Any]) -> str:
    """A line of bootstrap confidence, and of the range over repeats."""
    parts = [(key, _span(found, key, "confidence")) for key in ("acc10", "mape", "rmspe", "in_interval")]
    text = ", ".join(f"{key.replace('in_interval', 'inside')} {span}" for key, span in parts if span)
    line = f"{name}, 95 % confidence: {text}" if text else ""
    spread = ", ".join(f"{key} {span}" for key in ("acc10", "mape", "rmspe") if (span := _span(found, key, "range")))
    return f"{line}\n{name}, range over repeats: {spread}" if spread else line


def _baselines(found: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> list[str]:
    """Methods side by side: all kernels, then each family by its share within 10 %, then whole models."""
    lines = []
    methods = {"deepen": own, **found} if own else dict(found)
    methods = {name: report for name, report in methods.items() if report}
    for part, title in (("overall", "all kernels"), ("models", "whole models")):
        rows = [
            _row(name, report[part], report.get("title", "")) for name, report in methods.items() if report[part]["n"]
        ]
        if len(rows) > (1 if own else 0):
            lines.append(table((f"{title}, same split", *_HEADER, ""), rows, right=range(1, 9)))
    with_kernels = {name: report for name, report in methods.items() if report["families"]}
    names = sorted({family for report in with_kernels.values() for family in report["families"]})
    if with_kernels and len(names) > 1:
        rows = [
            [
                family,
                *(
                    f"{measures(r['families'][family], 'acc10')} / {measures(r['families'][family], 'rmspe')}"
                    if family in r["families"]
                    else "-"
                    for r in with_kernels.values()
                ),
            ]
            for family in names
        ]
        lines.append(table(("acc10 / rmspe", *with_kernels), rows, right=range(1, len(with_kernels) + 1)))
    return lines


def _additivity(found: Mapping[str, Any]) -> list[str]:
    """Sum of measured kernels against measured models, apart from the error of prediction."""
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
        table(
            ("model", "kernels measured", "sum / whole", "predicted / measured kernels", "prediction / whole"),
            rows,
            right=range(1, 5),
        ),
    ]
