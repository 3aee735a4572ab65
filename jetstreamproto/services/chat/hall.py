"""The hall: everybody who is here and every room, and how they are told what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from jetstreamproto.errors import ChatError
from jetstreamproto.services.chat.history import History
from jetstreamproto.services.chat.messages import CHAT, encode_notice
from jetstreamproto.services.chat.model.limits import ChatLimits
from jetstreamproto.services.chat.model.names import EVERY_ROOM, name_key, room_allowed
from jetstreamproto.services.chat.model.notice import Notice, NoticeKind
from jetstreamproto.services.chat.model.people import Identity, People, Person
from jetstreamproto.services.chat.model.rooms import Room, Rooms
from jetstreamproto.services.chat.registry import Registry
from jetstreamproto.services.events.broker import EventBroker
from jetstreamproto.services.offer import Permissions
from jetstreamproto.session.session import Session

ROOMS = "rooms"
"""The scope of access: which rooms a peer may enter and make."""


class Hall:
    """What all connections of a chat share.

    `wall` returns microseconds since 1970, `number` a random number.
    """

    def __init__(
        self,
        broker: EventBroker,
        registry: Registry,
        permissions: Permissions,
        limits: ChatLimits,
        clock: IReactorTime,
        wall: Callable[[], int],
        number: Callable[[], int],
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.wall = wall
        self.registry = registry
        self.people = People(limits, number)
        self.rooms = Rooms(limits)
        self._permissions = permissions
        for name, identity in registry.names():
            self.people.restore(name, identity)
        for room in registry.rooms():
            self.rooms.restore(*room)
        self.history = History(broker, self.rooms.remember)

    def may_enter(self, session: Session, room: str) -> bool:
        """Whether the rules of access let the session's peer into a room."""
        patterns = self._permissions(session, CHAT, ROOMS, EVERY_ROOM)
        return room_allowed(patterns, room)

    # --- telling --------------------------------------------------------------------------------

    def tell(self, links: Iterable[Any], notice: Notice) -> None:
        """Tell these connections, which are visitors, of something that happens now."""
        message = encode_notice(notice)
        for link in tuple(links):
            link.deliver(message)

    def happened(
        self, kind: NoticeKind, room: str, name: str, target: str = "", text: str = ""
    ) -> Notice:
        """A notice of this moment."""
        return Notice(kind, room, name, target, text, 0, self.wall())

    async def say(self, room: Room, person: Person, text: str, sender: bytes) -> int:
        """Keep it, and tell the room; the sequence, or 0 if `sender` had said that already.

        Everybody is told in the order of the sequences. Raises `ChatError`.
        """
        notice = self.happened(NoticeKind.SAID, room.name, person.name, text=text)
        sequence = await self.history.append(notice, sender)
        if sequence:
            room.history.append(sequence)
            self.tell(room.links, notice._replace(sequence=sequence))
        return sequence

    # --- names ------------------------------------------------------------------------------------

    async def name_for(self, identity: Identity, wanted: str) -> str:
        """What somebody is called who wants that name, which is theirs on disk then.

        Raises `ChatError`.
        """
        name, claimed = self.people.name_for(identity, wanted)
        if wanted and identity.key is not None and not self.people.is_used(identity, name):
            saving = self.registry.save_name(name_key(name), name, identity.key, self.wall())
            try:
                await saving
            except ChatError:
                if claimed:
                    self.people.disown(name, identity)
                raise
            self.people.used(identity, name)
        return name

    def rename(self, person: Person, name: str) -> None:
        """Somebody is called otherwise from now on; all who can see them are told."""
        old = person.name
        if old != name:
            self.people.rename(person, name)
            notice = self.happened(NoticeKind.RENAMED, "", old, name)
            self.tell(self.rooms.neighbours(person), notice)

    # --- leaving ----------------------------------------------------------------------------------

    def part(self, room: Room, person: Person, link: Any) -> None:
        """A connection leaves a room."""
        if self.rooms.part(room, link):
            self.tell(room.links, self.happened(NoticeKind.LEFT, room.name, person.name))

    def leave(self, person: Person, link: Any) -> None:
        """A connection is gone."""
        for room in self.rooms.of(person, link):
            self.part(room, person, link)
        self.people.leave(person, link, self.clock.seconds())
