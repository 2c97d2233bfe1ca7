"""C runner: the program that runs models on a device without Python, how it is built and used."""

from __future__ import annotations
