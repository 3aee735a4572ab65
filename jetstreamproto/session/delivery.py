"""Delivery: the receiving half of a channel."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from jetstreamproto.errors import ChannelReset, ProtocolViolation, WireError
from jetstreamproto.session.codes import MAX_FRAGMENT, PACKET_COST, ResetCode
from jetstreamproto.session.credit import ReceiveCredit
from jetstreamproto.session.guard import application_failed, call_application
from jetstreamproto.session.intake import too_large
from jetstreamproto.wire.compression import decompress
from jetstreamproto.wire.packet import Flag

if TYPE_CHECKING:
    from jetstreamproto.session.channel import Channel

_MORE = int(Flag.MORE)
_LZ4 = int(Flag.LZ4)


class Delivery:
    """Takes a channel's DATA packets, which must come in order, and delivers their messages.

    Nothing is delivered between `pause` and `resume`: what arrives meanwhile is held, within the
    channel's credit.
    """

    __slots__ = (
        "_channel",
        "_delivering",
        "_end_held",
        "_held",
        "_max_message",
        "_partial",
        "_paused",
        "_received",
        "credit",
        "receiving",
    )

    def __init__(self, channel: Channel) -> None:
        session = channel.session
        self.credit = ReceiveCredit(session.channel_window, session.settings.max_channel_window)
        self.receiving = False
        """Whether the peer may send: the channel is open, and its end was not delivered yet."""
        self._channel = channel
        self._max_message = session.settings.max_message
        self._received = 0  # DATA packets
        self._paused = False
        self._delivering = False
        # seq, flags, code, payload, cost, and what `Intake.hold` said
        self._held: deque[tuple[int, int, int, bytes, int, bool]] = deque()
        self._end_held = False
        self._partial: bytearray | None = None  # the message that is not finished yet

    @property
    def unfinished(self) -> bool:
        """Whether parts of messages wait for the rest."""
        return self._partial is not None

    # --- for the session -------------------------------------------------------------

    def data_received(self, seq: int, flags: int, code: int, payload: memoryview) -> None:
        """A DATA packet arrived."""
        size = len(payload)
        cost = size + PACKET_COST
        credit, channel = self.credit, self._channel
        credit.receive(cost)
        if not self.receiving or self._end_held:
            raise ProtocolViolation(f"data on channel {channel.id}, where none may come")
        if seq != self._received:
            raise ProtocolViolation(f"packet {seq} on channel {channel.id}, not {self._received}")
        self._received = seq + 1
        waits = self._paused or self._held or self._delivering
        if waits or flags or self._partial is not None or size > self._max_message:
            self._deliver_or_hold(seq, flags, code, payload, cost)
            return
        # The usual case, in as few steps as it takes.
        self._delivering = True
        try:
            channel.protocol.message_received(bytes(payload))
        except Exception as error:
            application_failed(channel, error)
        self._delivering = False
        if credit.consume(cost) and self.receiving:
            channel.session.renew_credit(channel.id, credit)
        channel.session.intake.consumed(cost)
        if self._held or self._end_held:
            self._deliver_held()

    def dropped_received(self, seq: int, size: int) -> None:
        """The link has given up a DATA packet with `size` bytes of payload."""
        raise ProtocolViolation(f"packet {seq} on channel {self._channel.id} was given up")

    def end_received(self, count: int) -> None:
        """An END packet arrived; the peer has sent `count` DATA packets."""
        if not self.receiving or self._end_held:
            raise ProtocolViolation(f"a second end on channel {self._channel.id}")
        self._end_held = True
        self._deliver_held()

    # --- for the channel -------------------------------------------------------------

    def pause(self) -> None:
        """Deliver nothing."""
        self._paused = True

    def resume(self) -> None:
        """Deliver again, first what arrived meanwhile."""
        self._paused = False
        if self._held or self._end_held:
            self._deliver_held()

    def stop(self) -> None:
        """The channel is over: forget what was not delivered."""
        self.receiving = self._end_held = False
        intake = self._channel.session.intake
        while self._held:
            *_, cost, was_held = self._held.popleft()
            intake.consumed(cost, was_held)
        self._drop_unfinished()

    # --- delivering ------------------------------------------------------------------

    def _deliver_or_hold(
        self, seq: int, flags: int, code: int, payload: memoryview, cost: int
    ) -> None:
        if self._paused or self._held or self._delivering:
            # a copy, because the view is good for this turn only
            was_held = self._channel.session.intake.hold(cost)
            self._held.append((seq, flags, code, bytes(payload), cost, was_held))
            return
        self._delivering = True
        self._deliver(seq, flags, code, payload, cost, False)
        self._delivering = False
        if self._held or self._end_held:
            self._deliver_held()

    def _deliver_held(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        while self._held and not self._paused:
            self._deliver(*self._held.popleft())
        self._delivering = False
        if self._end_held and not self._held and not self._paused:
            self._end_held = False
            self._channel.peer_end_delivered()

    def _deliver(
        self,
        seq: int,
        flags: int,
        code: int,
        payload: memoryview | bytes,
        cost: int,
        was_held: bool,
    ) -> None:
        channel = self._channel
        try:
            message = self._complete_message(seq, flags, code, payload)
        except ChannelReset as refusal:
            channel.reset(refusal.code, refusal.reason)
        else:
            if message is not None:
                call_application(channel, channel.protocol.message_received, message)
        self._consumed(cost, was_held)

    def _consumed(self, cost: int, was_held: bool) -> None:
        session = self._channel.session
        if self.credit.consume(cost) and self.receiving:
            session.renew_credit(self._channel.id, self.credit)
        session.intake.consumed(cost, was_held)

    def _complete_message(
        self, seq: int, flags: int, code: int, payload: memoryview | bytes
    ) -> bytes | None:
        """The message that this fragment completes, None if it goes on.

        Raises `ChannelReset` when it cannot be taken.
        """
        if flags & _LZ4:
            payload = self._decompressed(payload)
        partial = self._partial
        size = len(payload) if partial is None else len(partial) + len(payload)
        settings = self._channel.session.settings
        if size > settings.max_message:
            raise too_large(settings.max_message)
        if partial is None and not flags & _MORE:
            return bytes(payload)
        self._channel.session.intake.reserve(len(payload))
        if partial is None:
            partial = self._partial = bytearray()
        partial += payload
        if flags & _MORE:
            return None
        self._drop_unfinished()
        return bytes(partial)

    def _decompressed(self, block: memoryview | bytes) -> bytes:
        if self._channel.session.settings.compression is None:
            raise ChannelReset(ResetCode.BAD_MESSAGE, "this side takes no LZ4 blocks")
        try:
            return decompress(block, MAX_FRAGMENT)
        except WireError as error:
            raise ChannelReset(ResetCode.BAD_MESSAGE, str(error)) from None

    def _drop_unfinished(self) -> None:
        if self._partial is not None:
            self._channel.session.intake.release(len(self._partial))
            self._partial = None
