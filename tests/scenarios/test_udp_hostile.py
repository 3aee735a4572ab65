"""A peer that has the keys and keeps no rule: it is borne within bounds, or sent away."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from jetstreamproto.errors import JetStreamError, ProtocolViolation, SessionCut, WireError
from jetstreamproto.reliability import frames
from jetstreamproto.reliability.frames import Skip, encode_ack, encode_control
from jetstreamproto.testing import LinkOptions
from jetstreamproto.wire.packet import Kind, encode_head
from tests.doubles import noise
from tests.scenarios.udp_pairs import UdpPair, UdpTestCase, settings

NEAR = LinkOptions(delay=0.005)
SMALL = settings(receive_window=1 << 18)
FRESH = 101
"""A channel that the client has never used."""


def stream(channel: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    kind = frames.STREAM_FIN if fin else frames.STREAM
    return frames.STREAM_HEAD.pack(kind, channel, offset, len(data)) + data


def message(channel: int, number: int, offset: int, data: bytes, fin: bool = False) -> bytes:
    kind = frames.MESSAGE_FIN if fin else frames.MESSAGE
    return frames.MESSAGE_HEAD.pack(kind, channel, number, offset, len(data)) + data


def packet(channel: int, number: int, payload: bytes = b"") -> bytes:
    return encode_head(number, channel, Kind.DATA, 0, 0, len(payload)) + payload


def repair(base: int, count: int, k: int, row: int, data: bytes) -> bytes:
    return frames.REPAIR_HEAD.pack(frames.REPAIR, base, count, k, row) + data


def source(symbol: int, content: bytes) -> bytes:
    return frames.SOURCE_HEAD.pack(frames.SOURCE, symbol) + content


class HostileTestCase(UdpTestCase):
    def pair(self, **options: Any) -> UdpPair:
        options.setdefault("datagrams", SMALL)
        pair = UdpPair(link=NEAR, seed=1, **options)
        self.assertEqual(pair.ask(b"hello"), b"hello")
        return pair

    def assert_sent_away(self, pair: UdpPair, why: str = "") -> None:
        """The server has ended the session because of a broken rule, and the client knows."""
        pair.advance(0.1)
        self.assertIsInstance(pair.server.close_reason, ProtocolViolation | WireError)
        self.assertIn(why, str(pair.server.close_reason))
        pair.run(pair.client.when_closed())
        self.assertIsInstance(pair.client.close_reason, SessionCut)
        self.assertIn(why, str(pair.client.close_reason))
        self.assert_nothing_left(pair)

    def assert_borne(self, pair: UdpPair) -> None:
        self.assertIsNone(pair.server.close_reason)
        self.assertEqual(pair.ask(b"still here"), b"still here")
        self.assert_closes(pair)


class AcknowledgementTests(HostileTestCase):
    def test_packets_that_were_never_sent(self) -> None:
        for ahead in (0, 1, 1000, 1 << 40):
            with self.subTest(ahead=ahead):
                pair = self.pair()
                number = pair.connection("server")._sealer.number + ahead
                pair.inject(encode_ack(number, 0, 0, 1))
                self.assert_sent_away(pair, "never sent")

    def test_a_number_that_was_left_out(self) -> None:
        pair = self.pair()
        inbox = pair.open("echo")
        server = pair.connection("server")
        while server.sender._skipped < 0:
            inbox.channel.send(noise(50_000))
            pair.run(inbox.get())
        skipped = server.sender._skipped
        pair.advance(1.0)
        largest = max(skipped, server.sender.log.largest_acked)
        pair.inject(encode_ack(largest, 0, 0, (1 << (largest - skipped + 1)) - 1))
        self.assert_sent_away(pair, "without receiving them")

    def test_huge_bitmaps(self) -> None:
        pair = self.pair()
        log = pair.connection("server").sender.log
        pair.inject(encode_ack(log.largest_acked, 0, 0, (1 << 8191) - 1))
        pair.advance(0.1)
        if pair.server.close_reason is None:
            self.assert_borne(pair)
        else:
            self.assert_sent_away(pair)
        pair = self.pair()
        pair.inject(b"\x02" + bytes(16) + b"\xff\xff" + bytes(60_000))
        self.assert_sent_away(pair)

    def test_any_acknowledgements(self) -> None:
        generator = Random(3)
        for seed in range(40):
            with self.subTest(seed=seed):
                pair = self.pair()
                for _ in range(20):
                    if pair.server.close_reason is not None:
                        break
                    largest = generator.randrange(pair.connection("server")._sealer.number)
                    bitmap = generator.getrandbits(generator.choice((1, largest + 1)))
                    times = generator.getrandbits(32), generator.getrandbits(32)
                    frame = encode_ack(largest, *times, bitmap)
                    recovered = frames.encode_recovered(generator.getrandbits(32), bitmap)
                    pair.inject(generator.choice((frame, recovered)))
                    pair.advance(0.001)
                self.assertIsInstance(pair.server.close_reason, JetStreamError | None)
                pair.client.abort()
                pair.advance(0.1)
                self.assert_nothing_left(pair)


class FrameTests(HostileTestCase):
    def test_what_breaks_a_rule(self) -> None:
        head = encode_head(0, FRESH, Kind.OPEN, 0, 0, 3)
        cases: dict[str, Iterable[bytes]] = {
            "unknown frame": (b"\x77",),
            "frame that ends early": (b"\x05\0\0",),
            "stream longer than the packet": (b"\x05" + bytes(12) + b"\xff\xff" + b"x",),
            "more than the window": (stream(FRESH, 1 << 18, b"x"),),
            "far beyond the window": (stream(FRESH, (1 << 64) - 2, b"x"),),
            "the end has moved": (stream(FRESH, 99, b"", True), stream(FRESH, 98, b"", True)),
            "data after the end": (stream(FRESH, 9, b"", True), stream(FRESH, 9, b"x")),
            "the end before the data": (stream(FRESH, 9, b"xx"), stream(FRESH, 10, b"", True)),
            "an end within a packet": (stream(FRESH, 0, head[:10], True),),
            "a packet of another channel": (stream(FRESH, 0, packet(FRESH + 2, 0)),),
            "a packet that is too long": (stream(FRESH, 0, b"\xff\xff\xff\x7f"),),
            "no packet at all": (stream(FRESH, 0, b"\x08\0\0\0" + bytes(8)),),
            "an empty message": (message(FRESH, 0, 0, b"", True),),
            "two packets in a message": (message(FRESH, 0, 0, 2 * packet(FRESH, 0), True),),
            "a message of another number": (message(FRESH, 1, 0, packet(FRESH, 0), True),),
            "a message of another channel": (message(FRESH, 0, 0, packet(1, 0), True),),
            "a message that is too long": (message(FRESH, 0, 80_000, b"x"),),
            "the end of a message has moved": (
                message(FRESH, 0, 50, b"x", True),
                message(FRESH, 0, 60, b"x", True),
            ),
            "a skip of no size": (encode_control(frames.SKIP, Skip(FRESH, 0, 0)),),
            "a skip of a large size": (encode_control(frames.SKIP, Skip(FRESH, 0, 1 << 30)),),
            "a repair of too much": (repair(0, 11, 10, 10, b"x"),),
            "a repair of nothing": (repair(0, 0, 10, 10, b"x"),),
            "a repair with k 0": (repair(0, 0, 0, 0, b"x"),),
            "a path challenge that ends": (b"\x0c123",),
        }
        for name, packets in cases.items():
            with self.subTest(name):
                pair = self.pair()
                for plaintext in packets:
                    pair.inject(plaintext)
                self.assert_sent_away(pair)

    def test_what_is_borne(self) -> None:
        server_floor = encode_control(frames.FLOOR, (1 << 64) - 1)
        cases: dict[str, Iterable[bytes]] = {
            "nothing": (b"",),
            "padding": (bytes(1000),),
            "many pings": (b"\x01" * 1400,),
            "a floor beyond everything": (server_floor, server_floor),
            "windows up and down": (
                encode_control(frames.WINDOW, (1 << 64) - 1),
                encode_control(frames.WINDOW, 0),
            ),
            "responses that nobody asked for": (b"\x0d12345678" * 100,),
            "symbols that were restored": (frames.encode_recovered(0, (1 << 4000) - 1),),
            "an empty repair": (repair(0, 10, 10, 10, b""),),
            "overlapping pieces": (stream(0, 1 << 17, b"abcd"), stream(0, (1 << 17) - 2, b"xyab")),
        }
        for name, packets in cases.items():
            with self.subTest(name):
                pair = self.pair()
                for plaintext in packets:
                    pair.inject(plaintext)
                pair.advance(0.1)
                if pair.server.close_reason is None:
                    self.assertEqual(pair.ask(b"still here"), b"still here")
                    pair.client.abort()
                    pair.advance(0.1)
                self.assertIsInstance(
                    pair.server.close_reason, SessionCut | ProtocolViolation | WireError
                )
                self.assert_nothing_left(pair)

    def test_any_frames_in_any_packets(self) -> None:
        reasons = set()
        for seed in range(300):
            generator = Random(seed)
            with self.subTest(seed=seed):
                pair = UdpPair(link=NEAR, seed=seed, datagrams=SMALL)
                for _ in range(generator.randrange(1, 30)):
                    if pair.server.close_reason is not None:
                        break
                    count = generator.randrange(1, 5)
                    content = b"".join(self.frame(generator) for _ in range(count))
                    pair.inject(content[:1400])
                    pair.advance(generator.choice((0, 0.001, 0.1)))
                pair.advance(0.1)
                reason = pair.server.close_reason
                self.assertIsInstance(reason, ProtocolViolation | WireError | SessionCut | None)
                reasons.add(str(reason))
                pair.client.abort()
                pair.advance(0.1)
                pair.server.abort()
                self.assert_nothing_left(pair)
        self.assertGreater(len(reasons), 20)

    def frame(self, generator: Random) -> bytes:
        channel, number = generator.randrange(6), generator.randrange(4)
        offset = generator.choice((0, 0, 1, 40, 44, 100, 1 << 17, 1 << 40))
        payload = noise(generator.randrange(60), generator.randrange(99))
        content = generator.choice((payload, packet(channel, number, payload), bytes(40)))
        fin = generator.random() < 0.3
        make: list[Callable[[], bytes]] = [
            lambda: stream(channel, offset, content, fin),
            lambda: message(channel, number, min(offset, 1 << 30), content, fin),
            lambda: encode_control(frames.SKIP, Skip(channel, number, generator.randrange(200))),
            lambda: source(generator.randrange(40), stream(channel, 0, content)),
            lambda: repair(
                generator.randrange(20), number + 1, 8, generator.randrange(16), payload
            ),
            lambda: encode_control(frames.PATH_CHALLENGE, bytes(8)),
            lambda: encode_control(frames.FLOOR, offset),
            lambda: encode_control(frames.WINDOW, offset),
            lambda: frames.encode_recovered(number, generator.getrandbits(64)),
            lambda: encode_ack(number, 0, 0, generator.getrandbits(4)),
            lambda: bytes((generator.choice((frames.PING, frames.PING, frames.END)),)),
            lambda: generator.randbytes(5),
        ]
        weights = [6, 4, 2, 3, 3, 1, 1, 1, 1, 1, 1, 0.2]
        return generator.choices(make, weights)[0]()


class FloodTests(HostileTestCase):
    """Memory is bounded whatever comes, and however little of it makes sense."""

    def flood(self, packets: Iterable[bytes], limit: int, pair: UdpPair | None = None) -> UdpPair:
        pair = pair or self.pair()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number, plaintext in enumerate(packets):
                pair.inject(plaintext)
                if number % 50 == 0:
                    pair.advance(0.01)
                    if pair.server.close_reason is not None:
                        break
                    grown = tracemalloc.get_traced_memory()[0] - before
                    self.assertLess(grown, limit, f"after {number} packets")
        finally:
            tracemalloc.stop()
        self.assertIsInstance(pair.server.close_reason, ProtocolViolation | WireError | None)
        pair.advance(0.1)
        return pair

    def test_tiny_pieces_out_of_order(self) -> None:
        """Each of them in a packet that is much longer."""
        packets = (
            stream(FRESH, 2 * number + 1, b"x") + bytes(1400) for number in reversed(range(10_000))
        )
        self.assert_sent_away(self.flood(packets, 4 << 20), "too many and too small")

    def test_tiny_pieces_in_order(self) -> None:
        """The beginnings of packets that are never whole, on many channels."""
        start = (60_000).to_bytes(4, "little")
        packets = (
            stream(FRESH + 2 * (number % 500), number // 500, start[number // 500 :][:1] or b"x")
            + bytes(1400)
            for number in range(20_000)
        )
        self.flood(packets, 16 << 20)

    def test_channels_without_end(self) -> None:
        packets = (
            b"".join(stream(FRESH + 2 * (50 * number + n), 0, b"") for n in range(50))
            for number in range(500)
        )
        self.assert_sent_away(self.flood(packets, 60 << 20), "too many channels")

    def test_messages_of_channels_that_do_not_exist(self) -> None:
        packets = (
            message(FRESH, number, 0, packet(FRESH, number, bytes(1000)), True)
            for number in range(3000)
        )
        self.assert_sent_away(self.flood(packets, 4 << 20), "too many and too small")

    def test_skips_of_channels_that_do_not_exist(self) -> None:
        packets = (
            b"".join(
                encode_control(frames.SKIP, Skip(FRESH, 80 * number + n, 100)) for n in range(80)
            )
            for number in range(500)
        )
        self.assert_sent_away(self.flood(packets, 4 << 20), "too many and too small")

    def test_message_numbers_with_gaps(self) -> None:
        packets = (
            message(FRESH, 2 * number, 0, packet(FRESH, 2 * number), True)
            for number in range(10_000)
        )
        self.assert_sent_away(self.flood(packets, 8 << 20), "too many")

    def test_messages_that_are_never_whole(self) -> None:
        packets = (message(FRESH, number, 5, b"x") + bytes(1400) for number in range(5000))
        self.assert_sent_away(self.flood(packets, 4 << 20), "too many and too small")

    def test_path_challenges(self) -> None:
        packets = (b"\x0c12345678" * 150 for _ in range(500))
        self.assert_borne(self.flood(packets, 2 << 20))

    def test_repairs(self) -> None:
        generator = Random(1)
        packets = (
            repair(generator.getrandbits(32), 8, 8, 9, generator.randbytes(1200))
            for _ in range(8000)
        )
        pair = self.flood(packets, 16 << 20)
        self.assertLess(pair.connection("server").restorer.kept_bytes, 16 << 20)

    def test_repairs_that_contradict_each_other(self) -> None:
        for seed in range(20):
            with self.subTest(seed=seed):
                generator = Random(seed)
                packets = [source(n, stream(0, 1 << 17, b"x")) for n in range(0, 8, 2)]
                packets += [
                    repair(generator.randrange(3), 8, 8, 8 + n, generator.randbytes(100))
                    for n in range(8)
                ]
                self.flood(packets, 4 << 20)

    def test_sources(self) -> None:
        generator = Random(2)
        packets = (source(2 * n + generator.randrange(2), bytes(1300)) for n in range(8000))
        self.assert_borne(self.flood(packets, 16 << 20))

    def test_pings(self) -> None:
        self.assert_borne(self.flood((b"\x01" for _ in range(5000)), 2 << 20))
