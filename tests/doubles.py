"""Test doubles: a link that only records, a peer that speaks raw packets, a recording protocol."""

from __future__ import annotations

import random
from bisect import insort
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from jetstreamproto.errors import JetStreamError, ServiceNotFound, SessionCut
from jetstreamproto.security.identity import Identity
from jetstreamproto.session.codes import PACKET_COST, PROTOCOL_VERSION, ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.transports.link import LinkStats, Peer
from jetstreamproto.transports.timeouts import Timeouts
from jetstreamproto.wire.packet import Flag, Kind, split_packets
from jetstreamproto.wire.session_messages import HELLO, OPEN, Hello, Mode, Open

KIB, MIB = 1 << 10, 1 << 20

IDENTITY = Identity.create(datetime.now(UTC))
"""One key for every test's server: making it is what takes time."""


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress, the same ones every time."""
    return random.Random(f"{size}-{seed}").randbytes(size)


def windows(channel: int, session: int, **others: Any) -> SessionSettings:
    """Settings with windows of a fixed size."""
    return SessionSettings(
        channel_window=channel,
        max_channel_window=channel,
        session_window=session,
        max_session_window=session,
        **others,
    )


class QuickClock(Clock):
    """A `Clock` that stays quick with thousands of delayed calls: it does not sort them anew.

    Calls that are put off again and again without time passing are an error, not a hang.
    """

    def advance(self, amount: float) -> None:
        self.rightNow += amount
        for _ in range(1_000_000):
            if not self.calls or self.calls[0].getTime() > self.seconds():
                return
            call = self.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)
        raise AssertionError(f"time stands still: {call}")

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> DelayedCall:
        call = DelayedCall(
            self.seconds() + delay,
            callable,
            args,
            kw,
            self.calls.remove,
            lambda _: None,
            self.seconds,
        )
        insort(self.calls, call, key=DelayedCall.getTime)
        return call


def make_pair(services: Mapping[str, Callable[[], ChannelProtocol]], **options: Any) -> SessionPair:
    """A `SessionPair` with the tests' identity."""
    options.setdefault("clock", QuickClock())
    return SessionPair(services, identity=IDENTITY, **options)


class Recorder(ChannelProtocol):
    """Notes what it is told. With `stay`, it does not end when the peer does."""

    def __init__(self, stay: bool = False) -> None:
        self.events: list[str] = []
        self.messages: list[bytes] = []
        self.reason: JetStreamError | None = None
        self.expired = 0
        self._stay = stay

    def channel_opened(self) -> None:
        self.events.append("opened")

    def message_received(self, message: bytes) -> None:
        self.events.append("message")
        self.messages.append(message)

    def messages_expired(self, count: int) -> None:
        self.events.append("expired")
        self.expired += count

    def end_received(self) -> None:
        self.events.append("end")
        if not self._stay:
            super().end_received()

    def session_closing(self) -> None:
        self.events.append("closing")

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self.events.append("closed")
        self.reason = reason

    @property
    def received(self) -> int:
        return sum(map(len, self.messages))


class Registry:
    """A service that keeps the protocols made for its channels."""

    def __init__(self, make: Callable[[], ChannelProtocol] = Recorder) -> None:
        self.made: list[Any] = []
        self._make = make

    def __call__(self) -> ChannelProtocol:
        self.made.append(self._make())
        return self.made[-1]


class Sent(NamedTuple):
    """One packet that a session gave its link."""

    seq: int
    channel: int
    kind: int
    flags: int
    code: int
    payload: bytes


class FakeLink:
    """A `Link` that keeps what a session sends. Whether it is `writable` is up to the test."""

    def __init__(self, session: Session, clock: Clock, streams: bool = False) -> None:
        self.streams = streams
        self.rtt: float | None = None
        self.modes: dict[int, tuple[Mode, float | None]] = {}
        self.ended: list[int] = []
        self.peer = Peer("test:0")
        self.stats = LinkStats()
        self.sent: list[Sent] = []
        self.open = True
        self.closed = False
        self.failure: JetStreamError | None = None
        self.room = True
        self._session = session
        self._clock = clock

    @property
    def writable(self) -> bool:
        return self.room and self.open and not self.closed

    def set_mode(self, channel: int, mode: Mode, deadline: float | None) -> None:
        self.modes[channel] = (mode, deadline)

    def end_channel(self, channel: int) -> None:
        self.ended.append(channel)

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        for *fields, content in split_packets(bytes(head) + bytes(payload)):
            self.sent.append(Sent(*fields, bytes(content)))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def fail(self, failure: JetStreamError | None) -> None:
        self._lose(failure)

    def abort(self) -> None:
        self._lose(SessionCut("this side dropped the connection"))

    def _lose(self, failure: JetStreamError | None) -> None:
        if self.open:
            self.open = False
            self.failure = failure
            self._clock.callLater(0, self._session.link_lost, failure)


