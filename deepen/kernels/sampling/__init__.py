"""Sampling: kernel configurations to measure, drawn around the configurations of real networks."""

from __future__ import annotations
