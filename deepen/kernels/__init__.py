"""Kernels: splitting a model into them, describing, sampling and building them, and computing their features.

Importing this package imports numpy, and nothing heavier.
"""

from __future__ import annotations

from deepen.kernels.building.single_kernel_model import build_kernel_model
from deepen.kernels.describe import count_node_macs, describe_kernel
from deepen.kernels.families.catalog import KernelFamily, load_families
from deepen.kernels.features import FEATURE_NAMES, FEATURES_VERSION, build_feature_matrix, compute_features
from deepen.kernels.types import Kernel, ModelSplit, hash_params

__all__ = [
    "FEATURES_VERSION",
    "FEATURE_NAMES",
    "Kernel",
    "KernelFamily",
    "ModelSplit",
    "build_feature_matrix",
    "build_kernel_model",
    "compute_features",
    "count_node_macs",
    "describe_kernel",
    "hash_params",
    "load_families",
]
