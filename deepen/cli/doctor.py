"""``deepen doctor``."""

from __future__ import annotations

from dataclasses import asdict

import click

from deepen.cli.output import emit_result, json_option
from deepen.errors import EnvironmentFailure

__all__ = ["command"]

_SIGN = {"ok": "ok  ", "note": "note", "fail": "FAIL"}


@click.command(name="doctor")
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Report what this machine can measure, what is missing, and the cure.

    Exits with 3 if a requirement of measuring is missing.

    \b
    Example:
      deepen doctor
    """
    from deepen.doctor.checks import check_machine

    checks = check_machine()
    failed = [c for c in checks if c.status == "fail"]

    def render() -> str:
        lines = []
        for c in checks:
            lines.append(f"{_SIGN[c.status]}  {c.name}: {c.found}" if c.found else f"{_SIGN[c.status]}  {c.name}")
            if c.cause:
                lines.append(f"        why:  {c.cause}")
            if c.cure:
                lines.append(f"        cure: {c.cure}")
        lines.append(f"{len(failed)} failed." if failed else "Ready to measure.")
        return "\n".join(lines)

    emit_result({"ready": not failed, "checks": [asdict(c) for c in checks]}, as_json, render)
    if failed:
        ctx.exit(EnvironmentFailure.exit_code)
