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
from jetstreamproto.reliability.incoming import Incoming
from jetstreamproto.reliability.paths import Address, PathValidator
from jetstreamproto.reliability.protection import Restorer
from jetstreamproto.reliability.sender import Sender
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.security.datagrams import OVERHEAD, DatagramOpener, DatagramSealer
from jetstreamproto.wire.packet import PacketParts

_ABORTED = 0xFFFF
_END_PATIENCE = 8.0
"""Seconds for which the last acknowledgement is waited for: the peer has ended, and has all of our
data; most likely it also has our end, and is gone, and what got lost is its word for it."""
_ENDING_HEARTBEAT = 2.0
"""Seconds of quiet after which a peer whose end is awaited is told that, and from where."""
_CHALLENGE_TIMEOUT = 1.0
"""Seconds after which a path is challenged again at the latest: our data are lost meanwhile."""
_FULL_CONTENT = 15  # bytes of a STREAM frame's head
_MOST_RESPONSES = 4
_FAREWELLS = 2
"""Acknowledgements of the peer's end, for this side may not be there to repeat it."""
_NOT_ELICITING = frozenset((frames.PADDING, frames.ACK, frames.FLOOR, frames.CLOSE))


class Departure(NamedTuple):
    """Datagrams to send: `length` bytes of the buffer, cut every `segment` bytes."""

    length: int
    segment: int
    address: Address


