"""Tests for jetstreamproto.reliability.sent: flights and their bitmaps against single packets."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reliability.sent import PACKET_THRESHOLD, Control, Flight, FlightLog
from jetstreamproto.reliability.streams import SendStream

untimed = settings(deadline=None, derandomize=True, database=None)

SIZE = 100  # of a full packet
STEP = 85  # bytes of a stream in it
FULL_STREAM = 1 << 20

PieceOf = tuple[int, int, int, bool]  # index of the stream, start, stop, end of the stream


class Events:
    """An `Outcome` that takes notes."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, object]] = []

    def control_acked(self, control: Control) -> None:
        self.notes.append(("control acked", control))

    def control_lost(self, control: Control) -> None:
        self.notes.append(("control lost", control))

    def stream_acked(self, stream: SendStream) -> None:
        pass

    def stream_lost(self, stream: SendStream) -> None:
        pass

    def mtu_probe_acked(self, size: int) -> None:
        self.notes.append(("probe acked", size))

    def mtu_probe_lost(self, size: int) -> None:
        self.notes.append(("probe lost", size))

    def take(self) -> list[tuple[str, object]]:
        notes, self.notes = self.notes, []
        return sorted(notes, key=repr)


@dataclass
class Packet:
    """One packet, as the model knows it."""

    size: int
    sent_at: float
    pieces: list[PieceOf] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    probe: bool = False
    state: str = "sent"  # then acked, lost, or late
    done: bool = False


class Model:
    """What a `FlightLog` should know, packet by packet and byte by byte."""

    def __init__(self, streams: int) -> None:
        self.packets: dict[int, Packet] = {}
        self.flights: list[range] = []
        self.acked: list[set[int]] = [set() for _ in range(streams)]
        self.lost: list[set[int]] = [set() for _ in range(streams)]
        self.notes: list[tuple[str, object]] = []
        self.largest_acked = -1
        self.threshold = PACKET_THRESHOLD
        self.delivered = self.packets_lost = self.spurious = 0

    @property
    def in_flight(self) -> int:
        return sum(packet.size for packet in self.packets.values() if packet.state == "sent")

    def acknowledge(self, numbers: set[int]) -> tuple[int, int]:
        """How many bytes are acknowledged, and the newest packet that is."""
        self.largest_acked = max(self.largest_acked, *numbers)
        acked, newest, late = 0, -1, set[int]()
        for number in numbers & self.packets.keys():
            packet = self.packets[number]
            if packet.state == "sent":
                packet.state = "acked"
                acked += packet.size
                newest = max(newest, number)
                if packet.probe:
                    self.notes.append(("probe acked", packet.size))
            elif packet.state == "lost":
                packet.state = "late"
                if not packet.probe:
                    self.spurious += 1
                    late.add(number)
                self.delivered += packet.size
            else:
                continue
            self.arrived(packet)
        self.delivered += acked
        for flight in self.flights:
            if late.intersection(flight):
                self.threshold = min(2 * self.threshold, 256)
        return acked, newest

    def arrived(self, packet: Packet) -> None:
        if not packet.done:
            self.data_arrived(packet)
            self.notes += [("control acked", control) for control in packet.controls]

    def data_arrived(self, packet: Packet) -> None:
        for index, start, stop, _ in packet.pieces:
            self.acked[index].update(range(start, stop))
            self.lost[index].difference_update(range(start, stop))

    def detect(self, now: float, loss_delay: float) -> tuple[int, float]:
        size, newest = 0, 0.0
        for number, packet in self.packets.items():
            if packet.state != "sent" or number > self.largest_acked:
                continue
            if number <= self.largest_acked - self.threshold or packet.sent_at + loss_delay <= now:
                packet.state = "lost"
                if packet.probe:
                    self.notes.append(("probe lost", packet.size))
                    continue
                self.packets_lost += 1
                size += packet.size
                newest = max(newest, packet.sent_at)
                self.send_again(packet)
        return size, newest

    def send_again(self, packet: Packet) -> None:
        if packet.done:
            return
        for index, start, stop, _ in packet.pieces:
            self.lost[index].update(set(range(start, stop)) - self.acked[index])
        self.notes += [("control lost", control) for control in packet.controls]

    def recovered(self, number: int) -> bool:
        packet = self.packets.get(number)
        if packet is None or packet.done or packet.state not in ("sent", "lost"):
            return False
        packet.done = True
        self.data_arrived(packet)
        self.notes += [("control lost", control) for control in packet.controls]
        return True

    def probe(self, packets: int) -> None:
        for packet in self.packets.values():
            if packets and packet.state == "sent" and not (packet.done or packet.probe):
                packets -= 1
                self.send_again(packet)

    def loss_time(self, loss_delay: float) -> float | None:
        times = [
            packet.sent_at + loss_delay
            for number, packet in self.packets.items()
            if packet.state == "sent" and number <= self.largest_acked
        ]
        return min(times, default=None)


