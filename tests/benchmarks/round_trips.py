"""The caller of the round-trip benchmark: a fixed number of echoes outstanding at any time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import perf_counter

from twisted.internet.defer import Deferred

from tests.benchmarks.window import Window

PAYLOAD = b"\xa5" * 64

_WARM_UP = 0.3  # seconds of calls that are not counted


class RoundTrips:
    """Calls `send` to start an echo, and is told by `answered`; echoes come back in order."""

    def __init__(
        self, send: Callable[[bytes], object], concurrency: int, seconds: float, server_pid: int
    ) -> None:
        self._send = send
        self._concurrency = concurrency
        self._seconds = seconds
        self._window = Window(server_pid)
        self._sent: deque[float] = deque()
        self._latencies: list[float] = []
        self._until = 0.0
        self._warm = False
        self._done: Deferred[dict[str, float]] = Deferred()

    def run(self) -> Deferred[dict[str, float]]:
        """Start; fires with what was measured."""
        self._until = perf_counter() + _WARM_UP
        for _ in range(self._concurrency):
            self._call()
        return self._done

    def answered(self, echo: bytes) -> None:
        """The oldest outstanding call is answered; start the next one."""
        now = perf_counter()
        self._latencies.append(now - self._sent.popleft())
        if now >= self._until and not self._turn(now, echo):
            return
        self._call()

    def _call(self) -> None:
        self._sent.append(perf_counter())
        self._send(PAYLOAD)

    def _turn(self, now: float, echo: bytes) -> bool:
        """The warm-up, or the whole run, is over; whether to go on."""
        if echo != PAYLOAD:
            raise AssertionError(f"not an echo: {echo[:80]!r}")
        if not self._warm:
            self._warm = True
            self._latencies.clear()
            self._until = now + self._seconds
            self._window.start()
            return True
        if not self._done.called:
            self._done.callback(self._measured())
        return False

    def _measured(self) -> dict[str, float]:
        window = self._window.stop()
        latencies = sorted(self._latencies)
        calls = len(latencies)
        return {
            "calls_per_s": calls / window["seconds"],
            "p50_us": 1e6 * latencies[calls // 2],
            "p99_us": 1e6 * latencies[calls * 99 // 100],
            **{
                f"{name}_us_per_call": 1e6 * window[name] / calls
                for name in ("cpu", "client_cpu", "server_cpu")
            },
        }
