"""Analyses candidates: the best one at each usage, the break-even points, and their uncertainties."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.scoring.lifecycle.candidates import LifecycleCandidates
from deepen.scoring.lifecycle.envelope import LowerEnvelope, find_lower_envelope, list_orders
from deepen.scoring.lifecycle.greenness import J_PER_KWH, LifecycleConditions, compute_break_even, compute_cost_lines
from deepen.scoring.lifecycle.quantity import spell_count, spell_count_range
from deepen.scoring.lifecycle.spread import CrossingSpread, DrawnLines, find_potential_best, sample_lines

__all__ = ["BreakEven", "Lifecycle", "RankedCandidate", "UsageRegime", "analyse_lifecycle"]

_MOST_EXACT = 1000  # largest number of boundaries that are computed with 60 digits
_MOST_DRAWN = 4_000_000  # figures drawn at once: two arrays of 32 MB
_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Usage at which two candidates cost the same.

    Attributes:
        a: Candidate that is better below it, or at every usage if there is no break-even.
        b: The other one.
        inferences: Break-even point; ``nan`` if ``a`` is better at every usage, or both are the same.
        spread: Its distribution over draws; ``None`` if no uncertainties were given.
    """

    a: str
    b: str
    inferences: float
    spread: CrossingSpread | None = None

    @property
    def words(self) -> str:
        """Text of one sentence."""
        if math.isnan(self.inferences):
            return f"{self.a} is at least as good as {self.b} at every usage{self._doubt(never=True)}"
        return f"{self.b} overtakes {self.a} at {spell_count(self.inferences)} inferences{self._doubt()}"

    def _doubt(self, never: bool = False) -> str:
        if self.spread is None:
            return ""
        if never:
            return f" (in {100 * self.spread.always:.0f} % of draws)"
        text = f" (95 %: {spell_count(self.spread.low)} to {spell_count(self.spread.high)}"
        return text + (")" if self.spread.share > 0.995 else f", in {100 * self.spread.share:.0f} % of draws)")


@dataclass(frozen=True, slots=True)
class UsageRegime:
    """A range of usage in which one candidate is best.

    Attributes:
        candidate: The best one.
        start: First number of inferences.
        end: Last number of inferences; infinite for the last regime.
        equal: Candidates that cost the same everywhere.
        confidence: Share of draws in which the candidate is the best in the middle of the regime; ``nan`` if no
            uncertainties were given.
        start_spread: Distribution of ``start`` over draws; ``None`` for the first one, or without uncertainties.
        superlative: ``cheapest`` if only energy decides, else ``best``.
    """

    candidate: str
    start: float
    end: float
    equal: tuple[str, ...]
    confidence: float
    start_spread: CrossingSpread | None
    superlative: str

    @property
    def words(self) -> str:
        """Text of one sentence, without uncertainties."""
        name = " = ".join([self.candidate, *self.equal])
        if self.start == 0 and math.isinf(self.end):
            return f"{name}: {self.superlative} at every usage"
        if self.start == 0:
            return f"{name}: {self.superlative} below {spell_count(self.end)} inferences"
        if math.isinf(self.end):
            return f"{name}: {self.superlative} above {spell_count(self.start)} inferences"
        start, end = spell_count_range(self.start, self.end)
        return f"{name}: {self.superlative} from {start} to {end} inferences"


