"""Tests for jetstreamproto.reliability.outgoing."""

from __future__ import annotations

from random import Random
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability import frames
from jetstreamproto.reliability.frames import Frame, Piece, Skip, parse_frames
from jetstreamproto.reliability.incoming import Incoming
from jetstreamproto.reliability.outgoing import Outgoing
from jetstreamproto.reliability.packer import MAX_FLIGHT, Packer
from jetstreamproto.reliability.protection import Protector
from jetstreamproto.reliability.rtt import RttEstimator
from jetstreamproto.reliability.sent import Control, Flight, FlightLog
from jetstreamproto.reliability.streams import SendStream
from jetstreamproto.security.datagrams import OVERHEAD, DatagramOpener, DatagramSealer
from jetstreamproto.security.keys import Cipher, TrafficKeys
from jetstreamproto.security.replay import ReplayWindow
from jetstreamproto.wire.packet import Kind, encode_head

untimed = settings(deadline=None, derandomize=True, database=None)

SIZE = 1200
CAPACITY = SIZE - OVERHEAD
PLENTY = 1e9
FIRST_LIMIT = 1 << 18


class Sender:
    """An `Outgoing` with what surrounds it; packets are opened as soon as they are sealed."""

    def __init__(self) -> None:
        self.sealer = DatagramSealer(TrafficKeys(bytes(48), Cipher.AES_256_GCM), 7, 1 << 20)
        fec = Protector("off", RttEstimator(0.025))
        self.outgoing = Outgoing(fec)
        self.packer = Packer(self.sealer, self.outgoing, fec)
        self.log = FlightLog(self)
        self.now = 0.0
        self.ended = False
        self._opener = DatagramOpener(TrafficKeys(bytes(48), Cipher.AES_256_GCM), 1, ReplayWindow())

    def control_acked(self, control: Control) -> None:
        self.outgoing.control_acked(control)

    def control_lost(self, control: Control) -> None:
        self.outgoing.control_lost(control)

    def stream_acked(self, stream: SendStream) -> None:
        self.outgoing.stream_acked(stream)

    def stream_lost(self, stream: SendStream) -> None:
        self.outgoing.stream_lost(stream)

    def mtu_probe_acked(self, size: int) -> None:
        raise AssertionError("there are none")

    mtu_probe_lost = mtu_probe_acked

    def open_data(self, channel: int) -> None:
        """Begin a channel."""
        self.outgoing.write(channel, encode_head(0, channel, Kind.OPEN, 0, 0, 0), b"", False)

    def write(self, channel: int, seq: int, payload: bytes) -> None:
        head = encode_head(seq, channel, Kind.DATA, 0, 0, len(payload))
        self.outgoing.write(channel, head, payload, False)

    def write_message(
        self, channel: int, seq: int, payload: bytes, expires_at: float | None = None
    ) -> None:
        head = encode_head(seq, channel, Kind.DATA, 0, 0, len(payload))
        self.outgoing.write_message(channel, seq, head + payload, expires_at, False)

    def build(
        self, budget: float = PLENTY, prefix: bytes = b"", size: int = SIZE
    ) -> tuple[Flight | None, list[list[Frame]]]:
        """A flight, and the frames of its packets."""
        out = bytearray(MAX_FLIGHT * size)
        view = memoryview(out)
        flight, end = self.packer.build(view, size, budget, self.now, prefix)
        packets = []
        for start in range(0, end, size):
            opened = self._opener.open(view, start, min(start + size, end))
            assert opened is not None
            packets.append(parse_frames(opened[1]))
        if flight is not None:
            assert flight.last - flight.first + 1 == flight.count == len(packets)
            assert flight.size * (flight.count - 1) + flight.last_size == end
            self.log.add(flight, end, self.now, app_limited=False)
        return flight, packets

    def acknowledge(self, *numbers: int) -> None:
        largest = max(numbers)
        bitmap = sum(1 << (largest - number) for number in numbers)
        self.log.acknowledge(largest, bitmap, 0, self.now)

    def lose_the_rest(self) -> None:
        """What is not acknowledged, but was sent before something that is, is lost."""
        self.log.detect_losses(self.now, 0.0)

    def acknowledge_next(self) -> list[Frame]:
        """Send a packet that arrives, so that what has not counts as lost; what is in it."""
        self.outgoing.put_control(frames.PING)
        flight, packets = self.build(budget=1)
        assert flight is not None
        self.acknowledge(flight.first)
        return packets[0]


def kinds(packets: list[list[Frame]]) -> list[list[int]]:
    return [[kind for kind, _ in packet] for packet in packets]


def arrive(incoming: Incoming, packet: list[Frame]) -> None:
    for _, content in packet:
        if isinstance(content, Piece) and content.number >= 0:
            incoming.message_piece_received(content)
        elif isinstance(content, Piece):
            incoming.piece_received(content.channel, content.offset, content.data, content.fin)
        elif isinstance(content, Skip):
            incoming.skip_received(content)


