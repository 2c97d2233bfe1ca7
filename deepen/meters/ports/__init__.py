"""Ports: serial lines, USB and VISA, how they are found, locked and guarded."""

from __future__ import annotations
