"""State: clocks, temperatures and identity of a device, as they are read."""

from __future__ import annotations
