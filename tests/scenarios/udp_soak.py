"""Random sessions over random networks, each of them decided by its seed.

    python -m tests.scenarios.udp_soak --seeds 1000 [--first N] [--processes 2]

Every seed draws a network, settings and what two applications say to each other; then the session
is closed. Everything that the transport guarantees must hold. Failing seeds are printed with the
command that repeats them.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from jetstreamproto.errors import ChannelClosed, JetStreamError
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import DatagramPair, LinkOptions
from jetstreamproto.testing.linkmodel import Outages
from jetstreamproto.wire.session_messages import Mode
from tests.doubles import IDENTITY, QuickClock

PATIENT = SessionSettings(
    handshake_timeout=300.0, open_timeout=2000.0, drain_timeout=1000.0, compression=None
)
WITHIN = 3000.0
"""Virtual seconds that a scene may take."""
_LONGEST_OUTAGE = 4.0


class Speaker(ChannelProtocol):
    """One end of a channel: says what was drawn for it, and notes what it hears."""

    def __init__(self, scene: Scene, talk: Talk, side: int) -> None:
        self.scene = scene
        self.talk = talk
        self.side = side
        self.heard: list[bytes] = []
        self.expired = 0
        self.ended = False
        self.closed = False
        self.reason: JetStreamError | None = None

    def channel_opened(self) -> None:
        self.talk.ends[self.side] = self
        self.scene.speak(self)

    def message_received(self, message: bytes) -> None:
        self.heard.append(message)

    def messages_expired(self, count: int) -> None:
        self.expired += count

    def end_received(self) -> None:
        self.ended = True

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self.closed = True
        self.reason = reason


class Talk:
    """What is said on one channel. Side 0 is the client, 1 the server."""

    def __init__(self, number: int, random: Random) -> None:
        self.number = number
        self.opener = random.randrange(2)
        self.mode = random.choice((Mode.ORDERED, Mode.ORDERED, Mode.UNORDERED, Mode.EXPIRING))
        self.deadline: float | None = None
        if self.mode is Mode.EXPIRING or random.random() < 0.4:
            self.deadline = random.choice((0.05, 0.15, 0.5, 3.0))
        self.opens_at = random.choice((0.0, 0.0, random.uniform(0, 5)))
        self.reset_at = random.uniform(0, 8) if random.random() < 0.1 else None
        self.pause_at = random.uniform(0, 4) if random.random() < 0.2 else None
        self.said: tuple[list[bytes], list[bytes]] = ([], [])
        self.gaps: tuple[list[float], list[float]] = ([], [])
        self.ends: list[Speaker | None] = [None, None]
        for side in (0, 1):
            self._draw(side, random)

    def _draw(self, side: int, random: Random) -> None:
        largest = random.choice((20, 300, 3000, 30_000))
        if self.mode is Mode.ORDERED:
            largest = random.choice((largest, 200_000))
        left, gap = random.choice((0, 2000, 20_000, 200_000)), random.choice((0.0, 0.002, 0.03))
        for number in range(random.randrange(1, 120)):
            size = random.randrange(largest)
            left -= size
            if left < 0:
                return
            head = b"%d.%d.%d " % (self.number, side, number)
            self.said[side].append(head + random.randbytes(size))
            self.gaps[side].append(gap * random.random())

    def faults(self) -> Iterator[str]:
        """What each side did not hear as it should have."""
        for side in (0, 1):
            end, said = self.ends[side], self.said[1 - side]
            if end is None:
                if self.reset_at is None:
                    yield f"channel {self.number} was never opened at side {side}"
                continue
            where = f"{self.mode.name} channel {self.number} at side {side}"
            if self.reset_at is not None:
                if Counter(end.heard) - Counter(said):
                    yield f"{where}, which was reset, heard what was never said"
                continue
            if end.reason is not None:
                yield f"{where} broke: {end.reason!r}"
            if self.mode is Mode.ORDERED and end.heard != said:
                yield f"{where} heard {len(end.heard)} of {len(said)}, or not in order"
            if self.mode is Mode.UNORDERED and Counter(end.heard) != Counter(said):
                yield f"{where} heard {len(end.heard)} of {len(said)}, or others"
            if self.mode is Mode.EXPIRING:
                if Counter(end.heard) - Counter(said):
                    yield f"{where} heard what was never said, or twice"
                if len(end.heard) + end.expired != len(said):
                    yield f"{where} heard {len(end.heard)}, lost {end.expired} of {len(said)}"


class Scene:
    """Everything that follows from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random = Random(f"scene {seed}")
        self.behind_nat = random.random() < 0.4
        there, back = draw_link(random), draw_link(random)
        self.settings = draw_settings(random)
        self.talks = [Talk(number, random) for number in range(random.randrange(1, 7))]
        self.pair = DatagramPair(
            self._services(1),
            self._services(0),
            link=there,
            back=back,
            seed=seed,
            batches=random.random() < 0.6,
            behind_nat=self.behind_nat,
            settings=PATIENT,
            datagrams=self.settings,
            client_datagrams=draw_settings(random),
            clock=QuickClock(),
            identity=IDENTITY,
            within=WITHIN,
            connect=False,
        )

    def __repr__(self) -> str:
        links = [link.options for link in self.pair.net._links.values()]
        settings = [self.settings, self.pair.client_protocol.settings]
        talks = [
            f"{talk.number}: {talk.mode.name} {talk.deadline} by {talk.opener}, "
            f"{[len(said) for said in talk.said]} messages"
            for talk in self.talks
        ]
        return "\n".join(map(str, [*links, *settings, *talks]))

    def _services(self, side: int) -> dict[str, Any]:
        def service(talk: Talk) -> Any:
            return lambda: Speaker(self, talk, side)

        return {f"talk{t.number}": service(t) for t in self.talks if t.opener != side}

    def session(self, side: int) -> Session:
        return self.pair.server if side else self.pair.client

    # --- what happens ------------------------------------------------------------------------

    def play(self) -> list[str]:
        """What went wrong."""
        with logged_failures() as failures:
            faults = list(self._play())
        return faults + failures

    def _play(self) -> Iterator[str]:
        pair, random, clock = self.pair, self.random, self.pair.clock
        pair.run(pair.client.when_connected())
        pair.run(pair.server.when_connected())
        for talk in self.talks:
            clock.callLater(talk.opens_at, self._open, talk)
        for _ in range(random.choice((0, 0, 1, 3))):
            clock.callLater(random.uniform(0, 8), self._disturb, random.random())
        pair.run_until(self._all_said)
        closing = random.choice(((0,), (1,), (0, 1)))
        for side in closing:
            self.session(side).close()
        pair.run(pair.client.when_closed())
        pair.run(pair.server.when_closed())
        for name, session in (("client", pair.client), ("server", pair.server)):
            if session.close_reason is not None:
                yield f"the {name} closed with {session.close_reason!r}"
        pair.advance(60.0)
        for talk in self.talks:
            yield from talk.faults()
        yield from self._residue()

    def _residue(self) -> Iterator[str]:
        pair = self.pair
        links = pair.client_protocol.links + pair.server_protocol.links
        if links:
            yield f"links are left: {links}"
        calls = [call for call in pair.clock.getDelayedCalls() if call.active()]
        if calls:
            yield f"calls are left: {calls}"
        if pair.client_factory.sessions or pair.server_factory.sessions:
            yield "sessions are left"

    def _all_said(self) -> bool:
        for session in (self.session(0), self.session(1)):
            if session.close_reason is not None:
                raise AssertionError(f"the session ended: {session.close_reason!r}")
        return all(
            talk.reset_at is not None or all(end is not None and end.closed for end in talk.ends)
            for talk in self.talks
        )

    def _open(self, talk: Talk) -> None:
        speaker = Speaker(self, talk, talk.opener)
        opening = self.session(talk.opener).open(
            f"talk{talk.number}", speaker, mode=talk.mode, deadline=talk.deadline
        )
        opening.addErrback(lambda failure: failure.trap(JetStreamError))

    def speak(self, speaker: Speaker, number: int = 0) -> None:
        """Say the message of that number, and the others after it."""
        talk, side, clock = speaker.talk, speaker.side, self.pair.clock
        if not number and talk.reset_at is not None and side == talk.opener:
            clock.callLater(talk.reset_at, speaker.channel.reset)
        if not number and talk.pause_at is not None:
            clock.callLater(talk.pause_at, speaker.channel.pauseProducing)
            clock.callLater(talk.pause_at + 2, speaker.channel.resumeProducing)
        said, gaps = talk.said[side], talk.gaps[side]
        while not speaker.closed:
            if number == len(said):
                speaker.channel.end()
                return
            try:
                speaker.channel.send(said[number])
            except ChannelClosed:  # the session is being closed, with a channel that was reset
                assert talk.reset_at is not None
                return
            number += 1
            if gaps[number - 1]:
                clock.callLater(gaps[number - 1], self.speak, speaker, number)
                return

    def _disturb(self, chance: float) -> None:
        pair = self.pair
        if pair.nat is not None and chance < 0.7:
            pair.nat.rebind("192.0.2.9" if chance < 0.2 else None)
        else:
            pair.change_link(mtu=1228 + round(300 * chance))


