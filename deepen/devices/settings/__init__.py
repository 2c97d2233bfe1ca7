"""Settings of a device (governors, frequencies and so on): their catalogue, and how they are applied and restored."""

from __future__ import annotations
