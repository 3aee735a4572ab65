"""Two sessions joined by links in memory that shuffle: a channel each is a stream of its own.

A `ShufflingPair` is used as a `SessionPair` is. Packets of different channels overtake each other,
DATA of channels without order comes in any order, and some of what may expire does. All of it
follows from the `seed`. The links also hold their session to the rules of `Link`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.task import Clock

from jetstreamproto.errors import JetStreamError, SessionCut
from jetstreamproto.factory import Admitted, JetStreamClientFactory, JetStreamServerFactory, Service
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings
from jetstreamproto.testing.pair import SessionPair
from jetstreamproto.transports.link import LinkStats, Peer
from jetstreamproto.wire.packet import Flag, Kind, PacketParts, encode_head, is_data, split_packets
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import IDENTITY, QuickClock

_ROOM = 1 << 20
_LONGEST_BATCH = 30
_PAUSE = 0.004  # seconds between batches, at most


class ShufflingLink:
    """One end. Its session's packets are in the air until they are picked and handed over."""

    streams = True

    def __init__(
        self,
        session: Session,
        clock: Clock,
        chance: random.Random,
        latency: float,
        expiring: float,
        on_lost: Callable[[], None],
    ) -> None:
        self.peer = Peer("shuffled:0")
        self.stats = LinkStats()
        self.rtt: float | None = None
        self.other: ShufflingLink
        self.used: set[int] = set()
        self.ended: set[int] = set()
        self.modes: dict[int, tuple[Mode, float | None]] = {}
        self._session = session
        self._clock = clock
        self._chance = chance
        self._latency = latency
        self._expiring = expiring
        self._on_lost = on_lost
        self._streams: dict[int, deque[bytes]] = {}
        self._loose: list[tuple[int, bytes]] = []
        self._begun: set[int] = set()
        self._in_the_air = 0
        self._under_way = False
        self._open = True
        self._closing = False
        self._end_sent = False
        self._peer_ended = False

    # --- Link --------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._open and not self._closing and self._in_the_air < _ROOM

    def set_mode(self, channel: int, mode: Mode, deadline: float | None) -> None:
        assert channel not in self.modes and channel not in self.used, channel
        assert mode is not Mode.ORDERED or deadline is not None
        self.modes[channel] = (mode, deadline)

    def send_packet(self, head: bytes, payload: bytes | memoryview, channel: int) -> None:
        assert channel not in self.ended, f"a packet after the end of channel {channel}"
        self.used.add(channel)
        packet = bytes(head) + bytes(payload)
        self.stats.bytes_sent += len(packet)
        self._in_the_air += len(packet)
        if is_data(head) and self._mode(channel) is not Mode.ORDERED:
            self._loose.append((channel, packet))
        else:
            self._streams.setdefault(channel, deque()).append(packet)

    def end_channel(self, channel: int) -> None:
        assert channel in self.used and channel not in self.ended, channel
        self.ended.add(channel)

    def flush(self) -> None:
        self._send_later(self._latency)

    def close(self) -> None:
        assert not self._closing
        self._closing = True
        self._send_later(self._latency)

    def fail(self, failure: JetStreamError | None) -> None:
        if self._open:
            cut = SessionCut("the peer dropped the connection")
            self._clock.callLater(self._latency, self.other.lose, cut)
            self.lose(failure)

    def abort(self) -> None:
        self.fail(SessionCut("this side dropped the connection"))

    # --- the way -----------------------------------------------------------------------

    def lose(self, reason: JetStreamError | None) -> None:
        """The connection is gone for this end."""
        if self._open:
            self._open = False
            self._session.link_lost(reason)
            self._on_lost()

    def _mode(self, channel: int) -> Mode:
        return self.modes.get(channel, (Mode.ORDERED, None))[0]

    def _send_later(self, delay: float) -> None:
        if not self._under_way and self._open:
            self._under_way = True
            self._clock.callLater(delay, self._hand_over)

    def _hand_over(self) -> None:
        """Have a few packets arrive, whichever chance picks."""
        self._under_way = False
        if not self._open or not self.other._open:
            return
        was_full = self._in_the_air >= _ROOM
        batch: list[PacketParts] = []
        for _ in range(self._chance.randint(1, _LONGEST_BATCH)):
            packet = self._pick()
            if packet is None:
                break
            batch += split_packets(packet)
        if batch:
            self.other._session.packets_received(batch)
        if was_full and self.writable:
            self._session.link_writable()
        if self._in_the_air:
            self._send_later(self._chance.random() * _PAUSE)
        elif self._closing and not self._end_sent and self._open:
            self._end_sent = True
            self.other._end_received()

    def _end_received(self) -> None:
        self._peer_ended = True
        self._session.link_ended()
        for link in (self, self.other):
            if link._end_sent and link._peer_ended:
                link.lose(None)

    def _pick(self) -> bytes | None:
        """One of the packets that may come next; None when nothing is in the air."""
        loose = [n for n, (channel, _) in enumerate(self._loose[:100]) if channel in self._begun]
        if loose and (not self._streams or self._chance.random() < 0.5):
            channel, packet = self._loose.pop(self._chance.choice(loose))
            size = len(packet)
            if self._mode(channel) is Mode.EXPIRING and self._chance.random() < self._expiring:
                packet = given_up(packet)
        elif self._streams:
            channel = self._chance.choice(sorted(self._streams))
            packet = self._streams[channel].popleft()
            size = len(packet)
            self._begun.add(channel)
            if not self._streams[channel]:
                del self._streams[channel]
        else:
            assert not self._loose, "messages of a channel that was never opened"
            return None
        self._in_the_air -= size
        self.other.stats.bytes_received += size
        return packet


