"""Doctor: what works on this machine and on each device, what is missing, and the cure."""

from __future__ import annotations
