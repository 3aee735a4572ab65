"""A peer that breaks the rules: nothing is raised, memory is bounded, and the session ends."""

from __future__ import annotations

import tracemalloc

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import (
    ChannelReset,
    HandshakeTimeout,
    ProtocolViolation,
    Refused,
    SessionClosed,
    WireError,
)
from jetstreamproto.session.codes import MAX_FRAGMENT, MIN_WINDOW, ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import SessionState
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.compression import compress
from jetstreamproto.wire.packet import Flag, Kind
from jetstreamproto.wire.session_messages import HELLO, OPEN, Mode, Open
from tests.doubles import HONEST, KIB, MIB, RawPeer, Recorder, Registry, cost, noise, windows


class HostileCase(SynchronousTestCase):
    """What the tests below share."""

    def setUp(self) -> None:
        self.service = Registry(lambda: Recorder(stay=True))

    def peer(self, **options: object) -> RawPeer:
        return RawPeer({"record": self.service}, **options)  # type: ignore[arg-type]

    def check_violated(self, peer: RawPeer, *words: str) -> None:
        """The session was ended because the peer broke the protocol, and says so to both."""
        self.assertFalse(peer.link.open, "the session goes on")
        self.assertIsInstance(peer.link.failure, ProtocolViolation | WireError)
        for word in words:
            self.assertIn(word, str(peer.link.failure))
        last = peer.link.sent[-1]
        self.assertEqual((last.kind, last.code), (Kind.GOAWAY, ResetCode.PROTOCOL_ERROR))
        self.assertLessEqual(len(last.payload), 256)
        peer.settle()
        self.assertIs(peer.session.state, SessionState.CLOSED)
        self.assertIs(peer.session.close_reason, peer.link.failure)
        self.assertEqual(peer.host.lost, [peer.link.failure])
        self.assertEqual(peer.session.channels, ())
        self.assertEqual(peer.clock.getDelayedCalls(), [])

    def check_alive(self, peer: RawPeer) -> None:
        """The session still answers."""
        self.assertTrue(peer.link.open, f"the session ended: {peer.link.failure}")
        before = len(peer.sent(Kind.PONG))
        peer.control(Kind.PING, seq=4711)
        peer.settle()
        pongs = peer.sent(Kind.PONG)
        self.assertEqual((len(pongs), pongs[-1].seq), (before + 1, 4711))


class ChannelNumberTests(HostileCase):
    def test_channel_numbers_a_client_may_not_use(self) -> None:
        for number in (0, 2, 4, 2**32 - 2):
            with self.subTest(number=number):
                peer = self.peer()
                peer.open(number)
                self.check_violated(peer, str(number))

    def test_channel_numbers_a_server_may_not_use(self) -> None:
        for number in (0, 1, 3, 2**32 - 1):
            with self.subTest(number=number):
                peer = self.peer(client=True)
                peer.open(number)
                self.check_violated(peer, str(number))

    def test_a_number_is_never_used_twice_nor_a_lower_one_later(self) -> None:
        for numbers in ((1, 1), (5, 3), (5, 5), (2**32 - 1, 1)):
            for service in ("record", "unknown"):
                with self.subTest(numbers=numbers, service=service):
                    peer = self.peer()
                    peer.open(numbers[0], service)
                    self.assertTrue(peer.link.open)
                    peer.open(numbers[1], service)
                    self.check_violated(peer)

    def test_a_number_may_be_left_out(self) -> None:
        peer = self.peer()
        for number in (1, 7, 2**32 - 1):
            peer.open(number)
        self.assertEqual([channel.id for channel in peer.session.channels], [1, 7, 2**32 - 1])
        self.check_alive(peer)

    def test_packets_for_channels_that_never_were(self) -> None:
        for kind in (Kind.DATA, Kind.END, Kind.RESET, Kind.CREDIT, Kind.ACCEPT):
            for number in (2, 3, 4, 2**32 - 1):
                with self.subTest(kind=kind.name, number=number):
                    peer = self.peer()
                    peer.open(1)
                    peer.control(kind, number)
                    self.check_violated(peer, str(number))

    def test_data_end_reset_and_accept_for_the_session_itself(self) -> None:
        for kind in (Kind.DATA, Kind.END, Kind.RESET, Kind.ACCEPT, Kind.OPEN):
            with self.subTest(kind=kind.name):
                peer = self.peer()
                peer.control(kind, 0, payload=OPEN.encode(Open("record")))
                self.check_violated(peer)

    def test_late_packets_for_a_channel_that_is_gone_are_no_fault(self) -> None:
        peer = self.peer()
        peer.open(1)
        self.service.made[0].channel.reset()
        for kind in (Kind.DATA, Kind.CREDIT, Kind.END, Kind.RESET, Kind.ACCEPT):
            peer.control(kind, 1, seq=12)
        self.check_alive(peer)


