"""DeepEn2023's convolutions on a phone's GPU, as its authors published them beside a later paper.

::

    conv_energy_GPU.json   {"conv-bn-relu": {ID: {"energy": "mJ"}}}
    conv_GPU.json          {"conv-bn-relu": {ID: {"config": {"HW": ..., "CIN": ..., "COUT": ..., ...}}}}

Joined on the six-character ids. No latency and no power was published, and the phone is not named. Energies are gross
and written to 0.001 mJ.
"""

from __future__ import annotations

from pathlib import Path

from deepen.datasets.importers.base import Imported, Origin, need
from deepen.datasets.importers.deepen2023 import join, kernel_configurations, kernel_values

__all__ = ["read"]

HOLDS = "conv_energy_GPU.json and conv_GPU.json"

ORIGIN = Origin(
    device="deepen2023-phone-gpu",
    meter="monsoon",
    runtime="tflite-gpu",
    runtime_build="tflite gpu delegate",
    gross=True,
)


def read(folder: Path) -> Imported:
    """Read the folder.

    Raises:
        DatasetError: If it is not of this layout, or a file is damaged.
    """
    energies = need(folder, "conv_energy_GPU.json", "deepen2023-gpu", HOLDS)
    configurations = need(folder, "conv_GPU.json", "deepen2023-gpu", HOLDS)
    return join(
        "conv-bn-relu",
        kernel_values(energies, "energy"),
        {},
        {},
        kernel_configurations(configurations),
        ORIGIN,
        "conv_GPU.json",
    )
