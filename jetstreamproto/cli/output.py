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
    """Print one JSON object as a line of data, `with_route`."""
    import json

    show(json.dumps(with_route(value)))


_route: dict[str, str] = {}
_untold: dict[str, str] = {}


def reached(route: Mapping[str, str]) -> None:
    """There is a session, and its server was reached so: `transport`, perhaps `fallback`."""
    for known in (_route, _untold):
        known.clear()
        known.update(route)


def with_route(value: Mapping[str, object]) -> dict[str, object]:
    """`value`, with how the server was reached if it is the first since there is a session."""
    told = {**value, **_untold}
    _untold.clear()
    return told


def show_error(kind: str, message: str) -> None:
    """Print the one JSON object of a command that fails."""
    show_object({"error": {"kind": kind, "message": message}, **_route})


def note(line: str) -> None:
    """Tell the person at the terminal something that is not data."""
    print(line, file=sys.stderr, flush=True)


def stdout_failure(error: OSError) -> Exception:
    """What an error of writing to stdout means."""
    if isinstance(error, BrokenPipeError):
        return NobodyReads()
    return StreamFailed(f"standard output: {error.strerror}")