def draw_link(random: Random) -> LinkOptions:
    """One direction; at most a third is lost, in all that can happen to a packet."""
    delay = random.choice((0.0, 0.0005, 0.01, 0.03, 0.1, 0.4))
    bad = random.random()

    def part(most: float) -> float:
        return most * random.random() if random.random() < bad else 0.0

    rate = random.choice((None, 300e3, 1e6, 5e6, 50e6))
    queue = random.choice((0.02, 0.1, 1.0))
    if rate is not None:
        queue = max(queue, 10 * 1500 * 8 / rate)
    outages: Any = ()
    if random.random() < 0.15:
        length = random.uniform(0.1, _LONGEST_OUTAGE)
        outages = Outages(length + random.uniform(2, 10), length, random.uniform(0, 10))
    return LinkOptions(
        rate=rate,
        delay=delay,
        jitter=delay * part(1.0),
        keep_order=random.random() < 0.3,
        loss=random.choice((0.0, part(0.3), 0.01)),
        burst_loss=part(0.05),
        duplicate=part(0.1),
        reorder=part(0.1),
        reorder_delay=random.choice((None, 0.001, 0.05)),
        corrupt=part(0.05),
        queue=queue,
        mtu=random.choice((None, 1500, 1280, 9000)),
        mtu_reports=random.random() < 0.5,
        blackholes=outages,
    )


