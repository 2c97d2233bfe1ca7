"""Joulescope JS110, JS220 and JS320: driver, parser."""

from __future__ import annotations