class FakeHost:
    """A session's host, whose verdict on credentials is the test's."""

    def __init__(
        self,
        settings: SessionSettings = DEFAULT_SETTINGS,
        services: Mapping[str, Callable[[], ChannelProtocol]] | None = None,
    ) -> None:
        self.settings = settings
        self.services = dict(services or {})
        self.verdict: Callable[[Hello], Deferred[object] | None] = lambda hello: None
        self.asked: list[Hello] = []
        self.accepted: list[str] = []
        self.made = 0
        self.lost: list[JetStreamError | None] = []

    def accept(self, session: Session, service: str) -> ChannelProtocol:
        self.accepted.append(service)
        if service not in self.services:
            raise ServiceNotFound(ResetCode.SERVICE_NOT_FOUND, "none such")
        return self.services[service]()

    def authenticate(self, session: Session, hello: Hello) -> Deferred[object] | None:
        self.asked.append(hello)
        return self.verdict(hello)

    def credentials(self) -> tuple[str, str] | None:
        return None

    def session_made(self, session: Session) -> None:
        self.made += 1

    def session_lost(self, session: Session, reason: JetStreamError | None) -> None:
        self.lost.append(reason)


HONEST = Hello(
    version=PROTOCOL_VERSION,
    max_message=16 * MIB,
    max_channels=1000,
    channel_window=4 * MIB,
    session_window=64 * MIB,
    lz4=True,
    agent="test",
)


class RawPeer:
    """The other end of a session, writing whatever packets the test wants it to.

    The session is a server's unless `client` is said. It is connected unless `hello` is None.
    """

    def __init__(
        self,
        services: Mapping[str, Callable[[], ChannelProtocol]] | None = None,
        *,
        client: bool = False,
        settings: SessionSettings = DEFAULT_SETTINGS,
        hello: Hello | None = HONEST,
        streams: bool = False,
    ) -> None:
        self.clock = QuickClock()
        self.host = FakeHost(settings, services)
        self.session = Session(self.host, Timeouts(self.clock), client=client)
        self.link = FakeLink(self.session, self.clock, streams)
        self.session.start(self.link)
        self.session.link_ready()
        if hello is not None:
            self.hello(hello)

    # --- what the peer does ------------------------------------------------------------

    def feed(self, *packets: tuple[int, int, int, int, int, bytes]) -> None:
        """Have these packets arrive in one batch, unless the link is gone."""
        if self.link.open:
            self.session.packets_received(
                [(*fields, memoryview(payload)) for *fields, payload in packets]
            )

    def hello(self, hello: Hello = HONEST) -> None:
        self.feed((0, 0, Kind.HELLO, 0, 0, HELLO.encode(hello)))

    def open(
        self,
        channel: int,
        service: str = "record",
        urgency: int = 3,
        mode: Mode = Mode.ORDERED,
        deadline_ms: int = 0,
    ) -> None:
        payload = OPEN.encode(Open(service, mode, urgency, deadline_ms))
        self.feed((0, channel, Kind.OPEN, 0, 0, payload))

    def data(
        self, channel: int, seq: int, payload: bytes = b"", flags: int = 0, code: int = 0
    ) -> None:
        self.feed((seq, channel, Kind.DATA, flags, code, payload))

    def dropped(self, channel: int, seq: int, size: int) -> None:
        """The link tells that a DATA packet with `size` bytes was given up."""
        self.data(channel, seq, size.to_bytes(4, "little"), Flag.DROPPED)

    def control(
        self, kind: int, channel: int = 0, seq: int = 0, code: int = 0, payload: bytes = b""
    ) -> None:
        self.feed((seq, channel, kind, 0, code, payload))

    def end_session(self) -> None:
        """The peer's authenticated end arrives."""
        self.session.link_ended()
        self.settle()
        if self.link.closed and self.link.open:
            self.link.fail(None)
            self.settle()

    # --- what the session did ------------------------------------------------------------

    def settle(self) -> None:
        """Let the session do what it has put off to later turns, at the present time."""
        for _ in range(10):
            self.clock.advance(0)

    def block(self) -> None:
        """The link takes nothing any more."""
        self.link.room = False

    def unblock(self) -> None:
        self.link.room = True
        self.session.link_writable()

    def sent(self, kind: int, channel: int | None = None) -> list[Sent]:
        """The packets of that kind that the session has sent."""
        return [
            packet
            for packet in self.link.sent
            if packet.kind == kind and channel in (None, packet.channel)
        ]


def cost(size: int) -> int:
    """The credit that one fragment of `size` bytes takes."""
    return size + PACKET_COST
