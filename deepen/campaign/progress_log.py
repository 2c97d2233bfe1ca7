"""Files of a campaign beside the records: the identities of its stations, and a log of failures and messages.

``stations.json`` lets a resumed campaign wait for a device that is gone just then, and refuse another one in its
place. ``campaign.jsonl`` has a line for each failure and each message of a device; nothing is read back from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from deepen.campaign.run import CampaignProgress
from deepen.campaign.station import Station, StationIdentity
from deepen.clock.host_clock import utc_now
from deepen.errors import DatasetError
from deepen.storage.atomic import make_storage_error, write_file_atomically

__all__ = ["load_stations", "log_progress", "save_stations"]


def load_stations(folder: Path) -> dict[str, StationIdentity]:
    """Load the identities of the stations of earlier runs, by station name.

    Raises:
        DatasetError: If the file is damaged.
    """
    path = folder / "stations.json"
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): StationIdentity.read(facts) for name, facts in document["stations"].items()}
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: damaged ({error}); delete it, measured records are kept") from error


def save_stations(folder: Path, stations: Iterable[Station]) -> None:
    """Save the identities of the stations, beside those of earlier runs.

    Raises:
        StorageError: If the disk refuses.
    """
    known = load_stations(folder) | {s.name: s.facts for s in stations if s.facts}
    document = {"format": "deepen-stations", "stations": {name: facts.document() for name, facts in known.items()}}
    write_file_atomically(folder / "stations.json", (json.dumps(document, indent=2) + "\n").encode())


def log_progress(folder: Path, state: CampaignProgress) -> None:
    """Add a line if a task failed or a device has a message.

    Raises:
        StorageError: If the disk refuses.
    """
    text = state.error or state.notice
    if not text:
        return
    line = {"at": utc_now(), "device": state.device, "task": state.last, "text": text}
    path = folder / "campaign.jsonl"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise make_storage_error("write", path, error) from error
