"""Domain of an optimiser: the networks of a table, with the moves of its search space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepen.errors import ConfigError
from deepen.spaces import SearchSpace
from deepen.spaces.space import draw_random_genome

__all__ = ["SearchDomain"]

_MOVES = 50
_NEAREST = 8


class SearchDomain:
    """Architectures that can be evaluated, and moves among them.

    Attributes:
        archs: The architectures; empty if every one of the space can be evaluated.
        levels: Choices at each position of a genome.
        objectives: Number of objectives.
        budgets: Epochs of training to choose from, ascending; empty if there is no choice.
    """

    def __init__(
        self,
        space: SearchSpace | None,
        archs: Sequence[str] = (),
        *,
        objectives: int = 2,
        budgets: Sequence[float] = (),
    ) -> None:
        """Describe a domain.

        Args:
            space: Search space; without one, architectures have no neighbours, and moves are random.
            archs: Architectures that can be evaluated; default: all of the space.
            objectives: Number of objectives.
            budgets: Epochs of training to choose from.

        Raises:
            ConfigError: If there is neither a space nor an architecture.
        """
        if space is None and not archs:
            raise ConfigError("a search needs a space or a table with networks")
        self.space = space
        self.archs = tuple(archs)
        self.objectives = objectives
        self.budgets = tuple(sorted(budgets))
        self._index = {arch: i for i, arch in enumerate(self.archs)}
        if space is None:
            self.levels: tuple[int, ...] = (len(self.archs),)
        else:
            self.levels = space.levels
        self._keys: dict[str, str] = {}
        if space is not None and self.archs:
            self._keys = {space.key(a): a for a in self.archs}
        self._codes: NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self.archs)

    def codes(self, arch: str) -> tuple[int, ...]:
        """Genome of an architecture."""
        return (self._index[arch],) if self.space is None else self.space.encode(arch)

    @property
    def all_codes(self) -> NDArray[np.int16]:
        """Genomes of all architectures, shape (n, positions)."""
        if self._codes is None:
            self._codes = np.array([self.codes(a) for a in self.archs], dtype=np.int16).reshape(-1, len(self.levels))
        return self._codes

    def _known(self, arch: str | None) -> str | None:
        """Return the form in which the table has an architecture; ``None`` if it lacks it."""
        if arch is None or not self.archs:
            return arch
        if arch in self._index:
            return arch
        return self._keys.get(self.space.key(arch)) if self.space is not None else None

    def sample(self, rng: np.random.Generator) -> str:
        """Draw a random architecture."""
        if self.archs:
            return self.archs[int(rng.integers(len(self.archs)))]
        assert self.space is not None  # checked on construction
        for _ in range(100_000):
            found = self.space.decode(draw_random_genome(self.levels, rng))
            if found is not None:
                return found
        raise ConfigError(f"no random genome of {self.space.name} stands for a network; list its members")

    def decode(self, codes: Sequence[int], rng: np.random.Generator) -> str:
        """Decode a genome to its architecture, or to that of the nearest genome (fewest positions changed)."""
        if self.space is None:
            return self.archs[int(codes[0]) % len(self.archs)]
        found = self._known(self.space.decode(codes))
        if found is not None:
            return found
        if not self.archs:
            return self.sample(rng)
        distance = (self.all_codes != np.asarray(codes)).sum(axis=1)
        nearest = np.flatnonzero(distance == distance.min())
        return self.archs[int(rng.choice(nearest))]

    def mutate(self, arch: str, rng: np.random.Generator) -> str:
        """Mutate an architecture within the domain; the result is another one if there are several."""
        if self.space is None:
            return self.sample(rng)
        for _ in range(_MOVES):
            found = self._known(self.space.mutate(arch, rng)) if len(self.archs) != 1 else arch
            if found is not None:
                return found
        # A sparse table: one of the nearest others.
        distance = (self.all_codes != np.asarray(self.codes(arch))).sum(axis=1)
        distance[self._index[arch]] = len(self.levels) + 1
        nearest = np.argsort(distance + rng.random(len(distance)))[:_NEAREST]
        return self.archs[int(rng.choice(nearest))]

    def cross(self, a: str, b: str, rng: np.random.Generator) -> str:
        """Take each position of a genome from one of two architectures at random (uniform crossover)."""
        if self.space is None:
            return a
        mask = rng.random(len(self.levels)) < 0.5
        return self.decode(np.where(mask, self.codes(a), self.codes(b)).tolist(), rng)

    def fresh(self, draw: str, seen: set[str], rng: np.random.Generator) -> str | None:
        """Return the architecture if it is not in ``seen``, else a near or a random one; ``None`` if all are."""
        if draw not in seen:
            return draw
        if self.archs and len(seen) >= len(self.archs):
            return None
        for _ in range(_MOVES):
            draw = self.mutate(draw, rng)
            if draw not in seen:
                return draw
        if self.archs:
            left = [a for a in self.archs if a not in seen]
            return left[int(rng.integers(len(left)))] if left else None
        return next((d for d in (self.sample(rng) for _ in range(1000)) if d not in seen), None)
