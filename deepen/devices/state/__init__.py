"""State of a device: its clocks, temperatures and identity."""

from __future__ import annotations
