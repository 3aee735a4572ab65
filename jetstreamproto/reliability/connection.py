"""A connection over datagrams: reliable, paced and congestion controlled, without I/O or a clock.

Whoever owns it gives it what arrives (`receive`), sends what it makes (`next_datagrams`) and
calls `handle_timeout` at `next_timeout`. Times are seconds on a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jetstreamproto.errors import JetStreamError, PeerSilent, ProtocolViolation, SessionCut
from jetstreamproto.reliability import frames
from jetstreamproto.reliability.acks import Acknowledger
from jetstreamproto.reliability.congestion.base import AckSample, LossSample
from jetstreamproto.reliability.congestion.choice import congestion_control
from jetstreamproto.reliability.incoming import Incoming
from jetstreamproto.reliability.mtu import MtuSearch
from jetstreamproto.reliability.outgoing import Outgoing
from jetstreamproto.reliability.pacing import Pacer
from jetstreamproto.reliability.paths import Address, PathValidator
from jetstreamproto.reliability.protection import Protection
from jetstreamproto.reliability.rtt import RttEstimator
from jetstreamproto.reliability.sent import AckOutcome, Control, Flight, FlightLog
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.reliability.streams import SendStream
from jetstreamproto.security.datagrams import OVERHEAD, DatagramOpener, DatagramSealer
from jetstreamproto.wire.packet import PacketParts

_BURST_PACKETS = 10
_MAX_PROBE_BACKOFF = 10
_BLACK_HOLE_TIMEOUTS = 2
_SKIP_EVERY = 256
"""A packet number is left out about so often, for who acknowledges it has not received it."""
_ABORTED = 0xFFFF
_FULL_CONTENT = 15  # bytes of a STREAM frame's head


class Departure(NamedTuple):
    """Datagrams to send: `length` bytes of the buffer, cut every `segment` bytes."""

    length: int
    segment: int
    address: Address


class Connection:
    """One connection that has its keys. `address` is the peer's."""

    def __init__(
        self,
        sealer: DatagramSealer,
        opener: DatagramOpener,
        settings: DatagramSettings,
        address: Address,
        now: float,
        random_bytes: Callable[[int], bytes],
        rtt: float | None = None,
    ) -> None:
        self.address = address
        self.peer_ended = False
        """The peer has sent everything, and its authenticated end."""
        self.closed = False
        self.failure: JetStreamError | None = None
        self.settings = settings
        self.rtt = RttEstimator(settings.max_ack_delay)
        if rtt is not None:
            self.rtt.sample(rtt, 0.0)
        self.mtu = MtuSearch(settings.max_mtu, settings.mtu)
        self.congestion = congestion_control(settings.congestion, self.mtu.size)
        self.log = FlightLog(self)
        self.protection = Protection(settings.fec)
        self.outgoing = Outgoing(sealer, self.protection)
        self.incoming = Incoming(settings.receive_window)
        self.packets_received = 0
        self.rebindings = 0
        self._sealer = sealer
        self._opener = opener
        self._random_bytes = random_bytes
        self._acks = Acknowledger(opener.window, settings.max_ack_delay)
        self._pacer = Pacer(settings.tick, _BURST_PACKETS * self.mtu.size)
        self._paths = PathValidator(random_bytes)
        self._responses: list[tuple[bytes, Address]] = []  # to path challenges
        self._heard_at = self._sent_at = now
        self._probe_count = 0  # probe timeouts in a row
        self._probes = 0  # packets that may leave whatever the window says
        self._send_at: float | None = None  # when pacing lets the next packet go
        self._app_limited_until = 0
        self._floor_sent = 0
        self._skipped = -1
        self._skip_at = _SKIP_EVERY + random_bytes(1)[0]
        self._mtu_bytes_lost = 0
        self._ending = False
        self._end_sent = False
        self._end_acked = False
        self._close_frame: bytes | None = None
        self._close_due = False
        self._round_end = 0
        self._round_lost = 0

    # --- for the link -------------------------------------------------------------------

    def end(self) -> None:
        """Send everything, then the authenticated end."""
        self._ending = True
        self._end_if_empty()

    def fail(self, failure: JetStreamError | None, code: int, text: str) -> None:
        """Close at once; the peer is told `code` and `text`."""
        if not self.closed:
            self._close_frame = frames.encode_close(code, text)
            self._close_due = True
            self._close(failure)

    def abort(self) -> None:
        """Drop the connection; the peer learns that it was cut."""
        self.fail(SessionCut("this side dropped the connection"), _ABORTED, "")

    @property
    def room(self) -> bool:
        """Whether more packets are wanted: those written should be sent before long."""
        return self.outgoing.unsent < self._low_water and self._under_way < self.send_window

    @property
    def send_window(self) -> int:
        return self.settings.send_window

    @property
    def _under_way(self) -> int:
        return self.log.in_flight + self.outgoing.unsent

    @property
    def _low_water(self) -> int:
        """What is sent in about two ticks more, so that urgent packets do not wait for long."""
        rate = self.congestion.pacing_rate
        if rate == float("inf"):
            return 1 << 18
        return int(min(max(1 << 17, rate * 0.01), 1 << 22))

    # --- receiving ----------------------------------------------------------------------

    def receive(self, data: memoryview, segment: int, address: Address, now: float) -> bool:
        """Take datagrams that came together, each of `segment` bytes but the last.

        Whether any of them was genuine and new. Raises `ProtocolViolation` or `WireError`.
        """
        opener, window = self._opener, self._opener.window
        before = window.highest
        eliciting = accepted = 0
        gap = False
        end = len(data)
        for start in range(0, end, segment):
            stop = start + segment
            opened = opener.open(data, start, stop if stop < end else end)
            if opened is None:
                continue
            number, plaintext = opened
            if number != window.highest + 1:
                gap = True
            window.commit(number)
            accepted += 1
            if not self.closed:
                eliciting += self._packet_received(plaintext, address, now)
        if not accepted:
            return False
        self.packets_received += accepted
        self._heard_at = now
        if self.closed:
            self._close_due = self._close_frame is not None
        newest = window.highest != before
        if newest and address != self.address:
            self._paths.heard(address, end, now)
        if eliciting and not newest:
            gap = True
        self._acks.received(now, eliciting, gap, self.rtt.smoothed)
        return True

    def _packet_received(self, plaintext: bytes, address: Address, now: float) -> bool:
        """Act on one packet; whether it wants to be acknowledged."""
        size = len(plaintext) - _FULL_CONTENT
        if size > 0 and plaintext[0] == frames.STREAM:  # nearly always, and nothing but
            _, channel, offset, length = frames.STREAM_HEAD.unpack_from(plaintext)
            if length == size:
                self.incoming.piece_received(
                    channel, offset, memoryview(plaintext)[_FULL_CONTENT:], False
                )
                return True
        eliciting = False
        for kind, content in frames.parse_frames(plaintext):
            if kind not in _NOT_ELICITING:
                eliciting = True
            self._frame_received(kind, content, address, now)
        return eliciting

    def _frame_received(self, kind: int, content: object, address: Address, now: float) -> None:
        if isinstance(content, frames.Piece):
            self._piece_received(content)
        elif isinstance(content, frames.Ack):
            self._ack_received(content, now)
        elif kind == frames.FLOOR:
            assert isinstance(content, int)
            self._acks.floor_received(content)
        elif kind == frames.WINDOW:
            assert isinstance(content, int)
            self.outgoing.limit_received(content)
        elif kind == frames.SOURCE:
            assert isinstance(content, tuple)
            self._recover(self.protection.source_received(*content))
        elif isinstance(content, frames.Repair):
            self._recover(self.protection.repair_received(content))
        elif kind == frames.RECOVERED:
            assert isinstance(content, tuple)
            self._recovered_received(*content)
        elif isinstance(content, frames.Skip):
            self.incoming.skip_received(content)
        elif kind == frames.PATH_CHALLENGE:
            assert isinstance(content, bytes)
            self._responses = [*self._responses[-3:], (content, address)]
        elif kind == frames.PATH_RESPONSE:
            assert isinstance(content, bytes)
            self._path_answered(content)
        elif kind == frames.END:
            self.peer_ended = True
            self._finish_if_done()
        elif isinstance(content, frames.Close):
            self._closed_by_peer(content)

    def _piece_received(self, piece: frames.Piece) -> None:
        if piece.number < 0:
            self.incoming.piece_received(piece.channel, piece.offset, piece.data, piece.fin)
        else:
            self.incoming.message_piece_received(piece)

    def _recover(self, symbols: list[bytes]) -> None:
        """FEC has restored the content of packets that did not come."""
        for symbol in symbols:
            for _, content in frames.parse_frames(symbol):
                if isinstance(content, frames.Piece):
                    self._piece_received(content)
                else:
                    raise ProtocolViolation("a repaired packet carries more than streams")

    def take_packets(self) -> list[PacketParts]:
        """The session's packets that have become whole."""
        return self.incoming.take()

    # --- acknowledgements ---------------------------------------------------------------

    def _ack_received(self, ack: frames.Ack, now: float) -> None:
        if ack.largest >= self._sealer.number:
            raise ProtocolViolation("the peer acknowledges packets that were never sent")
        skipped = ack.largest - self._skipped
        if self._skipped >= 0 and skipped >= 0 and ack.bitmap >> skipped & 1:
            raise ProtocolViolation("the peer acknowledges packets without receiving them")
        log = self.log
        outcome = log.acknowledge(ack.largest, ack.bitmap, ack.received_at, now)
        self._sealer.acknowledged(ack.largest)
        newest = outcome.newest
        if newest is None:
            return
        self._probe_count = 0
        rtt = None
        if outcome.newest_number == ack.largest:
            rtt = now - newest.sent_at
            self.rtt.sample(rtt, ack.delay / 1e6)
        lost = self._detect_losses(now)
        self.congestion.acked(self._sample(outcome, newest, lost, rtt, now))
        log.forget_late(now - 2 * self.rtt.smoothed)
        self._measure_round(now)
        if self._ending:
            self._end_if_empty()
        if newest.size >= self.mtu.size:
            self.mtu.full_packet_acked()

    def _sample(
        self, outcome: AckOutcome, newest: Flight, lost: int, rtt: float | None, now: float
    ) -> AckSample:
        log = self.log
        return AckSample(
            now,
            outcome.acked,
            lost,
            log.in_flight,
            log.delivered,
            newest.delivered,
            log.delivery_rate(newest, now, self.rtt.least),
            newest.app_limited,
            rtt,
            self.rtt.smoothed,
            outcome.train_rate,
        )

    def _detect_losses(self, now: float) -> int:
        log = self.log
        before = log.packets_lost
        lost, sent_at = log.detect_losses(now, self.rtt.loss_delay)
        return self._losses(lost, sent_at, log.packets_lost - before, now) if lost else 0

    def _losses(self, lost: int, sent_at: float, packets: int, now: float) -> int:
        """Tell who has to know; the bytes that are congestion control's business."""
        lost -= self._mtu_bytes_lost
        self._mtu_bytes_lost = 0
        if lost <= 0:
            return 0
        self._round_lost += packets
        if lost >= self.mtu.size and self.mtu.full_packets_lost(lost // self.mtu.size):
            self._mtu_changed()
        self.congestion.lost(LossSample(now, lost, self.log.in_flight, sent_at))
        return lost

    def _measure_round(self, now: float) -> None:
        """Once a round trip, FEC learns what the path has lost."""
        log = self.log
        if log.largest_acked < self._round_end:
            return
        sent = self._sealer.number - self._round_end
        self._round_end = self._sealer.number
        lost, self._round_lost = self._round_lost, 0
        self.protection.round_ended(sent, lost, self.rtt, now)

    def _recovered_received(self, newest: int, bitmap: int) -> None:
        for symbol, number in reversed(self.outgoing.symbols):
            behind = newest - symbol
            if behind >= bitmap.bit_length():
                break
            if behind >= 0 and bitmap >> behind & 1 and self.log.recovered(number):
                self.protection.repaired += 1
        if self._ending:
            self._end_if_empty()

    # --- what became of frames (`sent.Outcome`) -------------------------------------------

    def control_acked(self, control: Control) -> None:
        kind, value = control
        if kind == frames.END:
            self._end_acked = True
            self._finish_if_done()
        elif kind == frames.PADDING:
            assert isinstance(value, int)
            self.mtu.probe_acked(value)
            self._mtu_changed()

    def control_lost(self, control: Control) -> None:
        kind, value = control
        if kind == frames.PADDING:
            assert isinstance(value, int)
            self._mtu_bytes_lost += value
            self.mtu.probe_lost(value)
        else:
            self.outgoing.control_lost(control)

    def stream_acked(self, stream: SendStream) -> None:
        self.outgoing.stream_acked(stream)

    def stream_lost(self, stream: SendStream) -> None:
        self.outgoing.stream_lost(stream)

    # --- sending ------------------------------------------------------------------------

    def next_datagrams(self, out: memoryview, now: float) -> Departure | None:
        """Write the next datagrams into `out`; None when there is nothing to send now."""
        self._send_at = None
        if self.closed:
            return self._closing_datagram(out)
        if self._responses or self._paths.due_at is not None:
            departure = self._path_datagram(out, now)
            if departure is not None:
                return departure
        self._announce_window()
        departure = self._data_datagrams(out, now)
        if departure is not None:
            return departure
        if self._acks.due_at is not None and self._acks.due_at <= now:
            return self._single(out, self._acks.take(now) + self.protection.feedback(), now)
        return self._mtu_probe(out, now)

    def _data_datagrams(self, out: memoryview, now: float) -> Departure | None:
        outgoing, size = self.outgoing, self.mtu.size
        if not outgoing.has_data:
            if self.log.in_flight < self.congestion.window:
                self._app_limited_until = self.log.delivered + self.log.in_flight + 1
            self._probe_ping()
            if not outgoing.has_data:
                return None
        budget = self._budget(now, size)
        if budget <= 0:
            return None
        prefix = self._prefix(now)
        self._skip_numbers()
        flight, end = outgoing.build(out, size, budget, now, prefix)
        if flight is None:
            return self._single(out, prefix, now) if prefix else None
        limited = self._app_limited_until > self.log.delivered
        flight.train = self.congestion.pacing_rate == float("inf")
        self.log.add(flight, end, now, app_limited=limited)
        self.congestion.sent(now, end, self.log.in_flight)
        self._pacer.spent(end)
        self._probes = max(0, self._probes - flight.count)
        self._sent_at = now
        return Departure(end, flight.size, self.address)

    def _budget(self, now: float, size: int) -> float:
        """How many bytes may leave now; sets when to try again if it is pacing that forbids."""
        if self._probes:
            return float(self._probes * size)
        congestion = self.congestion
        need = min(size, self.outgoing.unsent + OVERHEAD) if not self.outgoing.resending else size
        window = min(congestion.window, self.settings.send_window) - self.log.in_flight
        if window < need and self.log.in_flight:
            return 0.0
        allowance = self._pacer.allowance(now, congestion.pacing_rate)
        if allowance < need:
            self._send_at = now + self._pacer.delay(congestion.pacing_rate)
            return 0.0
        return max(1.0, min(float(window), allowance))

    def _prefix(self, now: float) -> bytes:
        """Frames that go with whatever is sent, and are not sent again."""
        prefix = b""
        if self._acks.due_at is not None:
            prefix = self._acks.take(now) + self.protection.feedback()
        floor = self.log.floor
        floor = self._sealer.number if floor is None else floor
        if floor > self._floor_sent:
            self._floor_sent = floor
            prefix += frames.encode_control(frames.FLOOR, floor)
        return prefix

    def _probe_ping(self) -> None:
        """A probe is due and there is no data for it."""
        if self._probes:
            self.outgoing.put_control(frames.PING)

    def _announce_window(self) -> None:
        incoming = self.incoming
        if incoming.window_due:
            incoming.window_due = False
            self.outgoing.window = incoming.granted
            self.outgoing.put_control(frames.WINDOW)

    def _skip_numbers(self) -> None:
        sealer = self._sealer
        if sealer.number >= self._skip_at:
            self._skipped = sealer.number
            sealer.number += 1
            self._skip_at = sealer.number + _SKIP_EVERY * (1 + self._random_bytes(1)[0])

    def _single(self, out: memoryview, plaintext: bytes, now: float) -> Departure:
        """One packet that wants no acknowledgement."""
        end = self._sealer.seal(plaintext, out, 0)
        return Departure(end, end, self.address)

    def _mtu_probe(self, out: memoryview, now: float) -> Departure | None:
        if not self.rtt.known or self._ending or self.log.in_flight > self.congestion.window:
            return None
        size = self.mtu.next_probe(now)
        if size is None or size > len(out):
            return None
        flight = Flight(self._sealer.number, now)
        plaintext = bytes((frames.PING,)).ljust(size - OVERHEAD, b"\0")
        end = self._sealer.seal(plaintext, out, 0)
        flight.count, flight.last = 1, flight.first
        flight.size = flight.last_size = end
        flight.controls.append((0, (frames.PADDING, size)))
        self.log.add(flight, end, now, app_limited=True)
        self._sent_at = now
        return Departure(end, end, self.address)

    def _mtu_changed(self) -> None:
        size = self.mtu.size
        self.congestion.max_datagram = size
        self._pacer.least_burst = max(_BURST_PACKETS * min(size, 1472), size)

    def mtu_reported(self, mtu: int) -> None:
        """The system or a router says that IP packets may have `mtu` bytes; 0 if it cannot say."""
        ip_header = 40 if ":" in self.address[0] else 20
        self.mtu.too_big(mtu - ip_header - 8 + 1 if mtu else self.mtu.size + 1)
        self._mtu_changed()

    @property
    def forged(self) -> int:
        """Packets that did not open."""
        return self._opener.forged

    # --- paths --------------------------------------------------------------------------

    def _path_datagram(self, out: memoryview, now: float) -> Departure | None:
        if self._responses:
            data, address = self._responses.pop(0)
            plaintext = frames.encode_control(frames.PATH_RESPONSE, data)
            end = self._sealer.seal(plaintext, out, 0)
            return Departure(end, end, address)
        challenge = self._paths.challenge(now, self.rtt.probe_timeout)
        candidate = self._paths.candidate
        if challenge is None or candidate is None:
            return None
        data, size = challenge
        plaintext = frames.encode_control(frames.PATH_CHALLENGE, data)
        end = self._sealer.seal(plaintext.ljust(size - OVERHEAD, b"\0"), out, 0)
        return Departure(end, end, candidate)

    def _path_answered(self, data: bytes) -> None:
        address = self._paths.responded(data)
        if address is None or address == self.address:
            return
        moved = address[0] != self.address[0]
        self.address = address
        self.rebindings += 1
        if moved:  # a new network; another port only means that a NAT forgot us
            self.rtt = RttEstimator(self.settings.max_ack_delay)
            self.mtu.reset()
            self.congestion = congestion_control(self.settings.congestion, self.mtu.size)
            self._mtu_changed()

    # --- time ---------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is to be called; None once the connection is closed."""
        if self.closed:
            return None
        times = [self._heard_at + self.settings.idle_timeout, self._keepalive_at]
        if self.log.in_flight:
            times.append(self._recovery_time())
        for when in (
            self._acks.due_at,
            self._send_at,
            self._paths.due_at,
            self.outgoing.next_expiry,
            self.protection.due_at,
        ):
            if when is not None:
                times.append(when)
        return min(times)

    def handle_timeout(self, now: float) -> None:
        """Act on what has become due by `now`; packets may have to be sent afterwards."""
        if self.closed:
            return
        if now >= self._heard_at + self.settings.idle_timeout:
            seconds = self.settings.idle_timeout
            self.fail(PeerSilent(f"no sign of the peer for {seconds:g} s"), _ABORTED, "")
            return
        if now >= self._keepalive_at:
            self.outgoing.put_control(frames.PING)
            self._sent_at = now
        if self.log.in_flight and now >= self._recovery_time():
            self._recover_losses(now)
        self.outgoing.expire(now)
        if self.protection.due_at is not None and now >= self.protection.due_at:
            self.outgoing.take_repairs(now)
        if self._ending:
            self._end_if_empty()

    @property
    def _keepalive_at(self) -> float:
        return max(self._heard_at, self._sent_at) + self.settings.heartbeat

    def _recovery_time(self) -> float:
        """When something has to be done about packets that are not acknowledged."""
        loss_time = self.log.loss_time(self.rtt.loss_delay)
        if loss_time is not None:
            return loss_time
        newest = self.log.newest
        sent_at = newest.sent_at if newest is not None else self._sent_at
        backoff = 1 << min(self._probe_count, _MAX_PROBE_BACKOFF)
        return sent_at + self.rtt.probe_timeout * backoff

    def _recover_losses(self, now: float) -> None:
        if self.log.loss_time(self.rtt.loss_delay) is not None:
            self._detect_losses(now)
            return
        self._probe_count += 1
        if self._probe_count == _BLACK_HOLE_TIMEOUTS and self.mtu.full_packets_lost(1 << 10):
            self._mtu_changed()
        if self._probe_count == 3:
            self.congestion.collapsed(now)
        self._probes = 2
        self.log.probe(2)

    # --- ends ---------------------------------------------------------------------------

    def _end_if_empty(self) -> None:
        if not self._end_sent and self.outgoing.empty:
            self._end_sent = True
            self.outgoing.put_control(frames.END)

    def _finish_if_done(self) -> None:
        if self._end_acked and self.peer_ended:
            self._close(None)

    def _closed_by_peer(self, close: frames.Close) -> None:
        if close.code == _ABORTED:
            self._close(SessionCut("the peer dropped the connection"))
        else:
            text = "".join(c if c.isprintable() else "?" for c in close.text)
            self._close(SessionCut(f"the peer ended the session: {text or close.code}"))

    def _close(self, failure: JetStreamError | None) -> None:
        if not self.closed:
            self.closed = True
            self.failure = failure

    def _closing_datagram(self, out: memoryview) -> Departure | None:
        if self._close_due and self._close_frame is not None:
            self._close_due = False
            end = self._sealer.seal(self._close_frame, out, 0)
            return Departure(end, end, self.address)
        if self.failure is None and self._acks.due_at is not None:  # the peer's end, once more
            end = self._sealer.seal(self._acks.take(self._acks.due_at), out, 0)
            return Departure(end, end, self.address)
        return None


_NOT_ELICITING = frozenset((frames.PADDING, frames.ACK, frames.FLOOR, frames.CLOSE))
