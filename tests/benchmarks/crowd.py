"""The client of the session benchmark: many sessions held open, or opened and closed all the time.

The coroutines are tasks of a `Job`, like those of a contender, and work with its `Sessions`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults

from tests.benchmarks.job import Job
from tests.benchmarks.window import Window

_WARM_UP = 0.5  # seconds of sessions that are not counted


async def hold(_reactor: Any, job: Job, sessions: Any) -> dict[str, float]:
    """Open `job.sessions` idle sessions, `job.concurrency` at a time, and leave them open."""
    opened: list[Any] = []
    asked = iter(range(job.sessions))

    async def worker() -> None:
        for _ in asked:
            opened.append(await sessions.idle())

    await _at_once(job.concurrency, worker)
    return {"open": len(opened)}


async def churn(_reactor: Any, job: Job, sessions: Any) -> dict[str, float]:
    """Connect, have a byte echoed and close, `job.concurrency` at a time, for `job.seconds`."""
    window = Window(job.server_pid)
    durations: list[float] = []
    end = perf_counter() + _WARM_UP

    async def worker() -> None:
        while perf_counter() < end:
            started = perf_counter()
            session = await sessions.open()
            await sessions.first_byte(session)
            first_byte = perf_counter()
            await sessions.close(session)
            if perf_counter() < end:
                durations.append(first_byte - started)

    await _at_once(job.concurrency, worker)
    durations.clear()
    end = perf_counter() + job.seconds
    window.start()
    await _at_once(job.concurrency, worker)
    measured = window.stop()
    durations.sort()
    count = len(durations)
    return {
        "sessions_per_s": count / job.seconds,
        "p50_ms": 1e3 * durations[count // 2],
        **{
            f"{name}_ms": 1e3 * measured[name] / count
            for name in ("cpu", "client_cpu", "server_cpu")
        },
    }


async def _at_once(count: int, work: Callable[[], Awaitable[None]]) -> None:
    running: list[Deferred[None]] = [ensureDeferred(work()) for _ in range(count)]  # type: ignore[arg-type]
    await gatherResults(running, consumeErrors=True)
