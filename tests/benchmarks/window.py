"""The measured stretch of a run: how long it took, and the processor time of both ends in it."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter


class Window:
    """Runs in the client; the server's processor time is read from /proc."""

    def __init__(self, server_pid: int) -> None:
        self._pids = (os.getpid(), server_pid)
        self._started = 0.0
        self._cpu = (0.0, 0.0)

    def start(self) -> None:
        self._cpu = self._cpu_now()
        self._started = perf_counter()

    def stop(self) -> dict[str, float]:
        """Seconds since `start`: on the clock, and of processor time of each end and of both."""
        seconds = perf_counter() - self._started
        client, server = (now - then for now, then in zip(self._cpu_now(), self._cpu, strict=True))
        return {
            "seconds": seconds,
            "client_cpu": client,
            "server_cpu": server,
            "cpu": client + server,
        }

    def _cpu_now(self) -> tuple[float, float]:
        client, server = map(_cpu_seconds, self._pids)
        return client, server


def _cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, from the scheduler's nanoseconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
