"""The root command. Commands are loaded when they are called, so that ``deepen -h`` imports none of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import click

from deepen import __version__
from deepen.cli.output import ErrorMapper
from deepen.registry import Registry

__all__ = ["COMMANDS", "LazyGroup", "cli", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "quickstart": ("deepen.cli.quickstart", "Measure kernels here, train, predict unseen models, and compare."),
    "doctor": ("deepen.cli.doctor", "Report what this machine can measure, and what is missing."),
    "predict": ("deepen.cli.predict", "Predict the energy of model files."),
    "profile": ("deepen.cli.profile", "Measure the energy of a model file on a device."),
    "device": ("deepen.cli.device", "List, probe and prepare devices."),
    "meter": ("deepen.cli.meter", "List, record and check power sources."),
    "trace": ("deepen.cli.trace", "Show, integrate and convert stored power traces."),
    "kernel": ("deepen.cli.kernel", "List kernel families, split models, sample configurations."),
    "dataset": ("deepen.cli.dataset", "Build, check, summarise and export kernel datasets."),
    "predictor": ("deepen.cli.predictor", "List, train, calibrate and evaluate predictors."),
    "score": ("deepen.cli.score", "Score devices from measurements of applications."),
    "lifecycle": ("deepen.cli.lifecycle", "Rank models by the energy of training and use together."),
    "table": ("deepen.cli.table", "Tables of networks with their energy: build, import, query, search."),
    "bench": ("deepen.cli.bench", "Measure without hardware, on a bench with known true energy."),
}
"""Command name -> (module that exports ``command``, one line of help)."""


class LazyGroup(ErrorMapper):
    """A group whose commands live in modules that are imported on first use.

    Args:
        table: Command name -> (module, one line of help).
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = dict(table or {})
        self.registry = Registry[click.Command]("command", {k: f"{m}:command" for k, (m, _) in self.table.items()})
        # Placeholders: click looks here for the nearest names when a command is unknown.
        self.commands = {name: click.Command(name, short_help=text) for name, (_, text) in self.table.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return its click object.

        Raises:
            ConfigError: If the module or one of its dependencies is not installed.
        """
        if cmd_name not in self.table:
            return None
        return self.registry.load(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the listing from the table, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.table.items()])


def _log_to_stderr(verbosity: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("deepen")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


@click.command(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="deepen")
@click.option("-v", "--verbose", count=True, help="Log to stderr; twice for detail.")
def cli(verbose: int) -> None:
    """Measure or predict how much energy a neural network costs on a phone or an edge board.

    \b
    Example:
      deepen quickstart
      deepen predict model.onnx --predictor deepen-quickstart/quickstart.deepen

    Exit status: 0 done, 1 an error named in one line, 2 wrong usage, 3 a failure of the surroundings worth
    retrying, 130 interrupted.
    """
    _log_to_stderr(verbose)


def main() -> None:
    """Run the command line; the console script ``deepen``."""
    cli(prog_name="deepen")
