"""`Destination`: a server, and how sessions with it are opened."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from jetstreamproto.errors import ConfigurationError, HandshakeTimeout, PeerSilent
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.opening.attempts import open_datagrams, open_stream
from jetstreamproto.opening.failures import is_final, most_telling, reason
from jetstreamproto.opening.model import (
    ADDRESS_DELAY,
    AUTO,
    NOTHING,
    QUIC,
    TCP,
    TRANSPORTS,
    Entrant,
    Memory,
    Recalled,
    plan,
)
from jetstreamproto.opening.racing import DroppedOut, NobodyWon, Race, Runner, in_time
from jetstreamproto.opening.vigil import Vigil
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.resolving import resolve

_log = Logger()

MAX_ADDRESSES = 8
"""IP addresses of a name that are tried."""

SILENCE = 15.0
"""Seconds for which a peer may leave datagrams unanswered before TCP is asked about it."""

_QUIC_LIBRARY = "aioquic"

_memories: WeakKeyDictionary[Any, Memory] = WeakKeyDictionary()


def shared_memory(reactor: Any) -> Memory:
    """What the destinations of one reactor remember, those that were given no other memory."""
    reactor = getattr(reactor, "unprofiled", reactor)  # see `reactors.profiled`
    memory = _memories.get(reactor)
    if memory is None:
        memory = _memories[reactor] = Memory()
    return memory


class Destination:
    """The server at `host` and `port`, reached over `transport`.

    "auto" takes the one that serves best: QUIC or TCP, whichever is there first, TCP where the
    server is near; for `bulk`, which is much data, UDP with forward error correction where the
    server offers it. What did not serve is remembered (`memory`) for some minutes, and tried again
    then. `timeout`, in seconds, is for all it takes, and `datagrams` are for UDP and QUIC.

    A session that "auto" has put on UDP or QUIC ends with `PeerSilent` when nothing has been
    answered there for `silence` seconds and the server can be reached over TCP: they are filtered
    from now on. None leaves that to the idle timeout.

    Raises `ConfigurationError` for a transport that there is not, or no such silence.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        *,
        transport: str = AUTO,
        bulk: bool = False,
        timeout: float = 10.0,
        datagrams: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
        memory: Memory | None = None,
        silence: float | None = SILENCE,
    ) -> None:
        if silence is not None and silence <= 0:
            raise ConfigurationError("silence must be positive, or None")
        if transport not in (AUTO, *TRANSPORTS):
            names = ", ".join((AUTO, *TRANSPORTS))
            raise ConfigurationError(f"{transport!r} is not a transport; there is {names}")
        self.host = host
        self.port = port
        self.transport = transport
        self.bulk = bulk
        self.timeout = timeout
        self.datagrams = datagrams
        self.silence = silence
        self._reactor = reactor
        self._memory = memory if memory is not None else shared_memory(reactor)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def open(self, factory: JetStreamClientFactory) -> Deferred[Session]:
        """A connected session; its `fallback` says why it is not over the transport of choice.

        Fails with a `JetStreamError`, or with Twisted's `ConnectError` or `DNSLookupError`: with
        the server's refusal (`TrustError`, `Refused`) as soon as there is one, otherwise with what
        tells most of what the transports have failed with. Cancelling drops all attempts.
        """
        return Deferred.fromCoroutine(_Opening(self, self._reactor, self._memory, factory).run())


