"""The C runner, a program that runs models on a device without Python: its builds and its use as a runtime."""

from __future__ import annotations
