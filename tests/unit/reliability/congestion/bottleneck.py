"""A small packet-level model of flows through one bottleneck, in virtual time and repeatable.

Sizes are bytes, times seconds, rates bytes per second unless a name says otherwise. A `Bottleneck`
serialises packets into a tail-drop queue; packets and acknowledgements may also be lost at random.
A `Flow` is the least sender and receiver that drive a `Congestion` as the protocol does: paced
in ticks, acknowledged two by two and later ten by ten, with delivery rates as
draft-cheng-iccrg-delivery-rate-estimation has them and losses found as RFC 9002 section 6.1 says.
"""

from __future__ import annotations

import csv
import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from jetstreamproto.reliability.congestion.base import AckSample, Congestion, LossSample

WIRE, DATAGRAM, PAYLOAD = 1500, 1472, 1428
TICK = 0.001
_EAGER_PACKETS = 200
_TRAIN_PACKETS, _LEAST_SPREAD = 12, 0.0005
_MAX_ACK_DELAY = 0.025
_GRANULARITY = 0.001
_MOST_THRESHOLD = 256


def mbit(rate: float) -> float:
    """Megabits a second in bytes a second."""
    return rate * 1e6 / 8


class Clock:
    """Runs what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (when, self._count, action))

    def run(self, until: float, done: Callable[[], bool] | None = None) -> None:
        due = self._due
        while due and due[0][0] <= until:
            self.now, _, action = heapq.heappop(due)
            action()
            if done is not None and done():
                return
        self.now = until


@dataclass
class Bottleneck:
    """A link of `rate` with a tail-drop queue of `queue` bytes, then `delay` seconds of way.

    `loss` is the share of packets lost at random, before the queue (as Linux's netem does it) or
    after it, on the average in bursts of `burst` packets (a Gilbert-Elliott model, if more than
    one); `ack_loss` that of acknowledgements, whose way back takes `delay` as well. Packets take
    up to `jitter` longer and may overtake each other. Acknowledgements leave every `slot` seconds
    only, as from a radio link, if that is not 0. `changes` says at what times the rate changes.
    """

    rate: float
    delay: float
    queue: float
    loss: float = 0.0
    ack_loss: float = 0.0
    burst: float = 1.0
    jitter: float = 0.0
    slot: float = 0.0
    changes: list[tuple[float, float]] = field(default_factory=list)
    loses_first: bool = True
    seed: int = 1
    dropped: int = 0
    passed: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._free_at = 0.0
        self._bad = False

    def queued(self, now: float) -> float:
        while self.changes and self.changes[0][0] <= now:
            when, rate = self.changes.pop(0)
            if self._free_at > when:
                self._free_at = when + (self._free_at - when) * self.rate / rate
            self.rate = rate
        return max(0.0, self._free_at - now) * self.rate

    def _is_lost(self) -> bool:
        if not self.loss:
            return False
        if self.burst <= 1:
            return self.random.random() < self.loss
        if self._bad:
            self._bad = self.random.random() >= 1 / self.burst
        else:
            self._bad = self.random.random() < self.loss / (1 - self.loss) / self.burst
        return self._bad

    def arrival(self, now: float) -> float | None:
        """When a packet sent now comes out at the far end; None for never."""
        lost = self._is_lost()
        if lost and self.loses_first:
            return None
        if self.queued(now) > self.queue:
            self.dropped += 1
            return None
        self._free_at = max(self._free_at, now) + WIRE / self.rate
        self.passed += 1
        late = self.random.random() * self.jitter if self.jitter else 0.0
        return None if lost else self._free_at + self.delay + late

    def ack_arrival(self, now: float) -> float | None:
        if self.ack_loss > 0 and self.random.random() < self.ack_loss:
            return None
        if self.slot:
            now = (now // self.slot + 1) * self.slot
        return now + self.delay


@dataclass(slots=True)
class Packet:
    number: int
    piece: int
    sent_at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    app_limited: bool
    train: bool


@dataclass
class Row:
    """The state of a flow at one time, for plots and checks."""

    time: float
    window: int
    in_flight: int
    delivered: int
    pacing_rate: float
    rtt: float
    queued: float
    phase: str


FIELDS = ("time", "window", "in_flight", "delivered", "pacing_rate", "rtt", "queued", "phase")


def write_rows(rows: Iterable[Row], out: TextIO) -> None:
    """The rows as CSV with a heading."""
    writer = csv.writer(out)
    writer.writerow(FIELDS)
    writer.writerows([getattr(row, name) for name in FIELDS] for row in rows)


class Receiver:
    """Notes what arrives, and when to acknowledge."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.log: list[int] = []  # packet numbers as they came
        self.pieces: set[int] = set()
        self._largest, self._largest_at = -1, 0.0
        self._unacknowledged = 0
        self._eager = _EAGER_PACKETS
        self._ack_at: float | None = None

    def receive(self, packet: Packet) -> None:
        now = self._flow.clock.now
        self.log.append(packet.number)
        self.pieces.add(packet.piece)
        if len(self.pieces) == self._flow.total:
            self._flow.arrived_at = now
        gap = packet.number != self._largest + 1
        if packet.number > self._largest:
            self._largest, self._largest_at = packet.number, now
        self._unacknowledged += 1
        every = self._flow.ack_every or (2 if self._eager > 0 else 10)
        self._eager -= 1
        if gap or self._unacknowledged >= every:
            self._acknowledge()
        elif self._ack_at is None:
            delay = min(_MAX_ACK_DELAY, max(0.001, self._flow.smoothed_rtt / 8))
            self._ack_at = now + delay
            self._flow.clock.at(self._ack_at, self._ack_due)

    def _ack_due(self) -> None:
        if self._ack_at is not None and self._flow.clock.now >= self._ack_at:
            self._acknowledge()

    def _acknowledge(self) -> None:
        flow, now = self._flow, self._flow.clock.now
        self._unacknowledged, self._ack_at = 0, None
        arrival = flow.link.ack_arrival(now)
        if arrival is not None:
            count, at = len(self.log), self._largest_at
            flow.clock.at(arrival, lambda: flow.acknowledged(count, at))


@dataclass
class Flow:
    """One sender and its receiver. `supply` says when how many packets become available."""

    clock: Clock
    link: Bottleneck
    congestion: Congestion
    supply: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 1 << 40)])
    starts_at: float = 0.0
    ack_every: int = 0
    extra_delay: float = 0.0
    log_every: float = 0.0

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self.finished_at: float | None = None
        self.sent_packets = self.lost_packets = 0
        self.delivered = self.in_flight = 0
        self.smoothed_rtt, self.latest_rtt, self._variation = 0.333, 0.0, 0.166
        self.least_rtt = float("inf")
        self._receiver = Receiver(self)
        self._available = self._fresh = 0
        self._timer_at = float("inf")
        self.arrived_at: float | None = None
        self._again: deque[int] = deque()
        self._acked_pieces: set[int] = set()
        self._under_way: dict[int, Packet] = {}
        self._next = 0
        self._given_up: dict[int, int] = {}
        self._threshold, self.spurious_packets = 3, 0
        self._largest_acked = -1
        self._processed = 0
        self._delivered_at = self._first_sent_at = 0.0
        self._app_limited_until = 0
        self._credit, self._filled_at = 10.0 * DATAGRAM, 0.0
        self._wake_at: float | None = None
        self._probes = 0
        self._probe_count = 0
        self._newest_sent_at = 0.0
        self._train_mark: tuple[int, float] | None = None
        self.total = sum(count for _, count in self.supply)
        for when, count in self.supply:
            self.clock.at(self.starts_at + when, partial(self._supplied, count))
        if self.log_every:
            self.clock.at(self.starts_at, self._log)

    @property
    def payload_delivered(self) -> int:
        """Bytes of payload that have arrived for the first time."""
        return len(self._receiver.pieces) * PAYLOAD

    def _log(self) -> None:
        now, congestion = self.clock.now, self.congestion
        self.rows.append(
            Row(
                now,
                congestion.window,
                self.in_flight,
                self.payload_delivered,
                congestion.pacing_rate,
                self.latest_rtt,
                self.link.queued(now),
                congestion.phase,
            )
        )
        if self.finished_at is None:
            self.clock.at(now + self.log_every, self._log)

    def _supplied(self, count: int) -> None:
        self._available += count
        self._pump()

    # --- sending ------------------------------------------------------------------------

    def _pump(self) -> None:
        now, congestion = self.clock.now, self.congestion
        while self.finished_at is None:
            if self._probes:
                self._probes -= 1
                oldest = next(iter(self._under_way.values()), None)
                if oldest is not None:
                    self._send(oldest.piece)
                continue
            piece = self._next_piece()
            if piece is None:
                if self.in_flight < congestion.window:
                    self._app_limited_until = self.delivered + self.in_flight + 1
                return
            if self.in_flight and congestion.window - self.in_flight < DATAGRAM:
                return
            if not self._paced(now):
                return
            if self._again:
                self._again.popleft()
            else:
                self._fresh += 1
            self._send(piece)

    def _next_piece(self) -> int | None:
        while self._again and self._again[0] in self._acked_pieces:
            self._again.popleft()
        if self._again:
            return self._again[0]
        return self._fresh if self._fresh < self._available else None

    def _paced(self, now: float) -> bool:
        rate = self.congestion.pacing_rate
        if rate == float("inf"):
            return True
        most = max(10.0 * DATAGRAM, 2 * TICK * rate)
        self._credit = min(self._credit + (now - self._filled_at) * rate, most)
        self._filled_at = now
        if self._credit >= DATAGRAM:
            return True
        goal = min(10.0 * DATAGRAM, max(1.0, TICK * rate))
        self._wake(now + max(TICK, (goal - self._credit) / rate))
        return False

    def _wake(self, when: float) -> None:
        if self._wake_at is None or self._wake_at <= self.clock.now:
            self._wake_at = when
            self.clock.at(when, self._woken)

    def _woken(self) -> None:
        self._wake_at = None
        self._pump()

    def _send(self, piece: int) -> None:
        now = self.clock.now
        if not self.in_flight:
            self._first_sent_at = self._delivered_at = now
        limited = self._app_limited_until > self.delivered
        train = self.congestion.pacing_rate == float("inf")
        packet = Packet(
            self._next, piece, now, self.delivered, self._delivered_at, self._first_sent_at,
            limited, train,
        )  # fmt: skip
        self._next += 1
        self.sent_packets += 1
        self._under_way[packet.number] = packet
        self.in_flight += DATAGRAM
        self._credit -= DATAGRAM
        self._newest_sent_at = now
        self.congestion.sent(now, DATAGRAM, self.in_flight)
        arrival = self.link.arrival(now)
        if arrival is not None:
            self.clock.at(arrival + self.extra_delay, lambda: self._receiver.receive(packet))
        if self._timer_at == float("inf"):  # a later packet is not due sooner
            self._schedule_probe()

    # --- acknowledgements -----------------------------------------------------------------

    def acknowledged(self, count: int, received_at: float) -> None:
        """The peer has `count` packets, the newest since `received_at` by its clock."""
        now = self.clock.now
        numbers = self._receiver.log[self._processed : count]
        if not numbers:
            return
        self._processed = count
        acked = late = 0
        newest: Packet | None = None
        for number in numbers:
            packet = self._under_way.pop(number, None)
            if packet is not None:
                self._acked_pieces.add(packet.piece)
                acked += DATAGRAM
                if newest is None or number > newest.number:
                    newest = packet
            elif (piece := self._given_up.pop(number, None)) is not None:
                self._acked_pieces.add(piece)
                late += DATAGRAM
        if late:  # it was not lost but overtaken: be more patient from now on
            self._threshold = min(2 * self._threshold, _MOST_THRESHOLD)
            self.spurious_packets += late // DATAGRAM
            self.delivered += late
        if newest is None:
            return
        self._probe_count = 0
        self.in_flight -= acked
        self.delivered += acked
        self._delivered_at = now
        self._first_sent_at = newest.sent_at
        rtt = None
        if newest.number > self._largest_acked:
            self._largest_acked = newest.number
            rtt = now - newest.sent_at
            self._measured(rtt)
        rate = self._rate(newest, now)
        train_rate = self._train_rate(newest, received_at) if newest.train else None
        lost = self._find_losses(now)
        self.congestion.acked(
            AckSample(
                now, acked, lost, self.in_flight, self.delivered, newest.delivered, rate,
                newest.app_limited, rtt, self.smoothed_rtt, train_rate,
            )
        )  # fmt: skip
        if len(self._acked_pieces) >= self.total and self.finished_at is None:
            self.finished_at = now
        self._schedule_probe()
        self._pump()

    def _measured(self, rtt: float) -> None:
        self.latest_rtt = rtt
        if self.least_rtt == float("inf"):
            self.smoothed_rtt, self._variation = rtt, rtt / 2
        self.least_rtt = min(self.least_rtt, rtt)
        self._variation += 0.25 * (abs(self.smoothed_rtt - rtt) - self._variation)
        self.smoothed_rtt += 0.125 * (rtt - self.smoothed_rtt)

    def _rate(self, packet: Packet, now: float) -> float | None:
        interval = max(packet.sent_at - packet.first_sent_at, now - packet.delivered_at)
        if interval <= 0 or interval < 0.99 * self.least_rtt:
            return None
        return (self.delivered - packet.delivered) / interval

    def _train_rate(self, newest: Packet, received_at: float) -> float | None:
        if self._train_mark is None:
            self._train_mark = (newest.number, received_at)
            return None
        number, since = self._train_mark
        packets, seconds = newest.number - number, received_at - since
        if packets < _TRAIN_PACKETS or seconds < _LEAST_SPREAD:
            return None
        return packets * DATAGRAM / seconds

    # --- losses -------------------------------------------------------------------------

    def _loss_delay(self) -> float:
        return max(1.125 * max(self.smoothed_rtt, self.latest_rtt), _GRANULARITY)

    def _find_losses(self, now: float) -> int:
        delay = self._loss_delay()
        lost: list[Packet] = []
        for packet in self._under_way.values():
            number = packet.number
            if number > self._largest_acked:
                break
            if number <= self._largest_acked - self._threshold or packet.sent_at + delay <= now:
                lost.append(packet)
            else:
                break
        if not lost:
            return 0
        for packet in lost:
            del self._under_way[packet.number]
            self._again.append(packet.piece)
            self._given_up[packet.number] = packet.piece
        self.lost_packets += len(lost)
        size = len(lost) * DATAGRAM
        self.in_flight -= size
        self.congestion.lost(LossSample(now, size, self.in_flight, lost[-1].sent_at))
        return size

    def _schedule_probe(self) -> None:
        if not self._under_way:
            return
        when = self._probe_time()
        if when < self._timer_at:
            self._timer_at = when
            self.clock.at(when, self._probe_due)

    def _probe_time(self) -> float:
        oldest = next(iter(self._under_way))
        if oldest <= self._largest_acked:
            return self._under_way[oldest].sent_at + self._loss_delay()
        timeout = self.smoothed_rtt + max(4 * self._variation, _GRANULARITY) + _MAX_ACK_DELAY
        return self._newest_sent_at + timeout * (1 << min(self._probe_count, 10))

    def _probe_due(self) -> None:
        now = self.clock.now
        if now < self._timer_at:
            return
        self._timer_at = float("inf")
        if not self._under_way or self.finished_at is not None:
            return
        if self._probe_time() > now:
            self._schedule_probe()
            return
        if next(iter(self._under_way)) <= self._largest_acked:
            self._find_losses(now)
        else:
            self._probe_count += 1
            if self._probe_count == 3:
                self.congestion.collapsed(now)
            self._probes = 2
        self._schedule_probe()
        self._pump()


