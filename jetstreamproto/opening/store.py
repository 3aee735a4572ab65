"""The file in which one run of the command line leaves the next what it has learnt of servers."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from jetstreamproto.opening.model import Memory

TRANSPORTS_FILE = "transports.json"

_MAX_SIZE = 1 << 20


def open_memory(path: Path, now: float) -> Memory:
    """What the file at `path` says; it is written anew whenever that changes.

    It only saves time: what is wrong with it is ignored, and so is that it cannot be written.
    """
    memory = Memory()
    with contextlib.suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        memory.load(json.loads(file.read(_MAX_SIZE)), now)
    memory.changed = lambda changed: _save(path, changed)
    return memory


def _save(path: Path, memory: Memory) -> None:
    data = json.dumps(memory.dump(), indent=0, ensure_ascii=False).encode(errors="replace")
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # of mode 0600; no fsync, since losing it costs nothing
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
