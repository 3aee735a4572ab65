"""What a key-value client does for a while, and how much of it got done."""

from __future__ import annotations

import random
from time import perf_counter

from tests.benchmarks.job import Job
from tests.benchmarks.window import Window

KEYS = 10_000
VALUE = b"\xa5" * 64

_WARM_UP = 0.3  # seconds that are not counted


def key_of(number: int) -> str:
    return f"key:{number:06}"


class Operations:
    """Counts operations from the end of the warm-up until the job's seconds are over."""

    def __init__(self, job: Job) -> None:
        self._window = Window(job.server_pid)
        self._seconds = job.seconds
        self._until = perf_counter() + _WARM_UP
        self._warm = False
        self._count = 0
        self._measured: dict[str, float] | None = None
        rolls = random.Random(1)
        self._keys = [key_of(rolls.randrange(KEYS)) for _ in range(1 << 14)]
        self._next = 0

    def more(self) -> bool:
        """Whether to begin another one."""
        return self._measured is None

    def key(self) -> str:
        """A key to use."""
        self._next += 1
        return self._keys[self._next & 0x3FFF]

    def done(self, count: int = 1) -> None:
        """So many have been answered."""
        self._count += count
        now = perf_counter()
        if now < self._until:
            return
        if not self._warm:
            self._warm, self._count = True, 0
            self._until = now + self._seconds
            self._window.start()
        elif self._measured is None:
            self._measured = self._window.stop() | {"operations": self._count}

    def figures(self) -> dict[str, float]:
        measured = self._measured
        assert measured is not None
        count = measured["operations"]
        return {
            "ops_per_s": count / measured["seconds"],
            **{
                f"{name}_us": 1e6 * measured[name] / count
                for name in ("cpu", "client_cpu", "server_cpu")
            },
        }
