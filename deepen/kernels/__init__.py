"""Kernels: what a model is made of on a runtime, what each costs, and how to sample and build them.

The modules ``build``, ``describe`` and ``features`` share their name with their main function. Importing the functions
here, eagerly, makes ``deepen.kernels.building.single_kernel_model`` the function whatever is imported first; numpy is the heaviest import.
"""

from __future__ import annotations

from deepen.kernels.building.single_kernel_model import build
from deepen.kernels.describe import describe, node_macs
from deepen.kernels.families.catalog import Family, load_families
from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION, features, matrix
from deepen.kernels.types import Kernel, Split, params_key

__all__ = [
    "FEATURES_VERSION",
    "FEATURE_NAMES",
    "Family",
    "Kernel",
    "Split",
    "build",
    "describe",
    "features",
    "load_families",
    "matrix",
    "node_macs",
    "params_key",
]
