"""What the commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from jetstreamproto.cli.failure import NobodyReads, StreamFailed


def show(line: str) -> None:
    """Print one line of data, at once. Raises `NobodyReads` or `StreamFailed`."""
    try:
        print(line, flush=True)
    except OSError as error:
        raise stdout_failure(error) from error


def show_object(value: Mapping[str, object]) -> None:
    """Print one JSON object as a line of data."""
    import json

    show(json.dumps(value))


session_route: dict[str, str] = {}
"""How this command's session was reached, once there is one: `transport`, perhaps `fallback`."""


def show_error(kind: str, message: str) -> None:
    """Print the one JSON object of a command that fails."""
    show_object({"error": {"kind": kind, "message": message}, **session_route})


def note(line: str) -> None:
    """Tell the person at the terminal something that is not data."""
    print(line, file=sys.stderr, flush=True)


def stdout_failure(error: OSError) -> Exception:
    """What an error of writing to stdout means."""
    if isinstance(error, BrokenPipeError):
        return NobodyReads()
    return StreamFailed(f"standard output: {error.strerror}")
