"""Twisted's own TCP transports on simulated sockets, under a clock that the test moves.

`SessionPair` joins sessions by a transport made for tests. Here the transport is the real one of
Twisted's reactors, with its write buffer, producers and ways to close; what is simulated is the
kernel below it: buffers of limited size, writes that take a part, nothing or fail, resets.
"""

from __future__ import annotations

import errno
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.python.failure import Failure

from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory, Service
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from tests.certificates import NOW

T = TypeVar("T")

_STEPS = 200_000
_numbers = itertools.count(1000)


class SimulatedSocket:
    """One end of a connection: a send buffer, the peer's receive buffer, and how it ended."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.plan: deque[int | OSError] = deque()
        """What the next sends do: take at most so many bytes (0: would block), or fail."""
        self.taken: list[int] = []
        """What each send took."""
        self.received = bytearray()
        self.frozen = False
        """Nobody reads at this end: its receive buffer fills."""
        self.peer: SimulatedSocket
        self.closed = False
        self._sending = bytearray()
        self._number = next(_numbers)
        self._linger = True
        self._ended = False  # the peer's FIN has arrived
        self._reset = False

    # --- for the test ------------------------------------------------------------------

    def carry(self) -> bool:
        """Move bytes to the peer, and the end behind them; whether anything moved."""
        room = self.peer.capacity - len(self.peer.received)
        moved = bytes(self._sending[: max(0, room)])
        if moved and not self.peer.closed:
            self.peer.received += moved
        del self._sending[: len(moved)]
        if self.closed and self._linger and not self._sending and not self.peer._ended:
            self.peer._ended = True
            return True
        return bool(moved)

    @property
    def readable(self) -> bool:
        return not self.frozen and bool(self.received or self._ended or self._reset)

    @property
    def writable(self) -> bool:
        return bool(self.plan) or self._reset or len(self._sending) < self.capacity

    # --- for Twisted -------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> int:
        size = min(len(data), self.capacity - len(self._sending))
        if self.plan and data:
            step = self.plan.popleft()
            if isinstance(step, OSError):
                raise step
            size = min(size, step)
        if self._reset or self.closed:
            raise OSError(errno.EPIPE, "Broken pipe")
        if data and not size:
            self.taken.append(0)
            raise BlockingIOError(errno.EWOULDBLOCK, "would block")
        self._sending += data[:size]
        self.taken.append(size)
        return size

    def recv(self, size: int) -> bytes:
        if self.received:
            data = bytes(self.received[:size])
            del self.received[:size]
            return data
        if self._reset:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if self._ended:
            return b""
        raise BlockingIOError(errno.EWOULDBLOCK, "would block")

    def recv_into(self, memory: memoryview) -> int:
        data = self.recv(len(memory))
        memory[: len(data)] = data
        return len(data)

    def setsockopt(self, level: int, name: int, value: object) -> None:
        if (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._linger = value != struct.pack("ii", 1, 0)

    def getsockopt(self, level: int, name: int, size: int = 0) -> int:
        return 0

    def shutdown(self, how: int) -> None:
        """Twisted calls it right before `close`."""

    def close(self) -> None:
        self.closed = True
        if not self._linger:
            self._sending.clear()
        if not self._linger or self.received:
            self.peer._reset = True
            self._linger = False

    def setblocking(self, flag: bool) -> None: ...

    def fileno(self) -> int:
        return self._number

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 9000)


class Kernel(_DisconnectSelectableMixin, Clock):  # type: ignore[misc]
    """Enough of a reactor for Twisted's TCP transports, in virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[SimulatedSocket] = []
        self._reading: dict[Server, None] = {}
        self._writing: dict[Server, None] = {}

    def addReader(self, reader: Server) -> None:
        self._reading[reader] = None

    def addWriter(self, writer: Server) -> None:
        self._writing[writer] = None

    def removeReader(self, reader: Server) -> None:
        self._reading.pop(reader, None)

    def removeWriter(self, writer: Server) -> None:
        self._writing.pop(writer, None)

    def join(self, one: Protocol, other: Protocol, capacity: int) -> tuple[Server, Server]:
        """Connect two protocols."""
        ends = SimulatedSocket(capacity), SimulatedSocket(capacity)
        ends[0].peer, ends[1].peer = ends[1], ends[0]
        self.sockets += ends
        transports = []
        for end, protocol, port in zip(ends, (one, other), (9000, 50000), strict=True):
            server: Any = None
            transports.append(
                Server(end, protocol, ("127.0.0.1", port), server, 0, self)  # type: ignore[arg-type]
            )
        for transport, protocol in zip(transports, (one, other), strict=True):
            protocol.makeConnection(transport)  # type: ignore[arg-type]
        return transports[0], transports[1]

    def turn(self) -> bool:
        """One turn of the reactor, in which no time passes; whether anything happened."""
        moved = [end.carry() for end in self.sockets]
        busy = any(moved)
        for writer in tuple(self._writing):
            if writer in self._writing and writer.socket.writable:
                busy = True
                self._finish(writer, writer.doWrite(), False)
        for reader in tuple(self._reading):
            if reader in self._reading and reader.socket.readable:
                busy = True
                self._finish(reader, reader.doRead(), True)
        before = len(self.calls)
        self.advance(0)
        return busy or len(self.calls) != before

    def _finish(self, selectable: Server, why: Any, is_read: bool) -> None:
        if why:
            self._disconnectSelectable(selectable, why, is_read)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Let things happen, and time pass when nothing does, until `condition()` holds."""
        for _ in range(_STEPS):
            if condition():
                return
            if self.turn():
                continue
            calls = self.getDelayedCalls()
            if not calls:
                break
            self.advance(max(0.0, calls[0].getTime() - self.seconds()))
        raise AssertionError("nothing happens any more, and what was waited for has not happened")

    def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(_STEPS):
            calls = self.getDelayedCalls()
            if not self.turn() and not (calls and calls[0].getTime() <= self.seconds()):
                return
        raise AssertionError("it never becomes quiet")


class StockPair:
    """As `SessionPair`, over Twisted's transports; `capacity` is of each socket buffer."""

    def __init__(
        self,
        services: Mapping[str, Service] | None = None,
        client_services: Mapping[str, Service] | None = None,
        *,
        capacity: int = 1 << 17,
        settings: SessionSettings = DEFAULT_SETTINGS,
        client_settings: SessionSettings | None = None,
        identity: Identity | None = None,
        connect: bool = True,
        server_options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
        prepare: Callable[[StockPair], None] | None = None,
    ) -> None:
        self.kernel = Kernel()
        identity = identity or Identity.create(NOW)
        reactor: Any = self.kernel
        self.server_factory = JetStreamServerFactory(
            identity, services, settings=settings, reactor=reactor, **(server_options or {})
        )
        options: dict[str, Any] = {"trust": PinnedKeys([identity.fingerprint])}
        options.update(client_options or {})
        self.client_factory = JetStreamClientFactory(
            services=client_services,
            settings=client_settings or settings,
            reactor=reactor,
            **options,
        )
        client_protocol = self.client_factory.buildProtocol(None)
        server_protocol = self.server_factory.buildProtocol(None)
        self.client: Session = client_protocol.session
        self.server: Session = server_protocol.session  # type: ignore[attr-defined]
        self.client_transport, self.server_transport = self.kernel.join(
            client_protocol, server_protocol, capacity
        )
        self.client_socket, self.server_socket = self.kernel.sockets
        if prepare is not None:
            prepare(self)
        if connect:
            self.run(self.client.when_connected())
            self.run(self.server.when_connected())

    def run(self, deferred: Deferred[T]) -> T:
        """As `SessionPair.run`."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.kernel.run_until(lambda: bool(results))
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    @property
    def clock(self) -> Kernel:
        """As `SessionPair.clock`."""
        return self.kernel

    def advance(self, seconds: float) -> None:
        """As `SessionPair.advance`."""
        end = self.kernel.seconds() + seconds
        self.kernel.settle()
        while (calls := self.kernel.getDelayedCalls()) and calls[0].getTime() <= end:
            self.kernel.advance(max(0.0, calls[0].getTime() - self.kernel.seconds()))
            self.kernel.settle()
        self.kernel.advance(max(0.0, end - self.kernel.seconds()))