def transfer(
    congestion: Congestion, link: Bottleneck, size: int, limit: float = 120.0, log: float = 0.0
) -> tuple[float, Flow]:
    """Deliver `size` bytes of payload: the goodput in Mbit/s, start-up and tail included."""
    clock = Clock()
    flow = Flow(clock, link, congestion, [(0.0, -(-size // PAYLOAD))], log_every=log)
    clock.run(limit, lambda: flow.arrived_at is not None)
    return flow.payload_delivered * 8 / clock.now / 1e6, flow


def compete(
    congestions: list[Congestion],
    link: Bottleneck,
    seconds: float,
    starts: tuple[float, ...] = (),
    measured_from: float = 0.0,
    log: float = 0.0,
) -> tuple[list[float], list[Flow]]:
    """Let flows send all they can: the goodput of each in Mbit/s, and the flows.

    It is measured from `measured_from` to `seconds`; the flows start at `starts`.
    """
    clock = Clock()
    flows = [
        Flow(clock, link, congestion, starts_at=starts[i] if starts else 0.0, log_every=log)
        for i, congestion in enumerate(congestions)
    ]
    clock.run(measured_from)
    before = [flow.payload_delivered for flow in flows]
    clock.run(seconds)
    span = seconds - measured_from
    return [
        (flow.payload_delivered - start) * 8 / span / 1e6
        for flow, start in zip(flows, before, strict=True)
    ], flows