class BuildTests(TestCase):
    def test_nothing_to_send(self) -> None:
        sender = Sender()
        self.assertEqual(sender.build(), (None, []))
        self.assertEqual(sender.build(prefix=b"\x01"), (None, []))
        self.assertEqual(sender.sealer.number, 0)
        self.assertTrue(sender.outgoing.idle)
        self.assertFalse(sender.outgoing.has_data)

    def test_a_small_packet(self) -> None:
        sender = Sender()
        sender.write(1, 0, b"hello")
        self.assertTrue(sender.outgoing.has_data)
        flight, ((frame,),) = sender.build()
        assert flight is not None
        self.assertEqual(frame[0], frames.STREAM)
        self.assertEqual((flight.count, flight.size), (1, flight.last_size))
        self.assertTrue(sender.outgoing.idle)
        self.assertEqual(sender.outgoing.unsent, 0)

    def test_the_prefix_goes_first(self) -> None:
        sender = Sender()
        sender.outgoing.put_control(frames.PING)
        sender.write(1, 0, bytes(3000))
        prefix = frames.encode_control(frames.FLOOR, 5)
        _, packets = sender.build(prefix=prefix)
        self.assertEqual(kinds(packets), [[frames.FLOOR, frames.PING, frames.STREAM], [5], [5]])

    def test_all_of_one_size_but_the_last(self) -> None:
        sender = Sender()
        sender.write(1, 0, bytes(100000))
        flight, packets = sender.build()
        assert flight is not None
        self.assertEqual((flight.size, flight.count), (SIZE, MAX_FLIGHT))
        flight, packets = sender.build()
        assert flight is not None
        self.assertEqual((flight.size, flight.count), (SIZE, 23))
        self.assertLess(flight.last_size, SIZE)
        self.assertEqual(kinds(packets), [[frames.STREAM]] * 23)

    def test_the_budget_is_kept_to_a_packet(self) -> None:
        for budget in (1, SIZE, SIZE + 1, 10 * SIZE):
            sender = Sender()
            sender.write(1, 0, bytes(100000))
            flight, _ = sender.build(budget=budget)
            assert flight is not None
            self.assertTrue(budget / SIZE <= flight.count <= budget / SIZE + 1, flight.count)

    def test_the_peers_window_is_kept(self) -> None:
        sender, sent = Sender(), 0
        for channel in (1, 3):
            sender.write(channel, 0, bytes(200000))
        while (built := sender.build())[0] is not None:
            sent += sum(len(c.data) for p in built[1] for _, c in p if isinstance(c, Piece))
        self.assertEqual(sent, FIRST_LIMIT)
        self.assertFalse(sender.outgoing.has_data or sender.outgoing.idle)
        sender.outgoing.limit_received(FIRST_LIMIT - 1)
        self.assertFalse(sender.outgoing.has_data, "windows do not shrink")
        sender.outgoing.limit_received(FIRST_LIMIT + 100)
        _, (((_, piece),),) = sender.build()
        assert isinstance(piece, Piece)
        self.assertEqual(len(piece.data), 100)

    def test_controls_have_their_own_values(self) -> None:
        sender = Sender()
        sender.outgoing.announce_window(1000)
        sender.outgoing.announce_window(2000)
        sender.outgoing.put_control(frames.END)
        _, (packet,) = sender.build()
        self.assertEqual(packet, [(frames.WINDOW, 2000), (frames.END, None)])

    def test_many_small_writes_share_packets(self) -> None:
        sender = Sender()
        for channel in range(1, 101):
            sender.write(channel, 0, b"x" * 20)
        flight, packets = sender.build()
        assert flight is not None
        self.assertLessEqual(flight.count, 9)
        self.assertTrue(all(len(packet) > 1 for packet in packets))

    @untimed
    @given(st.integers(0, 1 << 32), st.integers(1200, 9000))
    def test_no_packet_is_too_large(self, seed: int, size: int) -> None:
        sender, random = Sender(), Random(seed)
        for seq in range(random.randint(1, 40)):
            channel, payload = random.randint(1, 4), bytes(random.choice((0, 30, 1100, 9000)))
            random.choice((sender.write, sender.write_message))(channel, seq, payload)
            if random.random() < 0.2:
                sender.outgoing.put_control(frames.SKIP, Skip(1, 2, 3))
        while (flight := sender.build(size=size)[0]) is not None:
            self.assertTrue(max(flight.size, flight.last_size) <= size)
            self.assertTrue(flight.count == 1 or flight.size == size)
            self.assertLessEqual(flight.last_size, flight.size)
        self.assertTrue(sender.outgoing.idle)
        self.assertEqual(sender.outgoing.unsent, 0)


