"""Splitting: the kernels a graph runs as, asked of the runtime or decided by fusion rules."""

from __future__ import annotations
