"""Settings: governors, frequencies and the like: what a device offers, how they are applied and restored."""

from __future__ import annotations
