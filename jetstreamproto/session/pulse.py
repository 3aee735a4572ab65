"""The pulse: asks a quiet peer whether it lives, and measures the round trip."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from jetstreamproto.errors import JetStreamError, SessionClosed
from jetstreamproto.transports.timeouts import Timeout, Timeouts

_MAX_PINGS = 64
_SHORTEST_WAIT = 0.01  # seconds: what is left to wait may be a rounding error


class Pulse:
    """`send_ping(number)` sends a PING; `on_silent(seconds)` is called once, for a dead peer.

    Set `heard` whenever packets arrive; `bytes_received` tells of parts of them too, for on a
    slow link one may take longer than the idle timeout. `rtt` is the shortest round trip seen, in
    seconds.
    """

    __slots__ = (
        "_beat_call",
        "_bytes_before",
        "_bytes_received",
        "_clock",
        "_heartbeat",
        "_idle_timeout",
        "_next",
        "_on_silent",
        "_pings",
        "_probing",
        "_quiet_since",
        "_send_ping",
        "_timeouts",
        "heard",
        "rtt",
    )

    def __init__(
        self,
        timeouts: Timeouts,
        heartbeat: float,
        idle_timeout: float,
        bytes_received: Callable[[], int],
        send_ping: Callable[[int], None],
        on_silent: Callable[[float], None],
    ) -> None:
        self.heard = False
        self.rtt: float | None = None
        self._timeouts = timeouts
        self._clock = timeouts.clock
        self._heartbeat = heartbeat
        self._idle_timeout = idle_timeout
        self._bytes_received = bytes_received
        self._bytes_before = 0
        self._send_ping = send_ping
        self._on_silent = on_silent
        self._quiet_since = 0.0
        self._beat_call: Timeout | None = None
        self._probing = False
        self._pings: dict[int, tuple[float, Deferred[float] | None]] = {}
        self._next = 1

    def start(self) -> None:
        """Begin to watch the peer."""
        self._quiet_since = self._clock.seconds()
        self._beat_call = self._timeouts.after(self._heartbeat, self._beat)

    def stop(self, reason: JetStreamError) -> None:
        """The session is over; unanswered pings fail with `reason`."""
        if self._beat_call is not None:
            self._beat_call.cancel()
            self._beat_call = None
        pings, self._pings = self._pings, {}
        for _, waiting in pings.values():
            if waiting is not None:
                waiting.errback(reason)

    def let_go(self) -> None:
        """It was stopped, and is not asked for anything any more."""
        del self._bytes_received, self._send_ping, self._on_silent

    def ping(self) -> Deferred[float]:
        """Fires with the time the peer's answer took, in seconds."""
        result: Deferred[float] = Deferred()
        if len(self._pings) >= _MAX_PINGS:
            result.errback(SessionClosed(f"{_MAX_PINGS} pings are unanswered"))
        else:
            self._ask(result)
        return result

    def probe(self) -> None:
        """Have `rtt` measured, unless it is known or being measured."""
        if self.rtt is None and not self._probing and len(self._pings) < _MAX_PINGS:
            self._probing = True
            self._ask(None)

    def pong_received(self, number: int) -> None:
        """The peer answered the ping of that number (others are ignored)."""
        sent, waiting = self._pings.pop(number, (None, None))
        if sent is not None:
            rtt = max(0.0, self._clock.seconds() - sent)
            self.rtt = rtt if self.rtt is None else min(self.rtt, rtt)
            if waiting is not None:
                waiting.callback(rtt)

    def _ask(self, waiting: Deferred[float] | None) -> None:
        self._pings[self._next] = (self._clock.seconds(), waiting)
        self._send_ping(self._next)
        self._next += 1

    def _beat(self) -> None:
        """A heartbeat's time has passed: was anything heard in it?"""
        self._beat_call = None
        now = self._clock.seconds()
        received = self._bytes_received()
        heard, self.heard = self.heard, False
        if heard or received != self._bytes_before:
            self._bytes_before = received
            self._quiet_since = now
        quiet = now - self._quiet_since
        if quiet >= self._idle_timeout:
            self._on_silent(quiet)
            return
        if not heard:  # also when a packet is on its way: its sender should hear of us
            self._send_ping(0)  # nobody waits for this answer, so it needs no number
        wait = max(_SHORTEST_WAIT, min(self._heartbeat, self._idle_timeout - quiet))
        self._beat_call = self._timeouts.after(wait, self._beat)
