"""What a connection sends: when it may, what became of it, and what has to be sent again."""

from __future__ import annotations

from collections.abc import Callable

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.reliability import frames
from jetstreamproto.reliability.acks import Acknowledger
from jetstreamproto.reliability.congestion.base import AckSample, LossSample
from jetstreamproto.reliability.congestion.choice import congestion_control
from jetstreamproto.reliability.mtu import MtuSearch
from jetstreamproto.reliability.outgoing import Outgoing
from jetstreamproto.reliability.pacing import Pacer
from jetstreamproto.reliability.packer import Packer
from jetstreamproto.reliability.protection import Protector, Restorer
from jetstreamproto.reliability.rtt import RttEstimator
from jetstreamproto.reliability.sent import TRAIN_PACKETS, AckOutcome, Control, Flight, FlightLog
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.reliability.streams import SendStream
from jetstreamproto.security.datagrams import OVERHEAD, DatagramSealer

_BURST_PACKETS, _USUAL_PACKET = 10, 1472
_MAX_PROBE_BACKOFF = 10
_LONGEST_PROBE, _LONGEST_END_PROBE = 2.0, 0.5
"""Seconds between probes at most, if the path is no longer: what comes back after an outage is
noticed soon. An end has little time, both of the session's and of a peer that only lingers."""
_LEAST_RTT = 1e-6
_LEAST_AHEAD, _MOST_AHEAD, _AHEAD_TIME = 1 << 17, 1 << 22, 0.01
"""Bytes that may wait to be sent, and how long they take."""
_BLACK_HOLE_TIMEOUTS, _COLLAPSE_TIMEOUTS = 2, 3
_SKIP_EVERY = 256
"""A packet number is left out about so often, for who acknowledges it has not received it."""
_ACKS_PER_PING = 256
"""Packets that want no acknowledgement before one is asked for all the same: the peer's floor
and the keys only move on by acknowledgements (RFC 9000 section 13.2.4)."""

Sealed = tuple[int, int]
"""How many bytes were written, and the size of each datagram but the last."""


