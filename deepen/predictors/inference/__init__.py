"""Inference: everything a trained predictor needs to predict. Numpy only."""

from __future__ import annotations