class _Opening:
    """One session being opened."""

    def __init__(
        self,
        destination: Destination,
        reactor: Any,
        memory: Memory,
        factory: JetStreamClientFactory,
    ) -> None:
        self._destination = destination
        self._reactor = reactor
        self._memory = memory
        self._factory = factory
        self._place = (destination.host, destination.port)
        self._deadline = reactor.seconds() + destination.timeout
        self._addresses: Sequence[str] = ()

    async def run(self) -> Session:
        destination, reactor = self._destination, self._reactor
        late = HandshakeTimeout(
            f"no address of {destination.host} was found within {destination.timeout:g} s"
        )
        resolving = Deferred.fromCoroutine(resolve(reactor, destination.host))
        found = await in_time(reactor, resolving, destination.timeout, late)
        self._addresses = found[:MAX_ADDRESSES]
        recalled, entrants = self._plan()
        runners = [
            Runner(entrant.transport, entrant.after, functools.partial(self._begin, entrant))
            for entrant in entrants
        ]
        race = Race(reactor, runners, is_final, Session.close)
        try:
            session = await race.run()
        except NobodyWon as lost:
            raise most_telling(list(lost.failures.items())) from None
        self._opened(session, race, recalled)
        return session

    def _plan(self) -> tuple[Recalled, list[Entrant]]:
        destination = self._destination
        if destination.transport != AUTO:
            return NOTHING, [Entrant(destination.transport)]
        recalled = self._memory.recall(self._place, self._reactor.seconds(), bulk=destination.bulk)
        quic = importlib.util.find_spec(_QUIC_LIBRARY) is not None
        return recalled, plan(recalled, bulk=destination.bulk, quic=quic)

    # --- one transport ---------------------------------------------------------------------

    def _begin(self, entrant: Entrant) -> Deferred[Session]:
        return Deferred.fromCoroutine(self._run(entrant))

    async def _run(self, entrant: Entrant) -> Session:
        """A session over one transport, at whichever of the addresses it comes to be first."""
        seconds = self._destination.timeout if entrant.patience is None else entrant.patience
        until = min(self._deadline, self._reactor.seconds() + seconds)
        runners = [
            Runner(address, ADDRESS_DELAY, functools.partial(self._try, entrant, address, until))
            for address in self._addresses
        ]
        race = Race(self._reactor, runners, is_final, Session.close)
        try:
            return await race.run()
        except NobodyWon as lost:
            failures = [(entrant.transport, error) for error in lost.failures.values()]
        if not failures:
            raise DroppedOut
        raise most_telling(failures)

    def _try(self, entrant: Entrant, address: str, until: float) -> Deferred[Session]:
        """An attempt at one address."""
        destination, reactor, transport = self._destination, self._reactor, entrant.transport
        patience = destination.timeout if entrant.patience is None else entrant.patience
        within = f"within {min(patience, destination.timeout):g} s"
        place = (reactor, address, destination.port, self._factory)
        left = max(0.0, until - reactor.seconds())
        if transport == TCP:
            stuck = HandshakeTimeout(f"{destination} accepts connections, but no session {within}")
            attempt = open_stream(*place, left, stuck, near=entrant.near)
        else:
            late = HandshakeTimeout(f"no answer from {destination} {within}")
            attempt = open_datagrams(
                *place, left, late, destination.datagrams, quic=transport == QUIC
            )
        return Deferred.fromCoroutine(attempt)

    # --- what is remembered ------------------------------------------------------------------

    def _opened(self, session: Session, race: Race[Session], recalled: Recalled) -> None:
        destination, transport = self._destination, race.winner
        if destination.transport != AUTO or transport is None:
            return
        now, memory = self._reactor.seconds(), self._memory
        reasons = []
        for other, began in race.begun.items():
            if other == transport:
                break
            reasons.append(reason(other, race.failures.get(other), now - began))
            memory.failed(self._place, other, reasons[-1], now)
        memory.served(self._place, transport, now, bulk=destination.bulk)
        fallback = "; ".join(reasons) or recalled.over(transport, now, bulk=destination.bulk)
        if fallback is not None:
            _log.info(
                "{destination}: over {transport}, because {fallback}",
                destination=destination,
                transport=transport,
                fallback=fallback,
            )
        session.fallback = fallback
        session.when_closed().addCallback(lambda _: self._closed(session, transport))
        if transport != TCP and destination.silence is not None:
            Vigil(self._reactor, session, destination.silence)

    def _closed(self, session: Session, transport: str) -> None:
        if not isinstance(session.close_reason, PeerSilent):
            return
        silent = f"{transport} fell silent"
        self._memory.failed(self._place, transport, silent, self._reactor.seconds())
        _log.info(
            "{destination}: {silent}: {reason}",
            destination=self._destination,
            silent=silent,
            reason=session.close_reason,
        )
