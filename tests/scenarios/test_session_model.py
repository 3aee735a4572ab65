"""Two applications that do anything to each other, against a model of what each must see."""

from __future__ import annotations

import unittest
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from jetstreamproto.errors import ChannelError, ChannelReset, JetStreamError
from jetstreamproto.session.session import SessionState
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import KIB, Recorder, make_pair, noise, windows
from tests.shuffling import ShufflingPair

SETTINGS = windows(140_000, 300_000, high_water=50_000, send_limit=2_000_000, heartbeat=15.0)

sizes = st.one_of(
    st.sampled_from([0, 1, 1000, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 400_000]),
    st.integers(0, 150_000),
)


class Side(Recorder):
    """One end of a channel, and what its application has done with it."""

    def __init__(self) -> None:
        super().__init__(stay=True)
        self.other: Side | None = None
        self.sent: list[bytes] = []
        self.ended = False
        self.reset_here: int | None = None
        self.paused = False
        self.pairing: dict[int, Side] = {}

    @property
    def usable(self) -> bool:
        return "opened" in self.events and "closed" not in self.events


class SessionModel(RuleBasedStateMachine):
    """The model: what was sent before an end arrives once, unless there is a reset, and in order
    on channels that are ordered."""

    @initialize(
        latency=st.sampled_from([0.0, 0.003, 0.05]),
        chop=st.sampled_from([0, 0, 1000, 7]),
        compressible=st.booleans(),
        seed=st.one_of(st.none(), st.integers(0, 1 << 32)),
    )
    def connect(self, latency: float, chop: int, compressible: bool, seed: int | None) -> None:
        self.compressible = compressible
        self.made: dict[tuple[str, int], Side] = {}
        self.sides: list[Side] = []
        self.count = 0
        services = {"service": lambda: self.accept("server")}
        client_services = {"service": lambda: self.accept("client")}
        common = {"settings": SETTINGS, "latency": latency}
        self.shuffled = seed is not None
        self.pair = (
            make_pair(services, client_services=client_services, chop=chop, **common)
            if seed is None
            else ShufflingPair(services, client_services, seed=seed, **common)
        )

    def accept(self, where: str) -> Side:
        side = Side()
        self.sides.append(side)
        return side

    def content(self, size: int) -> bytes:
        self.count += 1
        if self.compressible:
            return (b"%d " % self.count * (size // 2 + 1))[:size]
        return noise(size, self.count)

    # --- what applications do ------------------------------------------------------------

    @rule(
        client=st.booleans(),
        urgency=st.integers(0, 7),
        secret=st.booleans(),
        mode=st.sampled_from([Mode.ORDERED, Mode.UNORDERED]),
    )
    def open(self, client: bool, urgency: int, secret: bool, mode: Mode) -> None:
        if len(self.sides) >= 24:
            return
        session = self.pair.client if client else self.pair.server
        side = Side()
        self.sides.append(side)
        opening = session.open("service", side, urgency=urgency, secret=secret, mode=mode)
        opening.addErrback(lambda failure: failure.trap(JetStreamError))

    def pick(self, which: int) -> Side | None:
        usable = [side for side in self.sides if side.usable]
        return usable[which % len(usable)] if usable else None

    @rule(which=st.integers(0, 30), size=sizes, times=st.integers(1, 5))
    def send(self, which: int, size: int, times: int) -> None:
        side = self.pick(which)
        for _ in range(times if side else 0):
            message = self.content(size)
            try:
                side.channel.send(message)
            except ChannelError:
                assert side.ended or side.channel.queued >= SETTINGS.send_limit
            else:
                assert not side.ended
                side.sent.append(message)

    @rule(which=st.integers(0, 30))
    def end(self, which: int) -> None:
        side = self.pick(which)
        if side:
            side.channel.end()
            side.ended = True

    @rule(which=st.integers(0, 30), code=st.integers(0, 65535))
    def reset(self, which: int, code: int) -> None:
        side = self.pick(which)
        if side:
            side.reset_here = code
            side.channel.reset(code, "the model says so")

    @rule(which=st.integers(0, 30))
    def pause(self, which: int) -> None:
        side = self.pick(which)
        if side:
            side.paused = True
            side.channel.pauseProducing()

    @rule(which=st.integers(0, 30))
    def resume(self, which: int) -> None:
        side = self.pick(which)
        if side:
            side.paused = False
            side.channel.resumeProducing()

    @rule(client=st.booleans())
    def ping(self, client: bool) -> None:
        session = self.pair.client if client else self.pair.server
        session.ping().addErrback(lambda failure: failure.trap(JetStreamError))

    @precondition(lambda self: not self.shuffled)
    @rule(client=st.booleans(), paused=st.booleans())
    def block(self, client: bool, paused: bool) -> None:
        transport = self.pair.client_transport if client else self.pair.server_transport
        if paused:
            transport.pause()
        else:
            transport.resume()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01, 0.1, 1.0]))
    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)
        self.check()

    @precondition(lambda self: self.count > 5)
    @rule()
    def settle(self) -> None:
        self.unblock()
        self.pair.advance(2)
        self.check()

    def unblock(self) -> None:
        if not self.shuffled:
            self.pair.client_transport.resume()
            self.pair.server_transport.resume()

    # --- what must be true -----------------------------------------------------------------

    def match(self) -> None:
        """Find out which two sides belong together."""
        ends: dict[int, list[Side]] = {}
        for side in self.sides:
            if "opened" in side.events:
                ends.setdefault(side.channel.id, []).append(side)
        for both in ends.values():
            if len(both) == 2:
                both[0].other, both[1].other = both[1], both[0]

    def check(self) -> None:
        self.match()
        for session in (self.pair.client, self.pair.server):
            assert session.state is SessionState.OPEN, session.close_reason
        for side in self.sides:
            assert side.events.count("closed") <= 1
            assert side.events.count("end") <= 1
            if side.other is None:
                assert not side.messages
                continue
            got, sent = side.messages, side.other.sent
            if side.channel.mode is Mode.ORDERED:
                assert got == sent[: len(got)], "messages differ from those that were sent"
            else:
                assert not Counter(got) - Counter(sent), "messages that were never sent"
            if "end" in side.events:
                assert side.other.ended and len(got) == len(sent), "an end before its messages"
            if "closed" in side.events:
                self.check_reason(side, side.other)

    def check_reason(self, side: Side, other: Side) -> None:
        codes = {one.reset_here for one in (side, other) if one.reset_here is not None}
        if side.reason is None:
            assert side.ended and other.ended
            assert len(side.messages) == len(other.sent)
        else:
            assert isinstance(side.reason, ChannelReset), side.reason
            assert side.reason.code in codes

    def teardown(self) -> None:
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        self.settle_all()
        self.check()
        for side in self.sides:
            if side.usable:
                assert side.reset_here is None
                assert side.other is not None
                side.channel.end()
                side.ended = True
        pair.advance(60)
        self.check()
        for side in self.sides:
            if "opened" in side.events:
                assert "closed" in side.events, f"{side.channel} does not end"
        assert pair.client.channels + pair.server.channels == ()
        pair.run(pair.client.close())
        pair.run(pair.server.when_closed())
        assert pair.client.close_reason is None
        assert pair.server.close_reason is None
        pair.advance(1)
        assert pair.clock.getDelayedCalls() == []

    def settle_all(self) -> None:
        self.unblock()
        for side in self.sides:
            if side.usable:
                side.paused = False
                side.channel.resumeProducing()
        self.pair.advance(20)
        for side in self.sides:  # those that were opened meanwhile
            if side.usable:
                side.channel.resumeProducing()
        self.pair.advance(20)


def machine() -> Any:
    case = SessionModel.TestCase
    case.settings = settings(
        max_examples=60,
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        derandomize=True,
    )
    return case


class SessionModelTests(machine()):  # type: ignore[misc]
    """Replays are printed on failure; the examples are the same in every run."""


assert issubclass(SessionModelTests, unittest.TestCase)
