"""How much a receiver has had by when, in a file, for rates over any stretch of a run.

Times are of CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from time import monotonic

_INTERVAL = 0.02  # seconds between two samples, at least
_numbers = count()


class SampleWriter:
    """Writes a file of its own for one flow, `*.samples` in the folder."""

    def __init__(self, folder: Path) -> None:
        name = f"{os.getpid()}-{next(_numbers)}.samples"
        self._file = (folder / name).open("w", encoding="ascii", buffering=1)
        self._next = 0.0

    def count(self, total: int) -> None:
        """So many bytes have come by now."""
        now = monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL
            self._file.write(f"{now} {total}\n")

    def close(self) -> None:
        self._file.close()


class Flow:
    """What was written about one flow."""

    def __init__(self, path: Path) -> None:
        whole = path.read_text().rpartition("\n")[0]  # the last line may be cut off
        rows = [line.split() for line in whole.splitlines()]
        self.times = [float(row[0]) for row in rows]
        self._totals = [int(row[1]) for row in rows]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self._totals[-1]

    def rate(self, start: float, end: float) -> float:
        """Bits per second between two times."""
        return 8 * (self._at(end) - self._at(start)) / (end - start)

    def longest_pause(self, start: float, end: float) -> float:
        """The longest time between two samples, or without any."""
        inside = [time for time in self.times if start < time < end]
        marks = [start, *inside, end]
        return max(after - before for before, after in pairwise(marks))

    def _at(self, time: float) -> float:
        """Bytes by that time, in between as if they had come steadily."""
        times, totals = self.times, self._totals
        after = bisect_left(times, time)
        if after == 0:
            return 0.0
        if after == len(times):
            return totals[-1]
        before = after - 1
        part = (time - times[before]) / (times[after] - times[before])
        return totals[before] + part * (totals[after] - totals[before])


def read_flows(folder: Path) -> Sequence[Flow]:
    """The flows in the folder, in the order in which they began."""
    flows = [Flow(path) for path in folder.glob("*.samples")]
    return sorted((flow for flow in flows if flow.times), key=lambda flow: flow.times[0])
