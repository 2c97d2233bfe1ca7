"""Energy: from power traces to joules with their uncertainty."""

from __future__ import annotations
