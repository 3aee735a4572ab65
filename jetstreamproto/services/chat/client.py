"""`ChatClient`: rooms, messages and whoever is there, on whichever session there is."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from jetstreamproto.errors import (
    ChannelClosed,
    ChannelReset,
    ChatError,
    JetStreamError,
    NotAllowed,
    SessionClosed,
)
from jetstreamproto.services.chat.connection import ChatConnection, Lost, check_answer, is_final
from jetstreamproto.services.chat.messages import (
    CHAT,
    CLIENT_SIZE,
    VERSION,
    Action,
    Answer,
    Request,
)
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import MAX_HISTORY
from jetstreamproto.services.chat.model.names import (
    check_name,
    check_room,
    check_text,
    check_topic,
)
from jetstreamproto.services.chat.model.notice import Member, Notice, NoticeKind
from jetstreamproto.services.chat.room import ChatRoom, is_same
from jetstreamproto.session.session import Session

T = TypeVar("T")
GetSession = Callable[[], Deferred[Session]]

HIGH_WATER = 1000
"""Notices waiting to be taken at which the server is held back."""
_RETRY, _MAX_RETRY = 0.1, 5.0  # seconds until a lost channel is opened again, doubled each time
_NUMBERS = 1 << 32


class ChatClient:
    """Somebody in a chat.

    `source` is a session, or a function that returns a Deferred of the one there is or will be, as
    `ReconnectingClient.when_connected`: then rooms are joined again in the next session, what was
    said there meanwhile comes as notices, and what was being said is said, once.

    `name` is what to be called, by default what we were last. The server decides: `name` is what
    it is once something was joined or asked. Take what happens with `get`, or `async for`.
    `timeout` is for each request, in seconds.
    """

    def __init__(
        self,
        source: Session | GetSession,
        name: str = "",
        *,
        timeout: float = 30.0,
        clock: IReactorTime | None = None,
    ) -> None:
        if isinstance(source, Session):
            session = source
            clock = clock or session.clock
            self._get_session: GetSession = lambda: _living(session)
        else:
            self._get_session = source
        if clock is None:
            from twisted.internet import reactor

            clock = IReactorTime(reactor)
        self.name = ""
        self.rooms: dict[str, ChatRoom] = {}
        """Those that we are in."""
        self.reconnects = -1
        """How often it went on in another session; -1 before the first."""
        self._clock = clock
        self._timeout = timeout
        self._wanted = check_name(name) if name else ""
        self._id = os.urandom(CLIENT_SIZE)
        self._number = 0
        self._link: ChatConnection | None = None
        self._is_welcome = False
        self._connecting: Deferred[None] | None = None
        self._waiting: deque[Deferred[ChatConnection]] = deque()  # for being welcome
        self._notices: deque[Notice] = deque()
        self._takers: deque[Deferred[Notice]] = deque()
        self._over: JetStreamError | None = None

    # --- rooms ------------------------------------------------------------------------------------

    def join(self, room: str, history: int = 50) -> Deferred[ChatRoom]:
        """Enter a room, which is made if there is none; `history` is how much of the past to get.

        Fails with `ChatError`, `NotAllowed` or `SessionClosed`, as all requests do. Raises
        `ChatError` for what can be no room.
        """
        wanted = check_room(room)
        count = min(max(history, 0), MAX_HISTORY)

        async def enter() -> ChatRoom:
            answer = await self._ask(Action.JOIN, room=wanted, history=count)
            joined = self.rooms.setdefault(wanted, ChatRoom(self, wanted))
            joined.entered(answer)
            joined.history = answer.notices
            return joined

        return self._started(enter())

    def part(self, room: str) -> Deferred[None]:
        """Leave a room."""
        wanted = check_room(room)

        async def leave() -> None:
            self.rooms.pop(wanted, None)  # so that it is not joined again meanwhile
            await self._ask(Action.PART, room=wanted)

        return self._started(leave())

    def say(self, room: str, text: str) -> Deferred[None]:
        """Say one line in a room that we are in; fires once it is on the server's disk."""
        return self._do(Action.SAY, room=check_room(room), text=check_text(text))

    def set_topic(self, room: str, text: str) -> Deferred[None]:
        """Change a room's topic."""
        return self._do(Action.TOPIC, room=check_room(room), text=check_topic(text))

    def who(self, room: str) -> Deferred[tuple[Member, ...]]:
        """Who is in a room that we are in."""

        async def look() -> tuple[Member, ...]:
            return (await self._ask(Action.WHO, room=check_room(room))).members

        return self._started(look())

    def kick(self, room: str, name: str) -> Deferred[None]:
        """Throw somebody out of a room of ours; they cannot come back for a while."""
        return self._do(Action.KICK, room=check_room(room), name=check_name(name))

    def mute(self, room: str, name: str) -> Deferred[None]:
        """Let somebody say nothing in a room of ours, from now on."""
        return self._do(Action.MUTE, room=check_room(room), name=check_name(name))

    def unmute(self, room: str, name: str) -> Deferred[None]:
        """Let somebody speak again."""
        return self._do(Action.UNMUTE, room=check_room(room), name=check_name(name))

    # --- people -----------------------------------------------------------------------------------

    def tell(self, name: str, text: str) -> Deferred[None]:
        """Say something to one person, who has to be here. It is kept nowhere."""
        return self._do(Action.TELL, name=check_name(name), text=check_text(text))

    def rename(self, name: str) -> Deferred[str]:
        """Be called `name`, which is ours from then on; fires with what we are called.

        A guest is called `guest-NAME`, and owns no name.
        """
        wanted = check_name(name)

        async def change() -> str:
            answer = await self._ask(Action.NAME, name=wanted)
            self._wanted, self.name = wanted, answer.name
            return answer.name

        return self._started(change())

    # --- what happens -----------------------------------------------------------------------------

    def get(self) -> Deferred[Notice]:
        """The next notice. Fails with `ChannelClosed` after `close`, or with what ended it."""
        if self._notices:
            if len(self._notices) == HIGH_WATER >> 1 and self._link is not None:
                self._link.channel.resumeProducing()
            return succeed(self._notices.popleft())
        if self._over is not None:
            return fail(self._over)
        taker: Deferred[Notice] = Deferred(self._takers.remove)
        self._takers.append(taker)
        return taker

    def __aiter__(self) -> ChatClient:
        return self

    async def __anext__(self) -> Notice:
        try:
            return await self.get()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Leave the chat. Requests that are not answered fail."""
        self._end(ChannelClosed("the chat was left"))

    # --- requests ---------------------------------------------------------------------------------

    def _do(self, action: Action, **fields: Any) -> Deferred[None]:
        async def ask() -> None:
            await self._ask(action, **fields)

        return self._started(ask())

    def _started(self, asking: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        def too_late(_result: object, seconds: float) -> T:
            raise SessionClosed(f"no answer of the chat within {seconds:g} s")

        return Deferred.fromCoroutine(asking).addTimeout(self._timeout, self._clock, too_late)

    async def _ask(self, action: Action, **fields: Any) -> Answer:
        request = self._request(action, **fields)
        while True:
            link = await self._welcome()
            try:
                return check_answer(await link.ask(request))
            except Lost:
                if action in (Action.TELL, Action.KICK):  # nothing says whether it was done
                    raise

    def _request(self, action: Action, **fields: Any) -> Request:
        self._number = self._number % (_NUMBERS - 1) + 1
        return Request(number=self._number, action=action, version=VERSION, **fields)

    def _welcome(self) -> Deferred[ChatConnection]:
        """The connection, once the server knows us on it."""
        if self._over is not None:
            return fail(self._over)
        if self._link is not None and self._is_welcome:
            return succeed(self._link)
        waiting: Deferred[ChatConnection] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        if self._connecting is None:
            self._connect(0.0)
        return waiting

    # --- connecting -------------------------------------------------------------------------------

    def _connect(self, wait: float) -> None:
        connecting = Deferred.fromCoroutine(self._enter(wait))
        self._connecting = connecting
        connecting.addErrback(self._not_entered)

    async def _enter(self, wait: float) -> None:
        """Open a channel, again and again as long as there is hope, and be welcome on it."""
        while True:
            await deferLater(self._clock, wait)  # out of the turn in which we may be called back
            session = await self._get_session()
            link = self._link = ChatConnection(self._told, self._lost)
            try:
                opening = session.open(CHAT, link)
                opening.addErrback(self._not_opened, link)
                await self._introduce(link)
                break
            except Lost:
                wait = min(max(2 * wait, _RETRY), _MAX_RETRY)
        self._connecting = None
        self._is_welcome = True
        self.reconnects += 1
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.callback(link)

    def _not_opened(self, failure: Failure, link: ChatConnection) -> ChatConnection:
        link.over(_ours(failure))
        return link

    async def _introduce(self, link: ChatConnection) -> None:
        try:
            answer = await self._hello(link, self._wanted)
        except ChatError as refusal:
            if refusal.code != ChatCode.NAME_TAKEN or self.reconnects < 0:
                raise
            answer = await self._hello(link, "")  # a guest whose last connection is not gone yet
        self.name = answer.name
        for room in tuple(self.rooms.values()):
            await self._rejoin(link, room)

    async def _hello(self, link: ChatConnection, name: str) -> Answer:
        hello = self._request(Action.HELLO, name=name, client=self._id)
        return check_answer(await link.ask(hello))

    async def _rejoin(self, link: ChatConnection, room: ChatRoom) -> None:
        """Enter a room again, and hear what was said there meanwhile."""
        while True:
            request = self._request(
                Action.JOIN,
                room=room.name,
                since=room.last,
                history=0 if room.last else MAX_HISTORY,
            )
            try:
                answer = check_answer(await link.ask(request))
            except (ChatError, NotAllowed) as refusal:
                if isinstance(refusal, ChatError) and refusal.code == ChatCode.TOO_FAST:
                    await deferLater(self._clock, refusal.retry_after)
                    continue
                self.rooms.pop(room.name, None)
                self._hand_out(Notice(NoticeKind.KICKED, room.name, "", self.name, refusal.reason))
                return
            missed = [one for one in answer.notices if one.sequence > room.last]
            room.entered(answer)
            for notice in missed:
                self._hand_out(notice)
            return

    def _lost(self, reason: JetStreamError | None) -> None:
        """The channel is gone; unless that is final, open another one."""
        link, self._link = self._link, None
        was_welcome, self._is_welcome = self._is_welcome, False
        if link is None or self._over is not None:
            return
        if is_final(reason):
            assert isinstance(reason, ChannelReset)
            self._end(_refusal(reason))
        elif was_welcome:
            self._connect(_RETRY)

    def _not_entered(self, failure: Failure) -> None:
        self._connecting = None
        if not failure.check(CancelledError):
            self._end(_ours(failure))

    def _end(self, reason: JetStreamError) -> None:
        if self._over is not None:
            return
        self._over = reason
        connecting, self._connecting = self._connecting, None
        link, self._link = self._link, None
        self._is_welcome = False
        if connecting is not None:
            connecting.cancel()
        if link is not None:
            link.channel.resumeProducing()
            link.channel.end()
            link.over(None)
        waiting, self._waiting = self._waiting, deque()
        takers, self._takers = self._takers, deque()
        for one in waiting:
            one.errback(reason)
        for taker in takers:
            taker.errback(reason)

    # --- notices ----------------------------------------------------------------------------------

    def _told(self, notice: Notice) -> None:
        for room in tuple(self.rooms.values()):
            if notice.room == room.name or notice.kind is NoticeKind.RENAMED:
                room.happened(notice)
        if notice.kind is NoticeKind.RENAMED and notice.name == self.name:
            self.name = notice.target
        if notice.kind is NoticeKind.KICKED and is_same(notice.target, self.name):
            self.rooms.pop(notice.room, None)
        self._hand_out(notice)

    def _hand_out(self, notice: Notice) -> None:
        if self._takers:
            self._takers.popleft().callback(notice)
            return
        self._notices.append(notice)
        if len(self._notices) >= HIGH_WATER and self._link is not None:
            self._link.channel.pauseProducing()


def _living(session: Session) -> Deferred[Session]:
    if session.accepts_channels:
        return succeed(session)
    return fail(session.close_reason or SessionClosed("the session has ended"))


def _refusal(reason: ChannelReset) -> JetStreamError:
    if type(reason) is ChannelReset and reason.code >= ChatCode.UNSUPPORTED:
        return ChatError(reason.code, reason.reason)
    return reason


def _ours(failure: Failure) -> JetStreamError:
    """What a session could not be made or used for: ours, or Twisted's made ours."""
    error = failure.value
    if isinstance(error, JetStreamError):
        return error
    closed = SessionClosed(f"no session: {str(error) or type(error).__name__}")
    closed.__cause__ = error
    return closed
