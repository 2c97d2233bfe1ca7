"""Importers by name, and import of a source into a new dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from deepen.datasets.database import locate_database
from deepen.datasets.importers.base import ImportResult
from deepen.datasets.store import Dataset
from deepen.errors import ConfigError, DatasetError, make_unknown_name_error
from deepen.registry import import_target

__all__ = ["IMPORTERS", "Importer", "get_importer", "import_dataset"]


@dataclass(frozen=True, slots=True)
class Importer:
    """One source.

    Attributes:
        name: Its name on the command line.
        about: Description of the source, in one line.
        module: Module below :mod:`deepen.datasets.importers` with ``read(folder) -> ImportResult``.
        accepts_configurations: Whether ``read`` also takes further files of configurations.
    """

    name: str
    about: str
    module: str
    accepts_configurations: bool = False

    def read(self, folder: Path, configurations: Sequence[Path] = ()) -> ImportResult:
        """Read a folder (or file) of the source.

        Args:
            folder: Folder or file of the source.
            configurations: Further files of configurations, if the importer takes them.

        Raises:
            ConfigError: If it takes no further files.
            DatasetError: If a file is missing, damaged, or not in the layout of the source.
        """
        if not folder.exists():
            raise DatasetError(f"{folder}: no such folder; give the one that holds the data of {self.name}")
        if configurations and not self.accepts_configurations:
            able = ", ".join(name for name, other in IMPORTERS.items() if other.accepts_configurations)
            raise ConfigError(f"importer '{self.name}' takes no further configurations, only {able} does")
        read = import_target(f"deepen.datasets.importers.{self.module}:read")
        with _translate_read_errors(folder):
            return cast(ImportResult, read(folder, configurations) if configurations else read(folder))


@contextmanager
def _translate_read_errors(folder: Path) -> Iterator[None]:
    """Translate exceptions of reading files."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise DatasetError(
            f"{where}: cannot be read ({error.strerror}); check that it is there and readable"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{folder}: holds a file that is not UTF-8 text ({error.reason}); fetch it again") from error


IMPORTERS: dict[str, Importer] = {
    item.name: item
    for item in (
        Importer(
            "deepen2023",
            "DeepEn2023 kernels of a phone's CPU (JSON: Kernel_energy/, kernel_config/)",
            "deepen2023",
            accepts_configurations=True,
        ),
        Importer(
            "pi5-nasbench201", "NAS-Bench-201 networks on a Raspberry Pi 5 (measurements.parquet)", "pi5_nasbench201"
        ),
        Importer("layers-and-nets", "layers and networks on a server CPU (layers_*.csv, *-raw.csv)", "layers_and_nets"),
        Importer("mlperf-tiny", "MLPerf Tiny energy results (.../TASK/energy/results.txt)", "mlperf_tiny"),
        Importer("ec-nas", "training energies of EC-NAS (train_results_4V.tar.gz)", "ec_nas"),
        Importer("nn-meter", "model latencies of nn-Meter, without energies (model_latency/)", "nn_meter"),
        Importer("csv", "kernels in a CSV file: family, parameters, energy_UNIT, latency_UNIT", "table_csv"),
        Importer("deepen2023-gpu", "DeepEn2023 convolutions on a phone's GPU (conv_energy_GPU.json)", "deepen2023_gpu"),
    )
}
"""Importer by name."""


def get_importer(name: str) -> Importer:
    """Look an importer up.

    Raises:
        ConfigError: If there is none of that name (with the nearest names).
    """
    if name not in IMPORTERS:
        raise make_unknown_name_error("importer", name, IMPORTERS)
    return IMPORTERS[name]


def _select_records(found: ImportResult, field: str, wanted: str | None) -> ImportResult:
    """Keep the records of one runtime or device.

    Raises:
        ConfigError: If the source has none of that name (with the nearest names).
    """
    names = {str(getattr(record, field)) for record in found.records}
    if wanted is None or not names:
        return found
    if wanted not in names:
        raise make_unknown_name_error(f"{field} of this source", wanted, names)
    kept = tuple(record for record in found.records if getattr(record, field) == wanted)
    left = len(found.records) - len(kept)
    note = f"{left} records of other {field}s were left out: asked for {wanted} only"
    return replace(found, records=kept, notes=(*found.notes, note) if left else found.notes)


def import_dataset(
    name: str,
    folder: str | Path,
    out: str | Path,
    *,
    runtime: str | None = None,
    device: str | None = None,
    configurations: Sequence[str | Path] = (),
) -> ImportResult:
    """Import measurements of others into a new dataset.

    Args:
        name: Name of the importer.
        folder: Folder or file of the source.
        out: The dataset; must not be there yet, because an import is all of a source or nothing.
        runtime: Take only the records of this runtime.
        device: Take only the records of this device.
        configurations: Further files of configurations, for rows whose configuration the folder lacks.

    Returns:
        Records imported, with the rows repaired and rejected.

    Raises:
        ConfigError: If there is no such importer, or it takes no further files.
        DatasetError: If the folder is not in the layout of the source, has no usable rows, or ``out`` is taken.
        StorageError: If the dataset cannot be written.
    """
    chosen = get_importer(name)
    target = Path(out)
    if locate_database(target).exists():
        raise DatasetError(f"{target}: there is a dataset already; choose another --out, or remove it")
    found = chosen.read(Path(folder), [Path(path) for path in configurations])
    found = _select_records(_select_records(found, "runtime", runtime), "device", device)
    if not found.records:
        why = f"; first reason: {found.rejected[0].reason}" if found.rejected else ""
        raise DatasetError(f"{folder}: {name} found nothing to import, {len(found.rejected)} rows rejected{why}")
    with Dataset.open(target, create=True) as dataset:
        dataset.extend(found.records)
    return found
