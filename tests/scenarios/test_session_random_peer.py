"""A hostile peer that sends any packets in any order: nothing raises, nothing remains."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ChannelClosed
from jetstreamproto.services.echo import Discard, Echo
from jetstreamproto.session.codes import MAX_FRAGMENT
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.compression import compress
from jetstreamproto.wire.packet import Flag, Kind
from jetstreamproto.wire.session_messages import HELLO, OPEN, Mode, Open
from tests.doubles import HONEST, RawPeer, Recorder, windows

SETTINGS = windows(
    140_000, 300_000, max_message=200_000, max_assembly=300_000, max_channels=5, high_water=50_000
)
SERVICES = {
    "echo": Echo,
    "discard": Discard,
    "inbox": lambda: Inbox(high_water=50_000),
    "record": Recorder,
    "stay": lambda: Recorder(stay=True),
}

few = st.integers(0, 8)
channels = st.one_of(few, st.integers(0, 2**32 - 1))
numbers = st.one_of(few, st.just(2**64 - 1), st.integers(0, 2**64 - 1))
payloads = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 70_000).map(bytes),
    st.integers(0, 300_000).map(lambda size: compress(bytes(size))),
    st.builds(
        lambda name, mode, urgency: OPEN.encode(Open(name, mode, urgency)),
        st.sampled_from([*SERVICES, "none", ""]),
        st.sampled_from(Mode),
        st.integers(0, 9),
    ),
    st.just(HELLO.encode(HONEST)),
)
wild = st.tuples(numbers, channels, st.integers(0, 12), st.integers(0, 255), few, payloads)
tame = st.one_of(
    st.tuples(
        st.just("data"),
        few,
        st.sampled_from([0, 0, Flag.MORE, Flag.LZ4, Flag.MORE | Flag.LZ4]),
        payloads,
    ),
    st.tuples(
        st.just("piece"),
        few,
        st.integers(0, 12),
        st.sampled_from([0, 0, Flag.MORE, Flag.LZ4]),
        st.sampled_from([0, 0, 0, 1, 2, 9]),
        payloads,
    ),
    st.tuples(st.just("drop"), few, st.integers(0, 12), st.integers(0, 70_000)),
    st.tuples(
        st.just("open"),
        st.sampled_from([*SERVICES, "none"]),
        st.integers(0, 7),
        st.sampled_from(Mode),
    ),
    st.tuples(st.just("end"), few, few),
    st.tuples(st.just("reset"), few),
    st.tuples(st.just("credit"), few, numbers),
    st.tuples(st.just("act"), few, st.sampled_from(["end", "reset", "pause", "resume", "send"])),
    st.tuples(st.just("time"), st.sampled_from([0.0, 0.1, 16.0])),
    st.tuples(st.just("block")),
    st.tuples(st.just("unblock")),
    st.tuples(st.just("ours"), st.booleans()),
)
packets = st.integers(0, 29).flatmap(lambda dice: tame if dice else wild)


class RandomPeer:
    """Plays a list of such packets to a session, most of them on channels that there are."""

    def __init__(self, client: bool, streams: bool) -> None:
        self.raw = RawPeer(SERVICES, client=client, settings=SETTINGS, streams=streams)
        self.seqs: dict[int, int] = {}
        self.newest = 0 if client else -1
        for number, service in enumerate(SERVICES):
            self.play(("open", service, 3, Mode(number % 3)))
        self.play(("ours", True))

    def channel(self, which: int, ordered: bool | None = None) -> int:
        """One of the channels there are, or once in a while one that there was."""
        known = [
            channel.id
            for channel in self.raw.session.channels
            if ordered is None or (channel.mode is Mode.ORDERED) == ordered
        ]
        if which == 8 or not known:
            return self.newest
        return known[which % len(known)]

    def play(self, step: tuple) -> None:  # type: ignore[type-arg]
        raw = self.raw
        name = step[0]
        if not isinstance(name, str):
            raw.feed(step)
        elif name == "data":
            channel, flags, payload = self.channel(step[1], True), step[2], step[3]
            seq = self.seqs.get(channel, 0)
            self.seqs[channel] = seq + 1
            raw.data(channel, seq, payload[:MAX_FRAGMENT], flags)
        elif name == "piece":
            channel, seq, flags, code, payload = self.channel(step[1], False), *step[2:]
            raw.data(channel, seq, payload[:MAX_FRAGMENT], flags, code)
        elif name == "drop":
            raw.dropped(self.channel(step[1], False), step[2], step[3])
        elif name == "open":
            self.newest += 2
            raw.open(self.newest, *step[1:])
        elif name == "end":
            raw.control(Kind.END, self.channel(step[1]), seq=step[2])
        elif name == "reset":
            raw.control(Kind.RESET, self.channel(step[1]), code=3)
        elif name == "credit":
            raw.control(Kind.CREDIT, self.channel(step[1]) if step[1] else 0, seq=step[2])
        elif name == "act":
            self.act(step[1], step[2])
        elif name == "time":
            raw.clock.advance(step[1])
        elif name == "block":
            raw.block()
        elif name == "unblock":
            raw.unblock()
        else:
            before = {channel.id for channel in raw.session.channels}
            raw.session.open("x", Recorder(stay=True)).addErrback(lambda _: None)
            raw.settle()
            new = {channel.id for channel in raw.session.channels} - before
            if new and step[1]:
                raw.control(Kind.ACCEPT, new.pop())
        raw.settle()

    def act(self, which: int, what: str) -> None:
        """Our application does something with one of its channels."""
        known = self.raw.session.channels
        if not known:
            return
        channel = known[which % len(known)]
        if what == "pause":
            channel.pauseProducing()
        elif what == "resume":
            channel.resumeProducing()
        elif what == "end":
            channel.end()
        elif what == "reset":
            channel.reset()
        else:
            with contextlib.suppress(ChannelClosed):
                channel.send(bytes(1000))


class RandomPeerTests(SynchronousTestCase):
    @settings(
        deadline=None,
        max_examples=400,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        derandomize=True,
    )
    @given(st.booleans(), st.booleans(), st.lists(packets, max_size=40))
    def test_nothing_raises_and_nothing_remains(
        self,
        client: bool,
        streams: bool,
        steps: list,  # type: ignore[type-arg]
    ) -> None:
        peer = RandomPeer(client, streams)
        for step in steps:
            peer.play(step)
        raw = peer.raw
        self.flushLoggedErrors()  # Echo may be sent what it cannot send back
        self.assertLessEqual(len(raw.session.channels), 2 * 5 + 1 + len(steps))
        raw.unblock()
        raw.session.close()
        for _ in range(60):
            raw.clock.advance(1)
            raw.settle()
        self.assertIs(raw.session.state, SessionState.CLOSED)
        self.assertEqual(raw.session.channels, ())
        self.assertEqual((raw.session.intake._assembled, raw.session.intake._held), (0, 0))
        self.assertEqual(raw.clock.getDelayedCalls(), [])
        self.assertEqual(len(raw.host.lost), 1)

    @settings(
        deadline=None, max_examples=300, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(st.booleans(), st.booleans(), st.binary(max_size=300), st.integers(0, 12))
    def test_any_payload_in_the_first_packet(
        self, client: bool, streams: bool, payload: bytes, kind: int
    ) -> None:
        raw = RawPeer({}, client=client, hello=None, settings=SessionSettings(), streams=streams)
        raw.control(kind, payload=payload)
        raw.clock.advance(11)
        raw.settle()
        if raw.session.state is not SessionState.CLOSED:
            self.assertEqual(kind, Kind.HELLO)