class Sender:
    """Sends under congestion control, finds what is lost, and probes. Times are in seconds."""

    def __init__(
        self,
        sealer: DatagramSealer,
        settings: DatagramSettings,
        acks: Acknowledger,
        restorer: Restorer,
        random_bytes: Callable[[int], bytes],
        now: float,
    ) -> None:
        self.rtt = RttEstimator(settings.max_ack_delay)
        self.mtu = MtuSearch(settings.max_mtu, settings.mtu)
        self.congestion = congestion_control(settings.congestion, self.mtu.size)
        self.log = FlightLog(self)
        self.log.full_size = self.mtu.size
        self.protector = Protector(settings.fec, self.rtt)
        self.outgoing = Outgoing(self.protector)
        self._packer = Packer(sealer, self.outgoing, self.protector)
        self.end_acked = False
        """The peer has everything, our end included."""
        self.sent_at = now
        """When something was last sent that wants an acknowledgement."""
        self.send_at: float | None = None
        """When pacing lets the next packet go, if that is what keeps it."""
        self._sealer = sealer
        self._settings = settings
        self._acks = acks
        self._restorer = restorer
        self._random_bytes = random_bytes
        self._pacer = Pacer(settings.tick, _BURST_PACKETS * self.mtu.size)
        self._timeouts = 0  # probe timeouts in a row
        self._probes = 0  # packets that may leave whatever the window says
        self._burst_sent = False  # the first packets that show how fast the path is
        self._app_limited_until = 0
        self._floor_sent = 0
        self._skipped = -1
        self._skip_at = _SKIP_EVERY + random_bytes(1)[0]
        self._low_water = _LEAST_AHEAD  # what may wait to be sent, so that urgent packets need not
        self._unasked = 0  # packets since one that wanted an acknowledgement
        self._ending = self._end_sent = False
        self._round_end = self._round_lost = 0

    @property
    def room(self) -> bool:
        """Whether more is wanted: what is written now would be sent before long."""
        unsent = self.outgoing.unsent
        return unsent < self._low_water and (
            self.log.in_flight + unsent < self._settings.send_window
        )

    @property
    def end_sent(self) -> bool:
        """The peer has everything but our end, which is on its way, or has come."""
        return self._end_sent

    def end(self) -> None:
        """Send the authenticated end once everything else is acknowledged."""
        self._ending = True
        log = self.log
        waiting = log.in_flight or log.next_release is not None or not self.outgoing.idle
        if not self._end_sent and not waiting:
            self._end_sent = True
            self.outgoing.put_control(frames.END)

    # --- acknowledgements ---------------------------------------------------------------

    def ack_received(self, ack: frames.Ack, now: float) -> None:
        """Raises `ProtocolViolation` if the peer cannot have received what it acknowledges."""
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
        self._timeouts = 0
        rtt = None
        if outcome.newest_number == ack.largest:
            rtt = max(now - newest.sent_at, _LEAST_RTT)
            self.rtt.sample(rtt, ack.delay / 1e6)
        full = outcome.longest >= self.mtu.size
        if full:
            self.mtu.full_packet_acked()
        lost = self._detect_losses(now, full)
        self.congestion.acked(self._sample(outcome, newest, lost, rtt, now))
        rate = self.congestion.pacing_rate
        self._low_water = int(min(max(_LEAST_AHEAD, _AHEAD_TIME * rate), _MOST_AHEAD))
        log.forget_late(now - 2 * self.rtt.smoothed)
        self._measure_round()
        if self._ending:
            self.end()

    def recovered_received(self, newest: int, bitmap: int) -> None:
        """The peer's FEC has restored symbols: they need not be sent again."""
        for number in self.protector.restored_packets(newest, bitmap):
            if self.log.recovered(number):
                self.protector.repaired += 1

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

    def _detect_losses(self, now: float, full_acked: bool) -> int:
        """Give up what is lost; the bytes of it. `full_acked`: full packets come through."""
        log = self.log
        before, full_before = log.packets_lost, log.full_lost
        log.hold = self.protector.hold(self.rtt)
        lost, sent_at = log.detect_losses(now, self.rtt.loss_delay)
        if not lost:
            return 0
        self._round_lost += log.packets_lost - before
        full_lost = log.full_lost - full_before
        if full_lost and not full_acked and self.mtu.full_packets_lost(full_lost):
            self._mtu_changed()
        self.congestion.lost(LossSample(now, lost, log.in_flight, sent_at))
        return lost

    def _measure_round(self) -> None:
        """Once a round trip, FEC learns what the path has lost."""
        if self.log.largest_acked < self._round_end:
            return
        sent = self._sealer.number - self._round_end
        self._round_end = self._sealer.number
        lost, self._round_lost = self._round_lost, 0
        self.protector.round_ended(sent, lost, self.rtt)

    # --- what became of what was sent (`sent.Outcome`) ------------------------------------

    def control_acked(self, control: Control) -> None:
        if control[0] == frames.END:
            self.end_acked = True
        else:
            self.outgoing.control_acked(control)

    def control_lost(self, control: Control) -> None:
        self.outgoing.control_lost(control)

    def stream_acked(self, stream: SendStream) -> None:
        self.outgoing.stream_acked(stream)

    def stream_lost(self, stream: SendStream) -> None:
        self.outgoing.stream_lost(stream)

    def mtu_probe_acked(self, size: int) -> None:
        self.mtu.probe_acked(size)
        self._mtu_changed()

    def mtu_probe_lost(self, size: int) -> None:
        self.mtu.probe_lost(size)

    # --- sending ------------------------------------------------------------------------

    def next_datagrams(self, out: memoryview, now: float) -> Sealed | None:
        """Write the next datagrams into `out`; None when nothing is to be sent now."""
        self.send_at = None
        sealed = self._data_datagrams(out, now)
        if sealed is not None:
            return sealed
        if self._acks.due_at is not None and self._acks.due_at <= now:
            return self._unasked_datagram(out, self._acknowledgement(now))
        return self._mtu_probe(out, now)

    def _data_datagrams(self, out: memoryview, now: float) -> Sealed | None:
        outgoing, size, log = self.outgoing, self.mtu.size, self.log
        if not outgoing.has_data:
            if log.in_flight < self.congestion.window:
                self._app_limited_until = log.delivered + log.in_flight + 1
            if not self._probes:
                return None
            outgoing.put_control(frames.PING)
        budget = self._budget(now, size)
        if budget <= 0:
            return None
        prefix = self._prefix(now)
        self._skip_number()
        flight, end = self._packer.build(out, size, budget, now, prefix)
        if flight is None:
            return self._unasked_datagram(out, prefix) if prefix else None
        flight.train = not self._burst_sent
        self._burst_sent |= flight.count >= TRAIN_PACKETS
        flight.repairable = self.protector.repairable(flight.count)
        log.add(flight, end, now, app_limited=self._app_limited_until > log.delivered)
        self.congestion.sent(now, end, log.in_flight)
        self._pacer.spent(end)
        self._probes = max(0, self._probes - flight.count)
        self._unasked = 0
        self.sent_at = now
        return end, flight.size

    def _budget(self, now: float, size: int) -> float:
        """How many bytes may leave now; sets `send_at` if it is pacing that forbids."""
        if self._probes:
            return float(self._probes * size)
        congestion, outgoing = self.congestion, self.outgoing
        need = size if outgoing.resending else min(size, outgoing.unsent + OVERHEAD)
        window = min(congestion.window, self._settings.send_window) - self.log.in_flight
        if window < need and self.log.in_flight:
            return 0.0
        rate = congestion.pacing_rate if self._burst_sent else float("inf")
        allowance = self._pacer.allowance(now, rate)
        if allowance < need:
            self.send_at = now + self._pacer.delay(rate, need)
            return 0.0
        return max(1.0, min(float(window), allowance))

    def _prefix(self, now: float) -> bytes:
        """Frames that go with whatever is sent, and are not sent again."""
        prefix = self._acknowledgement(now) if self._acks.due_at is not None else b""
        floor = self.log.floor
        floor = self._sealer.number if floor is None else floor
        if floor > self._floor_sent:
            self._floor_sent = floor
            prefix += frames.encode_control(frames.FLOOR, floor)
        return prefix

    def _acknowledgement(self, now: float) -> bytes:
        return self._acks.take(now) + self._restorer.report()

    def _skip_number(self) -> None:
        sealer = self._sealer
        if sealer.number >= self._skip_at:
            self._skipped = sealer.number
            sealer.number += 1
            self._skip_at = sealer.number + _SKIP_EVERY * (1 + self._random_bytes(1)[0])

    def _unasked_datagram(self, out: memoryview, plaintext: bytes) -> Sealed:
        """A packet that wants no acknowledgement."""
        self._unasked += 1
        if self._unasked >= _ACKS_PER_PING:
            self._unasked = 0
            self.outgoing.put_control(frames.PING)
        end = self._sealer.seal(plaintext, out, 0)
        return end, end

    # --- the path's MTU -----------------------------------------------------------------

    def _mtu_probe(self, out: memoryview, now: float) -> Sealed | None:
        log = self.log
        if not self.rtt.known or self._ending or log.in_flight > self.congestion.window:
            return None
        size = self.mtu.next_probe(now)
        if size is None or size > len(out):
            return None
        flight = Flight(self._sealer.number, now)
        plaintext = bytes((frames.PING,)).ljust(size - OVERHEAD, b"\0")
        end = self._sealer.seal(plaintext, out, 0)
        flight.count, flight.last = 1, flight.first
        flight.size = flight.last_size = flight.mtu_probe = end
        log.add(flight, end, now, app_limited=True)
        self.sent_at = now
        return end, end

    def _mtu_changed(self) -> None:
        size = self.log.full_size = self.mtu.size
        self.congestion.max_datagram = size
        self._pacer.least_burst = max(_BURST_PACKETS * min(size, _USUAL_PACKET), size)

    def mtu_reported(self, payload: int) -> None:
        """The system or a router says that datagrams may have `payload` bytes at most.

        0: it only says that the last one was too big.
        """
        self.mtu.too_big(payload + 1 if payload else self.mtu.size + 1)
        self._mtu_changed()

    def path_changed(self) -> None:
        """The peer is in another network now: nothing measured holds any more."""
        self.rtt = RttEstimator(self._settings.max_ack_delay)
        self.mtu.reset()
        self.congestion = congestion_control(self._settings.congestion, self.mtu.size)
        self._mtu_changed()

    # --- time ---------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, if at all."""
        times = [
            when
            for when in (
                self.send_at,
                self.outgoing.next_expiry,
                self.protector.due_at,
                self.log.next_release,
            )
            if when is not None
        ]
        if self.log.in_flight:
            times.append(self._recovery_time())
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """Do what has become due; there may be something to send afterwards."""
        if self.log.in_flight and now >= self._recovery_time():
            self._recover_losses(now)
        self.log.release(now)
        self.outgoing.expire(now)
        due_at = self.protector.due_at
        if due_at is not None and now >= due_at:
            self.outgoing.take_repairs(now)
        if self._ending:
            self.end()

    def _recovery_time(self) -> float:
        """When something has to be done about packets that are not acknowledged."""
        loss_time = self.log.loss_time(self.rtt.loss_delay)
        if loss_time is not None:
            return loss_time
        newest = self.log.newest
        sent_at = newest.sent_at if newest is not None else self.sent_at
        timeout = self.rtt.probe_timeout
        longest = max(timeout, _LONGEST_END_PROBE if self._ending else _LONGEST_PROBE)
        return sent_at + min(timeout * (1 << min(self._timeouts, _MAX_PROBE_BACKOFF)), longest)

    def _recover_losses(self, now: float) -> None:
        if self.log.loss_time(self.rtt.loss_delay) is not None:
            self._detect_losses(now, True)  # something later has come, or it would not be lost
            return
        self._timeouts += 1
        if self._timeouts == _BLACK_HOLE_TIMEOUTS and self.mtu.full_packets_lost(1 << 10):
            self._mtu_changed()
        if self._timeouts == _COLLAPSE_TIMEOUTS:
            self.congestion.collapsed(now)
        self._probes = 2
        self.log.probe(2)
