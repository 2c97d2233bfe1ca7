"""The card: what a dataset is, summed up from its records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from deepen import __version__
from deepen.datasets.database import DATASET_SCHEMA
from deepen.records import EnergyRecord, RecordLabel, find_weakest_source

__all__ = ["DatasetCard", "hash_record_set", "make_card"]

FORMAT = "deepen-dataset"


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """Summary of a dataset: its records by kind, family and source, and the conditions they were measured under.

    Attributes:
        created: When the file was made, UTC.
        records: Number of records.
        kernels: Kernel records.
        models: Model records.
        families: Kernel records per family.
        source: Weakest label of all records; empty while there is none.
        sources: Records per label.
        devices: Device profiles measured on.
        meters: Power sources.
        runtimes: Runtimes.
        runtime_builds: Runtime versions with level and provider.
        threads: Thread counts.
        features_version: Version of the kernels' features; 0 while there is none.
        first_recorded_at: Oldest record, UTC; empty while there is none.
        last_recorded_at: Newest record, UTC; empty while there is none.
        content_sha256: Hash of the records, whatever their order.
        deepen: Version of deepen that summed it up.
        schema: :data:`deepen.datasets.database.DATASET_SCHEMA`.
    """

    created: str
    records: int = 0
    kernels: int = 0
    models: int = 0
    families: Mapping[str, int] = field(default_factory=dict)
    source: RecordLabel | str = ""
    sources: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    runtime_builds: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    features_version: int = 0
    first_recorded_at: str = ""
    last_recorded_at: str = ""
    content_sha256: str = ""
    deepen: str = __version__
    schema: int = DATASET_SCHEMA

    @property
    def device(self) -> str:
        """Device, or all of them joined by commas."""
        return ", ".join(self.devices)

    @property
    def meter(self) -> str:
        """Power source, or all of them joined by commas."""
        return ", ".join(self.meters)

    @property
    def runtime_build(self) -> str:
        """Runtime build, or all of them joined by commas."""
        return ", ".join(self.runtime_builds)

    def document(self) -> dict[str, Any]:
        """JSON document of the card."""
        return {"format": FORMAT, **asdict(self)}


def hash_record_set(digests: Iterable[bytes]) -> str:
    """Hash of a set of records, from each one's SHA-256, whatever their order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def make_card(created: str, records: Sequence[EnergyRecord], content_sha256: str) -> DatasetCard:
    """Sum up records.

    Args:
        created: When the file was made.
        records: All records.
        content_sha256: Their :func:`hash_record_set`.
    """
    if not records:
        return DatasetCard(created=created, content_sha256=content_sha256)
    families = Counter(r.family for r in records if r.kind == "kernel")
    sources = Counter(r.source for r in records)
    times = [r.recorded_at for r in records]
    return DatasetCard(
        created=created,
        records=len(records),
        kernels=families.total(),
        models=len(records) - families.total(),
        families=dict(sorted(families.items())),
        source=find_weakest_source(list(sources)),
        sources=dict(sorted(sources.items())),
        devices=tuple(sorted({r.device for r in records})),
        meters=tuple(sorted({r.meter for r in records})),
        runtimes=tuple(sorted({r.runtime for r in records})),
        runtime_builds=tuple(sorted({r.runtime_build for r in records})),
        threads=tuple(sorted({r.threads for r in records})),
        features_version=max(r.features_version for r in records),
        first_recorded_at=min(times),
        last_recorded_at=max(times),
        content_sha256=content_sha256,
    )
