"""Sessions over QUIC as they go on and end: keys, paths, messages that expire, cuts."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

from jetstreamproto.errors import ProtocolViolation, SessionClosed, SessionCut
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.testing import LinkOptions
from jetstreamproto.testing.datagram_pair import CLIENT, NAT, SERVER
from jetstreamproto.transports.quic_closing import CloseCode
from jetstreamproto.transports.quic_core import QuicCore
from jetstreamproto.transports.quic_receiving import MESSAGE
from jetstreamproto.wire.packet import Flag, Kind, split_packets
from jetstreamproto.wire.session_messages import OPEN, Mode, Open
from tests.doubles import MIB, noise
from tests.scenarios.quic_pairs import QuicPair, QuicTestCase, RawClient, packet
from tests.scenarios.udp_pairs import recorded

NEAR = LinkOptions(delay=0.02)
WAN = LinkOptions(delay=0.025, rate=20e6)
DATA = noise(200_000)
ELSEWHERE = "203.0.113.5"


class EndTests(QuicTestCase):
    def test_under_loss(self) -> None:
        """Both sides end cleanly, whichever of them wants it, or both."""
        for seed in range(36):
            loss = (0.1, 0.2, 0.3)[seed % 3]
            sides = (("client",), ("server",), ("client", "server"))[seed // 3 % 3]
            with self.subTest(seed=seed, loss=loss, sides=sides):
                pair = QuicPair(link=replace(NEAR, loss=loss), seed=seed)
                self.assertEqual(pair.ask(noise(20_000)), noise(20_000))
                for side in sides:
                    getattr(pair, side).close()
                self.assertEqual(pair.closed(), (None, None))
                self.assert_nothing_left(pair)

    def test_everything_that_was_sent_arrives_first(self) -> None:
        for seed in range(6):
            with self.subTest(seed=seed):
                pair = QuicPair(link=replace(WAN, loss=0.05), seed=seed)
                inbox = pair.run(pair.client.open("sink", Inbox()))
                inbox.channel.send(DATA)
                pair.client.close()
                self.assertEqual(pair.closed(), (None, None))
                self.assertEqual(pair.sinks.made[-1].messages, [DATA])

    def test_the_last_word_is_lost(self) -> None:
        for lost in (1, 2, 3):
            with self.subTest(lost=lost):
                pair, left = QuicPair(link=NEAR), [lost]
                near = pair.near

                def drop(datagram: Any, near: Any = near, left: Any = left) -> bool:
                    if near.core.terminated is None or datagram.source[0] != CLIENT:
                        return True
                    left[0] -= 1
                    return bool(left[0] < 0)

                pair.net.tap = drop
                pair.client.close()
                self.assertEqual(pair.closed(), (None, None))
                self.assert_nothing_left(pair)

    def test_cuts_are_told_from_ends(self) -> None:
        for side in ("client", "server"):
            pair = QuicPair(link=NEAR)
            getattr(pair, side).abort()
            for reason in pair.closed():
                self.assertIsInstance(reason, SessionCut)
            self.assert_nothing_left(pair)

    def test_a_close_without_an_end_is_a_cut(self) -> None:
        """Also with the code of a clean one."""
        pair = QuicPair(link=NEAR)
        pair.near.core.close(CloseCode.ENDED)
        pair.near.flush()
        pair.run(pair.server.when_closed())
        self.assertIsInstance(pair.server.close_reason, SessionCut)

    def test_the_network_goes_away(self) -> None:
        settings = SessionSettings(heartbeat=100, idle_timeout=200)
        pair = QuicPair(link=NEAR, settings=settings)
        pair.net.tap = lambda _: False
        before = pair.clock.seconds()
        for reason in pair.closed():
            self.assertIsInstance(reason, SessionCut)
            self.assertIn("idle", str(reason))
        self.assertLess(pair.clock.seconds() - before, 62)
        self.assert_nothing_left(pair)

    def test_a_network_that_comes_back_is_noticed_soon(self) -> None:
        for message in (b"hello", DATA):
            pair = QuicPair(link=WAN)
            inbox = pair.run(pair.client.open("echo", Inbox()))
            pair.net.tap = lambda _: False
            inbox.channel.send(message)
            pair.advance(25)
            pair.net.tap = None
            before = pair.clock.seconds()
            self.assertEqual(pair.run(inbox.get()), message)
            least = 2 * len(message) * 8 / WAN.rate  # there and back
            self.assertLess(pair.clock.seconds() - before, 2.5 + 2 * least)

    def test_quiet_sessions_stay(self) -> None:
        settings = SessionSettings(heartbeat=1000, idle_timeout=2000)
        pair = QuicPair(link=NEAR, settings=settings)
        pair.advance(500)
        self.assertEqual(pair.ask(b"still there"), b"still there")

    def test_ports_that_stop_drop_their_sessions(self) -> None:
        pair = QuicPair(link=NEAR)
        stopped = pair.server_protocol.stop()
        pair.run(stopped)
        pair.run(pair.client.when_closed())
        self.assertIsInstance(pair.client.close_reason, SessionCut)
        self.assert_nothing_left(pair)

    def test_nothing_keeps_a_closed_session_in_memory(self) -> None:
        pair = QuicPair(link=NEAR)
        pair.ask(DATA)
        near, far = weakref.ref(pair.near), weakref.ref(pair.far)
        pair.run(pair.client.close())
        self.assert_nothing_left(pair)
        pair.client = pair.server_factory.last = None  # type: ignore[assignment]
        gc.collect()
        self.assertIsNone(near())
        self.assertIsNone(far())


class KeyTests(QuicTestCase):
    def test_keys_change_in_time(self) -> None:
        datagrams = DatagramSettings(key_packets=100)
        for loss in (0.0, 0.05):
            pair = QuicPair(link=replace(NEAR, loss=loss), datagrams=datagrams)
            for _ in range(5):
                self.assertEqual(pair.ask(DATA), DATA)
            self.assertGreater(pair.client.link.stats.key_updates, 2)  # type: ignore[attr-defined]
            pair.run(pair.client.close())
            self.assertIsNone(pair.client.close_reason)


class PathTests(QuicTestCase):
    def move(self, address: str | None) -> None:
        pair = QuicPair(link=WAN, behind_nat=True)
        inbox = pair.run(pair.client.open("echo"))
        bulk = noise(MIB)
        for start in range(0, len(bulk), 1 << 16):
            inbox.channel.send(bulk[start : start + (1 << 16)])
        pair.advance(0.2)
        assert pair.nat is not None
        old = pair.far.address
        pair.nat.rebind(address)
        got = [pair.run(inbox.get()) for _ in range(0, len(bulk), 1 << 16)]
        self.assertEqual(b"".join(got), bulk)
        self.assertNotEqual(pair.far.address, old)
        self.assertEqual(pair.far.address[0], address or NAT)
        self.assertIn(address or NAT, pair.server.peer.address)
        pair.client.close()
        self.assertEqual(pair.closed(), (None, None))
        self.assert_nothing_left(pair)

    def test_a_new_port_and_a_new_address(self) -> None:
        self.move(None)
        self.move(ELSEWHERE)

    def test_the_datagrams_size(self) -> None:
        sizes: set[int] = set()

        def tap(datagram: Any) -> bool:
            sizes.add(len(datagram.data))
            return True

        for mtu in (0, 1200, 1452, 9000, 65507):
            sizes.clear()
            pair = QuicPair(datagrams=DatagramSettings(mtu=mtu), tap=tap)
            self.assertEqual(pair.ask(DATA), DATA)
            self.assertEqual(max(sizes), min(mtu or 1232, 16384))

    def test_a_router_that_says_how_much_fits_is_believed(self) -> None:
        link = LinkOptions(delay=0.02, mtu=1328, mtu_reports=True)
        pair = QuicPair(datagrams=DatagramSettings(mtu=1232))
        for path in (pair.net.link(CLIENT, SERVER), pair.net.link(SERVER, CLIENT)):
            path.options = link
        for one in (pair.near, pair.far):
            one.core.mtu = 1452
        self.assertEqual(pair.ask(DATA), DATA)
        self.assertLessEqual(pair.near.core.mtu, 1300)
        pair.near.error_reported(False, 100)  # and a liar, as far as he can do no harm
        self.assertEqual(pair.near.core.mtu, 1200)
        self.assertEqual(pair.ask(DATA), DATA)

    def test_datagrams_go_in_runs_of_one_size(self) -> None:
        pair = QuicPair(link=NEAR)
        runs: list[tuple[int, int]] = []
        genuine = pair.client_protocol._write_segments
        assert genuine is not None

        def count(data: memoryview, size: int, address: Any) -> bool:
            runs.append((len(data), size))
            return genuine(data, size, address)

        pair.client_protocol._write_segments = count
        pair.ask(noise(MIB))
        self.assertGreater(max(length for length, _ in runs), 10 * 1232)
        self.assertLess(len(runs), 400)


class MessageTests(QuicTestCase):
    def sent(
        self,
        mode: Mode,
        count: int,
        deadline: float | None,
        pause: float = 0.002,
        **options: Any,
    ) -> Any:
        """What came of `count` messages, and the sink."""
        pair = QuicPair(**options)
        channel = pair.run(pair.client.open("sink", Inbox(), mode=mode, deadline=deadline)).channel
        for number in range(count):
            channel.send(b"%d " % number + noise(700, number))
            pair.advance(pause)
        channel.end()
        pair.run(channel.when_closed())
        sink = pair.sinks.made[-1]
        numbers = [int(message.split()[0]) for message in sink.messages]
        for number, message in zip(numbers, sink.messages, strict=True):
            self.assertEqual(message, b"%d " % number + noise(700, number))
        self.assertEqual(pair.ask(b"and after"), b"and after")
        pair.client.close()
        self.assertEqual(pair.closed(), (None, None))
        self.assert_nothing_left(pair)
        return numbers, sink

    def test_messages_overtake_lost_ones(self) -> None:
        link = replace(NEAR, loss=0.1)
        numbers, _ = self.sent(Mode.UNORDERED, 500, None, link=link)
        self.assertEqual(sorted(numbers), list(range(500)))
        self.assertNotEqual(numbers, sorted(numbers))

    def test_messages_expire(self) -> None:
        for loss, least in ((0.02, 380), (0.1, 300), (0.4, 30)):
            with self.subTest(loss=loss):
                link = replace(NEAR, loss=loss)
                numbers, sink = self.sent(Mode.EXPIRING, 400, 0.03, 0.02, link=link, seed=3)
                self.assertEqual(len(set(numbers)), len(numbers))
                self.assertEqual(len(numbers) + sink.channel.expired, 400)
                self.assertGreater(sink.channel.expired, 0)
                self.assertGreater(len(numbers), least)

    def test_more_messages_than_there_may_be_streams(self) -> None:
        numbers, _ = self.sent(Mode.UNORDERED, 3000, None, link=LinkOptions(delay=0.5))
        self.assertEqual(len(numbers), 3000)

    def test_messages_that_wait_for_a_stream_expire_too(self) -> None:
        link = LinkOptions(delay=0.2, rate=500e3)
        numbers, sink = self.sent(Mode.EXPIRING, 1000, 0.3, link=link)
        self.assertEqual(len(numbers) + sink.channel.expired, 1000)
        self.assertGreater(sink.channel.expired, 200)


class HostileTests(QuicTestCase):
    """Peers that keep to QUIC's rules and not to ours."""

    def raw(self, **options: Any) -> tuple[QuicPair, RawClient]:
        pair = QuicPair(connect=False, **options)
        pair.client.abort()
        client = pair.stranger()
        pair.run_until(lambda: client.is_connected)
        client.say_hello()
        pair.run_until(lambda: bool(client.received(0)))
        return pair, client

    def open_sink(self, pair: QuicPair, client: RawClient, mode: Mode = Mode.ORDERED) -> None:
        request = OPEN.encode(Open("sink", mode=mode))
        client.send(4, packet(0, 1, Kind.OPEN, request))
        pair.run_until(lambda: bool(client.received(4)))

    def assert_thrown_out(self, pair: QuicPair, client: RawClient) -> None:
        pair.run_until(lambda: client.closed_by is not None)
        self.assertIsNotNone(pair.server.close_reason)
        self.assertNotIsInstance(pair.server.close_reason, SessionClosed)
        pair.advance(60)
        self.assert_no_state(pair)
        client.quic._streams.clear()

    def test_a_session_by_hand(self) -> None:
        """That the others are thrown out is not for another reason."""
        pair, client = self.raw()
        self.open_sink(pair, client)
        client.send(4, packet(0, 1, Kind.DATA, b"hello"))
        client.send(4, packet(1, 1, Kind.END))
        pair.run_until(lambda: bool(pair.sinks.made[0].messages))
        self.assertEqual(pair.sinks.made[0].messages, [b"hello"])
        kinds = [parts[2] for parts in split_packets(client.received(4))]
        self.assertEqual(kinds[0], Kind.ACCEPT)

    def test_what_may_not_be(self) -> None:
        message = bytes([MESSAGE]) + packet(0, 1, Kind.DATA, b"x")
        for name, stream, data, end in (
            ("a packet of another channel", 4, packet(1, 3, Kind.DATA, b"x"), False),
            ("a second stream for a channel", 8, packet(0, 1, Kind.DATA, b"x"), False),
            ("a stream that ends in a packet", 8, packet(0, 3, Kind.OPEN, b"abc")[:-1], True),
            ("a stream of nothing", 8, b"", True),
            ("a packet that is too long", 4, b"\xff\xff\xff\x7f", False),
            ("a one-way stream of an unknown kind", 6, b"\x77abc", True),
            ("an empty one-way stream", 6, b"", True),
            ("two packets in a message", 6, message + message[1:], True),
            ("a message that is none", 6, bytes([MESSAGE]) + packet(0, 1, Kind.PING), True),
            ("half a message", 6, message[:-1], True),
            ("a message that has expired", 6, bytes([MESSAGE])
             + packet(0, 1, Kind.DATA, b"abcd", Flag.DROPPED), True),
            ("an endless message", 6, bytes([MESSAGE]) + bytes(200_000), False),
        ):  # fmt: skip
            with self.subTest(name=name):
                pair, client = self.raw()
                self.open_sink(pair, client, Mode.UNORDERED)
                client.send(stream, data, end=end)
                self.assert_thrown_out(pair, client)

    def test_resets(self) -> None:
        for stream, name in ((4, "reset_stream"), (4, "stop_stream"), (0, "reset_stream")):
            with self.subTest(stream=stream, name=name):
                pair, client = self.raw()
                self.open_sink(pair, client)
                getattr(client.quic, name)(stream, 5)
                client.flush()
                self.assert_thrown_out(pair, client)

    def test_gaps_cost_no_more_memory_than_the_window(self) -> None:
        """The last byte that the window allows, of every stream, and no others."""
        window = 1 << 20
        pair, client = self.raw(datagrams=DatagramSettings(receive_window=window))
        far = pair.far
        core: QuicCore = far.core
        for _ in range(12):
            client.quic.send_stream_data(4, bytes(window // 8))
            stream = client.quic._streams[4].sender
            stream._pending.subtract(0, stream._buffer_stop - 1)
            client.flush()
            pair.advance(0.2)
            client.wake()
        held = sum(len(one.receiver._buffer) for one in core._quic._streams.values())
        self.assertLessEqual(held, window)
        self.assertLessEqual(core._quic._local_max_data.value, core.consumed + window)

    def test_messages_for_channels_that_never_open(self) -> None:
        window = 1 << 18
        pair, client = self.raw(datagrams=DatagramSettings(receive_window=window))
        number = 0
        while client.closed_by is None:
            data = bytes([MESSAGE]) + packet(number, 5, Kind.DATA, b"")
            client.send(2 + 4 * number, data, end=True)
            number += 1
            pair.advance(0.01)
            client.wake()
            self.assertLess(number, 3000)
        self.assertIsInstance(pair.server.close_reason, ProtocolViolation)

    def test_noise(self) -> None:
        """Datagrams with QUIC's bit and nothing behind it change nothing."""
        pair = QuicPair(link=NEAR)
        with recorded(pair) as seen:
            pair.ask(b"one")
        datagrams = [one.data for one in seen if one.source[0] == CLIENT]
        for index in range(300):
            size = index * 7 % 1300
            pair.server_port.receive(bytes([0x40 | index & 0xFF]) + noise(size, index), (CLIENT, 9))
            damaged = bytearray(datagrams[index % len(datagrams)])
            damaged[index % len(damaged)] ^= 1 << index % 8
            source = (CLIENT, pair.client_port.number)
            pair.server_port.receive(bytes(damaged), source)
        pair.server_port.end_batch()
        self.assertEqual(pair.ask(b"two"), b"two")
        assert pair.server_protocol.quic is not None
        self.assertEqual(len(pair.server_protocol.quic.links), 1)
