"""PowerSensor3: driver, configuration, parser."""

from __future__ import annotations
