"""Importer of DeepEn2023's convolutions on a phone's GPU, published with a later paper of its authors.

::

    conv_energy_GPU.json   {"conv-bn-relu": {ID: {"energy": "mJ"}}}
    conv_GPU.json          {"conv-bn-relu": {ID: {"config": {"HW": ..., "CIN": ..., "COUT": ..., ...}}}}

Files are joined on the six-character ids. Neither latencies nor powers were published, and the phone is not named.
Energies are gross and rounded to 0.001 mJ.
"""

from __future__ import annotations

from pathlib import Path

from deepen.datasets.importers.base import ImportResult, SourceMetadata, require_path
from deepen.datasets.importers.deepen2023 import join_measurements, read_kernel_configurations, read_kernel_values

__all__ = ["read"]

HOLDS = "conv_energy_GPU.json and conv_GPU.json"

ORIGIN = SourceMetadata(
    device="deepen2023-phone-gpu",
    meter="monsoon",
    runtime="tflite-gpu",
    runtime_build="tflite gpu delegate",
    gross=True,
)


def read(folder: Path) -> ImportResult:
    """Read the folder.

    Raises:
        DatasetError: If it is not of this layout, or a file is damaged.
    """
    energies = require_path(folder, "conv_energy_GPU.json", "deepen2023-gpu", HOLDS)
    configurations = require_path(folder, "conv_GPU.json", "deepen2023-gpu", HOLDS)
    return join_measurements(
        "conv-bn-relu",
        read_kernel_values(energies, "energy"),
        {},
        {},
        read_kernel_configurations(configurations),
        ORIGIN,
        "conv_GPU.json",
    )
