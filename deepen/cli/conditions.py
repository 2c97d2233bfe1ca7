"""Options of the commands that measure: accelerator, clock of the meter, and settings of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from deepen.errors import ConfigError

__all__ = ["conditions_options", "delegate_option", "inputs_option", "parse_settings", "sync_option"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def delegate_option(command: _Command) -> _Command:
    """Add ``--delegate``."""
    return click.option(
        "--delegate",
        default="",
        metavar="NAME",
        help="Accelerator of the engine: gpu, nnapi, hexagon, xnnpack, cuda, tensorrt, dla [the CPU].",
    )(command)


def inputs_option(command: _Command) -> _Command:
    """Add ``--input``."""
    return click.option(
        "--input",
        "given",
        multiple=True,
        metavar="NAME=VALUE|FILE.npy",
        help="Values of an input: a number for all elements, true or false, or an array of numpy.save; repeatable.",
    )(command)


def sync_option(command: _Command) -> _Command:
    """Add ``--sync``."""
    return click.option(
        "--sync",
        type=click.Choice(["auto", "pulses", "none"]),
        default="auto",
        show_default=True,
        help="Put an external meter on the host's clock by a load pattern before and after the runs.",
    )(command)


def conditions_options(command: _Command) -> _Command:
    """Add ``--no-prepare`` and ``--set``."""
    command = click.option(
        "--set",
        "wanted",
        multiple=True,
        metavar="NAME=VALUE",
        help="Set this on the device during the measurement (see 'device prepare -h'); repeatable.",
    )(command)
    return click.option(
        "--prepare/--no-prepare",
        default=True,
        show_default=True,
        help="Apply the settings of the device's profile during the measurement, and wait until it is cool.",
    )(command)


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``NAME=VALUE`` texts.

    Raises:
        ConfigError: If one is not of that form, or a setting or value does not exist.
    """
    from deepen.devices.settings.catalogue import check_settings

    found = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise ConfigError(f"--set takes NAME=VALUE, not '{text}'")
        found[name] = value
    check_settings(found)
    return found
