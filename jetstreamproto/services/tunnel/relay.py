"""A relay: one TCP connection and one channel, each of which gets what comes from the other.

The end of a direction (FIN) goes through as the end of the channel's, a connection that breaks
(RST) as a reset, and each side is read no faster than the other takes it. At most a few reads
wait in here: the channel's `high_water` one way, one read of the channel's credit the other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.errors import ChannelReset, JetStreamError, WireError
from jetstreamproto.services.tunnel.messages import REPLY, REQUEST, Reply, Request
from jetstreamproto.services.tunnel.model import TunnelCode
from jetstreamproto.services.tunnel.tcp import TcpSide
from jetstreamproto.session.codes import MAX_FRAGMENT, ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.wire.codec import Codec

_LINGER = 5.0
"""Seconds for which what a broken connection had sent is still sent on, before the reset."""


@implementer(IPushProducer)
class _Reading:
    """The reading of a TCP connection, as the producer of a channel."""

    def __init__(self, transport: Any) -> None:
        self.pauseProducing = transport.pauseProducing
        self.resumeProducing = transport.resumeProducing

    def stopProducing(self) -> None:
        """The channel is closed, which its protocol is told as well."""


class Relay(ChannelProtocol):
    """The protocol of a channel that is joined to a TCP connection.

    `on_gone` is called once, when neither is there any more.
    """

    def __init__(self, on_gone: Callable[[JetStreamError | None], None] | None = None) -> None:
        self.to_channel = self.to_tcp = 0
        """Bytes that were passed on so far."""
        self._tcp: TcpSide | None = None
        self.on_gone = on_gone
        self._over = False
        self._reason: JetStreamError | None = None
        self._lingering: IDelayedCall | None = None

    @property
    def joined(self) -> bool:
        """Whether there is a TCP connection."""
        return self._tcp is not None

    def join(self, tcp: TcpSide, received: bytes = b"") -> None:
        """From now on this channel and that connection, which has `received` those, are one."""
        self._tcp = tcp
        tcp.user = self
        tcp.feed_from(self.channel)
        self.channel.registerProducer(_Reading(tcp.transport), True)
        if received:
            self.tcp_received(received)
        if tcp.ended:
            self.tcp_ended()

    def part(self) -> TcpSide | None:
        """Give the connection back, if there is one; it is the caller's from now on."""
        tcp, self._tcp = self._tcp, None
        if tcp is not None:
            tcp.user = None
        return tcp

    # --- TcpUser --------------------------------------------------------------------------

    def tcp_received(self, data: bytes) -> None:
        if self._over:
            return
        channel = self.channel
        self.to_channel += len(data)
        most = min(MAX_FRAGMENT, channel.session.peer_hello.max_message)
        if len(data) <= most:
            channel.send(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), most):
                channel.send(view[start : start + most])
        channel.session.outbox.pump()

    def tcp_ended(self) -> None:
        self.channel.end()

    def tcp_lost(self, reason: Failure) -> None:
        if self._over:
            self._gone()
        elif not reason.check(ConnectionDone):  # otherwise both of its directions have ended
            self._break_off()

    def _break_off(self) -> None:
        """Reset the channel, once what came before the connection broke has been sent.

        Plain TCP, too, delivers most of that.
        """
        channel = self.channel
        linger = _Lingering(self)
        if not channel.queued:
            linger.finish()
            return
        channel.unregisterProducer()
        self._lingering = channel.session.clock.callLater(_LINGER, linger.finish)
        channel.registerProducer(linger, False)

    def reset(self, code: int, reason: str) -> None:
        """Break off both sides."""
        if not self._over:
            self.channel.reset(code, reason)

    # --- ChannelProtocol ------------------------------------------------------------------

    def message_received(self, message: bytes) -> None:
        tcp = self._tcp
        if tcp is not None:
            self.to_tcp += len(message)
            tcp.write(message)

    def end_received(self) -> None:
        if self._tcp is not None:
            self._tcp.end()
        else:
            self.channel.end()

    def session_closing(self) -> None:
        """Go on: TCP has no way to tell, and the session waits a while."""

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._over = True
        self._reason = reason
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        tcp = self._tcp
        if reason is not None and tcp is not None:
            tcp.abort()
        if tcp is None or tcp.lost or reason is not None:
            self._gone()

    def _gone(self) -> None:
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone(self._reason)


