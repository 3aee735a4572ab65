"""`JetStreamDatagramProtocol`: a UDP port of a Twisted application, with any number of sessions.

They are over our own datagrams or over QUIC, which a bit of each datagram's first byte tells.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime
from twisted.internet.protocol import DatagramProtocol

from jetstreamproto.errors import WireError
from jetstreamproto.factory import Admitted, JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.reliability.crypto import alert_plaintext
from jetstreamproto.reliability.paths import Address
from jetstreamproto.reliability.settings import (
    DEFAULT_DATAGRAM_SETTINGS,
    MAX_DATAGRAM,
    MIN_DATAGRAM,
    DatagramSettings,
)
from jetstreamproto.security.cookies import CookieJar
from jetstreamproto.security.datagrams import (
    HEADER,
    INITIAL,
    NOT_OURS,
    RETRY,
    SEALED,
    VERSION,
    InitialProtection,
    is_genuine_retry,
    parse_initial,
    retry_datagram,
)
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.figures import datagram_figures, datagram_settings
from jetstreamproto.sockets.offload import adopt_datagrams, listen_datagrams
from jetstreamproto.sockets.options import Setting
from jetstreamproto.transports.shared_port import PortShare
from jetstreamproto.transports.udp import UdpLink

if TYPE_CHECKING:
    from jetstreamproto.quic import QuicEndpoint
    from jetstreamproto.transports.quic import QuicLink

ID_SIZE = 8
_EMSGSIZE = 90
_ECONNREFUSED = 111


class JetStreamDatagramProtocol(DatagramProtocol):
    """Give it to `reactor.listenUDP`, or call `listen_udp`, whose port moves them in batches.

    With a server's `factory` it accepts sessions, over our own datagrams if `udp`, and over QUIC if
    `quic`; `connect` and `connect_quic` make them. All may be done on one port. `settings` are for
    all of its sessions; `share` is this process's part in the port, if there are others.
    """

    noisy = False

    def __init__(
        self,
        factory: JetStreamServerFactory | None = None,
        *,
        udp: bool = True,
        quic: bool = False,
        settings: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
        reactor: Any = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        share: PortShare | None = None,
    ) -> None:
        self.factory = factory
        self.share = share
        self.settings = settings
        self.random_bytes = random_bytes
        self.strange = 0
        """Datagrams that were for nobody here, or not ours at all."""
        self._reactor = reactor
        self._cookies = CookieJar(random_bytes)
        self._links: dict[int, UdpLink] = {}
        self._admitted: dict[UdpLink, Admitted] = {}
        self._touched: dict[UdpLink | QuicLink, None] = {}
        self._settling: IDelayedCall | None = None
        self._write_segments: Callable[[memoryview, int, Address], bool] | None = None
        self._batches = False  # whether `batch_ended` is called
        self._idle: list[Deferred[None]] = []
        self._udp = udp
        self.quic: QuicEndpoint | None = self._quic_endpoint() if quic else None

    # --- for applications ----------------------------------------------------------------

    def connect(self, host: str, port: int, factory: JetStreamClientFactory) -> Session:
        """A session, not connected yet, with the server at the IP address `host` and `port`."""
        session = factory.new_session()
        local_id = self._new_id()
        link = UdpLink(
            self, session, factory.handshake(), (host, port), local_id=local_id, peer_id=0
        )
        self._links[local_id] = link
        session.start(link)
        link.start()
        return session

    def connect_quic(self, host: str, port: int, factory: JetStreamClientFactory) -> Session:
        """As `connect`, over QUIC."""
        if self.quic is None:
            self.quic = self._quic_endpoint()
        return self.quic.connect(host, port, factory)

    def stop(self) -> Deferred[None]:
        """Drop the sessions there are; fires when no peer has to be answered any more.

        Nobody is let in until then.
        """
        stopped: Deferred[None] = Deferred()
        for link in self._all_links:
            link.abort()
        self._idle.append(stopped)
        self._tell_if_idle()
        return stopped

    @property
    def links(self) -> list[UdpLink]:
        """The connections there are, also those that are being set up or ended."""
        return list(self._links.values())

    @property
    def stopping(self) -> bool:
        """Whether nobody is let in any more."""
        return bool(self._idle)

    @property
    def clock(self) -> IReactorTime:
        """The reactor that was given, or the installed one."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        clock: IReactorTime = self._reactor
        return clock

    def socket_figures(self) -> Mapping[str, int | str]:
        return datagram_figures(self.transport)

    def socket_settings(self) -> tuple[Setting, ...]:
        return datagram_settings(self.transport)

    # --- DatagramProtocol ----------------------------------------------------------------

    def startProtocol(self) -> None:
        transport = self.transport
        self._write_segments = getattr(transport, "write_segments", None)
        if getattr(transport, "maxPacketSize", MAX_DATAGRAM) < MAX_DATAGRAM:
            transport.maxPacketSize = MAX_DATAGRAM  # type: ignore[union-attr]  # Twisted's: 8192
        if self._write_segments is not None and not self.settings.gso:
            transport.gso = False  # type: ignore[union-attr]

    def stopProtocol(self) -> None:
        for link in self._all_links:
            link.forget()

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        self._received(memoryview(datagram), len(datagram), addr[:2])

    def connectionRefused(self) -> None:
        """Only connected ports are told; see `datagram_error`."""

    # --- sockets.offload.BatchReceiver ---------------------------------------------------

    def datagrams_received(
        self, buffer: memoryview, segment_size: int, length: int, address: Address
    ) -> None:
        self._batches = True
        self._received(buffer[:length], segment_size, address)

    def batch_ended(self) -> None:
        self._settle()

    def datagram_error(self, address: Address, code: int, info: int) -> None:
        """The system says that something sent to `address` did not arrive; a hint, no more."""
        for link in self._all_links:
            if link.address == address:
                link.error_reported(code == _ECONNREFUSED, info if code == _EMSGSIZE else None)

    # --- transports.udp.DatagramPort -----------------------------------------------------

    def now(self) -> float:
        """A clock that is never set back, where the reactor's is the time of day."""
        clock = self.clock
        return time.monotonic() if isinstance(clock, ReactorBase) else clock.seconds()

    def send(self, data: memoryview, segment: int, address: Address) -> bool:
        transport: Any = self.transport
        if transport is None:
            return True  # as good as lost
        if self._write_segments is not None:
            return self._write_segments(data, segment, address)
        for start in range(0, len(data), segment):
            transport.write(bytes(data[start : start + segment]), address)
        return True

    def touched(self, link: UdpLink | QuicLink) -> None:
        self._touched[link] = None
        if not self._batches and self._settling is None:
            self._settling = self.clock.callLater(0, self._settle)

    def closed(self, link: UdpLink) -> None:
        self._links.pop(link.local_id, None)
        self.link_closed(link, self._admitted.pop(link, None))

    def link_closed(self, link: UdpLink | QuicLink, admitted: Admitted | None) -> None:
        """Forget a link that is not among those of its transport any more."""
        self._touched.pop(link, None)
        if admitted is not None:
            admitted.release()
        self._tell_if_idle()

    # --- what comes in -------------------------------------------------------------------

    def _received(self, data: memoryview, segment: int, address: Address) -> None:
        first = data[0] if data else NOT_OURS
        if first & NOT_OURS and data and self.quic is not None:
            self._quic_received(self.quic, data, segment, address)
        elif first & 0xF0 == SEALED and len(data) >= HEADER.size:
            link = self._links.get(HEADER.unpack_from(data)[1])
            if link is None:
                self.unknown_received(data, segment, address)
            elif len(data) <= segment:
                link.sealed_received(data, segment, address)
            else:
                self._run_received(data, segment, address)
        elif len(data) > segment:
            for start in range(0, len(data), segment):
                self._received(data[start : start + segment], segment, address)
        elif first & NOT_OURS:
            self.strange += 1
        else:
            self._handshake_received(bytes(data), address)

    def _quic_received(
        self, quic: QuicEndpoint, data: memoryview, segment: int, address: Address
    ) -> None:
        for start in range(0, len(data), segment):
            if not data[start] & NOT_OURS:  # they came together, but are not all of one kind
                if start:
                    quic.datagrams_received(data[:start], segment, address)
                self._received(data[start:], segment, address)
                return
        quic.datagrams_received(data, segment, address)

    def _run_received(self, data: memoryview, segment: int, address: Address) -> None:
        """Datagrams that came together need not be for one connection."""
        start, end = 0, len(data)
        current = bytes(data[1:9])
        for position in range(segment, end, segment):
            if data[position + 1 : position + 9] != current or data[position] & NOT_OURS:
                self._part_received(data[start:position], segment, address)
                start, current = position, bytes(data[position + 1 : position + 9])
        self._part_received(data[start:], segment, address)

    def _part_received(self, data: memoryview, segment: int, address: Address) -> None:
        if data[0] & NOT_OURS:
            self._received(data, segment, address)
            return
        if data[0] & 0xF0 != SEALED or len(data) < HEADER.size:
            for start in range(0, len(data), segment):
                self._handshake_received(bytes(data[start : start + segment]), address)
            return
        link = self._links.get(HEADER.unpack_from(data)[1])
        if link is None:
            self.unknown_received(data, segment, address)
        else:
            link.sealed_received(data, segment, address)

    def unknown_received(self, data: memoryview, segment: int, address: Address) -> None:
        """Datagrams for a connection that is not here: of another process, or of nobody."""
        share = self.share
        if share is None or not share.forward(data[1], data, segment, address):
            self.strange += 1

    def _handshake_received(self, datagram: bytes, address: Address) -> None:
        kind = datagram[0]
        try:
            if kind not in (INITIAL, RETRY):
                raise WireError("not a datagram of ours")
            version, dcid, scid, token = parse_initial(datagram)
        except WireError:
            self.strange += 1
            return
        link = self._links.get(dcid)
        if kind == RETRY:
            if link is not None and version == VERSION and is_genuine_retry(datagram, dcid):
                link.retry_received(scid, token)
        elif link is not None:
            link.initial_received(datagram, scid)
        elif self.factory is not None and self._udp and len(datagram) >= MIN_DATAGRAM:
            self._stranger_received(datagram, version, scid, token, address)
        else:
            self.strange += 1

    def _stranger_received(
        self, datagram: bytes, version: int, client_id: int, token: bytes, address: Address
    ) -> None:
        """A client's INITIAL: nothing is kept of it unless it proves its address by a token."""
        assert self.factory is not None
        where = f"{address[0]} {address[1]}"
        if version != VERSION:
            mended = datagram[:1] + VERSION.to_bytes(4, "big") + datagram[5:]
            if InitialProtection(client_id, client=False).open(mended) is not None:
                return  # it is ours, and only was damaged on its way
            self._turn_away(client_id, f"this server speaks version {VERSION} only", address)
            return
        if not token:
            server_id = self._new_id()
            token = self._cookies.bake(self.now(), where, client_id, server_id)
            retry = retry_datagram(client_id, server_id, token)
            self.send(memoryview(retry), len(retry), address)
            return
        server_id_again = self._cookies.redeem(self.now(), token, where, client_id)
        if server_id_again is None or server_id_again in self._links:
            self.strange += 1
            return
        stopping = "the server is shutting down" if self.stopping else ""
        admitted = stopping or self.factory.admit(address[0])
        if isinstance(admitted, str):
            self._turn_away(client_id, admitted, address)
            return
        link = UdpLink(
            self,
            admitted.session,
            self.factory.handshake(),
            address,
            local_id=server_id_again,
            peer_id=client_id,
        )
        self._links[server_id_again] = link
        self._admitted[link] = admitted
        admitted.session.start(link)
        link.start()
        link.initial_received(datagram, client_id)

    def _turn_away(self, client_id: int, why: str, address: Address) -> None:
        protection = InitialProtection(client_id, client=False)
        alert = protection.seal(client_id, 0, b"", alert_plaintext(why))
        self.send(memoryview(alert), len(alert), address)

    # --- life ----------------------------------------------------------------------------

    def _settle(self) -> None:
        if self._settling is not None:
            if self._settling.active():
                self._settling.cancel()
            self._settling = None
        while self._touched:
            link, _ = self._touched.popitem()
            link.settle()

    def new_id(self, size: int) -> bytes:
        """A connection id of `size` bytes, at random but for the number of the process."""
        prefix = b"" if self.share is None else bytes([self.share.number])
        return prefix + self.random_bytes(size - len(prefix))

    def _new_id(self) -> int:
        while True:
            number = int.from_bytes(self.new_id(ID_SIZE), "big")
            if number and number not in self._links:
                return number

    @property
    def _all_links(self) -> list[UdpLink | QuicLink]:
        return [*self._links.values(), *(self.quic.links if self.quic is not None else ())]

    def _quic_endpoint(self) -> QuicEndpoint:
        from jetstreamproto.quic import QuicEndpoint  # whose library takes its time

        return QuicEndpoint(self)

    def _tell_if_idle(self) -> None:
        if not self._all_links:
            waiting, self._idle = self._idle, []
            for waiter in waiting:
                waiter.callback(None)


