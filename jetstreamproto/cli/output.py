"""What the commands print: data on stdout, everything else on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def clean(text: str) -> str:
    """One line of `text` that may come from a peer, without what a terminal would act on.

    Control characters, escapes and bidirectional controls are taken out.
    """
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def show(line: str) -> None:
    """Print one line of data, at once."""
    print(line, flush=True)


def show_object(value: Mapping[str, object]) -> None:
    """Print one JSON object as a line of data."""
    import json

    show(json.dumps(value))


def note(line: str) -> None:
    """Tell the person at the terminal something that is not data."""
    print(line, file=sys.stderr, flush=True)