class LossTests(TestCase):
    def test_lost_data_are_sent_again(self) -> None:
        sender = Sender()
        sender.write(1, 0, bytes(range(256)) * 20)
        _, _first = sender.build()
        sender.acknowledge_next()
        sender.lose_the_rest()
        self.assertTrue(sender.outgoing.resending)
        incoming = Incoming(1 << 20)
        while (built := sender.build())[0] is not None:
            for packet in built[1]:
                arrive(incoming, packet)
        (parts,) = incoming.take()
        self.assertEqual(bytes(parts[5]), bytes(range(256)) * 20)
        self.assertGreaterEqual(sender.outgoing.resent_bytes, 5120)

    def test_lost_controls(self) -> None:
        sender = Sender()
        for kind in (frames.PING, frames.END):
            sender.outgoing.put_control(kind)
        sender.outgoing.put_control(frames.SKIP, Skip(1, 2, 3))
        sender.build()
        sender.acknowledge_next()
        sender.lose_the_rest()
        _, (packet,) = sender.build()
        self.assertEqual(sorted(kind for kind, _ in packet), [frames.END])

    def test_a_lost_window_is_announced_anew(self) -> None:
        sender = Sender()
        sender.outgoing.announce_window(500)
        sender.build()
        sender.acknowledge_next()
        sender.lose_the_rest()
        self.assertEqual(sender.build()[1], [[(frames.WINDOW, 500)]])

    def test_the_end_of_what_was_sent_is_sent_twice_but_not_in_one_packet(self) -> None:
        for size in (10, 1000, 3000):
            sender = Sender()
            sender.write(1, 0, bytes(size))
            sender.build()
            sender.acknowledge_next()
            sender.lose_the_rest()
            copies: dict[int, list[int]] = {}
            while (built := sender.build())[0] is not None:
                for number, packet in enumerate(built[1], built[0].first):
                    for _, content in packet:
                        if isinstance(content, Piece):
                            for offset in range(content.offset, content.offset + len(content.data)):
                                copies.setdefault(offset, []).append(number)
            with self.subTest(size):
                self.assertEqual({len(numbers) for numbers in copies.values()}, {2})
                self.assertEqual({len(set(numbers)) for numbers in copies.values()}, {2})


class MessageTests(TestCase):
    def test_small_messages_are_one_frame_each(self) -> None:
        sender = Sender()
        for seq in range(3):
            sender.write_message(1, seq, b"hello")
        self.assertEqual(kinds(sender.build()[1]), [[frames.MESSAGE_FIN] * 3])

    def test_messages_do_not_wait_for_the_window(self) -> None:
        sender = Sender()
        for seq in range(5):
            sender.write_message(1, seq, bytes(60000))
        sent = 0
        while (built := sender.build())[0] is not None:
            sent += built[0].count
        self.assertGreater(sent * SIZE, FIRST_LIMIT)

    def test_they_expire(self) -> None:
        sender = Sender()
        sender.write_message(1, 0, bytes(3000), expires_at=2.0)
        sender.write_message(1, 1, b"hello", expires_at=1.0)
        self.assertEqual(sender.outgoing.next_expiry, 1.0)
        sender.outgoing.expire(0.9)
        self.assertEqual(sender.outgoing.next_expiry, 1.0)
        sender.outgoing.expire(2.0)
        self.assertEqual((sender.outgoing.next_expiry, sender.outgoing.unsent), (None, 0))
        _, (packet,) = sender.build()
        self.assertEqual([kind for kind, _ in packet], [frames.SKIP] * 2)

    def test_what_has_come_does_not_expire(self) -> None:
        sender = Sender()
        sender.write_message(1, 0, b"hello", expires_at=1.0)
        sender.build()
        sender.acknowledge(0)
        self.assertIsNone(sender.outgoing.next_expiry)
        sender.outgoing.expire(5.0)
        self.assertTrue(sender.outgoing.idle)

    def test_skips_are_sent_until_they_are_known(self) -> None:
        sender = Sender()
        sender.write_message(1, 0, b"hello", expires_at=1.0)
        sender.outgoing.expire(1.0)
        for _ in range(3):
            _, (packet,) = sender.build()
            self.assertEqual([kind for kind, _ in packet], [frames.SKIP])
            sender.acknowledge_next()
            sender.lose_the_rest()
        sender.build()
        sender.acknowledge(sender.sealer.number - 1)
        sender.acknowledge_next()
        sender.lose_the_rest()
        self.assertTrue(sender.outgoing.idle)

    def test_the_stream_ends_after_the_messages(self) -> None:
        sender = Sender()
        sender.open_data(1)
        sender.write_message(1, 0, b"hello")
        sender.write_message(1, 1, b"hello", expires_at=1.0)
        sender.outgoing.end_stream(1)
        sender.build()
        self.assertTrue(sender.outgoing.idle)
        sender.outgoing.expire(1.0)
        sender.acknowledge(0)
        sender.build()
        sender.acknowledge(1)
        self.assertEqual(kinds(sender.build()[1]), [[frames.STREAM_FIN]])
        sender.acknowledge(2)
        self.assertEqual(sender.outgoing.streams, {})
