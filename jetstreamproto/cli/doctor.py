"""`jetstream doctor`: this host beside the recommended settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from jetstreamproto.cli.failure import ExitStatus, clean
from jetstreamproto.cli.options import json_option
from jetstreamproto.cli.output import show, show_object

if TYPE_CHECKING:
    from jetstreamproto.sockets.host import Finding

_COLUMNS = ("", "what", "found", "recommended")


@click.command()
@click.option(
    "--sysctl", is_flag=True, help="Print the recommended kernel settings as a sysctl.d file."
)
@json_option
@click.pass_context
def doctor(context: click.Context, sysctl: bool, as_json: bool) -> None:
    """Compare this host with the recommended settings, and say how to mend what is short.

    It changes nothing. Exit status: 0 when all is well, 1 when something is recommended.
    """
    from jetstreamproto.sockets.host import State, examine
    from jetstreamproto.sockets.recommended import sysctl_file

    if sysctl:
        if as_json:
            raise click.UsageError("give --sysctl or --json, not both")
        show(sysctl_file().rstrip("\n"))
        return
    findings = examine()
    short = [finding for finding in findings if finding.state is State.LOW]
    if as_json:
        show_object(_report(findings))
    else:
        _show_table(findings)
        _show_advice(short)
    if short:
        context.exit(ExitStatus.FAILED)


def _report(findings: Sequence[Finding]) -> dict[str, object]:
    """Everything, also what this kernel makes of each profile."""
    from jetstreamproto.sockets.host import State, try_profile
    from jetstreamproto.sockets.profiles import PROFILES

    profiles = {
        name: {
            moment: [setting.to_object() for setting in settings]
            for moment, settings in try_profile(profile).items()
        }
        for name, profile in PROFILES.items()
    }
    return {
        "fine": not any(finding.state is State.LOW for finding in findings),
        "findings": [
            {
                "name": finding.name,
                "state": finding.state.value,
                "found": finding.found,
                "recommended": finding.wanted,
                "costs": finding.costs,
                "mend": finding.mend,
            }
            for finding in findings
        ],
        "profiles": profiles,
    }


def _rows(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    from jetstreamproto.sockets.host import State

    marks = {State.FINE: "ok", State.LOW: "!!", State.ABSENT: "--"}
    return [
        (
            marks[finding.state],
            finding.name,
            clean(finding.found) or finding.state.value,
            finding.wanted,
        )
        for finding in findings
    ]


def _show_table(findings: Sequence[Finding]) -> None:
    """A table: drawn on a terminal, columns otherwise."""
    import sys

    rows = _rows(findings)
    if not sys.stdout.isatty():
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            show("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "!!": "yellow", "--": "dim"}
    table = Table(*_COLUMNS)
    for row in rows:
        table.add_row(*(Text(cell, colours[row[0]]) for cell in row))
    Console().print(table)


def _show_advice(short: Sequence[Finding]) -> None:
    for finding in short:
        show("")
        show(f"{finding.name}: {finding.costs}.")
        show(f"    {finding.mend}")
    if any(finding.mend.startswith("sysctl") for finding in short):
        from jetstreamproto.sockets.recommended import SYSCTL_FILE

        show("")
        show("To keep the recommended kernel settings, as root:")
        show(f"    jetstream doctor --sysctl > {SYSCTL_FILE} && sysctl --system")
