"""Plan of a campaign: kernels by configuration and models by file, in the order they are measured."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepen.clock.host_clock import utc_now
from deepen.errors import ConfigError, DatasetError
from deepen.kernels.types import hash_params
from deepen.storage.atomic import write_file_atomically

if TYPE_CHECKING:
    import onnx

__all__ = ["PLAN_SCHEMA", "CampaignPlan", "GeneratedModelItem", "Item", "KernelItem", "ModelItem"]

PLAN_SCHEMA = 1
"""Version of the plan file; a reader refuses a newer one."""

BLOCK = 48
"""Items are shuffled inside blocks of this many, so that any prefix of a plan keeps the mixture of its source."""


@dataclass(frozen=True, slots=True)
class KernelItem:
    """A kernel to measure.

    Attributes:
        family: Its family.
        params: Its parameters in canonical form, as the sampler and the splitter give them.
    """

    family: str
    params: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its name or hash in a dataset."""
        return hash_params(self.family, self.params)

    @property
    def name(self) -> str:
        """Family and the parameters that differ from its defaults, readable."""
        from deepen.kernels.families.catalog import load_families

        known = load_families().get(self.family)
        defaults = {name: param.default for name, param in known.schema.items()} if known else {}
        told = (
            f"{n}={_format_parameter(v)}" for n, v in self.params.items() if v != defaults.get(n) and v != "float32"
        )
        return " ".join([self.family, *told])


@dataclass(frozen=True, slots=True)
class ModelItem:
    """A model file to measure.

    Attributes:
        path: The file.
        label: Its name in a dataset; the file's stem where not given.
        shapes: Shapes of symbolic inputs, by input name.
    """

    path: Path
    label: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name or hash in a dataset."""
        return self.name

    @property
    def name(self) -> str:
        """Its label or the file's stem."""
        return self.label or self.path.stem


@dataclass(frozen=True, slots=True)
class GeneratedModelItem:
    """A model made when its turn comes, so that a plan of many large ones needs no disk. Cannot be stored in a file.

    Attributes:
        name: Its name in a dataset.
        make: Makes the model; called in the campaign, at most once per attempt.
    """

    name: str
    make: Callable[[], onnx.ModelProto]

    @property
    def key(self) -> str:
        """Its name or hash in a dataset."""
        return self.name


Item = KernelItem | ModelItem | GeneratedModelItem
"""Something a campaign measures."""


def _format_parameter(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(_format_parameter(part) for part in value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """Items in the order they are measured.

    Attributes:
        items: The items.
        spec: Arguments the plan was made from, as JSON values: a resumed campaign with the same one continues the plan.
        created: Time it was made, UTC.
    """

    items: tuple[Item, ...]
    spec: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=utc_now)

    @classmethod
    def make(cls, items: Iterable[Item], seed: int = 0, spec: Mapping[str, Any] | None = None) -> CampaignPlan:
        """Put items in random order, so that drift does not pass for an effect of size or family.

        Args:
            items: The items; repeats are dropped.
            seed: Seed of the order. Items move inside blocks of :data:`BLOCK`, so a budget may cut the plan anywhere.
            spec: Arguments the items were made from.
        """
        distinct = list({(isinstance(item, KernelItem), item.key): item for item in items}.values())
        rng = random.Random(seed)
        ordered: list[Item] = []
        for start in range(0, len(distinct), BLOCK):
            block = distinct[start : start + BLOCK]
            rng.shuffle(block)
            ordered += block
        return cls(tuple(ordered), dict(spec or {}))

    def save(self, path: Path) -> None:
        """Write the plan, in one step.

        Raises:
            ConfigError: If it holds a :class:`GeneratedModelItem`.
            StorageError: If the disk refuses.
        """
        lines = [json.dumps(_encode_item(item)) for item in self.items]
        head = json.dumps({"format": "deepen-plan", "schema": PLAN_SCHEMA, "created": self.created, "spec": self.spec})
        body = ",\n".join(lines)
        write_file_atomically(path, f'{head[:-1]}, "items": [\n{body}\n]}}\n'.encode())

    @classmethod
    def load(cls, path: Path) -> CampaignPlan:
        """Read a plan.

        Raises:
            DatasetError: If it is absent, damaged, or written by a newer deepen.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != "deepen-plan":
                raise ValueError("not a plan")
            if document["schema"] > PLAN_SCHEMA:
                raise DatasetError(
                    f"{path}: plan schema {document['schema']} is newer than {PLAN_SCHEMA}; upgrade deepen"
                )
            items = tuple(_decode_item(entry) for entry in document["items"])
            return cls(items, document["spec"], document["created"])
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{path}: damaged ({error}); delete it to plan anew, measured records are kept"
            ) from error


def _encode_item(item: Item) -> dict[str, Any]:
    if isinstance(item, KernelItem):
        return {"family": item.family, "params": dict(item.params)}
    if isinstance(item, ModelItem):
        return {"path": str(item.path), "name": item.name, "shapes": {k: list(v) for k, v in item.shapes.items()}}
    raise ConfigError(f"'{item.name}' is made on the fly and cannot be stored in a plan; write it to a file first")


def _decode_item(entry: Mapping[str, Any]) -> Item:
    if "family" in entry:
        return KernelItem(str(entry["family"]), dict(entry["params"]))
    shapes = {str(k): tuple(int(d) for d in v) for k, v in entry["shapes"].items()}
    return ModelItem(Path(entry["path"]), str(entry["name"]), shapes)