def listen_udp(
    reactor: Any,
    port: int,
    factory: JetStreamServerFactory,
    *,
    interface: str = "",
    settings: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
    quic: bool = False,
) -> IListeningPort:
    """Accept `factory`'s sessions on a UDP port, also over QUIC if `quic`.

    Raises `CannotListenError`.
    """
    protocol = JetStreamDatagramProtocol(factory, settings=settings, reactor=reactor, quic=quic)
    return listen_datagrams(reactor, port, protocol, interface, gso=settings.gso)


def adopt(
    reactor: Any, bound: socket.socket, protocol: JetStreamDatagramProtocol
) -> IListeningPort:
    """Run `protocol` on a socket that is bound already, of which the port gets a descriptor."""
    return adopt_datagrams(reactor, bound, protocol, gso=protocol.settings.gso)


def connect_datagrams(
    reactor: Any,
    address: str,
    port: int,
    factory: JetStreamClientFactory,
    settings: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS,
    *,
    quic: bool,
) -> Session:
    """A session, not connected yet, with the server at an IP address, from a UDP port of its own.

    That port is closed when the session is gone: at once if it never was connected, otherwise
    some seconds later, in which a peer that has missed our last words is told again. Raises
    `CannotListenError`.
    """
    protocol = JetStreamDatagramProtocol(settings=settings, reactor=reactor)
    local = listen_datagrams(reactor, 0, protocol, "::" if ":" in address else "", gso=settings.gso)
    connect = protocol.connect_quic if quic else protocol.connect
    session = connect(address, port, factory)

    def close(_: object) -> None:
        if session.was_connected:
            protocol.stop().addCallback(lambda _: local.stopListening())
        else:
            local.stopListening()

    session.when_closed().addCallback(close)
    return session