class DataTests(HostileCase):
    def opened(self, **options: object) -> tuple[RawPeer, Recorder]:
        peer = self.peer(**options)
        peer.open(1)
        return peer, self.service.made[-1]

    def test_data_and_ends_after_the_end(self) -> None:
        for kind in (Kind.DATA, Kind.END):
            for paused in (False, True):
                with self.subTest(kind=kind.name, paused=paused):
                    peer, mine = self.opened()
                    if paused:
                        mine.channel.pauseProducing()
                    peer.data(1, 0, b"x")
                    peer.control(Kind.END, 1, seq=1)
                    peer.control(kind, 1, seq=1)
                    self.check_violated(peer)

    def test_numbers_of_packets_must_follow_each_other(self) -> None:
        for first, second in ((1, None), (2**64 - 1, None), (0, 0), (0, 2)):
            with self.subTest(first=first, second=second):
                peer, mine = self.opened()
                peer.data(1, first)
                if second is not None:
                    self.assertTrue(peer.link.open)
                    peer.data(1, second)
                self.check_violated(peer)
                self.assertLessEqual(len(mine.messages), 1)

    def test_a_fragment_over_64_kib(self) -> None:
        peer, mine = self.opened()
        peer.data(1, 0, bytes(MAX_FRAGMENT))
        self.assertEqual(mine.received, MAX_FRAGMENT)
        peer.data(1, 1, bytes(MAX_FRAGMENT + 1))
        self.check_violated(peer, "fragment")

    def test_more_than_the_channels_credit(self) -> None:
        peer, mine = self.opened(settings=windows(MIN_WINDOW, 4 * MIN_WINDOW))
        mine.channel.pauseProducing()
        for seq in range(2):
            peer.data(1, seq, bytes(MAX_FRAGMENT))
        self.check_alive(peer)
        peer.data(1, 2)
        self.check_violated(peer, "credit")

    def test_empty_packets_take_credit_too(self) -> None:
        peer, mine = self.opened(settings=windows(MIN_WINDOW, 4 * MIN_WINDOW))
        mine.channel.pauseProducing()
        for seq in range(MIN_WINDOW // cost(0)):
            peer.data(1, seq)
        self.check_alive(peer)
        peer.data(1, seq + 1)
        self.check_violated(peer, "credit")

    def test_more_than_the_sessions_credit(self) -> None:
        peer = self.peer(settings=windows(MIN_WINDOW, 2 * MIN_WINDOW))
        for number in (1, 3, 5):
            peer.open(number)
            self.service.made[-1].channel.pauseProducing()
        for number in (1, 3):
            for seq in range(2):
                peer.data(number, seq, bytes(MAX_FRAGMENT))
        self.check_alive(peer)
        peer.data(5, 0)
        self.check_violated(peer, "credit")

    def test_data_in_the_batch_of_the_hello_takes_credit_too(self) -> None:
        class Paused(Recorder):
            def channel_opened(self) -> None:
                self.channel.pauseProducing()

        peer = RawPeer({"paused": Paused}, settings=windows(MIN_WINDOW, 2 * MIN_WINDOW), hello=None)
        request = OPEN.encode(Open("paused", Mode.ORDERED, 3, 0))
        full = [(seq, 1, Kind.DATA, 0, 0, bytes(MAX_FRAGMENT)) for seq in range(2)]
        hello = (0, 0, Kind.HELLO, 0, 0, HELLO.encode(HONEST))
        peer.feed(hello, (0, 1, Kind.OPEN, 0, 0, request), *full)
        for number in (3, 5):
            peer.open(number, "paused")
        for seq in range(2):
            peer.data(3, seq, bytes(MAX_FRAGMENT))
        self.check_alive(peer)
        peer.data(5, 0)
        self.check_violated(peer, "credit")

    def test_data_for_gone_channels_is_paid_for_and_given_back(self) -> None:
        peer, mine = self.opened(settings=windows(MIN_WINDOW, 2 * MIN_WINDOW))
        mine.channel.reset()
        for seq in range(100):
            peer.data(1, seq, bytes(MAX_FRAGMENT))
        self.check_alive(peer)
        self.assertGreater(peer.sent(Kind.CREDIT, 0)[-1].seq, 90 * MAX_FRAGMENT)

    def test_a_reset_gives_back_what_was_held(self) -> None:
        peer = self.peer(settings=windows(MIN_WINDOW, 2 * MIN_WINDOW))
        for number in range(1, 41, 2):
            peer.open(number)
            self.service.made[-1].channel.pauseProducing()
            for seq in range(2):
                peer.data(number, seq, bytes(MAX_FRAGMENT))
            if number % 4 == 1:
                peer.control(Kind.RESET, number)
            else:
                self.service.made[-1].channel.reset()
        self.check_alive(peer)

    def test_an_end_inside_a_message_resets_the_channel(self) -> None:
        peer, mine = self.opened()
        peer.data(1, 0, b"half", Flag.MORE)
        peer.control(Kind.END, 1, seq=1)
        self.assertEqual((mine.messages, mine.events[-1]), ([], "closed"))
        assert isinstance(mine.reason, ChannelReset)
        self.assertEqual(mine.reason.code, ResetCode.BAD_MESSAGE)
        self.check_alive(peer)

    def test_empty_fragments_do_not_pile_up(self) -> None:
        peer, _ = self.opened()
        packet = (Kind.DATA, Flag.MORE, 0, memoryview(b""))
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for start in range(0, 200_000, 1000):
                if not peer.link.open or not peer.session.channels:
                    break
                peer.session.packets_received(
                    [(start + n, 1, *packet) for n in range(1000)]  # type: ignore[list-item]
                )
                peer.settle()
                peer.link.sent.clear()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self.assertLess(grown, 256 * KIB)

    def test_tiny_fragments_take_little_more_memory_than_their_message_has(self) -> None:
        peer, _ = self.opened(settings=SessionSettings(max_message=256 * KIB, max_assembly=MIB))
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for start in range(0, 128 * KIB, 1024):
                peer.session.packets_received(
                    [
                        (start + n, 1, Kind.DATA, Flag.MORE, 0, memoryview(b"xy"))
                        for n in range(1024)
                    ]
                )
                peer.settle()
                peer.link.sent.clear()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self.check_alive(peer)
        self.assertLess(grown, 3 * 256 * KIB)

    def test_unread_empty_messages_do_not_pile_up_in_an_inbox(self) -> None:
        peer = RawPeer({"inbox": lambda: Inbox(high_water=64 * KIB)})
        peer.open(1, "inbox")
        sent = 0
        while peer.link.open and sent < 500_000:
            granted = peer.sent(Kind.CREDIT, 1)
            limit = granted[-1].seq if granted else peer.session.settings.channel_window
            if (sent + 1000) * cost(0) > limit:
                break  # the inbox has stopped its sender
            for seq in range(sent, sent + 1000):
                peer.data(1, seq)
            sent += 1000
            peer.settle()
        self.assertLess(sent, 500_000)

    def test_unfinished_messages_over_many_channels_are_bounded(self) -> None:
        settings = SessionSettings(max_message=MIB, max_assembly=2 * MIB)
        peer = self.peer(settings=settings)
        reset = 0
        for number in range(1, 21, 2):
            peer.open(number)
            for seq in range(8):
                peer.data(number, seq, noise(MAX_FRAGMENT), Flag.MORE)
        peer.settle()
        for mine in self.service.made:
            if mine.reason is not None:
                self.assertEqual(mine.reason.code, ResetCode.LIMIT_EXCEEDED)
                reset += 1
        self.assertEqual(reset, 10 - 4)
        for number in (1, 3):
            peer.control(Kind.RESET, number, code=1)
        peer.open(21)
        for seq in range(16):
            peer.data(21, seq, noise(MAX_FRAGMENT), Flag.MORE if seq < 15 else 0)
        self.assertEqual(self.service.made[-1].received, MIB)
        self.check_alive(peer)

    def test_data_before_the_accept(self) -> None:
        for kind in (Kind.DATA, Kind.END):
            with self.subTest(kind=kind.name):
                peer = self.peer(client=True)
                opening = peer.session.open("x")
                peer.settle()
                peer.control(kind, 1)
                failure = peer.link.failure
                self.check_violated(peer)
                self.assertIs(self.failureResultOf(opening).value, failure)


class BlockTests(HostileCase):
    """LZ4 blocks that are bombs, or no blocks at all."""

    def test_a_block_that_expands_beyond_a_fragment(self) -> None:
        for size in (MAX_FRAGMENT + 1, 16 * MIB):
            for flags in (Flag.LZ4, Flag.LZ4 | Flag.MORE):
                with self.subTest(size=size, flags=flags):
                    peer = self.peer()
                    peer.open(1)
                    block = compress(bytes(size))
                    assert len(block) <= MAX_FRAGMENT + 1000
                    tracemalloc.start()
                    peer.data(1, 0, block[:MAX_FRAGMENT], flags)
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                    mine = self.service.made[-1]
                    self.assertEqual(mine.reason.code, ResetCode.BAD_MESSAGE)
                    self.assertEqual(mine.messages, [])
                    self.assertLess(peak, MIB)
                    self.check_alive(peer)

    def test_blocks_that_are_not_blocks(self) -> None:
        for block in (b"", b"\xff", b"\xff" * 100, bytes(5), noise(1000), compress(b"a" * 99)[:-3]):
            with self.subTest(block=block[:8]):
                peer = self.peer()
                peer.open(1)
                peer.open(3)
                peer.data(1, 0, block, Flag.LZ4)
                mine, other = self.service.made[-2:]
                if block:
                    self.assertEqual(mine.reason.code, ResetCode.BAD_MESSAGE)
                peer.data(3, 0, compress(b"b" * 99), Flag.LZ4)
                self.assertEqual(other.messages, [b"b" * 99])
                self.check_alive(peer)

    def test_many_small_bombs_stop_at_the_message_limit(self) -> None:
        settings = SessionSettings(max_message=MIB, max_assembly=4 * MIB)
        peer = self.peer(settings=settings)
        peer.open(1)
        block = compress(bytes(MAX_FRAGMENT))
        sent = 0
        while not self.service.made[0].reason and sent < 1000:
            peer.data(1, sent, block, Flag.LZ4 | Flag.MORE)
            sent += 1
        self.assertEqual(sent, 17)
        self.assertEqual(self.service.made[0].reason.code, ResetCode.MESSAGE_TOO_LARGE)
        self.check_alive(peer)

    def test_blocks_when_we_said_that_we_take_none(self) -> None:
        peer = self.peer(settings=SessionSettings(compression=None))
        self.assertFalse(HELLO.decode(peer.sent(Kind.HELLO)[0].payload).lz4)
        peer.open(1)
        peer.data(1, 0, compress(bytes(1000)), Flag.LZ4)
        self.assertEqual(self.service.made[0].received, 0)


class CreditTests(HostileCase):
    def test_limits_that_fall_repeat_or_are_huge(self) -> None:
        peer = self.peer(hello=HONEST._replace(channel_window=MIN_WINDOW))
        peer.open(1)
        mine = self.service.made[0]
        for _ in range(5):
            mine.channel.send(noise(MAX_FRAGMENT))
        peer.settle()
        first = len(peer.sent(Kind.DATA))
        for limit in (0, 1, MIN_WINDOW - 1, MIN_WINDOW, MIN_WINDOW):
            for channel in (0, 1):
                peer.control(Kind.CREDIT, channel, seq=limit)
        peer.settle()
        self.assertEqual(len(peer.sent(Kind.DATA)), first)
        for limit in (2**64 - 1, 0, 2**64 - 1):
            for channel in (0, 1):
                peer.control(Kind.CREDIT, channel, seq=limit)
        peer.settle()
        self.assertEqual(sum(len(packet.payload) for packet in peer.sent(Kind.DATA)), 5 << 16)
        self.check_alive(peer)

    def test_credit_for_a_channel_that_is_still_opening(self) -> None:
        peer = self.peer(client=True)
        opening = peer.session.open("x")
        peer.settle()
        peer.control(Kind.CREDIT, 1, seq=2**64 - 1)
        self.check_alive(peer)
        self.assertNoResult(opening)


class OpeningTests(HostileCase):
    def test_an_accept_that_was_not_asked_for(self) -> None:
        peer = self.peer(client=True)
        opening = peer.session.open("x")
        peer.settle()
        peer.control(Kind.ACCEPT, 1)
        self.assertIsInstance(self.successResultOf(opening), Inbox)
        self.check_alive(peer)
        peer.control(Kind.ACCEPT, 1)
        self.check_violated(peer)

    def test_a_reset_after_the_accept_and_an_accept_after_the_reset(self) -> None:
        peer = self.peer(client=True)
        opening = [peer.session.open("x") for _ in range(2)]
        peer.settle()
        for kind in (Kind.ACCEPT, Kind.RESET, Kind.ACCEPT, Kind.RESET):
            peer.control(kind, 1, code=9)
        for kind in (Kind.RESET, Kind.ACCEPT, Kind.RESET, Kind.ACCEPT):
            peer.control(kind, 3, code=9)
        self.successResultOf(opening[0])
        self.assertEqual(self.failureResultOf(opening[1], ChannelReset).value.code, 9)
        self.assertEqual(peer.session.channels, ())
        self.check_alive(peer)

    def test_a_flood_of_opens_stops_at_the_limit(self) -> None:
        peer = self.peer(settings=SessionSettings(max_channels=10))
        for number in range(1, 4001, 2):
            peer.open(number)
        peer.settle()
        self.assertEqual(len(peer.session.channels), 10)
        self.assertEqual(len(self.service.made), 10)
        refused = peer.sent(Kind.RESET)
        self.assertEqual(len(refused), 1990)
        self.assertEqual({packet.code for packet in refused}, {ResetCode.LIMIT_EXCEEDED})
        self.check_alive(peer)

    def test_our_own_channels_do_not_count_against_the_peer(self) -> None:
        peer = self.peer(settings=SessionSettings(max_channels=2))
        mine = [peer.session.open("x") for _ in range(5)]
        peer.open(1)
        peer.open(3)
        peer.settle()
        self.assertEqual(len(peer.sent(Kind.ACCEPT)), 2)
        for one in mine:
            one.addErrback(lambda _: None)
            one.cancel()

    def test_opens_that_make_no_sense(self) -> None:
        good = OPEN.encode(Open("record"))
        cases = {
            "empty": b"",
            "garbage": b"\xff" * 40,
            "cut": good[: len(good) // 2],
            "no service": OPEN.encode(Open("")),
            "urgency": OPEN.encode(Open("record", Mode.ORDERED, 8)),
        }
        for name, payload in cases.items():
            with self.subTest(name):
                peer = self.peer()
                peer.control(Kind.OPEN, 1, payload=payload)
                self.check_violated(peer)

    def test_a_service_name_over_255_bytes(self) -> None:
        peer = self.peer()
        peer.open(1, "x" * 255)
        self.assertEqual(len(peer.host.accepted), 1)
        peer.open(3, "x" * 256)
        self.assertEqual(len(peer.host.accepted), 1, "the application was asked about it")

    def test_an_unknown_delivery_mode_raises_nothing(self) -> None:
        payload = bytearray(OPEN.encode(Open("record", Mode.EXPIRING, 3, 7)))
        for position in range(len(payload)):
            for value in (0, 1, 3, 127, 255):
                changed = payload.copy()
                changed[position] = value
                peer = self.peer()
                peer.control(Kind.OPEN, 1, payload=bytes(changed))
                peer.settle()


class UnwritableTests(HostileCase):
    """The peer asks and asks, but does not read the answers."""

    def flood(self, peer: RawPeer, kind: Kind, count: int, payload: bytes = b"") -> int:
        """Memory taken by answers to `count` packets of that kind."""
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(count):
                if not peer.link.open:
                    break
                peer.control(kind, 2 * number + 1 if kind == Kind.OPEN else 0, payload=payload)
            return tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()

    def test_a_flood_of_pings(self) -> None:
        peer = self.peer()
        peer.block()
        self.assertLess(self.flood(peer, Kind.PING, 100_000), 4 * MIB)
        self.check_violated(peer)

    def test_a_flood_of_opens(self) -> None:
        for service in ("record", "unknown"):
            with self.subTest(service):
                peer = self.peer(settings=SessionSettings(max_channels=100))
                peer.block()
                payload = OPEN.encode(Open(service))
                self.assertLess(self.flood(peer, Kind.OPEN, 50_000, payload), 8 * MIB)
                self.check_violated(peer)

    def test_a_flood_of_opens_and_resets(self) -> None:
        peer = self.peer()
        peer.block()
        for number in range(1, 40_001, 2):
            peer.open(number)
            peer.control(Kind.RESET, number)
            self.assertLess(len(peer.session.channels), 2)
        self.check_violated(peer)

    def test_opening_many_channels_here_is_not_the_peers_fault(self) -> None:
        peer = self.peer(client=True)
        peer.block()
        opening = [peer.session.open("x") for _ in range(10_000)]
        peer.control(Kind.PING, seq=1)
        self.assertTrue(peer.link.open, f"the peer was blamed: {peer.link.failure}")
        peer.unblock()
        self.check_alive(peer)
        for one in opening:
            one.addErrback(lambda _: None)
            one.cancel()

    def test_resetting_many_channels_here_is_not_the_peers_fault(self) -> None:
        peer = self.peer(settings=SessionSettings(max_channels=10_000))
        for number in range(1, 20_001, 2):
            peer.open(number)
        peer.settle()
        peer.block()
        for channel in peer.session.channels:
            channel.reset()
        peer.control(Kind.PING, seq=1)
        self.assertTrue(peer.link.open, f"the peer was blamed: {peer.link.failure}")


class SessionPacketTests(HostileCase):
    def test_unknown_kinds(self) -> None:
        for kind in (0, 11, 100, 255):
            with self.subTest(kind=kind):
                peer = self.peer()
                peer.control(kind)
                self.check_violated(peer, str(kind))

    def test_a_second_hello(self) -> None:
        for client in (False, True):
            with self.subTest(client=client):
                peer = self.peer(client=client)
                peer.hello(HONEST._replace(max_message=1))
                self.check_violated(peer)
                self.assertEqual(peer.session.peer_hello, HONEST)

    def test_packets_before_the_hello(self) -> None:
        for kind in range(12):
            if kind == Kind.HELLO:
                continue
            with self.subTest(kind=kind):
                peer = self.peer(hello=None)
                peer.control(kind, 1)
                self.check_violated(peer, str(kind))
                self.assertEqual(self.service.made, [])

    def test_hellos_that_make_no_sense(self) -> None:
        good = HELLO.encode(HONEST)
        cases = {
            "empty": b"",
            "garbage": b"\xff" * 40,
            "cut": good[: len(good) // 2],
            "version": HELLO.encode(HONEST._replace(version=0)),
            "no messages": HELLO.encode(HONEST._replace(max_message=0)),
            "channel window": HELLO.encode(HONEST._replace(channel_window=MIN_WINDOW - 1)),
            "session window": HELLO.encode(HONEST._replace(session_window=MIN_WINDOW - 1)),
        }
        for name, payload in cases.items():
            for client in (False, True):
                with self.subTest(name, client=client):
                    peer = self.peer(client=client, hello=None)
                    peer.control(Kind.HELLO, payload=payload)
                    failure = peer.link.failure
                    self.check_violated(peer)
                    self.assertIs(
                        self.failureResultOf(peer.session.when_connected()).value, failure
                    )

    def test_extreme_but_valid_hellos(self) -> None:
        for hello in (
            HONEST._replace(version=65535, max_channels=0, max_message=1),
            HONEST._replace(channel_window=MIN_WINDOW, session_window=MIN_WINDOW),
            HONEST._replace(
                max_message=2**32 - 1,
                max_channels=2**32 - 1,
                channel_window=2**32 - 1,
                session_window=2**64 - 1,
            ),
        ):
            peer = self.peer(hello=hello)
            peer.open(1)
            self.service.made[-1].channel.send(b"x")
            peer.settle()
            self.assertEqual(peer.sent(Kind.DATA)[-1].payload, b"x")
            self.check_alive(peer)

    def test_a_hello_cannot_make_the_session_keep_much(self) -> None:
        peer = self.peer(hello=None)
        peer.hello(HONEST._replace(agent="a" * 200_000, username="u" * 200_000))
        if peer.link.open:
            kept = peer.session.peer_hello
            self.assertLess(len(kept.agent) + len(kept.username or ""), 2048)

    def test_goaways_of_any_content(self) -> None:
        for payload in (b"", b"\xff\xfe\x00", b"\x1b[31m" * 1000, bytes(200_000)):
            with self.subTest(size=len(payload)):
                peer = self.peer()
                peer.open(1)
                for code in (0, 8, 65535):
                    peer.control(Kind.GOAWAY, seq=2**64 - 1, code=code, payload=payload)
                self.check_alive(peer)
                self.assertEqual(self.service.made[-1].events, ["opened", "closing"])
                self.failureResultOf(peer.session.open("x"), SessionClosed)

    def test_reasons_are_made_fit_to_be_shown(self) -> None:
        peer = self.peer(client=True)
        opening = peer.session.open("x")
        peer.settle()
        peer.control(Kind.RESET, 1, code=65535, payload=b"\x1b[2J\x07\xff\n\xc2\x9b" + b"y" * 5000)
        reason = self.failureResultOf(opening, ChannelReset).value.reason
        self.assertTrue(reason.isprintable())
        self.assertLessEqual(len(reason), 256)

    def test_a_refusals_text_is_made_fit_to_be_shown(self) -> None:
        peer = self.peer(client=True, hello=None)
        connecting = peer.session.when_connected()
        peer.control(Kind.GOAWAY, code=3, payload=b"no\x1b[2J")
        peer.end_session()
        refusal = self.failureResultOf(connecting, Refused).value
        self.assertIn("no", str(refusal))
        self.assertTrue(str(refusal).isprintable())

    def test_pongs_and_accepts_nobody_waits_for(self) -> None:
        peer = self.peer()
        for number in (0, 1, 2**64 - 1):
            peer.control(Kind.PONG, seq=number)
        self.check_alive(peer)

    def test_a_pong_is_taken_once_and_only_with_its_number(self) -> None:
        peer = self.peer()
        pinging = peer.session.ping()
        peer.settle()
        number = peer.sent(Kind.PING)[-1].seq
        peer.control(Kind.PONG, seq=number + 1)
        self.assertNoResult(pinging)
        peer.clock.advance(1.5)
        peer.control(Kind.PONG, seq=number)
        peer.control(Kind.PONG, seq=number)
        self.assertEqual(self.successResultOf(pinging), 1.5)
        self.check_alive(peer)

    def test_what_follows_a_violation_in_the_same_batch_is_not_looked_at(self) -> None:
        peer = self.peer()
        payload = OPEN.encode(Open("record"))
        peer.feed((0, 0, 99, 0, 0, b""), (0, 1, Kind.OPEN, 0, 0, payload))
        self.check_violated(peer, "99")
        self.assertEqual(self.service.made, [])

    def test_an_end_of_the_session_in_the_middle_of_everything(self) -> None:
        peer = self.peer()
        peer.open(1)
        mine = self.service.made[0]
        opening, pinging = peer.session.open("x"), peer.session.ping()
        peer.data(1, 0, b"half", Flag.MORE)
        peer.end_session()
        self.assertIsInstance(mine.reason, SessionClosed)
        self.failureResultOf(opening, SessionClosed)
        self.failureResultOf(pinging, SessionClosed)
        self.assertIs(peer.session.state, SessionState.CLOSED)
        self.assertEqual(peer.clock.getDelayedCalls(), [])


class AuthenticationTests(HostileCase):
    """A peer that does not wait for the verdict on its credentials."""

    def pending(self) -> tuple[RawPeer, Deferred[object]]:
        peer = self.peer(hello=None)
        verdict: Deferred[object] = Deferred()
        peer.host.verdict = lambda hello: verdict
        peer.hello(HONEST._replace(username="ann", password="guess"))
        return peer, verdict

    def test_a_second_guess_while_the_first_is_judged(self) -> None:
        peer, _ = self.pending()
        peer.hello(HONEST._replace(username="root", password="guess"))
        self.assertEqual(len(peer.host.asked), 1, "a second guess was judged")
        self.check_violated(peer)

    def test_nothing_is_opened_before_the_verdict(self) -> None:
        peer, verdict = self.pending()
        peer.open(1)
        self.check_violated(peer)
        self.assertEqual(self.service.made, [])
        verdict.callback("ann")
        self.assertIs(peer.session.state, SessionState.CLOSED)
        self.assertEqual(peer.host.made, 0)

    def test_a_verdict_that_never_comes(self) -> None:
        peer, verdict = self.pending()
        connecting = peer.session.when_connected()
        peer.clock.advance(peer.session.settings.handshake_timeout)
        peer.settle()
        self.failureResultOf(connecting, HandshakeTimeout)
        verdict.errback(ValueError("too late to matter"))
        self.assertEqual(peer.host.made, 0)

    def test_a_refused_peer_is_not_connected_while_it_is_being_told(self) -> None:
        peer, verdict = self.pending()
        before = peer.session.when_connected()
        verdict.errback(ValueError("wrong"))
        during = peer.session.when_connected()
        pinging = peer.session.ping()
        peer.settle()
        self.assertEqual(peer.sent(Kind.GOAWAY)[-1].code, ResetCode.NOT_ALLOWED)
        self.assertEqual(peer.sent(Kind.HELLO), [])
        peer.end_session()
        for waiting in (before, during, pinging):
            self.failureResultOf(waiting)

    def test_a_judge_that_raises_refuses(self) -> None:
        peer = self.peer(hello=None)

        def broken(hello: object) -> None:
            raise LookupError("the user table is gone")

        peer.host.verdict = broken  # type: ignore[assignment]
        peer.hello(HONEST._replace(username="ann", password="x"))
        peer.settle()
        self.assertEqual(peer.host.made, 0)
        self.flushLoggedErrors(LookupError)
        self.assertEqual(peer.sent(Kind.HELLO), [])
        self.assertTrue(peer.link.closed or not peer.link.open)
