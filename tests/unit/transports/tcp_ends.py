"""The two ends of a TCP link, joined by hand; their users only write down what they are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress, IPullProducer, ITransport
from zope.interface import implementer

from jetstreamproto.errors import JetStreamError
from jetstreamproto.security.handshake import Handshake, Role, TlsContext
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.records import DEFAULT_LIMITS, RecordLimits
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.transports.tcp import TcpLink
from jetstreamproto.wire.packet import Kind, PacketParts, encode_head
from tests.certificates import NOW

IDENTITY = Identity.create(NOW)
SERVERS = TlsContext(Role.SERVER, identity=IDENTITY)
CLIENTS = TlsContext(Role.CLIENT, trust=PinnedKeys([IDENTITY.fingerprint]))


@implementer(ITransport)
class Transport:
    """Writes down what the link does. `written` waits until `take` says it has left."""

    disconnecting = False

    def __init__(self, peer: IAddress) -> None:
        self.peer = peer
        self.written = bytearray()
        self.producer: IPullProducer | None = None
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert type(data) is bytes, "Twisted's transports keep what they are given"
        self.written += data

    def writeSequence(self, data: Sequence[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True

    def registerProducer(self, producer: IPullProducer, streaming: bool) -> None:
        assert self.producer is None and not streaming
        self.producer = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def getPeer(self) -> IAddress:
        return self.peer

    def getHost(self) -> IAddress:
        return self.peer

    @property
    def closed(self) -> bool:
        return self.disconnecting or self.aborted

    def take(self, resume: bool = True) -> bytes:
        """What was written since; then, as Twisted does, ask for more."""
        data = bytes(self.written)
        self.written.clear()
        if resume and self.producer is not None:
            self.producer.resumeProducing()
        return data


class User:
    """A `LinkUser` that remembers."""

    def __init__(self) -> None:
        self.ready = 0
        self.packets: list[tuple[int, int, int, int, int, bytes]] = []
        self.writable = 0
        self.ended = 0
        self.lost: list[JetStreamError | None] = []
        self.on_packets: Callable[[], None] = lambda: None

    def link_half_ready(self) -> None:
        pass

    def link_ready(self) -> None:
        self.ready += 1

    def packets_received(self, packets: Sequence[PacketParts]) -> None:
        for *head, payload in packets:
            self.packets.append((*head, bytes(payload)))  # type: ignore[arg-type]
        self.on_packets()

    def link_writable(self) -> None:
        self.writable += 1

    def link_ended(self) -> None:
        self.ended += 1

    def link_lost(self, reason: JetStreamError | None) -> None:
        self.lost.append(reason)


class End:
    """A link with its user and its transport."""

    def __init__(
        self,
        tls: TlsContext,
        limits: RecordLimits = DEFAULT_LIMITS,
        peer: IAddress | None = None,
    ) -> None:
        self.transport = Transport(peer or IPv4Address("TCP", "192.0.2.1", 50000))
        self.user = User()
        self.handshake = Handshake(tls, now=NOW)
        self.link = TcpLink(self.transport, self.user, self.handshake, limits)
        self.link.start()

    def send(self, payload: bytes, channel: int = 1) -> None:
        head = encode_head(0, channel, Kind.DATA, 0, 0, len(payload))
        self.link.send_packet(head, payload, channel)

    def lose(self) -> JetStreamError | None:
        """The connection is gone; why, as the user was told."""
        self.link.connection_lost()
        assert len(self.user.lost) == 1
        return self.user.lost[0]

    @property
    def payloads(self) -> list[bytes]:
        return [packet[-1] for packet in self.user.packets]


def server(limits: RecordLimits = DEFAULT_LIMITS) -> End:
    return End(SERVERS, limits)


def client(limits: RecordLimits = DEFAULT_LIMITS) -> End:
    return End(CLIENTS, limits)


def carry(one: End, other: End, chop: int = 1 << 20) -> None:
    """Move bytes both ways until there are none."""
    moved = True
    while moved:
        moved = False
        for sender, receiver in ((one, other), (other, one)):
            data = sender.transport.take()
            moved |= bool(data)
            for start in range(0, len(data), chop):
                receiver.link.data_received(data[start : start + chop])


def linked(limits: RecordLimits = DEFAULT_LIMITS) -> tuple[End, End]:
    """A client's and a server's end, with keys, that have heard of each other under them."""
    one, other = client(limits), server(limits)
    carry(one, other)
    for sender, receiver in ((one, other), (other, one)):
        sender.send(b"hello")
        sender.link.flush()
        carry(one, other)
        assert receiver.payloads == [b"hello"]
        receiver.user.packets.clear()
    return one, other
