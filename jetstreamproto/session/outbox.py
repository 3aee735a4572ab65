"""The outbox: everything a session has to send, and the turns in which the link is given it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jetstreamproto.session.channel import MIN_ROOM, Channel
from jetstreamproto.session.codes import PACKET_COST
from jetstreamproto.session.credit import SendCredit
from jetstreamproto.session.guard import call_application
from jetstreamproto.session.scheduler import Scheduler
from jetstreamproto.transports.link import Link
from jetstreamproto.wire.packet import Kind, encode_head

_TURN_BYTES = 1 << 21
"""What a session sends before the reactor has a turn for others."""
_TURN, _TURN_ALONE = 1 << 16, 1 << 19
"""Bytes a channel sends before others have their turns, and before it is asked who they are."""


QueuedPacket: TypeAlias = tuple[bytes, bytes, int]
"""Head, payload and channel of a packet of the session's own that waits to be sent."""


def _end_of(channel_id: int) -> QueuedPacket:
    """What stands among the packets where the link is told that a channel is over."""
    return b"", b"", channel_id


class Outbox:
    """Sends the session's own packets first, then the channels' as the scheduler decides.

    Whatever is put in while packets are being received goes out together at the end of that
    turn; at other times, in a reactor turn soon after. `on_empty` is called when a turn ends with
    nothing left that can be sent and the link still has room.
    """

    __slots__ = (
        "_asked",
        "_clock",
        "_control",
        "_due",
        "_in_turn",
        "_on_empty",
        "_scheduler",
        "_stopped",
        "_wake",
        "credit",
        "link",
        "replies",
    )

    def __init__(self, clock: IReactorTime, on_empty: Callable[[], None]) -> None:
        self.link: Link
        self.credit = SendCredit(0)  # until the peer's HELLO says how much
        self._clock = clock
        self._on_empty = on_empty
        self._control: deque[QueuedPacket] = deque()
        self._scheduler: Scheduler[Channel] = Scheduler()
        self._asked: list[tuple[Channel, Callable[[], None]]] = []
        self.replies = 0
        self._in_turn = False
        self._due = False  # a turn was asked for while another went on
        self._stopped = False
        self._wake: IDelayedCall | None = None

    def put_control(
        self, kind: Kind, channel_id: int, *, seq: int = 0, code: int = 0, payload: bytes = b""
    ) -> QueuedPacket:
        """Queue a packet of the session itself, or about a channel."""
        packet = encode_head(seq, channel_id, kind, 0, code, len(payload)), payload, channel_id
        if not self._stopped:
            self._control.append(packet)
            if not self._in_turn:
                self.wake()
        return packet

    def take_back(self, packet: QueuedPacket) -> None:
        """Do not send what `put_control` has queued, if it was not sent yet."""
        with suppress(ValueError):
            self._control.remove(packet)

    def put_reply(
        self, kind: Kind, channel_id: int, *, seq: int = 0, code: int = 0, payload: bytes = b""
    ) -> None:
        """Queue a packet that the peer asked for; `replies` counts those that wait."""
        self.replies += not self._stopped
        self.put_control(kind, channel_id, seq=seq, code=code, payload=payload)

    def put_end_of_channel(self, channel_id: int) -> None:
        """Tell the link, after all that is queued for it, that the channel is over here."""
        if not self._stopped and self.link.streams:
            self._control.append(_end_of(channel_id))
            if not self._in_turn:
                self.wake()

    def put_channel(self, channel: Channel) -> None:
        """`channel` has something to send."""
        self._scheduler.add(channel)
        if not self._in_turn:
            self.wake()

    def ask(self, channel: Channel, call: Callable[[], None]) -> None:
        """Have `call` called, once, when the link is next given packets, and before it is."""
        if not self._stopped:
            self._asked.append((channel, call))
            if not self._in_turn:
                self.wake()

    def discard(self, channel: Channel) -> None:
        """`channel` has nothing to send any more."""
        self._scheduler.discard(channel)

    def wake(self) -> None:
        """See to it that a turn comes."""
        if self._wake is None and not self._stopped:
            self._wake = self._clock.callLater(0, self._woken)

    def hold(self) -> None:
        """Collect what is put in, until `release`."""
        self._in_turn = True

    def release(self) -> None:
        """Send what was collected."""
        self._in_turn = False
        if self._due or self._control or self._scheduler or self._asked:
            self._due = False
            self.pump()

    def stop(self) -> None:
        """The link is gone, or closes: nothing is sent any more."""
        self._stopped = True
        self._control.clear()
        self._asked.clear()
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def let_go(self) -> None:
        """It was stopped, and is not asked for anything any more."""
        del self._on_empty

    def pump(self) -> None:
        """Give the link what is to be sent, most urgent first, until it has no room."""
        link = self.link
        if self._in_turn:
            self._due = True
            return
        if self._stopped or not link.writable:
            return
        self._in_turn = True
        try:
            if self._asked:
                asked, self._asked = self._asked, []
                for channel, call in asked:
                    call_application(channel, call)
            finished = self._send_ready(link)
            link.flush()
        finally:
            self._in_turn = False
        if not finished or self._asked:
            self.wake()
        elif link.writable and not self._stopped:
            self._on_empty()

    def _woken(self) -> None:
        self._wake = None
        self.pump()

    def _send_ready(self, link: Link) -> bool:
        """Whether everything that can be sent now was handed over within this turn's bytes."""
        control, scheduler, credit, spent = self._control, self._scheduler, self.credit, 0
        while link.writable:
            while control:
                head, payload, channel_id = control.popleft()
                if head:
                    link.send_packet(head, payload, channel_id)
                else:
                    link.end_channel(channel_id)
            self.replies = 0
            if spent >= _TURN_BYTES:
                return False
            if credit.available < PACKET_COST + MIN_ROOM:
                break
            channel = scheduler.first()
            if channel is None:
                break
            spent += channel.emit(link, credit, _TURN if scheduler.crowded else _TURN_ALONE)
            scheduler.turn_over(channel, more=channel.ready)
        return True
