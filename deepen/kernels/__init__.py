"""Kernels: what a model is made of on a runtime, what each costs, and how to sample and build them.

The modules ``build_kernel_model``, ``describe_kernel`` and ``compute_features`` share their name with their main
function. Importing the functions here, eagerly, makes ``deepen.kernels.building.single_kernel_model`` the function
whatever is imported first; numpy is the heaviest import.
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
