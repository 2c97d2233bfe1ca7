"""STMicroelectronics X-NUCLEO-LPM01A: driver, parser, timestamps."""

from __future__ import annotations
