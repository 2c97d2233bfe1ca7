"""Nordic Power Profiler Kit II: driver, parser, calibration."""

from __future__ import annotations