def draw_settings(random: Random) -> DatagramSettings:
    return DatagramSettings(
        congestion=random.choice(("bbr", "bbr", "cubic", "newreno")),
        fec=random.choice(("off", "adaptive", "adaptive", "10+2", "4+1", "2+2")),
        mtu=random.choice((0, 0, 1200)),
        max_mtu=random.choice((1472, 8952, 65507)),
        send_window=random.choice((1 << 18, 1 << 22, 64 << 20)),
        receive_window=random.choice((1 << 18, 1 << 20, 32 << 20)),
        tick=random.choice((0.001, 0.005, 0.0001)),
        heartbeat=random.choice((2.0, 15.0)),
        max_ack_delay=random.choice((0.001, 0.025, 0.1)),
        key_packets=random.choice((16, 64, 1000, 1 << 22)),
        gso=random.random() < 0.5,
    )


@contextmanager
def logged_failures() -> Iterator[list[str]]:
    """What is logged as a failure or error meanwhile."""
    failures: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            failure = event.get("log_failure")
            failures.append(failure.getTraceback() if failure else str(event.get("log_format")))

    globalLogPublisher.addObserver(observe)
    try:
        yield failures
    finally:
        globalLogPublisher.removeObserver(observe)


def play(seed: int) -> str:
    """What went wrong with that seed; empty if nothing did."""
    try:
        scene = Scene(seed)
        faults = scene.play()
    except Exception:
        faults = [traceback.format_exc()]
    if not faults:
        return ""
    described = repr(scene) if "scene" in locals() else ""
    return "\n".join([f"seed {seed}", *faults, described])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e6)
    options = parser.parse_args()
    began, failed, done = time.monotonic(), [], 0
    seeds = range(options.first, options.first + options.seeds)
    with ProcessPoolExecutor(options.processes) as pool:
        for seed, fault in zip(seeds, pool.map(play, seeds), strict=True):
            done += 1
            if fault:
                failed.append(seed)
                print(fault)
                print(f"repeat: python -m tests.scenarios.udp_soak --seeds 1 --first {seed}\n")
                sys.stdout.flush()
            if time.monotonic() - began > 60 * options.minutes:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    print(f"{done} seeds in {time.monotonic() - began:.0f} s, failed: {failed[:100]}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
