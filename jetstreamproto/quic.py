"""`QuicEndpoint`: the QUIC connections of a UDP port, found by their connection ids.

A server answers a client's first Initial by a Retry, which costs it no memory (RFC 9000 section
8.1.2): only what comes back with the token makes it keep anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from aioquic.buffer import Buffer
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import (
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from twisted.internet.interfaces import IReactorTime

from jetstreamproto.factory import Admitted, JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.reliability.paths import Address
from jetstreamproto.reliability.settings import MAX_DATAGRAM, MIN_DATAGRAM, DatagramSettings
from jetstreamproto.security.cookies import CookieJar
from jetstreamproto.session.session import Session
from jetstreamproto.sockets.options import Setting
from jetstreamproto.transports.quic import QuicLink
from jetstreamproto.transports.quic_core import ID_SIZE, TYPICAL_DATAGRAM, QuicCore
from jetstreamproto.transports.quic_identity import QuicIdentity

VERSIONS = [int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2)]
"""The versions of QUIC that are spoken (RFC 9000, RFC 9369)."""

_LONG, _FIXED = 0x80, 0x40  # bits of the first byte
_CONNECTION_REFUSED, _INVALID_TOKEN = 0x02, 0x0B  # RFC 9000 section 20.1
_MAX_REASON = 256


class DatagramOwner(Protocol):
    """What a `QuicEndpoint` needs of the port's protocol."""

    factory: JetStreamServerFactory | None
    settings: DatagramSettings
    random_bytes: Callable[[int], bytes]

    @property
    def clock(self) -> IReactorTime: ...

    @property
    def stopping(self) -> bool:
        """Whether nobody is let in any more."""

    def now(self) -> float: ...

    def socket_figures(self) -> Mapping[str, int | str]: ...

    def socket_settings(self) -> tuple[Setting, ...]: ...

    def send(self, data: memoryview, segment: int, address: Address) -> bool: ...

    def touched(self, link: QuicLink) -> None: ...

    def link_closed(self, link: QuicLink, admitted: Admitted | None) -> None:
        """The port may forget `link`."""

    def new_id(self, size: int) -> bytes:
        """A connection id."""

    def unknown_received(self, data: memoryview, segment: int, address: Address) -> None:
        """Datagrams of a connection that is not here."""


