"""The prediction of a model: joules with an interval, kernel by kernel, and what a reader should know."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from deepen.extras import require_packages
from deepen.graph.types import UnknownPart
from deepen.kernels.layer_labels import KernelLabel, format_shape
from deepen.predictors.inference.dominant_terms import Bound
from deepen.records import RecordLabel, SourceLabel
from deepen.units import format_count, format_si

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KERNEL_COLUMNS", "KernelPrediction", "Prediction"]

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class KernelPrediction:
    """Predicted energy of one kernel of a model.

    Attributes:
        name: Kernel name inside the model.
        family: Kernel family.
        energy_j: Net energy per inference, multiplicity included.
        interval_j: (low, high), nominal 90 %.
        method: ``regressor`` or ``roofline`` (the analytic fallback).
        extrapolated: Whether a feature is outside the range of the regressor's training data.
        label: Its layer, operators and main shapes.
        times: Executions per inference.
        macs: Multiply-accumulates per inference, multiplicity included.
        bound: The kind of work that takes most of its energy; empty where it was not asked for.
    """

    name: str
    family: str
    energy_j: float
    interval_j: tuple[float, float]
    method: Literal["regressor", "roofline"]
    extrapolated: bool
    label: KernelLabel = field(default=KernelLabel(""), repr=False)
    times: float = 1.0
    macs: float = 0.0
    bound: Bound | Literal[""] = ""

    @property
    def pj_per_mac(self) -> float | None:
        """Picojoules per multiply-accumulate; ``None`` without any."""
        return self.energy_j / self.macs * 1e12 if self.macs > 0 else None

    def to_row(self) -> dict[str, Any]:
        """As one row of a table: plain values, shapes as ``1x3x224x224`` (empty where unknown)."""
        return {
            "name": self.name,
            "layer": self.label.layer or self.name,
            "family": self.family,
            "op_types": "+".join(self.label.op_types),
            "input_shape": format_shape(self.label.input_shape, ""),
            "weight_shape": format_shape(self.label.weight_shape, ""),
            "output_shape": format_shape(self.label.output_shape, ""),
            "times": self.times,
            "macs": self.macs,
            "energy_j": self.energy_j,
            "energy_low_j": self.interval_j[0],
            "energy_high_j": self.interval_j[1],
            "pj_per_mac": self.pj_per_mac,
            "bound": self.bound,
            "method": self.method,
            "extrapolated": self.extrapolated,
        }


KERNEL_COLUMNS = tuple(KernelPrediction("", "", 0.0, (0.0, 0.0), "roofline", False).to_row())
"""Columns of a table of kernels."""


@dataclass(frozen=True, slots=True, repr=False)
class Prediction:
    """Predicted energy of a model per inference.

    Attributes:
        model: Model file as given.
        energy_j: Sum over kernels plus overhead; a lower bound if ``unknowns`` is not empty.
        interval_j: (low, high), nominal 90 %; ``high`` is infinite where it is unknown how much work is done.
        overhead_j: Per-run overhead included in ``energy_j``.
        kernels: One entry per kernel, in execution order.
        coverage: Share of the model's kernels that a regressor predicted, 0..1.
        uncovered: Names of kernels that the analytic fallback predicted.
        extrapolated: Number of kernels outside the training range.
        predictor_id: Identity of the predictor.
        learnt_from: Weakest label of the data it was trained on.
        warnings: What a reader should know; what concerns most joules first.
        device: Device the predictor stands for.
        runtime: Runtime it stands for.
        threads: Intra-operator threads it stands for; 0 where its card does not say.
        unknowns: Where it is unknown how much work is done: what is computed without it is a lower bound.
        source: Always ``predicted``.
    """

    model: str
    energy_j: float
    interval_j: tuple[float, float]
    overhead_j: float
    kernels: tuple[KernelPrediction, ...]
    coverage: float
    uncovered: tuple[str, ...]
    extrapolated: int
    predictor_id: str
    learnt_from: RecordLabel
    warnings: tuple[str, ...] = ()
    device: str = ""
    runtime: str = ""
    threads: int = 0
    unknowns: tuple[UnknownPart, ...] = ()
    source: Literal["predicted"] = field(default="predicted", init=False)

    @property
    def label(self) -> SourceLabel:
        """Its label, with that of the training data."""
        return SourceLabel(self.source, self.learnt_from)

    @property
    def open_above(self) -> bool:
        """True if the energy is a lower bound, because it is unknown how much work is done."""
        return math.isinf(self.interval_j[1])

    @property
    def energy_coverage(self) -> float:
        """Share of the kernels' energy that a regressor predicted, 0..1; 1 without kernels."""
        whole = sum(k.energy_j for k in self.kernels)
        return sum(k.energy_j for k in self.kernels if k.method == "regressor") / whole if whole > 0 else 1.0

    def describe_energy(self) -> str:
        """Say the energy and its interval in words, with what ends the knowledge if it is a lower bound."""
        low, high = (format_si(bound, "J") for bound in self.interval_j)
        if not self.open_above:
            return f"{format_si(self.energy_j, 'J')} per inference (90 %: {low} to {high})"
        text = f"at least {format_si(self.energy_j, 'J')} per inference (90 %: above {low})"
        if not self.unknowns:
            return text
        first, *more = self.unknowns
        others = f" and {len(more)} more" if more else ""
        cure = f": {first.cure}" if first.cure else ""
        return f"{text}; '{first.node}' ({first.op_type}){others} ends what is known{cure}"

    def __repr__(self) -> str:
        return f"<Prediction of {self.model}: {self.describe_energy()}, {len(self.kernels)} kernels>"

    def to_frame(self) -> pd.DataFrame:
        """Make a table of the kernels, in execution order, with the columns of :meth:`KernelPrediction.to_row`.

        Raises:
            ConfigError: If pandas is not installed.
        """
        require_packages("a prediction as a table", "pandas")
        import pandas as pd

        rows = [k.to_row() for k in self.kernels]
        return pd.DataFrame(rows, columns=list(KERNEL_COLUMNS))

    def _repr_html_(self) -> str:
        """Render for a notebook: a headline and the costliest kernels."""
        lines = [
            f"<p><b>{escape(self.model)}</b>: {escape(self.describe_energy())}<br>"
            f"{escape(str(self.label))}, on {escape(self.device or 'an unnamed device')}, "
            f"{100 * self.energy_coverage:.0f} % of the energy answered by regressors</p>",
            "<table><thead><tr>",
            *(f"<th>{head}</th>" for head in ("layer", "operators", "output", "MACs", "energy", "pJ/MAC", "bound")),
            "</tr></thead><tbody>",
        ]
        ranked = sorted(self.kernels, key=lambda k: -k.energy_j)
        for kernel in ranked[:_SHOWN]:
            row = kernel.to_row()
            rate = "" if kernel.pj_per_mac is None else f"{kernel.pj_per_mac:.3g}"
            macs, joules = format_count(kernel.macs) if kernel.macs else "", format_si(kernel.energy_j, "J")
            cells = (row["layer"], row["op_types"], row["output_shape"], macs, joules, rate, kernel.bound)
            lines.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
        lines.append("</tbody></table>")
        if len(ranked) > _SHOWN:
            rest = sum(k.energy_j for k in ranked[_SHOWN:])
            lines.append(f"<p>{len(ranked) - _SHOWN} more kernels: {escape(format_si(rest, 'J'))}</p>")
        lines += [f"<p>{escape(warning)}</p>" for warning in self.warnings]
        return "".join(lines)
