"""States of a loop that get longer by the same amount every round, such as the cache of a decoder.

The work of a round depends on how long they are by then. Instead of one body for each round, the body is counted at one
length: the root mean square of all of them, which is exact for work that grows with the square of the length (attention
over all tokens so far, computed anew) and at most 16 % too much for work that grows with the length (``2 / sqrt(3)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, sqrt

__all__ = ["Growth", "find_growth"]

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """Shapes of one state.

    Attributes:
        first: Shape in the first round.
        step: What every round adds to each axis.
    """

    first: Dims
    step: Dims

    def compute_dims(self, rounds: int) -> Dims:
        """Compute the shape after this many rounds."""
        return tuple(size + by * rounds for size, by in zip(self.first, self.step, strict=True))

    def average_dims(self, rounds: int) -> Dims:
        """Compute the root mean square, over so many rounds, of the size of each axis; rounded up."""
        last = max(0, rounds - 1)  # rounds are 0, 1 ... last: means of k and of k**2
        mean, mean_square = last / 2, last * (2 * last + 1) / 6
        return tuple(
            ceil(sqrt(size * size + 2 * size * by * mean + by * by * mean_square) - 1e-9)
            for size, by in zip(self.first, self.step, strict=True)
        )


def find_growth(shapes: Iterable[tuple[str, Dims | None, Dims | None]]) -> Mapping[str, Growth]:
    """Find the states that a round makes longer.

    Args:
        shapes: Name, shape before the round and shape after it, of every state.

    Returns:
        Growth by name, of states whose rank is the same and none of whose axes gets shorter.
    """
    found = {}
    for name, before, after in shapes:
        if before is not None and after is not None and len(before) == len(after) and before != after:
            step = tuple(b - a for a, b in zip(before, after, strict=True))
            if min(step) >= 0:
                found[name] = Growth(before, step)
    return found
