"""What is under way: flights of packets, and what acknowledgements and time say about them.

A flight is a burst of packets that left together, all of one size but the last. What is known of
its packets is kept in integers used as bitmaps, so that a burst costs about as much as a packet.
Losses are found as RFC 9002 section 6.1 says, by packet and by time threshold; delivery rates are
sampled as draft-cheng-iccrg-delivery-rate-estimation says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from jetstreamproto.reliability.frames import MAX_BITMAP, MICROSECONDS
from jetstreamproto.reliability.streams import SendStream

PACKET_THRESHOLD = 3
_MOST_THRESHOLD = 256
_LATE_FLIGHTS = 512
TRAIN_PACKETS = 16
"""A burst of so many packets tells the path's rate, if three quarters of them arrive."""
_LEAST_SPREAD = 0.0005
"""Seconds over which they must have arrived: less says more about the clocks than the path."""

Run = tuple[int, int, SendStream, int, int, int, bool]
"""Pieces of a stream in consecutive packets: index of the first packet, how many packets, the
stream, offset of the first piece, bytes a piece, offset where the last one ends, whether the
stream ends there."""

Control = tuple[int, object]
"""A frame that is made again if it is lost: its type and what it says."""


class Outcome(Protocol):
    """Who wants to know what became of what was sent."""

    def control_acked(self, control: Control) -> None: ...

    def control_lost(self, control: Control) -> None: ...

    def stream_acked(self, stream: SendStream) -> None: ...

    def stream_lost(self, stream: SendStream) -> None: ...

    def mtu_probe_acked(self, size: int) -> None: ...

    def mtu_probe_lost(self, size: int) -> None: ...


class Flight:
    """Packets `first` to `last`. Bit i of a mask stands for packet `last` - i."""

    __slots__ = (
        "app_limited",
        "controls",
        "count",
        "delivered",
        "delivered_at",
        "done",
        "first",
        "first_sent_at",
        "last",
        "last_size",
        "lost",
        "mtu_probe",
        "repairable",
        "runs",
        "sent_at",
        "settled",
        "size",
        "train",
    )

    def __init__(self, first: int, sent_at: float) -> None:
        self.first = first
        self.last = first - 1
        self.count = 0
        self.size = 0
        self.last_size = 0
        self.sent_at = sent_at
        self.settled = 0  # acknowledged or lost
        self.lost = 0
        self.done = 0  # what they carried has come, whether they have or not
        self.mtu_probe = 0  # its size, if it is one: it carries nothing, and may be lost
        self.repairable = 0  # how many lost packets FEC may be given time to restore
        self.runs: list[Run] = []
        self.controls: list[tuple[int, Control]] = []
        self.app_limited = False
        self.delivered = 0
        self.delivered_at = 0.0
        self.first_sent_at = 0.0
        self.train = False

    @property
    def full(self) -> int:
        return (1 << self.count) - 1

    def bytes_of(self, mask: int) -> int:
        """The size of the packets in `mask`."""
        size = mask.bit_count() * self.size
        return size - self.size + self.last_size if mask & 1 else size

    def pieces(self, mask: int) -> Iterator[tuple[SendStream, int, int, bool]]:
        """The stream pieces that the packets in `mask` carry: stream, start, stop, end of it."""
        everything = mask == self.full
        for index, count, stream, offset, step, end, fin in self.runs:
            if everything:
                yield stream, offset, end, fin
                continue
            bits = mask >> (self.count - index - count) & ((1 << count) - 1)
            while bits:
                high = bits.bit_length()
                length = high - (~bits & ((1 << high) - 1)).bit_length()
                start = count - high
                stop = min(end, offset + (start + length) * step) if step else end
                whole = start + length == count
                yield stream, offset + start * step, end if whole else stop, fin and whole
                bits &= (1 << (high - length)) - 1


