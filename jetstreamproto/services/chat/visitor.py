"""A connection of somebody who is here: requests, one after the other, and their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.errors import (
    ChannelClosed,
    ChatError,
    JetStreamError,
    MessageTooLarge,
    QueueFull,
    WireError,
)
from jetstreamproto.services.chat.hall import Hall
from jetstreamproto.services.chat.messages import (
    ANSWER,
    CLIENT_SIZE,
    MAX_MESSAGE,
    REQUEST,
    VERSION,
    Action,
    Answer,
    Request,
)
from jetstreamproto.services.chat.model.bucket import TokenBucket
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import MAX_HISTORY
from jetstreamproto.services.chat.model.names import check_room, check_text, check_topic, name_key
from jetstreamproto.services.chat.model.notice import Notice, NoticeKind
from jetstreamproto.services.chat.model.people import Identity, Person
from jetstreamproto.services.chat.model.rooms import Room
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.session import Session

_log = Logger()


class Visitor(ChannelProtocol):
    """One channel. Its first request is HELLO."""

    def __init__(self, hall: Callable[[], Hall]) -> None:
        self._get_hall = hall
        self._person: Person | None = None
        self._client = b""
        self._queue: deque[Request] = deque()
        self._is_working = False
        self._is_over = False
        self._timer: IDelayedCall | None = None

    # --- ChannelProtocol --------------------------------------------------------------------------

    def channel_opened(self) -> None:
        self._hall = self._get_hall()
        self._identity = identity_of(self.channel.session)
        limits = self._hall.limits
        self._bucket = TokenBucket(limits.burst, limits.rate, self._hall.clock.seconds())
        self._timer = self._hall.clock.callLater(limits.hello_timeout, self._too_late)

    def message_received(self, message: bytes) -> None:
        if len(message) > MAX_MESSAGE:
            self._reset(ResetCode.MESSAGE_TOO_LARGE, f"a request of {len(message)} bytes")
            return
        try:
            self._queue.append(REQUEST.decode(message))
        except WireError as error:
            self._reset(ResetCode.BAD_MESSAGE, str(error))
            return
        if len(self._queue) >= self._hall.limits.pending:
            self.channel.pauseProducing()
        if not self._is_working:
            self._is_working = True
            Deferred.fromCoroutine(self._work()).addErrback(self._failed)

    def session_closing(self) -> None:
        self.channel.end()

    def channel_closed(self, reason: JetStreamError | None) -> None:
        self._is_over = True
        self._stop_timer()
        self._queue.clear()
        person, self._person = self._person, None
        if person is not None:
            self._hall.leave(person, self)

    def deliver(self, message: bytes) -> None:
        """Send something that happened. Who does not read is cut off, and may come back."""
        if self._is_over:
            return
        if self.channel.queued > self._hall.limits.queue_bytes:
            self._reset(ChatCode.TOO_SLOW, "too much waits to be read")
            return
        try:
            self.channel.send(message)
        except (MessageTooLarge, QueueFull) as error:
            self._reset(ResetCode.LIMIT_EXCEEDED, str(error))
        except ChannelClosed:
            pass  # its end is on the way

    # --- requests ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._queue:
            request = self._queue.popleft()
            self.deliver(ANSWER.encode(await self._answer(request)))
            if not self._is_over and len(self._queue) == self._hall.limits.pending >> 1:
                self.channel.resumeProducing()
        self._is_working = False

    async def _answer(self, request: Request) -> Answer:
        number = request.number
        try:
            answer = await self._do(request)
            return answer._replace(number=number)
        except ChatError as refusal:
            retry = min(int(refusal.retry_after * 1000) + 1, 1 << 31) if refusal.retry_after else 0
            return Answer(number=number, retry_ms=retry, code=refusal.code, reason=refusal.reason)

    async def _do(self, request: Request) -> Answer:
        person = self._person
        bucket = self._bucket if person is None else person.bucket
        wait = bucket.take(self._hall.clock.seconds())
        if wait:
            raise ChatError(ChatCode.TOO_FAST, f"not so fast: wait for {wait:.1f} s", wait)
        if person is None:
            return await self._hello(request)
        handler = _HANDLERS.get(request.action)
        if handler is None:
            raise ChatError(ChatCode.UNSUPPORTED, f"there is no action {request.action} here")
        return await handler(self, person, request)

    async def _hello(self, request: Request) -> Answer:
        if request.action != Action.HELLO:
            raise ChatError(ChatCode.INVALID, "the first request is HELLO")
        if request.version != VERSION:
            raise ChatError(
                ChatCode.UNSUPPORTED, f"version {request.version} of chat; this is {VERSION}"
            )
        if len(request.client) != CLIENT_SIZE:
            raise ChatError(ChatCode.INVALID, f"a client's id has {CLIENT_SIZE} bytes")
        hall = self._hall
        await hall.history.when_ready()
        name = await hall.name_for(self._identity, request.name)
        self._stop_timer()
        if self._is_over:
            return Answer()
        self._client = request.client
        person = hall.people.arrive(self, self._identity, name, hall.clock.seconds())
        self._person = person
        if request.name:
            hall.rename(person, name)
        return Answer(name=person.name)

    async def _join(self, person: Person, request: Request) -> Answer:
        hall, session = self._hall, self.channel.session
        name = check_room(request.room)
        if not hall.may_enter(session, name):
            raise ChatError(ResetCode.NOT_ALLOWED, f"you may not enter {name} here")
        room, is_new = hall.rooms.find_or_make(name, person.identity)
        if is_new and room.owner is not None:
            await hall.registry.save_room(room.name, room.owner, "")
            if self._is_over:
                return Answer()
        if hall.rooms.join(room, person, self, hall.clock.seconds()):
            notice = hall.happened(NoticeKind.JOINED, room.name, person.name)
            hall.tell([link for link in room.links if link is not self], notice)
        history, complete = self._past(room, request)
        return Answer(
            last=room.history[-1] if room.history else 0,
            complete=complete,
            room=room.name,
            topic=room.topic,
            members=room.roll(),
            notices=history,
        )

    def _past(self, room: Room, request: Request) -> tuple[tuple[Notice, ...], bool]:
        """The history that is asked for, and whether nothing after `since` is missing."""
        known = room.history
        if not request.since:
            count = min(request.history, len(known))
            return self._hall.history.read(list(known)[len(known) - count :]), True
        wanted = [sequence for sequence in known if sequence > request.since]
        found = self._hall.history.read(wanted)
        enough = len(known) < MAX_HISTORY or known[0] <= request.since
        return found, enough and len(found) == len(wanted)

    async def _part(self, person: Person, request: Request) -> Answer:
        room = self._room(request)
        room.check_member(self)
        self._hall.part(room, person, self)
        return Answer()

    async def _say(self, person: Person, request: Request) -> Answer:
        room = self._room(request)
        room.check_voice(person, self)
        text = check_text(request.text)
        await self._hall.say(room, person, text, b"%b%d" % (self._client, request.number))
        return Answer()

    async def _tell(self, person: Person, request: Request) -> Answer:
        text = check_text(request.text)
        other = self._hall.people.find(request.name)
        notice = self._hall.happened(NoticeKind.TOLD, "", person.name, other.name, text)
        self._hall.tell(other.links, notice)
        return Answer(name=other.name)

    async def _name(self, person: Person, request: Request) -> Answer:
        if not request.name:
            raise ChatError(ChatCode.INVALID, "a name has at least one character")
        same = name_key(request.name) == name_key(person.name)
        if person.identity.key is None and same:
            return Answer(name=person.name)
        name = await self._hall.name_for(person.identity, request.name)
        if not self._is_over:
            self._hall.rename(person, name)
        return Answer(name=person.name)

    async def _topic(self, person: Person, request: Request) -> Answer:
        room = self._room(request)
        room.check_topic_setter(person, self)
        topic = check_topic(request.text)
        if room.owner is not None:
            await self._hall.registry.save_room(room.name, room.owner, topic)
        room.topic = topic
        notice = self._hall.happened(NoticeKind.TOPIC, room.name, person.name, text=topic)
        self._hall.tell(room.links, notice)
        return Answer()

    async def _who(self, person: Person, request: Request) -> Answer:
        room = self._room(request)
        room.check_member(self)
        return Answer(room=room.name, topic=room.topic, members=room.roll())

    async def _kick(self, person: Person, request: Request) -> Answer:
        room, other = self._target(person, request)
        links = list(room.links)
        self._hall.rooms.kick(room, room.find(other), self._hall.clock.seconds())
        self._moderated(NoticeKind.KICKED, room, person, other, links)
        return Answer(name=other.name)

    async def _mute(self, person: Person, request: Request) -> Answer:
        room, other = self._target(person, request)
        if self._hall.rooms.mute(room, room.find(other)):
            await self._hall.registry.save_mute(room.name, other.identity.standing, True)
            self._moderated(NoticeKind.MUTED, room, person, other, room.links)
        return Answer(name=other.name)

    async def _unmute(self, person: Person, request: Request) -> Answer:
        room, other = self._target(person, request)
        if self._hall.rooms.unmute(room, other):
            await self._hall.registry.save_mute(room.name, other.identity.standing, False)
            self._moderated(NoticeKind.UNMUTED, room, person, other, room.links)
        return Answer(name=other.name)

    def _room(self, request: Request) -> Room:
        return self._hall.rooms.find(check_room(request.room))

    def _target(self, person: Person, request: Request) -> tuple[Room, Person]:
        room = self._room(request)
        room.check_member(self)
        room.check_owner(person)
        return room, self._hall.people.find(request.name)

    def _moderated(
        self, kind: NoticeKind, room: Room, person: Person, other: Person, links: Any
    ) -> None:
        notice = self._hall.happened(kind, room.name, person.name, other.name)
        self._hall.tell(links, notice)

    # --- ends -------------------------------------------------------------------------------------

    def _too_late(self) -> None:
        self._timer = None
        self._reset(ResetCode.TIMED_OUT, "no HELLO came")

    def _failed(self, failure: Failure) -> None:
        _log.failure("a request of chat failed", failure)
        self._reset(ResetCode.INTERNAL_ERROR, "the request failed")

    def _reset(self, code: int, reason: str) -> None:
        self._is_over = True
        self.channel.reset(code, reason)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def identity_of(session: Session) -> Identity:
    """How the session's peer is known again: as a user, by its key, or not at all."""
    if session.avatar is not None:
        key = f"user:{session.avatar}"
        return Identity(key, key)
    if session.peer.fingerprint is not None:
        return Identity(session.peer.fingerprint, session.peer.fingerprint)
    return Identity(None, f"guest@{session.peer.address.rpartition(':')[0]}")


_Handler = Callable[[Visitor, Person, Request], Coroutine[Any, Any, Answer]]
_HANDLERS: dict[int, _Handler] = {
    Action.JOIN: Visitor._join,
    Action.PART: Visitor._part,
    Action.SAY: Visitor._say,
    Action.TELL: Visitor._tell,
    Action.NAME: Visitor._name,
    Action.TOPIC: Visitor._topic,
    Action.WHO: Visitor._who,
    Action.KICK: Visitor._kick,
    Action.MUTE: Visitor._mute,
    Action.UNMUTE: Visitor._unmute,
}
