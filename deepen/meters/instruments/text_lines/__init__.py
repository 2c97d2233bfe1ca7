"""Instruments that print readings as lines of text: driver, line format, parser."""

from __future__ import annotations
