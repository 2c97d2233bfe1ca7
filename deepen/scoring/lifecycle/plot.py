"""Plots a life cycle: energy per inference over usage, and the probability of each candidate to be best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError, StorageError
from deepen.extras import require_packages
from deepen.scoring.lifecycle.analysis import Lifecycle
from deepen.scoring.lifecycle.greenness import compute_cost_lines
from deepen.scoring.lifecycle.quantity import spell_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_lifecycle"]

_POINTS = 200
_NAMED = 8
_SUFFIXES = (".svg", ".png", ".pdf")
# Okabe and Ito's colours, which colour-blind readers can tell apart (jfly.uni-koeln.de/color, 2008).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")

_Floats = NDArray[np.float64]


def plot_lifecycle(result: Lifecycle, path: str | Path) -> Path:
    """Plot total cost over usage, with the regimes, and the probability of being best if uncertainties are known.

    Args:
        result: Analysis to plot.
        path: ``.svg``, ``.png`` or ``.pdf``; replaced if it exists.

    Returns:
        The path.

    Raises:
        ConfigError: If matplotlib is not installed, or the suffix is none of these.
        StorageError: If it cannot be written.
    """
    file = Path(path)
    if file.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{file}: a plot ends in {', '.join(_SUFFIXES)}")
    require_packages("a plot", "matplotlib")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    x = _choose_usages(result)
    two = result.draws is not None
    with mpl.rc_context({"svg.hashsalt": "deepen", "svg.fonttype": "none", "font.size": 9.0}):
        figure = Figure(figsize=(8, 6.2 if two else 4.2), layout="constrained")
        axes = figure.subplots(2 if two else 1, 1, sharex=True, squeeze=False, height_ratios=(3, 2) if two else (1,))
        shown = _choose_coloured(result)
        colours = {i: _COLOURS[k % len(_COLOURS)] for k, i in enumerate(shown)}
        _draw_costs(result, axes[0, 0], x, colours)
        if two:
            _draw_probabilities(result, axes[1, 0], x, colours)
        axes[-1, 0].set_xlabel("inferences in a life cycle")
        try:
            figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise StorageError(f"{file}: {error.strerror or error}; choose another place") from error
    return file


def _choose_usages(result: Lifecycle) -> _Floats:
    """Choose the range of usage: all boundaries with a margin; without any, around equal energy of use and training."""
    breaks = result.envelope.breaks[result.envelope.breaks > 0]
    if breaks.size:
        low, high = float(breaks.min()), float(breaks.max())
    else:
        best = result.envelope.lines[0]
        once, each = result.candidates.training_j[best], result.candidates.inference_j[best]
        low = high = float(once / each) if once > 0 and each > 0 else 1e6
    return np.geomspace(low / 30, high * 30, _POINTS)


def _choose_coloured(result: Lifecycle) -> list[int]:
    """Choose the candidates with a colour: those best somewhere, then those that are best in some draws."""
    found = list(result.envelope.lines)
    if result.draws is not None:
        share: dict[int, float] = {}
        for x in _choose_usages(result)[:: _POINTS // 10]:
            for i, p in result.draws.best(float(x)).items():
                share[i] = max(share.get(i, 0.0), p)
        found += [i for i in sorted(share, key=lambda i: -share[i]) if i not in found and share[i] > 0.02]
    if len(found) > _NAMED:  # the widest regimes matter most
        edges = np.concatenate([[_choose_usages(result)[0]], result.envelope.breaks, [_choose_usages(result)[-1]]])
        width = np.diff(np.log(np.maximum(edges, 1e-300)))
        keep = sorted(np.argsort(-width)[:_NAMED].tolist())
        found = [result.envelope.lines[k] for k in keep]
    elif len(found) < _NAMED and len(result.candidates) <= _NAMED:
        found += [i for i in range(len(result.candidates)) if i not in found]
    return found[:_NAMED]


def _draw_costs(result: Lifecycle, axes: Axes, x: _Floats, colours: dict[int, str]) -> None:
    once, each = compute_cost_lines(result.candidates, result.conditions)
    # Per inference, so that candidates a few percent apart are not drawn on top of each other over nine decades.
    best = (once[result.envelope.at(x)] + each[result.envelope.at(x)] * x) / x
    others = [i for i in range(min(len(once), 200)) if i not in colours]
    for i in others:
        axes.plot(x, once[i] / x + each[i], color="0.85", linewidth=0.7, zorder=1)
    for i, colour in colours.items():
        axes.plot(x, once[i] / x + each[i], color=colour, linewidth=1.3, zorder=2, label=result.candidates.names[i])
    axes.plot(x, best, color="0.1", linewidth=3.2, alpha=0.25, zorder=3, label="best one")
    for k, boundary in enumerate(result.envelope.breaks[:_NAMED]):
        regime = result.regimes[k + 1]
        if regime.start_spread is not None and not math.isnan(regime.start_spread.low):
            axes.axvspan(
                max(regime.start_spread.low, x[0]),
                min(regime.start_spread.high, x[-1]),
                color="0.5",
                alpha=0.12,
                zorder=0,
            )
        axes.axvline(boundary, color="0.4", linewidth=0.8, linestyle="--", zorder=0)
        axes.annotate(
            spell_count(float(boundary)),
            (boundary, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    unit = "g CO2e" if result.conditions.objective == "carbon" else "J"
    tau = result.conditions.tau
    merit = "" if tau == 0 else " / accuracy" if tau == 1 else f" / accuracy^{tau:g}"
    axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylabel=f"{unit} per inference served{merit}")
    low, high = float(best.min()), float(best.max())
    axes.set_ylim(low / 1.6, high * 3)
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    axes.set_title(f"training and use together ({result.candidates.label})", fontsize=9, loc="left", pad=16)


def _draw_probabilities(result: Lifecycle, axes: Axes, x: _Floats, colours: dict[int, str]) -> None:
    draws = result.draws
    if draws is None:
        return
    share = np.zeros((x.size, len(result.candidates)))
    for k, usage in enumerate(x):
        for i, p in draws.best(float(usage)).items():
            share[k, i] = p
    for i, colour in colours.items():
        if share[:, i].any():
            axes.plot(x, 100 * share[:, i], color=colour, linewidth=1.3)
    rest = 100 * (1 - share[:, list(colours)].sum(axis=1))
    if rest.max() > 2:
        axes.plot(x, rest, color="0.6", linewidth=1.0, linestyle=":", label="any other")
        axes.legend(loc="upper right", fontsize=8, frameon=False)
    axes.set(xscale="log", ylim=(-2, 102), ylabel="best in % of draws")