def given_up(packet: bytes) -> bytes:
    """What a link hands up in the place of a DATA packet that has expired."""
    ((seq, channel, _, _, _, payload),) = split_packets(packet)
    size = len(payload).to_bytes(4, "little")
    return encode_head(seq, channel, Kind.DATA, Flag.DROPPED, 0, len(size)) + size


class ShufflingPair(SessionPair):
    """As `SessionPair`, but for `chop`. `expiring` is the share of what expires of what may."""

    def __init__(
        self,
        services: Mapping[str, Service] | None = None,
        client_services: Mapping[str, Service] | None = None,
        *,
        seed: int = 0,
        expiring: float = 0.2,
        settings: SessionSettings = DEFAULT_SETTINGS,
        client_settings: SessionSettings | None = None,
        latency: float = 0.0,
        connect: bool = True,
        server_options: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = QuickClock()
        self.seed = seed
        chance = random.Random(seed)
        self.server_factory = JetStreamServerFactory(
            IDENTITY, services, settings=settings, reactor=self.clock, **(server_options or {})
        )
        options: dict[str, Any] = {"trust": PinnedKeys([IDENTITY.fingerprint])}
        self.client_factory = JetStreamClientFactory(
            services=client_services,
            settings=client_settings or settings,
            reactor=self.clock,
            **(options | dict(client_options or {})),
        )
        admitted = self.server_factory.admit("shuffled")
        assert isinstance(admitted, Admitted)
        self.server = admitted.session
        self.client = self.client_factory.new_session()
        common = (self.clock, chance, latency, expiring)
        self.client_link = ShufflingLink(self.client, *common, lambda: None)
        self.server_link = ShufflingLink(self.server, *common, admitted.release)
        self.client_link.other, self.server_link.other = self.server_link, self.client_link
        for session, link in (
            (self.server, self.server_link),
            (self.client, self.client_link),
        ):
            session.start(link)
            self.clock.callLater(0, session.link_ready)
        if connect:
            self.run(self.client.when_connected())
            self.run(self.server.when_connected())

    def cut(self) -> None:
        for link in (self.client_link, self.server_link):
            link.lose(SessionCut("the connection broke"))