@implementer(IPullProducer)
class _Lingering:
    """Resets a relay's channel when it has nothing left to send."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def resumeProducing(self) -> None:
        if not self._relay.channel.queued:
            self.finish()

    def finish(self) -> None:
        self._relay.reset(TunnelCode.CONNECTION_RESET, "the connection was reset")

    def stopProducing(self) -> None:
        """It is reset."""


class Calling(Relay):
    """The side that opened the channel: it asks first, and is joined to a connection all along.

    `answered` fires with the peer's `Reply`, or fails with why there is none.
    """

    def __init__(
        self,
        request: Request,
        timeout: float,
        on_gone: Callable[[JetStreamError | None], None] | None = None,
    ) -> None:
        super().__init__(on_gone)
        self.answered: Deferred[Reply] = Deferred()
        self._request = request
        self._timeout = timeout
        self._timer: IDelayedCall | None = None
        self._has_answer = False

    def ask(self) -> None:
        """Send the request; the channel need not be open yet."""
        self.channel.send(REQUEST.encode(self._request))
        self._timer = self.channel.session.clock.callLater(
            self._timeout, self.reset, ResetCode.TIMED_OUT, "no answer from the other side"
        )

    def message_received(self, message: bytes) -> None:
        if self._has_answer:
            super().message_received(message)
            return
        reply = read_message(self, REPLY, message)
        if reply is not None:
            self._settle()
            self.answered.callback(reply)

    def end_received(self) -> None:
        if self._has_answer:
            super().end_received()
        else:
            self.reset(ResetCode.BAD_MESSAGE, "the channel ended without an answer")

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self.failed(reason or ChannelReset(ResetCode.CANCELLED, "the channel was closed"))
        super().channel_closed(reason)

    def refused(self, failure: Failure) -> None:
        """The channel has not been opened: what `Session.open` has failed with."""
        reason: Any = failure.value
        self.channel_closed(reason)

    def failed(self, reason: JetStreamError) -> None:
        """There will be no answer."""
        if not self._has_answer:
            self._settle()
            self.answered.errback(reason)

    def _settle(self) -> None:
        self._has_answer = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class Answering(Relay):
    """The side that is asked. `asked` gets the request; until it resumes the channel, what comes
    after the request waits within the channel's credit."""

    def __init__(
        self,
        asked: Callable[[Answering, Request], None],
        timeout: float,
        on_gone: Callable[[JetStreamError | None], None] | None = None,
    ) -> None:
        super().__init__(on_gone)
        self._asked: Callable[[Answering, Request], None] | None = asked
        self._timeout = timeout
        self._timer: IDelayedCall | None = None
        self.working: Deferred[Any] | None = None
        """What is being done about the request; it is cancelled when the channel breaks off."""

    def channel_opened(self) -> None:
        self._timer = self.channel.session.clock.callLater(
            self._timeout, self.reset, ResetCode.TIMED_OUT, "no request came"
        )

    def message_received(self, message: bytes) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            super().message_received(message)
            return
        self._stop_timer()
        request = read_message(self, REQUEST, message)
        if request is not None:
            self.channel.pauseProducing()
            asked(self, request)

    def end_received(self) -> None:
        if self._asked is not None:
            self.reset(ResetCode.BAD_MESSAGE, "the channel ended without a request")
        else:
            super().end_received()

    def answer(self, tcp: TcpSide) -> None:
        """The connection is there."""
        host = tcp.transport.getHost()
        self.channel.send(REPLY.encode(Reply(host.host.partition("%")[0], host.port)))
        self.join(tcp)
        self.channel.resumeProducing()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._stop_timer()
        working, self.working = self.working, None
        if working is not None:
            working.cancel()
        super().channel_closed(reason)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def read_message(relay: Relay, codec: Codec[Any], message: bytes) -> Any:
    """What `message` says; None, and the channel is reset, if that is nothing."""
    try:
        return codec.decode(message)
    except WireError as error:
        relay.reset(ResetCode.BAD_MESSAGE, str(error))
        return None