class Connection:
    """One connection that has its keys. `address` is the peer's, `rtt` the handshake's."""

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
        self.ending = False
        """Nothing more is to be written."""
        self.closed = False
        self.failure: JetStreamError | None = None
        self.settings = settings
        self.incoming = Incoming(settings.receive_window)
        self.restorer = Restorer()
        self.packets_received = 0
        self.rebindings = 0
        self._acks = Acknowledger(opener.window, settings.max_ack_delay)
        self.sender = Sender(sealer, settings, self._acks, self.restorer, random_bytes, now)
        if rtt is not None:
            self.sender.rtt.sample(rtt, 0.0)
        self.write = self.sender.outgoing.write
        self.write_message = self.sender.outgoing.write_message
        self.set_deadline = self.sender.protector.channel_opened
        self._sealer = sealer
        self._opener = opener
        self._paths = PathValidator(random_bytes)
        self._responses: list[tuple[bytes, Address]] = []  # to path challenges
        self._heard_at = now
        self._close_frame: bytes | None = None
        self._close_due = False
        self._farewells = _FAREWELLS

    # --- for the link -------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether more packets are wanted."""
        return not self.ending and not self.closed and self.sender.room

    @property
    def forged(self) -> int:
        """Packets that did not open."""
        return self._opener.forged

    def end_channel(self, channel: int) -> None:
        """Nothing more will be written for `channel`."""
        self.sender.outgoing.end_stream(channel)
        self.sender.protector.channel_ended(channel)
        self.incoming.leave(channel)

    def end(self) -> None:
        """Send everything, then the authenticated end."""
        self.ending = True
        self.sender.end()

    def fail(self, failure: JetStreamError | None, code: int, text: str) -> None:
        """Close at once; the peer is told `code` and `text`."""
        if not self.closed:
            self._close_frame = frames.encode_close(code, text)
            self._close_due = True
            self._close(failure)

    def abort(self) -> None:
        """Drop the connection; the peer learns that it was cut."""
        self.fail(SessionCut("this side dropped the connection"), _ABORTED, "")

    def mtu_reported(self, mtu: int) -> None:
        """The system or a router says that IP packets may have `mtu` bytes; 0 if it cannot say."""
        header = 8 + (40 if ":" in self.address[0] else 20)
        self.sender.mtu_reported(max(mtu - header, 1) if mtu else 0)

    def take_packets(self) -> list[PacketParts]:
        """The session's packets that have become whole."""
        return self.incoming.take()

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
            if self.closed:  # the peer does not know it yet
                eliciting += _wants_answer(plaintext)
            else:
                eliciting += self._packet_received(plaintext, address, now)
        if not accepted:
            return False
        self.packets_received += accepted
        self._heard_at = now
        if self.closed and eliciting:
            self._close_due = self._close_frame is not None
        newest = window.highest != before
        if newest and address != self.address:
            self._paths.heard(address, end, now)
        if eliciting and not newest:
            gap = True
        self._acks.received(now, eliciting, gap, self.sender.rtt.smoothed)
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
            self.sender.ack_received(content, now)
            self._finish_if_done()
        elif kind == frames.FLOOR:
            assert isinstance(content, int)
            self._acks.floor_received(content)
        elif kind == frames.WINDOW:
            assert isinstance(content, int)
            self.sender.outgoing.limit_received(content)
        elif kind == frames.SOURCE:
            assert isinstance(content, tuple)
            self._recover(self.restorer.source_received(*content))
        elif isinstance(content, frames.Repair):
            self._recover(self.restorer.repair_received(content))
        elif kind == frames.RECOVERED:
            assert isinstance(content, tuple)
            self.sender.recovered_received(*content)
        elif isinstance(content, frames.Skip):
            self.incoming.skip_received(content)
        elif kind == frames.PATH_CHALLENGE:
            assert isinstance(content, bytes)
            self._responses = [*self._responses[1 - _MOST_RESPONSES :], (content, address)]
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

    # --- time ---------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is to be called; None once the connection is closed."""
        if self.closed:
            return None
        when = min(self._heard_at + self.settings.idle_timeout, self._keepalive_at)
        if self.peer_ended and self.sender.end_sent:
            when = min(when, self._heard_at + _END_PATIENCE)
        for other in (self._acks.due_at, self._paths.due_at, self.sender.next_timeout()):
            if other is not None and other < when:
                when = other
        return when

    def handle_timeout(self, now: float) -> None:
        """Act on what has become due by `now`; packets may have to be sent afterwards."""
        if self.closed:
            return
        idle_timeout = self.settings.idle_timeout
        if now >= self._heard_at + idle_timeout:
            self.fail(PeerSilent(f"no sign of the peer for {idle_timeout:g} s"), _ABORTED, "")
            return
        if self.peer_ended and self.sender.end_sent and now >= self._heard_at + _END_PATIENCE:
            self._close(None)
            return
        if now >= self._keepalive_at:
            self.sender.outgoing.put_control(frames.PING)
            self.sender.sent_at = now
        self.sender.handle_timeout(now)

    @property
    def _keepalive_at(self) -> float:
        heartbeat = self.settings.heartbeat
        if self.ending:
            heartbeat = min(heartbeat, _ENDING_HEARTBEAT)
        return max(self._heard_at, self.sender.sent_at) + heartbeat

    # --- sending ------------------------------------------------------------------------

    def next_datagrams(self, out: memoryview, now: float) -> Departure | None:
        """Write the next datagrams into `out`; None when there is nothing to send now."""
        if self.closed:
            return self._closing_datagram(out, now)
        if self._responses or self._paths.due_at is not None:
            departure = self._path_datagram(out, now)
            if departure is not None:
                return departure
        incoming = self.incoming
        if incoming.window_due:
            incoming.window_due = False
            self.sender.outgoing.announce_window(incoming.granted)
        sealed = self.sender.next_datagrams(out, now)
        return None if sealed is None else Departure(*sealed, self.address)

    # --- paths --------------------------------------------------------------------------

    def _path_datagram(self, out: memoryview, now: float) -> Departure | None:
        if self._responses:
            data, address = self._responses.pop(0)
            plaintext = frames.encode_control(frames.PATH_RESPONSE, data)
            end = self._sealer.seal(plaintext, out, 0)
            return Departure(end, end, address)
        paths = self._paths
        challenge, candidate = paths.challenge(now, self.sender.rtt.probe_timeout), paths.candidate
        if challenge is None or candidate is None:
            return None
        if paths.due_at is not None:
            paths.due_at = min(paths.due_at, now + _CHALLENGE_TIMEOUT)
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
            self.sender.path_changed()

    # --- ends ---------------------------------------------------------------------------

    def _finish_if_done(self) -> None:
        if self.sender.end_acked and self.peer_ended:
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

    def _closing_datagram(self, out: memoryview, now: float) -> Departure | None:
        if self._close_due and self._close_frame is not None:
            self._close_due = False
            plaintext = self._close_frame
        elif self.failure is None and (self._farewells or self._acks.due_at is not None):
            self._farewells = max(0, self._farewells - 1)
            plaintext = self._acks.take(now)
        else:
            return None
        end = self._sealer.seal(plaintext, out, 0)
        return Departure(end, end, self.address)


def _wants_answer(plaintext: bytes) -> bool:
    return any(kind not in _NOT_ELICITING for kind, _ in frames.parse_frames(plaintext))
