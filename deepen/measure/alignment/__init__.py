"""Alignment: put what a device reports onto a trace's clock."""

from __future__ import annotations
