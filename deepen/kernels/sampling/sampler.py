"""Sampler of kernels to measure: a seeded stream of configurations around those of real architectures.

Parameters of real kernels depend on one another: wide layers are small, depthwise layers have no second width, 7x7
kernels read three channels. So a sample starts from a real configuration
(:mod:`deepen.kernels.sampling.real_configurations`) and perturbs all of it slightly, or not at all, instead of drawing
each parameter on its own. Every family's stream is stratified by
the logarithm of its work and by kind, families and strata take turns in proportion to their weights, and nothing
depends on how many are
asked for: every prefix of a sample is itself the sample of that size, so a time budget may cut it anywhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

import numpy as np

from deepen.errors import ConfigError
from deepen.kernels.families.catalog import get_family, load_families
from deepen.kernels.families.kernel_work import KernelWork, compute_kernel_work
from deepen.kernels.sampling.neighbours import perturb_params
from deepen.kernels.sampling.random_sizes import SizeSampler
from deepen.kernels.sampling.real_configurations import RealConfiguration, canonicalise_params, load_real_configurations
from deepen.kernels.types import hash_params

__all__ = ["MAX_BYTES", "SampledKernel", "categorise_params", "compute_stratum", "sample_kernels", "stream_kernels"]

MAX_BYTES = 512 * 2**20
"""Weights and activations of the largest kernel sampled (VGG's first fully connected layer has 392 MiB)."""

STRATA_PER_DECADE = 2
_ATTEMPTS = 40
"""Draws without a new configuration after which a cell is taken to be exhausted."""

_SamplingCell = tuple[Any, ...]
"""A stratum of work and a category."""

_COST_EXPONENT = 0.25
"""Work of a cell to this power is part of its share: ten thousand times the work, ten times as many samples."""

_MACS_PER_BYTE = 4
"""Multiply-accumulates a processor core does while it moves a byte from memory: 10 to 50 G/s against 10 GB/s."""

_SPREADS = ((0.0, 0.3), (0.15, 0.35), (0.3, 0.28), (0.6, 0.07))
"""(standard deviation of log size, share): unchanged, close, moderate and wide neighbours of the real configuration."""


@dataclass(frozen=True, slots=True)
class SampledKernel:
    """A configuration to measure.

    Attributes:
        family: Kernel family.
        params: Its parameters, in canonical form.
        key: Content hash of both (:func:`deepen.kernels.types.hash_params`).
        macs: Multiply-accumulates.
        bytes: Weights, activations and outputs, each once.
        source: Architecture of the kernel it was drawn around.
    """

    family: str
    params: Mapping[str, Any]
    key: str
    macs: int
    bytes: int
    source: str


class _StrideScheduler:
    """Scheduler that takes options in proportion to their weights, evenly: any prefix has each option's fair share.

    Every option has its own clock that ticks once per 1/weight, from a random phase (systematic sampling; as a
    scheduler it is known as stride scheduling, Waldspurger and Weihl, 1995). The next tick decides.
    """

    def __init__(self, weights: Mapping[Any, float], rng: np.random.Generator) -> None:
        self.interval = {option: 1 / weight for option, weight in weights.items()}
        phases = rng.random(len(self.interval))
        self.due = {option: phase * self.interval[option] for option, phase in zip(self.interval, phases, strict=True)}

    def __bool__(self) -> bool:
        return bool(self.due)

    def take(self) -> Any:
        """The next option."""
        option = min(self.due, key=self.due.__getitem__)
        self.due[option] += self.interval[option]
        return option

    def drop(self, option: Any) -> None:
        """Forget an option."""
        del self.due[option]


def compute_stratum(cost: KernelWork) -> int:
    """Number of the half-decade that a cost is in: of multiply-accumulates, or of bytes if there are none."""
    return floor(STRATA_PER_DECADE * log10(max(cost.macs or cost.bytes, 1)))


def categorise_params(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the category of a configuration in its family; categories are stratified like sizes, so none is lost.

    For example a first convolution of an image, a pointwise one, one with a large window or a stride, one with wide
    groups; an operation with a constant; the number of parts of a concatenation.
    """
    kind: list[Any] = [params.get("op")]
    if "kernel" in params:
        widest = max(params["kernel"])
        kind += ["point" if widest == 1 else "small" if widest <= 3 else "large", max(params["stride"]) > 1]
    if "c_in" in params:
        kind += [params["c_in"] <= 4, params["c_in"] // params["groups"] > 32]
    if "in_shapes" in params:
        shapes = params["in_shapes"]
        kind += [min(len(shapes), 4), min(params["sources"]) < 0, any(shape != shapes[0] for shape in shapes[1:])]
    if "m" in params:
        kind.append(params["m"] == 1)
    if "shape" in params:
        kind.append(len(params["shape"]))
    if "perm" in params:
        kind.append(tuple(params["perm"]))
    return tuple(kind)


class _FamilySampler:
    """Iterator over new configurations of one family, until there are no more.

    1. Real configurations are put into cells by stratum of work and by category.
    2. Cells are taken in turn, in proportion to their shares.
    3. A real configuration of the cell is perturbed until the result is valid, new and within the limits.
    4. A cell that yields none in :data:`_ATTEMPTS` attempts is dropped.
    """

    def __init__(self, name: str, seed: int, exclude: Collection[str], max_macs: int | None) -> None:
        self.name = name
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self.max_macs = max_macs
        self.seen = set(exclude)
        self.pool = load_real_configurations(name)
        self.rows: dict[_SamplingCell, list[RealConfiguration]] = {}
        for row in self.pool:  # 1
            cost = compute_kernel_work(name, row.params)
            if self._fits(cost):
                self.rows.setdefault((compute_stratum(cost), *categorise_params(row.params)), []).append(row)
        self.turns = _StrideScheduler(self._compute_cell_shares(), self.rng)
        self.queues: dict[_SamplingCell, list[RealConfiguration]] = {}

    def _fits(self, cost: KernelWork) -> bool:
        return cost.bytes <= MAX_BYTES and (self.max_macs is None or cost.macs <= self.max_macs)

    def _compute_cell_shares(self) -> dict[_SamplingCell, float]:
        """Compute the share of each cell from its use in models and its mean cost, both damped; a tenth is even."""
        use = {}
        for cell, rows in self.rows.items():
            costs = [
                max(cost.macs, _MACS_PER_BYTE * cost.bytes)
                for cost in (compute_kernel_work(self.name, row.params) for row in rows)
            ]
            use[cell] = sum(row.count**0.5 for row in rows) ** 0.5 * float(np.mean(costs)) ** _COST_EXPONENT
        total = sum(use.values())
        return {cell: 0.9 * share / total + 0.1 / len(use) for cell, share in use.items()}

    def _take_configuration(self, cell: _SamplingCell) -> RealConfiguration:
        """Take a real configuration of a cell: each once, frequent ones tending to come first, then each again."""
        if not self.queues.get(cell):
            rows = self.rows[cell]
            order = self.rng.random(len(rows)) ** (1 / np.sqrt([row.count for row in rows]))
            self.queues[cell] = [rows[i] for i in np.argsort(order)]
        return self.queues[cell].pop()

    def _spread(self) -> float:
        return float(self.rng.choice([s for s, _ in _SPREADS], p=[p for _, p in _SPREADS]))

    def __iter__(self) -> Iterator[SampledKernel]:
        while self.turns:
            cell = self.turns.take()  # 2
            for _ in range(_ATTEMPTS):  # 3
                row = self._take_configuration(cell)
                moved = perturb_params(self.name, row.params, SizeSampler(self.rng, self._spread()), self.pool)
                params = canonicalise_params(self.name, moved)
                if params is None:
                    continue
                key = hash_params(self.name, params)
                cost = compute_kernel_work(self.name, params)
                if key in self.seen or not self._fits(cost):
                    continue
                self.seen.add(key)
                yield SampledKernel(self.name, params, key, cost.macs, cost.bytes, row.sources[0])
                break
            else:
                self.turns.drop(cell)  # 4


def _select_families(families: Sequence[str] | None, weights: Mapping[str, float] | None) -> dict[str, float]:
    """Select the families to sample, with their weights; those without priors only if the caller names them.

    Raises:
        ConfigError: If a family is unknown, a weight is negative, or a family the caller names has no priors.
    """
    known = load_families()
    for name in [*(families or ()), *(weights or ())]:
        get_family(name)
    chosen = {}
    for name in known if families is None else dict.fromkeys(families):
        weight = float(known[name].sampling.get("weight", 0.0))
        weight = float((weights or {}).get(name, weight if families is None else weight or 1.0))
        if weight < 0:
            raise ConfigError(f"weight of family '{name}' is {weight:g}; give a number of at least 0")
        if families is not None and not load_real_configurations(name):
            raise ConfigError(
                f"family '{name}' has no priors to sample around; run tools/collect_priors or leave it out"
            )
        if weight and load_real_configurations(name):
            chosen[name] = weight
    return chosen


def stream_kernels(
    families: Sequence[str] | None = None,
    seed: int = 0,
    exclude: Collection[str] = frozenset(),
    max_macs: int | None = None,
    weights: Mapping[str, float] | None = None,
) -> Iterator[SampledKernel]:
    """Yield samples until every cell of every family is exhausted; arguments as for :func:`sample_kernels`."""
    chosen = _select_families(families, weights)
    turns = _StrideScheduler(chosen, np.random.default_rng([seed, 0]))
    streams = {name: iter(_FamilySampler(name, seed, exclude, max_macs)) for name in chosen}
    while turns:
        name = turns.take()
        found = next(streams[name], None)
        if found is None:
            turns.drop(name)
        else:
            yield found


def sample_kernels(
    families: Sequence[str] | None = None,
    count: int = 1000,
    seed: int = 0,
    exclude: Collection[str] = frozenset(),
    max_macs: int | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[SampledKernel]:
    """Choose kernels to measure.

    Args:
        families: Families to sample; all that have priors if not given.
        count: Number of kernels; fewer are returned only if there are no new ones.
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
    source = stream_kernels(families, seed, exclude, max_macs, weights)
    return [kernel for _, kernel in zip(range(count), source, strict=False)]
