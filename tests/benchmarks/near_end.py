"""The client's end of a link: starts programs once the servers at the far end are ready.

One program runs to its end, or is killed when its time is over, and prints nothing then. Several
run together, each from its own time on, and are killed when the time is over.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep

from tests.benchmarks.far_end import READY

_PATIENCE = 60.0  # seconds for the servers
_POLL = 0.02


@dataclass(frozen=True)
class Start:
    """A program, and the seconds after the servers are ready at which it starts."""

    words: list[str]
    after: float = 0.0


def command(folder: Path, starts: Sequence[Start], seconds: float) -> list[str]:
    """The command of this end."""
    plan = {"folder": str(folder), "starts": [asdict(s) for s in starts], "seconds": seconds}
    return [sys.executable, "-m", "tests.benchmarks.near_end", json.dumps(plan)]


def main() -> int:
    plan = json.loads(sys.argv[1])
    if not _ready(Path(plan["folder"])):
        print("the servers did not start", file=sys.stderr)
        return 1
    starts = sorted((Start(**start) for start in plan["starts"]), key=lambda start: start.after)
    seconds = plan["seconds"]
    if len(starts) > 1:
        return _together(starts, seconds)
    try:
        return subprocess.run(starts[0].words, timeout=seconds or None, check=False).returncode
    except subprocess.TimeoutExpired:
        return 0


def _ready(folder: Path) -> bool:
    """Wait until all servers are ready; whether they are."""
    end = monotonic() + _PATIENCE
    while not all((folder / name).exists() for name in READY):
        if monotonic() >= end:
            return False
        sleep(_POLL)
    return True


def _together(starts: Sequence[Start], seconds: float) -> int:
    """Run them until `seconds` are over; 0 if they all lasted that long."""
    begun = monotonic()
    running = []
    for start in starts:
        sleep(max(0.0, begun + start.after - monotonic()))
        running.append(subprocess.Popen(start.words, stdout=subprocess.DEVNULL))
    try:
        while monotonic() < begun + seconds:
            sleep(_POLL)
            if any(program.poll() is not None for program in running):
                return 1
    finally:
        for program in running:
            program.kill()
            program.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
