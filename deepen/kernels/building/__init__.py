"""Building: model files of single kernels and of random networks."""

from __future__ import annotations
