"""Kernels of the networks of search spaces, without building and splitting each network."""

from __future__ import annotations
