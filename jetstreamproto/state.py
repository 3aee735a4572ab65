"""The state folder: where a host keeps its identity and the servers it knows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from jetstreamproto.errors import ConfigurationError


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`$JETSTREAM_HOME`, else `$XDG_STATE_HOME/jetstream`, else `~/.local/state/jetstream`.

    As the XDG specification says, an `XDG_STATE_HOME` that is not absolute is ignored. Raises
    `ConfigurationError` when nothing tells where home is.
    """
    own = environ.get("JETSTREAM_HOME")
    if own:
        return Path(own).absolute()
    shared = Path(environ.get("XDG_STATE_HOME", ""))
    if shared.is_absolute():
        return shared / "jetstream"
    try:
        home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    except RuntimeError as error:
        raise ConfigurationError("no home folder: set JETSTREAM_HOME") from error
    return home.absolute() / ".local" / "state" / "jetstream"