class AckOutcome:
    """What an acknowledgement changed, in bytes; `newest` is the last flight it touched."""

    __slots__ = ("acked", "longest", "newest", "newest_number", "train_rate")

    def __init__(self) -> None:
        self.acked = 0
        self.longest = 0  # packet
        self.newest: Flight | None = None
        self.newest_number = -1
        self.train_rate: float | None = None


class FlightLog:
    """All packets that want an acknowledgement and have neither got it nor been given up."""

    __slots__ = (
        "_flights",
        "_heard",
        "_held",
        "_largest_bitmap",
        "_late",
        "_outcome",
        "_train_mark",
        "delivered",
        "delivered_at",
        "first_sent_at",
        "full_lost",
        "full_size",
        "hold",
        "in_flight",
        "largest_acked",
        "packet_threshold",
        "packets_lost",
        "spurious",
    )

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._flights: deque[Flight] = deque()
        self._late: deque[Flight] = deque(maxlen=_LATE_FLIGHTS)  # with packets that were given up
        self._largest_bitmap = 0  # of the last acknowledgement, from `largest_acked` down
        self._heard = False
        self._train_mark: tuple[Flight, int, int] | None = None
        self._held: deque[tuple[float, Flight, int]] = deque()
        self.hold = 0.0
        """Seconds from sending after which FEC should have restored what was lost."""
        self.largest_acked = -1
        self.in_flight = 0
        self.packet_threshold = PACKET_THRESHOLD
        self.packets_lost = 0
        self.full_size = 1 << 16
        """Bytes of a packet that is as long as the path is thought to carry."""
        self.full_lost = 0  # packets of at least that size
        self.spurious = 0
        self.delivered = 0
        self.delivered_at = 0.0
        self.first_sent_at = 0.0

    @property
    def floor(self) -> int | None:
        """The oldest packet that an acknowledgement is wanted for; None when there is none."""
        if self._late:
            return self._late[0].first
        return self._flights[0].first if self._flights else None

    @property
    def oldest(self) -> Flight | None:
        return self._flights[0] if self._flights else None

    @property
    def newest(self) -> Flight | None:
        return self._flights[-1] if self._flights else None

    def add(self, flight: Flight, size: int, now: float, *, app_limited: bool) -> None:
        """`flight`, of `size` bytes, is leaving."""
        if not self.in_flight:
            self.first_sent_at = self.delivered_at = now
        flight.delivered = self.delivered
        flight.delivered_at = self.delivered_at
        flight.first_sent_at = self.first_sent_at
        flight.app_limited = app_limited
        self._flights.append(flight)
        self.in_flight += size

    # --- acknowledgements -------------------------------------------------------------

    def acknowledge(self, largest: int, bitmap: int, received_at: int, now: float) -> AckOutcome:
        """The peer has packet `largest` and those in `bitmap` (bit i for `largest` - i)."""
        result = AckOutcome()
        ahead = largest - self.largest_acked
        if not self._heard:
            new = bitmap
        elif ahead >= 0:
            new = bitmap & ~(self._largest_bitmap << ahead)
        else:
            new = bitmap & ~(self._largest_bitmap >> -ahead)
        if ahead > 0 or not self._heard:
            self._heard = True
            self.largest_acked = largest
            self._largest_bitmap = bitmap
        elif new and -ahead < 8 * MAX_BITMAP:
            self._largest_bitmap |= bitmap << -ahead & (1 << 8 * MAX_BITMAP) - 1
        if not new:
            return result
        lowest = largest - new.bit_length() + 1
        for flight in reversed(self._flights):
            if flight.last < lowest:
                break
            if flight.first > largest:
                continue
            self._acknowledge_in(flight, _aligned(new, largest, flight), result)
        if self._late and self._late[-1].last >= lowest:
            for flight in reversed(self._late):
                if flight.last < lowest:
                    break
                self._late_in(flight, _aligned(new, largest, flight))
        if result.newest is not None:
            self._delivered(result, now)
            if result.newest.train and result.newest_number == largest:
                self._measure_train(result.newest, result, received_at)
        return result

    def _acknowledge_in(self, flight: Flight, received: int, result: AckOutcome) -> None:
        if flight.lost:
            self._late_in(flight, received)
        new = received & ~flight.settled
        if not new:
            return
        flight.settled |= new
        size = flight.bytes_of(new)
        result.acked += size
        result.longest = max(result.longest, flight.size if new > 1 else size)
        self.in_flight -= size
        number = flight.last - ((new & -new).bit_length() - 1)
        if number > result.newest_number:
            result.newest, result.newest_number = flight, number
        if flight.mtu_probe:
            self._outcome.mtu_probe_acked(flight.mtu_probe)
        else:
            self._content_arrived(flight, new & ~flight.done)

    def _content_arrived(self, flight: Flight, mask: int) -> None:
        self._pieces_arrived(flight, mask)
        for index, control in flight.controls:
            if mask >> (flight.count - 1 - index) & 1:
                self._outcome.control_acked(control)

    def _pieces_arrived(self, flight: Flight, mask: int) -> None:
        outcome = self._outcome
        for stream, start, stop, fin in flight.pieces(mask):
            stream.acked(start, stop)
            if fin:
                stream.fin_acked = True
            outcome.stream_acked(stream)

    def _late_in(self, flight: Flight, received: int) -> None:
        """Packets that were given up have come all the same: be more patient from now on."""
        late = received & flight.lost
        if not late:
            return
        flight.lost &= ~late
        self.delivered += flight.bytes_of(late)
        if flight.mtu_probe:
            return
        self.spurious += late.bit_count()
        self.packet_threshold = min(2 * self.packet_threshold, _MOST_THRESHOLD)
        self._content_arrived(flight, late & ~flight.done)

    def _delivered(self, result: AckOutcome, now: float) -> None:
        flight = result.newest
        assert flight is not None
        self.delivered += result.acked
        self.delivered_at = now
        self.first_sent_at = flight.sent_at

    def _measure_train(self, flight: Flight, result: AckOutcome, received_at: int) -> None:
        """How fast the packets of a burst come out at the other end, by the peer's clock.

        `received_at` is when the newest of them did, and not a later packet.
        """
        if self._train_mark is None or self._train_mark[0] is not flight:
            self._train_mark = (flight, result.newest_number, received_at)
            return
        _, number, since = self._train_mark
        packets = result.newest_number - number
        seconds = (received_at - since & MICROSECONDS) / 1e6
        if 4 * packets >= 3 * TRAIN_PACKETS and seconds >= _LEAST_SPREAD:
            result.train_rate = packets * flight.size / seconds

    def delivery_rate(self, flight: Flight, now: float, least_rtt: float) -> float | None:
        """The rate at which data arrived since `flight` left, the last one acknowledged now."""
        sending = flight.sent_at - flight.first_sent_at
        arriving = now - flight.delivered_at
        interval = max(sending, arriving)
        if interval <= 0 or interval < least_rtt * 0.99:
            return None
        return (self.delivered - flight.delivered) / interval

    def recovered(self, number: int) -> bool:
        """FEC has restored packet `number`: its data are there. It still counts as lost.

        Control frames are not part of FEC's symbols: they are sent again.
        """
        for flights in (self._flights, self._late):
            for flight in reversed(flights):
                if flight.last < number:
                    break
                if flight.first <= number:
                    bit = 1 << (flight.last - number)
                    new = bit & ~flight.done & ~(flight.settled & ~flight.lost)
                    if new:
                        flight.done |= new
                        self._pieces_arrived(flight, new)
                        for index, control in flight.controls:
                            if new >> (flight.count - 1 - index) & 1:
                                self._outcome.control_lost(control)
                    return bool(new)
        return False

    # --- losses -----------------------------------------------------------------------

    def detect_losses(self, now: float, loss_delay: float) -> tuple[int, float]:
        """Give up what later acknowledgements or time show to be lost.

        How many bytes, and when the newest of them were sent; MTU probes do not count.
        """
        if self.largest_acked < 0:
            return 0, 0.0
        below = self.largest_acked - self.packet_threshold
        lost_bytes, newest = 0, 0.0
        for flight in self._flights:
            if flight.first > self.largest_acked:
                break
            if flight.sent_at + loss_delay <= now:
                mask = _from(flight, self.largest_acked)
            elif flight.first <= below:
                mask = _from(flight, below)
            else:
                break
            mask &= ~flight.settled
            if mask:
                size = self._give_up(flight, mask)
                if size:
                    lost_bytes += size
                    newest = flight.sent_at
        self._drop_settled()
        return lost_bytes, newest

    def loss_time(self, loss_delay: float) -> float | None:
        """When the oldest packet will count as lost by time, if a later one is acknowledged."""
        for flight in self._flights:
            if flight.first > self.largest_acked:
                return None
            if _from(flight, self.largest_acked) & ~flight.settled:
                return flight.sent_at + loss_delay
        return None

    @property
    def next_release(self) -> float | None:
        """When it is time for `release`; None if nothing waits for FEC."""
        return self._held[0][0] if self._held else None

    def release(self, now: float) -> None:
        """Have sent again what FEC has not restored in time."""
        held = self._held
        while held and held[0][0] <= now:
            _, flight, mask = held.popleft()
            self._send_again(flight, mask & flight.lost & ~flight.done)

    def forget_late(self, before: float) -> None:
        """Packets sent before that time will not come any more."""
        while self._late and self._late[0].sent_at < before:
            self._late.popleft()

    def probe(self, packets: int) -> None:
        """Have the content of the oldest packets sent once more, without giving them up."""
        for flight in self._flights:
            if flight.mtu_probe:
                continue
            mask = flight.full & ~flight.settled & ~flight.done
            while mask and packets:
                top = 1 << (mask.bit_length() - 1)
                mask &= ~top
                packets -= 1
                self._send_again(flight, top)
            if not packets:
                break

    def _give_up(self, flight: Flight, mask: int) -> int:
        flight.settled |= mask
        flight.lost |= mask
        size = flight.bytes_of(mask)
        self.in_flight -= size
        if flight.mtu_probe:
            self._outcome.mtu_probe_lost(size)
            return 0
        self.packets_lost += mask.bit_count()
        if flight.size >= self.full_size:
            full = mask if flight.last_size >= self.full_size else mask & ~1
            self.full_lost += full.bit_count()
        again = mask & ~flight.done
        if again.bit_count() <= flight.repairable:
            self._held.append((flight.sent_at + self.hold, flight, again))
        else:
            self._send_again(flight, again)
        return size

    def _send_again(self, flight: Flight, mask: int) -> None:
        outcome = self._outcome
        for stream, start, stop, fin in flight.pieces(mask):
            again = stream.lose(start, stop)
            if fin and not stream.fin_acked:
                stream.fin_sent = False
                again = True
            if again:
                outcome.stream_lost(stream)
        for index, control in flight.controls:
            if mask >> (flight.count - 1 - index) & 1:
                outcome.control_lost(control)

    def _drop_settled(self) -> None:
        flights = self._flights
        while flights and flights[0].settled == flights[0].full:
            flight = flights.popleft()
            if flight.lost:
                self._late.append(flight)


def _aligned(bitmap: int, largest: int, flight: Flight) -> int:
    """The part of an acknowledgement's bitmap that is about `flight`, as its masks are."""
    shift = largest - flight.last
    return (bitmap >> shift if shift >= 0 else bitmap << -shift) & flight.full


def _from(flight: Flight, number: int) -> int:
    """The packets of `flight` up to `number`."""
    above = max(flight.last - number, 0)
    return flight.full >> above << above