@dataclass(frozen=True, slots=True)
class RankedCandidate:
    """One candidate at one usage.

    Attributes:
        rank: 1 is the best.
        candidate: Name.
        greenness: G, accuracy^tau per joule (per gram if carbon is ranked).
        training_j: Energy spent once, PUE applied, joules.
        inference_j: Energy of all inferences, PUE applied, joules.
        energy_j: Sum of both.
        carbon_g: CO2e of both, grams; ``nan`` without carbon intensities.
        probability: Share of draws in which it is the best; ``nan`` if no uncertainties were given.
    """

    rank: int
    candidate: str
    greenness: float
    training_j: float
    inference_j: float
    energy_j: float
    carbon_g: float
    probability: float


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Best candidate for each usage, and the break-even points between them.

    Attributes:
        candidates: The candidates compared.
        conditions: Conditions common to them.
        envelope: The lower envelope of all lines.
        regimes: Ranges of usage, ascending, without gaps from 0 on.
        draws: Lines drawn; ``None`` if no uncertainties were given.
        warnings: Warnings for the user.
    """

    candidates: LifecycleCandidates
    conditions: LifecycleConditions
    envelope: LowerEnvelope
    regimes: tuple[UsageRegime, ...]
    draws: DrawnLines | None = None
    warnings: tuple[str, ...] = ()

    def never_best(self) -> list[str]:
        """List the candidates that are best at no usage."""
        some = set(self.envelope.lines).union(*map(set, self.envelope.tied))
        return [n for i, n in enumerate(self.candidates.names) if i not in some]

    def compare(self, a: str, b: str) -> BreakEven:
        """Find the usage at which two candidates cost the same.

        Raises:
            ConfigError: If one is unknown, or both are the same.
        """
        i, j = self.candidates.index(a), self.candidates.index(b)
        if i == j:
            raise ConfigError(f"'{a}' is compared with itself; name two candidates")
        once, each = compute_cost_lines(self.candidates, self.conditions)
        if (once[j], each[j]) < (once[i], each[i]):  # the one that is better at usage 0 comes first
            i, j = j, i
        at = compute_break_even(self.candidates, self.conditions, i, j)
        if once[i] == once[j] and each[i] != each[j]:
            at = math.nan  # equal at usage 0, and one is better from there on
        spread = None
        if self.candidates.uncertain:
            have = self.draws
            known = have is not None and {i, j} <= set(have.which.tolist())
            count = have.a.shape[0] if have is not None else _DRAWS
            pair = np.array(sorted((i, j)), dtype=np.intp)
            drawn = (
                have if known and have is not None else sample_lines(self.candidates, self.conditions, pair, count, 0)
            )
            spread = drawn.crossing(i, j)
        return BreakEven(self.candidates.names[i], self.candidates.names[j], at, spread)

    def at(self, inferences: float, top: int | None = None) -> list[RankedCandidate]:
        """Rank candidates at one usage, best first.

        Args:
            inferences: Number of inferences in a life cycle, from 0 up.
            top: Number of candidates to return; default: all.

        Raises:
            ConfigError: If the usage is not a number from 0 up.
        """
        if not 0 <= inferences < math.inf:
            raise ConfigError(f"a usage of {inferences:g} inferences is not a number from 0 up")
        given, c = self.candidates, self.conditions
        once, each = compute_cost_lines(given, c)
        cost = once + inferences * each
        order = np.lexsort((np.arange(cost.size), once, cost))[:top]
        shares = self.draws.best(inferences) if self.draws is not None else {}
        found = []
        for rank, i in enumerate(order.tolist(), 1):
            training_j = float(given.training_j[i] * c.training_pue / given.pue_included[i])
            inference_j = float(given.inference_j[i] * inferences * c.inference_pue)
            carbon_g = (training_j * c.training_g_per_kwh + inference_j * c.inference_g_per_kwh) / J_PER_KWH
            probability = shares.get(i, 0.0) if self.draws is not None else math.nan
            green = 1 / float(cost[i]) if cost[i] > 0 else math.inf
            found.append(
                RankedCandidate(
                    rank,
                    given.names[i],
                    green,
                    training_j,
                    inference_j,
                    training_j + inference_j,
                    carbon_g,
                    probability,
                )
            )
        return found

    def orders(self, most: int = 64) -> list[tuple[float, float, tuple[str, ...]]]:
        """List the order of all candidates at every usage: ``(from, to, names, best first)``.

        Raises:
            ConfigError: If there are more than ``most`` candidates: orders grow with the square of their number.
        """
        if len(self.candidates) > most:
            raise ConfigError(f"{len(self.candidates)} candidates have too many orders; give at most {most}")
        found = list_orders(*compute_cost_lines(self.candidates, self.conditions))
        return [(start, end, tuple(self.candidates.names[i] for i in order)) for start, end, order in found]


def analyse_lifecycle(
    candidates: LifecycleCandidates,
    conditions: LifecycleConditions | None = None,
    *,
    draws: int = _DRAWS,
    seed: int = 0,
) -> Lifecycle:
    """Rank candidates over all usage intensities.

    1. Find the lower envelope of the candidates' cost lines, with exact boundaries.
    2. If uncertainties are given, draw lines for all candidates that may be best somewhere.
    3. Collect warnings.
    4. Make the regimes.

    Args:
        candidates: Candidates to compare.
        conditions: Weight of accuracy, PUE, carbon; plain energy with tau = 1 if not given.
        draws: Number of Monte Carlo draws, if any uncertainty is given.
        seed: Their seed.

    Raises:
        ConfigError: If ``draws`` is below 100.
    """
    if draws < 100:
        raise ConfigError(f"{draws} draws tell no 95 % interval; give at least 100")
    # 1
    held = conditions or LifecycleConditions()
    once, each = compute_cost_lines(candidates, held)
    envelope = find_lower_envelope(once, each)
    envelope = replace(envelope, breaks=_compute_exact_breaks(candidates, held, envelope))
    # 2
    warnings = list(candidates.notes)
    drawn = None
    if candidates.uncertain:
        which = np.union1d(find_potential_best(candidates, held), np.array(envelope.lines))
        fitting = max(100, _MOST_DRAWN // which.size)
        if fitting < draws:
            warnings.append(
                f"{which.size} candidates are within reach of being best; {fitting} draws instead of {draws}"
            )
        drawn = sample_lines(candidates, held, which, min(draws, fitting), seed)
    # 3
    free = not candidates.training_j.any()
    if free:
        warnings.append(
            "no candidate has any training energy: usage does not matter; give training, search, retraining"
        )
    if len(set(candidates.sources)) > 1:
        warnings.append(f"energies of different kinds are compared: {', '.join(sorted(set(candidates.sources)))}")
    # 4
    regimes = _list_regimes(candidates, held, envelope, drawn)
    return Lifecycle(candidates, held, envelope, regimes, drawn, tuple(warnings))


def _compute_exact_breaks(
    candidates: LifecycleCandidates, conditions: LifecycleConditions, envelope: LowerEnvelope
) -> NDArray[np.float64]:
    """Compute boundaries with 60 digits if there are at most :data:`_MOST_EXACT`; else keep those of the envelope."""
    if envelope.breaks.size > _MOST_EXACT:
        return envelope.breaks
    pairs = zip(envelope.lines, envelope.lines[1:], strict=False)
    exact = np.array([compute_break_even(candidates, conditions, i, j) for i, j in pairs], dtype=np.float64)
    # Lines are rounded when they are divided by accuracy; a boundary that exists only because of that stays as it is.
    return np.maximum.accumulate(np.where(np.isnan(exact), envelope.breaks, exact)) if exact.size else exact


def _list_regimes(
    candidates: LifecycleCandidates, conditions: LifecycleConditions, envelope: LowerEnvelope, drawn: DrawnLines | None
) -> tuple[UsageRegime, ...]:
    names = candidates.names
    even = conditions.tau == 0 or bool(np.ptp(candidates.accuracy) == 0)
    word = "cheapest" if even and conditions.objective == "energy" else "best"
    edges = [0.0, *envelope.breaks.tolist(), math.inf]
    few = len(envelope.lines) <= _MOST_EXACT  # confidences of thousands of regimes would take long and serve no reader
    found = []
    for k, i in enumerate(envelope.lines):
        start, end = edges[k], edges[k + 1]
        confidence, spread = math.nan, None
        if drawn is not None and few:
            confidence = drawn.best(_geometric_middle(start, end)).get(i, 0.0)
            spread = drawn.crossing(envelope.lines[k - 1], i) if k else None
        equal = tuple(names[t] for t in envelope.tied[k])
        found.append(UsageRegime(names[i], start, end, equal, confidence, spread, word))
    return tuple(found)


def _geometric_middle(start: float, end: float) -> float:
    """Return the geometric middle; a tenth of the first boundary, ten times the last one."""
    if math.isinf(end):
        return 10 * start
    return end / 10 if start == 0 else math.sqrt(start * end)
