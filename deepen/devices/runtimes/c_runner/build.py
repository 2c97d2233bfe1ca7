"""Builds of the C runner (``devices/runner/c``), made once and cached below ``~/.cache/deepen``.

A build is identified by its target and a hash of the sources and the build script, and is stored atomically.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deepen import catalog
from deepen.errors import ConfigError, StorageError

__all__ = ["TARGETS", "build_runner", "find_built_runner", "get_cache_folder"]

TARGETS = ("native", "sanitize", "aarch64", "x86_64", "android")
"""Targets of ``devices/runner/c/build.sh``."""

_CURES = {
    "native": "install a C compiler (apt-get install gcc) or set CC",
    "sanitize": "install gcc and its sanitizers (apt-get install gcc)",
    "aarch64": "install the cross-compiler: pip install ziglang",
    "x86_64": "install the cross-compiler: pip install ziglang",
    "android": "set ANDROID_NDK_HOME to the folder of an Android NDK",
}
_BUILD_S = 600.0


def get_cache_folder() -> Path:
    """Return the folder of builds: ``$DEEPEN_CACHE``, else ``$XDG_CACHE_HOME/deepen``, else ``~/.cache/deepen``."""
    chosen = os.environ.get("DEEPEN_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepen"


def _runner_path(target: str) -> Path:
    if target not in TARGETS:
        raise ConfigError(f"the C runner has no target '{target}'", cure=f"known: {', '.join(TARGETS)}")
    sources = catalog.find_path("devices", "runner", "c")
    total = hashlib.sha256()
    for file in sorted(p for p in sources.iterdir() if p.suffix in (".c", ".h", ".sh")):
        total.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return get_cache_folder() / f"runner-{total.hexdigest()[:12]}" / target / "deepen-runner"


def find_built_runner(target: str) -> Path | None:
    """Return the build for a target; ``None`` if it has not been made.

    Raises:
        ConfigError: If there is no such target.
    """
    place = _runner_path(target)
    return place if place.is_file() else None


def _build_environment(target: str) -> dict[str, str]:
    """Return the environment of the build script, which names the compiler.

    Raises:
        ConfigError: If there is no compiler.
    """
    environment = dict(os.environ)
    if target in ("native", "sanitize"):
        compiler = environment.get("CC") or "cc"
        if shutil.which(compiler) is None:
            raise ConfigError(f"the C runner cannot be built: no program {compiler}", cure=_CURES[target])
    elif target == "android":
        if not environment.get("ANDROID_NDK_HOME"):
            raise ConfigError(f"the C runner cannot be built for Android: {_CURES[target]}")
    elif not environment.get("ZIG"):
        found = importlib.util.find_spec("ziglang")
        if found is None or found.origin is None:
            raise ConfigError(f"the C runner cannot be built for {target}: {_CURES[target]}")
        environment["ZIG"] = str(Path(found.origin).with_name("zig"))
    return environment


def build_runner(target: str = "native") -> Path:
    """Build the runner for a target unless it has been built.

    Returns:
        The program.

    Raises:
        ConfigError: If there is no such target, no compiler for it, or the compiler refuses.
        StorageError: If the build cannot be kept.
    """
    place = _runner_path(target)
    if place.is_file():
        return place
    environment = _build_environment(target)
    script = catalog.find_path("devices", "runner", "c", "build.sh")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            made = Path(folder) / place.name
            done = subprocess.run(
                ["/bin/sh", str(script), target, str(made)],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_BUILD_S,
                check=False,
            )
            if done.returncode != 0 or not made.is_file():
                words = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
                first = next((line for line in words if "error" in line), words[-1])
                raise ConfigError(f"the C runner cannot be built for {target}: {first.strip()}", cure=_CURES[target])
            made.chmod(0o755)
            made.replace(place)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"building the C runner for {target} took more than {_BUILD_S:.0f} s", cure="try again"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot keep the C runner in {place.parent}: {error.strerror}", cure="set DEEPEN_CACHE"
        ) from error
    return place
