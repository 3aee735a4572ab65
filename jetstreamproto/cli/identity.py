"""`jetstream identity`: this host's fingerprint."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path

import click

from jetstreamproto.cli.options import json_option, state_dir_option
from jetstreamproto.cli.output import show, show_object


@click.command()
@state_dir_option
@json_option
def identity(state_dir: Path | None, as_json: bool) -> None:
    """Print the fingerprint that others know this host by.

    The first time, it makes the key and certificate in the state folder.
    """
    from datetime import datetime

    from jetstreamproto.security.identity import IDENTITY_FILE, Identity
    from jetstreamproto.state import default_state_dir

    folder = state_dir or default_state_dir()
    fingerprint = Identity.load_or_create(folder, datetime.now(UTC)).fingerprint
    if as_json:
        show_object({"fingerprint": fingerprint, "file": str(folder / IDENTITY_FILE)})
    else:
        show(fingerprint)
