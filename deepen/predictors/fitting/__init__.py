"""Fitting: everything that learns from records, by training or by calibrating. Needs scikit-learn and scipy."""

from __future__ import annotations
