"""Conditions: the state of device, runtime and thermals under which a measurement is made."""

from __future__ import annotations
