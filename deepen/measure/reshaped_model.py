"""A model file for a runtime that is to run it with other input sizes than the static ones it declares."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from deepen.devices.model_files import find_external_data
from deepen.errors import ConfigError
from deepen.storage.atomic import make_storage_error
from deepen.storage.temporary_folders import TemporaryFolder

__all__ = ["open_reshaped_model"]


@contextmanager
def open_reshaped_model(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Path]:
    """Yield a model that declares these shapes: the file itself, or a copy where a static size is to be another.

    The copy has the file's name; it is removed at the end.

    Args:
        path: The model.
        shapes: Shape by name of an input.

    Raises:
        GraphError: If the model cannot be read.
        ConfigError: If one of its data files is missing.
        StorageError: If the copy cannot be written.
    """
    from deepen.graph.declared_inputs import read_declared_shapes, write_model_with_shapes

    declared = read_declared_shapes(path) if shapes and path.suffix.lower() == ".onnx" else {}
    replaced = {}
    for name, shape in shapes.items():
        have = declared.get(name)
        if have is not None and any(isinstance(old, int) and old != new for old, new in zip(have, shape, strict=False)):
            replaced[name] = shape
    if not replaced:
        yield path
        return
    with closing(TemporaryFolder("deepen-shapes-")) as folder:
        copy = folder.path / path.name
        try:
            write_model_with_shapes(path, replaced, copy)
            for place, file in find_external_data(path).items():
                if not file.is_file():
                    raise ConfigError(
                        f"{path.name}: its data file {place!r} is missing", cure="put it beside the model"
                    )
                target = folder.path / place
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    target.hardlink_to(file)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(file, target)
        except OSError as error:
            raise make_storage_error("write", copy, error) from error
        yield copy