class QuicEndpoint:
    """Accepts QUIC sessions for the owner's factory, if it has one, and makes them."""

    def __init__(self, owner: DatagramOwner) -> None:
        self.settings = owner.settings
        self.strange = 0
        """Datagrams that were for nobody here."""
        self._owner = owner
        self._cookies = CookieJar(owner.random_bytes)
        self._by_id: dict[bytes, QuicLink] = {}
        self._ids: dict[QuicLink, set[bytes]] = {}
        self._admitted: dict[QuicLink, Admitted] = {}

    @property
    def links(self) -> list[QuicLink]:
        """The connections there are, also those that are being set up or ended."""
        return list(self._ids)

    def connect(self, host: str, port: int, factory: JetStreamClientFactory) -> Session:
        """A session, not connected yet, with the server at the IP address `host` and `port`."""
        owner, tls = self._owner, factory.tls
        session = factory.new_session()
        mtu = self._path_mtu(host)
        core = QuicCore.client(
            self.settings,
            self._first_mtu(mtu),
            factory.settings.max_channels,
            factory.server_name,
        )
        identity = QuicIdentity(tls.role, tls.identity, tls.trust, _today, owner.random_bytes)
        link = QuicLink(self, session, core, identity, (host, port), mtu)
        self._add(link, core.own_id)
        session.start(link)
        link.start()
        return session

    # --- what comes in -------------------------------------------------------------------

    def datagrams_received(self, data: memoryview, segment: int, address: Address) -> None:
        """Datagrams with QUIC's bit came, each of `segment` bytes, and the last of what is left."""
        run: list[bytes] = []  # datagrams for one connection id
        current = b""
        for start in range(0, len(data), segment):
            datagram = bytes(data[start : start + segment])
            connection_id = b"" if datagram[0] & _LONG else datagram[1 : 1 + ID_SIZE]
            if run and connection_id != current:
                self._run_received(run, current, address)
                run = []
            current = connection_id
            if connection_id:
                run.append(datagram)
            else:
                self._long_received(datagram, address)
        if run:
            self._run_received(run, current, address)

    def _run_received(self, run: Sequence[bytes], connection_id: bytes, address: Address) -> None:
        link = self._by_id.get(connection_id)
        if link is not None:
            link.datagrams_received(run, address)
            return
        for datagram in run:
            self._owner.unknown_received(memoryview(datagram), len(datagram), address)

    def _long_received(self, datagram: bytes, address: Address) -> None:
        """A datagram of the handshake came, or of none that we know."""
        try:
            header = pull_quic_header(Buffer(data=datagram), host_cid_length=ID_SIZE)
        except ValueError:
            self.strange += 1
            return
        link = self._by_id.get(header.destination_cid)
        if link is not None:
            link.datagrams_received((datagram,), address)
        elif self._owner.factory is None or len(datagram) < MIN_DATAGRAM:
            self.strange += 1
        elif header.version not in (*VERSIONS, QuicProtocolVersion.NEGOTIATION):
            self._negotiate(header, address)
        elif header.packet_type == QuicPacketType.INITIAL:
            self._stranger_received(self._owner.factory, header, datagram, address)
        else:
            self.strange += 1

    def _negotiate(self, header: QuicHeader, address: Address) -> None:
        answer = encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=VERSIONS,
        )
        # RFC 9000 section 17.2.1: so that other protocols may share the port
        self._send(bytes([answer[0] | _FIXED]) + answer[1:], address)

    def _stranger_received(
        self,
        factory: JetStreamServerFactory,
        header: QuicHeader,
        datagram: bytes,
        address: Address,
    ) -> None:
        """A client's Initial: nothing is kept of it unless it proves its address by a token."""
        if not header.token:
            self._retry(header, address)
            return
        original_id = self._redeem(header, address)
        if original_id is None:
            self._refuse(header, _INVALID_TOKEN, "", address)
            return
        stopping = "the server is shutting down" if self._owner.stopping else ""
        admitted = stopping or factory.admit(address[0])
        if isinstance(admitted, str):
            self._refuse(header, _CONNECTION_REFUSED, admitted, address)
            return
        self._accept(factory, admitted, original_id, header.destination_cid, datagram, address)

    def _accept(
        self,
        factory: JetStreamServerFactory,
        admitted: Admitted,
        original_id: bytes,
        retry_id: bytes,
        datagram: bytes,
        address: Address,
    ) -> None:
        owner, tls = self._owner, factory.tls
        mtu = self._path_mtu(address[0])
        core = QuicCore.server(
            self.settings,
            self._first_mtu(mtu),
            factory.settings.max_channels,
            factory.identity,
            original_id,
            retry_id,
            lambda: owner.new_id(ID_SIZE),
        )
        identity = QuicIdentity(tls.role, tls.identity, tls.trust, _today, owner.random_bytes)
        link = QuicLink(self, admitted.session, core, identity, address, mtu)
        self._admitted[link] = admitted
        self._add(link, core.own_id)
        self.id_added(link, retry_id)
        admitted.session.start(link)
        link.datagrams_received((datagram,), address)

    # --- tokens --------------------------------------------------------------------------

    def _retry(self, header: QuicHeader, address: Address) -> None:
        assert header.version is not None
        original_id = header.destination_cid
        retry_id = self._owner.random_bytes(ID_SIZE)
        sealed = self._cookies.bake(
            self.now(), _client(address, original_id), 0, int.from_bytes(retry_id, "big")
        )
        retry = encode_quic_retry(
            version=header.version,
            source_cid=retry_id,
            destination_cid=header.source_cid,
            original_destination_cid=original_id,
            retry_token=bytes([len(original_id)]) + original_id + sealed,
        )
        self._send(retry, address)

    def _redeem(self, header: QuicHeader, address: Address) -> bytes | None:
        """The id that a client first wrote to, from a token that is its own and not spent."""
        token = header.token
        end = 1 + token[0]
        original_id = token[1:end]
        retry_id = self._cookies.redeem(self.now(), token[end:], _client(address, original_id), 0)
        if retry_id is None or retry_id.to_bytes(ID_SIZE, "big") != header.destination_cid:
            return None
        return original_id

    def _refuse(self, header: QuicHeader, code: int, reason: str, address: Address) -> None:
        """Close a connection that is not kept, in an Initial packet."""
        assert header.version is not None
        text = reason.encode()[:_MAX_REASON]
        crypto = CryptoPair()
        crypto.setup_initial(cid=header.destination_cid, is_client=False, version=header.version)
        builder = QuicPacketBuilder(
            host_cid=header.destination_cid,
            is_client=False,
            max_datagram_size=MIN_DATAGRAM,
            peer_cid=header.source_cid,
            version=header.version,
        )
        builder.start_packet(QuicPacketType.INITIAL, crypto)
        buffer = builder.start_frame(QuicFrameType.TRANSPORT_CLOSE, capacity=32 + len(text))
        for number in (code, QuicFrameType.PADDING, len(text)):
            buffer.push_uint_var(number)
        buffer.push_bytes(text)
        for datagram in builder.flush()[0]:
            self._send(datagram, address)

    def _send(self, datagram: bytes, address: Address) -> None:
        self._owner.send(memoryview(datagram), len(datagram), address)

    # --- transports.quic.QuicPort --------------------------------------------------------

    @property
    def clock(self) -> IReactorTime:
        return self._owner.clock

    def now(self) -> float:
        return self._owner.now()

    def socket_figures(self) -> Mapping[str, int | str]:
        return self._owner.socket_figures()

    def socket_settings(self) -> tuple[Setting, ...]:
        return self._owner.socket_settings()

    def send(self, data: memoryview, segment: int, address: Address) -> bool:
        return self._owner.send(data, segment, address)

    def touched(self, link: QuicLink) -> None:
        self._owner.touched(link)

    def closed(self, link: QuicLink) -> None:
        for connection_id in self._ids.pop(link, ()):
            self._by_id.pop(connection_id, None)
        self._owner.link_closed(link, self._admitted.pop(link, None))

    def id_added(self, link: QuicLink, connection_id: bytes) -> None:
        self._by_id[connection_id] = link
        self._ids[link].add(connection_id)

    def id_removed(self, link: QuicLink, connection_id: bytes) -> None:
        self._by_id.pop(connection_id, None)
        self._ids[link].discard(connection_id)

    def _add(self, link: QuicLink, connection_id: bytes) -> None:
        self._ids[link] = set()
        self.id_added(link, connection_id)

    # --- sizes ---------------------------------------------------------------------------

    def _path_mtu(self, host: str) -> int:
        """Bytes of a datagram to `host`: what was set, or what is known of the path."""
        if self.settings.mtu:
            return self.settings.mtu
        if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
            return min(self.settings.max_mtu, MAX_DATAGRAM)
        return TYPICAL_DATAGRAM

    def _first_mtu(self, mtu: int) -> int:
        return mtu if self.settings.mtu else min(mtu, TYPICAL_DATAGRAM)


def _client(address: Address, original_id: bytes) -> bytes:
    return f"{address[0]} {address[1]} ".encode() + original_id


def _today() -> datetime:
    return datetime.now(UTC)
