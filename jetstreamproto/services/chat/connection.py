"""The client's side of a chat's channel: requests, and their answers by number."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from jetstreamproto.errors import (
    ChannelReset,
    ChatError,
    JetStreamError,
    NotAllowed,
    SessionClosed,
    WireError,
)
from jetstreamproto.services.chat.messages import ANSWER, REQUEST, Answer, Request
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.notice import Notice
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol

_COMES_BACK = (ResetCode.GOING_AWAY, ResetCode.CANCELLED, ChatCode.TOO_SLOW)


class Lost(SessionClosed):
    """The channel is gone, and with it the answer to a request; another may be opened."""


class ChatConnection(ChannelProtocol):
    """One channel. `told` gets each notice, `lost` why it ended."""

    def __init__(
        self, told: Callable[[Notice], None], lost: Callable[[JetStreamError | None], None]
    ) -> None:
        self._told = told
        self._lost = lost
        self._waiting: dict[int, Deferred[Answer]] = {}
        self._is_over = False

    def ask(self, request: Request) -> Deferred[Answer]:
        """Send a request; fires with the answer, whatever it says. Fails with `Lost`."""
        number = request.number

        def forget(_: object) -> None:
            self._waiting.pop(number, None)

        waiting: Deferred[Answer] = Deferred(forget)
        if self._is_over:
            waiting.errback(Lost("the connection to the chat is lost"))
            return waiting
        self._waiting[number] = waiting
        try:
            self.channel.send(REQUEST.encode(request))
        except JetStreamError:  # its end is on the way
            del self._waiting[number]
            waiting.errback(Lost("the connection to the chat is lost"))
        return waiting

    def message_received(self, message: bytes) -> None:
        try:
            answer = ANSWER.decode(message)
        except WireError as error:
            self.channel.reset(ResetCode.BAD_MESSAGE, str(error))
            return
        if answer.number:
            waiting = self._waiting.pop(answer.number, None)
            if waiting is not None:  # otherwise it came too late for whoever asked
                waiting.callback(answer)
            return
        for notice in answer.notices:
            self._told(notice)

    def end_received(self) -> None:
        self.channel.end()
        self.over(None)

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self.over(reason)

    def over(self, reason: JetStreamError | None) -> None:
        """The channel is gone, or was never opened."""
        if self._is_over:
            return
        self._is_over = True
        self._lost(reason)  # which may give up waiting
        while self._waiting:
            one = self._waiting.pop(next(iter(self._waiting)))
            one.errback(Lost("the connection to the chat is lost"))


def is_final(reason: JetStreamError | None) -> bool:
    """Whether a channel that ended for this reason would end so again."""
    return isinstance(reason, ChannelReset) and reason.code not in _COMES_BACK


def check_answer(answer: Answer) -> Answer:
    """`answer`, unless it is a refusal: raises `ChatError` or `NotAllowed` then."""
    if answer.code == ChatCode.DONE:
        return answer
    if answer.code == ResetCode.NOT_ALLOWED:
        raise NotAllowed(answer.code, answer.reason)
    raise ChatError(answer.code, answer.reason, answer.retry_ms / 1000)
