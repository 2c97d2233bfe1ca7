"""Which kernels to measure: a seeded stream of configurations around those of real architectures.

Real configurations are joint: wide layers are small, depthwise layers have no second width, 7x7 kernels read three
channels. So a sample starts from a real configuration (:mod:`deepen.kernels.priors`) and moves all of it a little, or
not at all, instead of drawing each parameter on its own. Every family's stream is stratified by the logarithm of its
work, families and strata take turns in proportion to their weights, and nothing depends on how many are asked for:
every prefix of a sample is itself the sample of that size, so a time budget may cut it anywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

import numpy as np

from deepen.errors import ConfigError
from deepen.kernels.draw import Draw
from deepen.kernels.families import family as family_named
from deepen.kernels.families import load_families
from deepen.kernels.perturb import perturb
from deepen.kernels.priors import Prior, Work, canonical, priors, work
from deepen.kernels.types import params_key

__all__ = ["MAX_BYTES", "SampledKernel", "sample", "stratum", "stream"]

MAX_BYTES = 512 * 2**20
"""Weights and activations of the largest kernel sampled (VGG's first fully connected layer has 392 MiB)."""

STRATA_PER_DECADE = 2
_ATTEMPTS = 40
"""Draws without a new configuration after which a stratum is taken to be exhausted."""

_SPREADS = ((0.0, 0.2), (0.15, 0.35), (0.35, 0.35), (0.7, 0.1))
"""(standard deviation of log size, share): unchanged, close, moderate and wide neighbours of the real configuration."""


@dataclass(frozen=True, slots=True)
class SampledKernel:
    """A configuration to measure.

    Attributes:
        family: Kernel family.
        params: Its parameters, in canonical form.
        key: Content hash of both (:func:`deepen.kernels.types.params_key`).
        macs: Multiply-accumulates.
        bytes: Weights, activations and outputs, each once.
        source: Architecture whose kernel it lies around.
    """

    family: str
    params: Mapping[str, Any]
    key: str
    macs: int
    bytes: int
    source: str


class _Turns:
    """Takes options in turn in proportion to their weights; every prefix is as close to the weights as it can be.

    Smooth weighted round-robin: each turn every option earns its share and the richest pays one. A seeded head start
    below one turn decides ties and who begins.
    """

    def __init__(self, weights: Mapping[Any, float], rng: np.random.Generator) -> None:
        self.weights = dict(weights)
        self.credit = {
            option: share * 0.999 for option, share in zip(self.weights, rng.random(len(weights)), strict=True)
        }

    def __bool__(self) -> bool:
        return bool(self.weights)

    def take(self) -> Any:
        """The next option."""
        total = sum(self.weights.values())
        for option, weight in self.weights.items():
            self.credit[option] += weight / total
        best = max(self.weights, key=self.credit.__getitem__)
        self.credit[best] -= 1
        return best

    def drop(self, option: Any) -> None:
        """Forget an option."""
        del self.weights[option]
        self.credit.pop(option)


def stratum(cost: Work, by: str = "macs") -> int:
    """Number of the half-decade a cost lies in; negative where the work is below one."""
    amount = cost.macs if by == "macs" and cost.macs else cost.bytes
    return floor(STRATA_PER_DECADE * log10(max(amount, 1)))


class _FamilyStream:
    """Endless new configurations of one family, until none is left."""

    def __init__(self, name: str, seed: int, exclude: Collection[str], max_macs: int | None) -> None:
        self.name = name
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.by = str(family_named(name).sampling.get("by", "macs"))
        self.max_macs = max_macs
        self.seen = set(exclude)
        self.rows: dict[int, list[Prior]] = {}
        self.pool = priors(name)
        for row in self.pool:
            cost = work(name, row.params)
            if self._fits(cost):
                self.rows.setdefault(stratum(cost, self.by), []).append(row)
        # half of the weight by how often models use a stratum, half evenly: tails are measured too
        mass = {level: sum(row.count for row in rows) ** 0.5 for level, rows in sorted(self.rows.items())}
        total = sum(mass.values())
        self.turns = _Turns({k: 0.5 * v / total + 0.5 / len(mass) for k, v in mass.items()}, self.rng)
        self.queues: dict[int, list[Prior]] = {}

    def _fits(self, cost: Work) -> bool:
        return cost.bytes <= MAX_BYTES and (self.max_macs is None or cost.macs <= self.max_macs)

    def _row(self, level: int) -> Prior:
        """Next real configuration of a stratum: all once, frequent ones tend to come first, then all again."""
        if not self.queues.get(level):
            rows = self.rows[level]
            order = self.rng.random(len(rows)) ** (1 / np.sqrt([row.count for row in rows]))
            self.queues[level] = [rows[i] for i in np.argsort(order)]
        return self.queues[level].pop()

    def _spread(self) -> float:
        return float(self.rng.choice([s for s, _ in _SPREADS], p=[p for _, p in _SPREADS]))

    def __iter__(self) -> Iterator[SampledKernel]:
        while self.turns:
            level = self.turns.take()
            for _ in range(_ATTEMPTS):
                row = self._row(level)
                moved = perturb(self.name, row.params, Draw(self.rng, self._spread()), self.pool)
                params = canonical(self.name, moved)
                if params is None:
                    continue
                key = params_key(self.name, params)
                cost = work(self.name, params)
                if key in self.seen or not self._fits(cost):
                    continue
                self.seen.add(key)
                yield SampledKernel(self.name, params, key, cost.macs, cost.bytes, row.sources[0])
                break
            else:
                self.turns.drop(level)


def _chosen(families: Sequence[str] | None, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Families to sample and their weights; those without priors are left out unless they were asked for."""
    known = load_families()
    for name in [*(families or ()), *(weights or ())]:
        family_named(name)
    chosen = {}
    for name in known if families is None else dict.fromkeys(families):
        weight = float(known[name].sampling.get("weight", 0.0))
        weight = float((weights or {}).get(name, weight if families is None else weight or 1.0))
        if weight < 0:
            raise ConfigError(f"weight of family '{name}' is {weight:g}; give a number of at least 0")
        if families is not None and not priors(name):
            raise ConfigError(
                f"family '{name}' has no priors to sample around; run tools/collect_priors or leave it out"
            )
        if weight and priors(name):
            chosen[name] = weight
    return chosen


def stream(
    families: Sequence[str] | None = None,
    seed: int = 0,
    exclude: Collection[str] = frozenset(),
    max_macs: int | None = None,
    weights: Mapping[str, float] | None = None,
) -> Iterator[SampledKernel]:
    """Sample without end (until every stratum of every family is exhausted); arguments as for :func:`sample`."""
    chosen = _chosen(families, weights)
    turns = _Turns(chosen, np.random.default_rng([seed, 0]))
    streams = {name: iter(_FamilyStream(name, seed, exclude, max_macs)) for name in chosen}
    while turns:
        name = turns.take()
        found = next(streams[name], None)
        if found is None:
            turns.drop(name)
        else:
            yield found


def sample(
    families: Sequence[str] | None = None,
    count: int = 1000,
    seed: int = 0,
    exclude: Collection[str] = frozenset(),
    max_macs: int | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[SampledKernel]:
    """Choose kernels to measure.

    Args:
        families: Families to sample; all that have priors where not given.
        count: How many; fewer come back only where nothing new is left.
        seed: Any non-negative integer; equal arguments give equal samples, and a smaller count gives a prefix.
        exclude: Keys that must not occur (kernels already measured, or to be kept unseen).
        max_macs: Largest kernel.
        weights: Share of the sample per family; defaults to ``weight`` of the family's ``[sampling]`` table. A family's
            own kernels and their order do not depend on it.

    Returns:
        Distinct kernels, families and sizes interleaved.

    Raises:
        ConfigError: If a family is unknown or has no priors, or a weight or count is negative.
    """
    if count < 0:
        raise ConfigError(f"count is {count}; give a number of at least 0")
    source = stream(families, seed, exclude, max_macs, weights)
    return [kernel for _, kernel in zip(range(count), source, strict=False)]
