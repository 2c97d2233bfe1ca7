"""Monsoon power monitors, low-voltage (LVPM, serial) and high-voltage (HVPM, USB): drivers, parsers, calibration."""

from __future__ import annotations