class Both:
    """A log and its model, to which the same happens."""

    def __init__(self, test: TestCase, random: Random, streams: int = 2) -> None:
        self.test = test
        self.random = random
        self.now = 0.0
        self.number = 0
        self.events = Events()
        self.log = FlightLog(self.events)
        self.model = Model(streams)
        self.streams = [SendStream(index) for index in range(streams)]
        for stream in self.streams:
            stream.write(bytes(FULL_STREAM))
        self.received = set[int]()
        self.acks: list[set[int]] = []
        self.controls = 0

    def check(self) -> None:
        test, log, model = self.test, self.log, self.model
        test.assertEqual(log.in_flight, model.in_flight)
        test.assertEqual(log.delivered, model.delivered)
        test.assertEqual(log.packets_lost, model.packets_lost)
        test.assertEqual(log.largest_acked, model.largest_acked)
        test.assertEqual(self.events.take(), sorted(model.notes, key=repr))
        model.notes.clear()
        for stream, acked, lost in zip(self.streams, model.acked, model.lost, strict=True):
            ranges = [(0, stream.acked_to), *stream._acked]
            test.assertEqual({n for low, high in ranges for n in range(low, high)}, acked)
            test.assertEqual({n for low, high in stream.lost for n in range(low, high)}, lost)
        test.assertEqual(log.spurious, model.spurious)
        test.assertEqual(log.packet_threshold, model.threshold)
        for delay in (0.0, 0.1, 0.5):
            test.assertEqual(log.loss_time(delay), model.loss_time(delay))
        unsettled = [n for n, packet in model.packets.items() if packet.state == "sent"]
        if unsettled:
            floor = log.floor
            assert floor is not None
            test.assertLessEqual(floor, unsettled[0])

    # --- what may happen -----------------------------------------------------------------

    def send(self) -> None:
        """A flight of what was lost and what is new, with a control frame now and then."""
        random, model = self.random, self.model
        self.number += random.random() < 0.1  # a number is left out
        flight = Flight(self.number, self.now)
        first = self.number
        flight.size = SIZE
        for _ in range(random.choice((1, 1, 2, 5))):
            kind = random.choice(("run", "run", "lost", "mixed"))
            stream = random.choice(self.streams)
            if kind == "run":
                self._add_run(flight, stream, random.randint(1, 12))
            elif kind == "lost" and stream.lost:
                self._add_packet(flight, [self._take_lost(stream)])
            else:
                self._add_packet(flight, [(each, *self._new(each)) for each in self.streams])
        flight.last_size = random.randint(40, SIZE)
        flight.last = first + flight.count - 1
        self.number = flight.last + 1
        model.packets[flight.last].size = flight.last_size
        model.flights.append(range(first, self.number))
        size = SIZE * (flight.count - 1) + flight.last_size
        self.log.add(flight, size, self.now, app_limited=False)

    def send_mtu_probe(self) -> None:
        flight = Flight(self.number, self.now)
        flight.count, flight.last = 1, flight.first
        flight.size = flight.last_size = flight.mtu_probe = 777
        self.model.packets[self.number] = Packet(777, self.now, probe=True)
        self.model.flights.append(range(self.number, self.number + 1))
        self.number += 1
        self.log.add(flight, 777, self.now, app_limited=True)

    def arrive(self, chance: float) -> None:
        """Some packets arrive, and perhaps an acknowledgement is made."""
        for number in self.model.packets:
            if number not in self.received and self.random.random() < chance:
                self.received.add(number)
        if self.received:
            oldest = max(self.received) - self.random.choice((3, 30, 3000))
            self.acks.append({number for number in self.received if number >= oldest})

    def acknowledge(self) -> None:
        """One of the last acknowledgements comes, or comes again."""
        if self.acks:
            numbers = self.random.choice(self.acks[-4:])
            largest = max(numbers)
            bitmap = sum(1 << (largest - number) for number in numbers)
            outcome = self.log.acknowledge(largest, bitmap, 0, self.now)
            acked, newest = self.model.acknowledge(numbers)
            self.test.assertEqual((outcome.acked, outcome.newest_number), (acked, newest))

    def lose(self) -> None:
        delay = self.random.choice((0.05, 0.2, 5.0))
        self.test.assertEqual(
            self.log.detect_losses(self.now, delay), self.model.detect(self.now, delay)
        )

    def recover(self) -> None:
        number = self.random.randint(max(0, self.number - 60), self.number + 1)
        self.test.assertEqual(self.log.recovered(number), self.model.recovered(number))

    def probe(self) -> None:
        self.log.probe(2)
        self.model.probe(2)

    # --- packets -------------------------------------------------------------------------

    def _add_run(self, flight: Flight, stream: SendStream, count: int) -> None:
        start = stream.next
        stop = stream.next = start + count * STEP
        flight.runs.append((flight.count, count, stream, start, STEP, stop, False))
        for offset in range(start, stop, STEP):
            piece = (stream.channel, offset, offset + STEP, False)
            self.model.packets[flight.first + flight.count] = Packet(SIZE, self.now, [piece])
            flight.count += 1

    def _add_packet(self, flight: Flight, pieces: list[tuple[SendStream, int, int]]) -> None:
        packet = Packet(SIZE, self.now)
        for stream, start, stop in pieces:
            flight.runs.append((flight.count, 1, stream, start, stop - start, stop, False))
            packet.pieces.append((stream.channel, start, stop, False))
        for _ in range(self.random.choice((0, 0, 1, 2))):
            control = (0x0E, self.controls)
            self.controls += 1
            flight.controls.append((flight.count, control))
            packet.controls.append(control)
        self.model.packets[flight.first + flight.count] = packet
        flight.count += 1

    def _take_lost(self, stream: SendStream) -> tuple[SendStream, int, int]:
        start, stop = stream.lost.popleft()
        middle = min(stop, start + STEP)
        if middle < stop:
            stream.lost.appendleft((middle, stop))
        self.model.lost[stream.channel].difference_update(range(start, middle))
        return stream, start, middle

    def _new(self, stream: SendStream) -> tuple[int, int]:
        start = stream.next
        stream.next += self.random.randint(1, STEP // 2)
        return start, stream.next


class ModelTests(TestCase):
    @untimed
    @given(
        st.integers(0, 1 << 32),
        st.sampled_from([0.02, 0.3, 0.9]),
        st.lists(
            st.sampled_from("ssssaaaaaaAAAAAllmrp"),
            min_size=1,
            max_size=80,
        ),
    )
    def test_against_single_packets(self, seed: int, chance: float, steps: list[str]) -> None:
        both = Both(self, Random(seed))
        for step in steps:
            both.now += both.random.choice((0.0, 0.01, 0.07))
            if step == "s":
                both.send()
            elif step == "m":
                both.send_mtu_probe()
            elif step == "a":
                both.arrive(chance)
            elif step == "A":
                both.acknowledge()
            elif step == "l":
                both.lose()
            elif step == "r":
                both.recover()
            else:
                both.probe()
            both.check()
