"""Random choices in the neighbourhood of real values: widths, image sizes, batches, lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["SizeSampler"]

SIDES = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24, 25, 26, 27, 28, 30, 32, 35, 36, 38, 40,
    44, 48, 52, 54, 55, 56, 60, 64, 72, 75, 76, 80, 88, 96, 104, 109, 110, 111, 112, 120, 128, 144, 147, 149, 150, 160,
    176, 192, 208, 224, 256, 288, 299, 320, 384, 448, 512,
)  # fmt: skip
"""Sizes of feature maps that occur in published networks at usual input sizes."""

_SNAP = 0.85
"""Share of widths snapped to a multiple in use; the rest are odd values, which runtimes treat worse."""


class SizeSampler:
    """Seeded choices around a real configuration.

    Args:
        rng: Source of randomness.
        spread: Standard deviation of the logarithm of a size; 0 keeps every size.
    """

    def __init__(self, rng: np.random.Generator, spread: float) -> None:
        self.rng = rng
        self.spread = spread

    def flip(self, probability: float) -> bool:
        """Toss a biased coin; always false with a spread of 0."""
        return self.spread > 0 and bool(self.rng.random() < probability)

    def factor(self, share: float = 1.0) -> float:
        """Draw a log-normal factor around 1; ``share`` scales the spread."""
        return float(np.exp(self.rng.normal(0.0, self.spread * share))) if self.spread else 1.0

    def width(self, real: int, factor: float | None = None, multiple: int = 1) -> int:
        """Draw channels, units or features near ``real``; sizes up to 4 (colours, two classes) stay.

        Args:
            real: The real value.
            factor: Factor to apply; drawn where not given.
            multiple: The result is a multiple of this.
        """
        if not self.spread or (real <= 4 and not self.flip(0.15)):
            return max(multiple, round(real / multiple) * multiple)
        wanted = real * (self.factor() if factor is None else factor)
        step = 1
        if self.rng.random() < _SNAP:
            steps = [s for s in (64, 32, 16, 8, 4, 2) if s * 3 <= max(wanted, 6)]
            exact = [s for s in steps if real % s == 0]
            pool = exact[:3] if exact and self.rng.random() < 0.75 else steps
            step = int(pool[int(self.rng.integers(len(pool)))])
        step = int(np.lcm(step, multiple)) if multiple > 1 else step
        return max(step, multiple, round(wanted / step) * step)

    def side(self, real: int, factor: float | None = None) -> int:
        """Draw the side of a feature map near ``real``, mostly one that real networks use."""
        if not self.spread or real == 1:
            return real
        wanted = max(1.0, real * (self.factor() if factor is None else factor))
        if self.rng.random() < 0.8:
            return min(SIDES, key=lambda s: abs(np.log(s / wanted))) if wanted <= SIDES[-1] else round(wanted / 16) * 16
        return max(1, round(wanted))

    def sides(self, real: Sequence[int], keep: float = 0.4) -> list[int]:
        """Scale the sides of a map by one common factor, so that square stays square; ``keep``: chance of no change."""
        if not self.spread or self.rng.random() < keep:
            return list(real)
        factor = self.factor()
        found = {size: self.side(size, factor) for size in sorted(set(real))}
        sides = [found[size] for size in real]
        if len(sides) > 1 and self.flip(0.06):  # maps are not always square
            sides[int(self.rng.integers(len(sides)))] = self.side(real[0])
        return sides

    def length(self, real: int, factor: float | None = None) -> int:
        """Draw a number of tokens, steps or rows near ``real``."""
        if not self.spread or real == 1:
            return real
        return max(1, round(real * (self.factor() if factor is None else factor)))

    def batch(self, real: int) -> int:
        """Draw a batch size: mostly ``real``, rarely a small power of two."""
        return int(self.rng.choice([1, 2, 2, 4, 8])) if self.flip(0.04) else real
