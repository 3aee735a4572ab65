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
    running = Churn(job, sessions)
    await running.warm_up()
    return await running.turn()


class Churn:
    """The same, in turns of `job.seconds` that come when they are asked for."""

    def __init__(self, job: Job, sessions: Any) -> None:
        self._job = job
        self._sessions = sessions

    async def warm_up(self) -> dict[str, float]:
        """Sessions that are not counted."""
        await self._run(_WARM_UP)
        return {}

    async def turn(self) -> dict[str, float]:
        """What a turn gave. Sessions that were begun in it are part of it to their end."""
        window = Window(self._job.server_pid)
        window.start()
        durations = sorted(await self._run(self._job.seconds))
        measured = window.stop()
        count = len(durations)
        return {
            "sessions_per_s": count / measured["seconds"],
            "p50_ms": 1e3 * durations[count // 2],
            **{
                f"{name}_ms": 1e3 * measured[name] / count
                for name in ("cpu", "client_cpu", "server_cpu")
            },
        }

    async def _run(self, seconds: float) -> list[float]:
        """The seconds to the first byte, of each session."""
        durations: list[float] = []
        end = perf_counter() + seconds

        async def worker() -> None:
            while perf_counter() < end:
                started = perf_counter()
                session = await self._sessions.open()
                await self._sessions.first_byte(session)
                durations.append(perf_counter() - started)
                await self._sessions.close(session)

        await _at_once(self._job.concurrency, worker)
        return durations


async def _at_once(count: int, work: Callable[[], Awaitable[None]]) -> None:
    running: list[Deferred[None]] = [ensureDeferred(work()) for _ in range(count)]  # type: ignore[arg-type]
    await gatherResults(running, consumeErrors=True)
