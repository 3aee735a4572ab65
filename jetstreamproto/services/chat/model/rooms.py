"""Rooms: who is in them, and what their owners may do."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable

from jetstreamproto.errors import ChatError
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import MAX_HISTORY, ChatLimits
from jetstreamproto.services.chat.model.notice import Member
from jetstreamproto.services.chat.model.people import Identity, Person


class Room:
    """A room. `owner` is the identity that made it first, None if a guest did.

    `links` are the connections over which its members are here, and `history` the sequences of what
    was said last.
    """

    __slots__ = ("bans", "history", "links", "members", "mutes", "name", "owner", "topic")

    def __init__(self, name: str, owner: str | None) -> None:
        self.name = name
        self.owner = owner
        self.topic = ""
        self.members: dict[Person, int] = {}  # and over how many connections
        self.links: dict[Hashable, Person] = {}
        self.mutes: set[str] = set()
        self.bans: dict[str, float] = {}
        self.history: deque[int] = deque(maxlen=MAX_HISTORY)

    def member(self, person: Person) -> Member:
        """How somebody in the room is shown."""
        return Member(person.name, self.owns(person.identity), self.is_muted(person))

    def roll(self) -> tuple[Member, ...]:
        """Everybody in it, by name."""
        return tuple(self.member(one) for one in sorted(self.members, key=lambda one: one.name))

    def owns(self, identity: Identity) -> bool:
        """Whether the room is theirs."""
        return self.owner is not None and self.owner == identity.key

    def is_muted(self, person: Person) -> bool:
        """Whether they may not speak here."""
        return person.identity.standing in self.mutes

    # --- checks ---------------------------------------------------------------------------------

    def check_member(self, link: Hashable) -> None:
        """Raise `ChatError` unless the connection has joined."""
        if link not in self.links:
            raise ChatError(ChatCode.NOT_IN_ROOM, f"you are not in {self.name}")

    def check_voice(self, person: Person, link: Hashable) -> None:
        """Raise `ChatError` unless they may speak."""
        self.check_member(link)
        if self.is_muted(person):
            raise ChatError(ChatCode.MUTED, f"you are muted in {self.name}")

    def check_topic_setter(self, person: Person, link: Hashable) -> None:
        """Raise `ChatError` unless they may set the topic: the owner; all, if there is none."""
        self.check_voice(person, link)
        if self.owner is not None:
            self.check_owner(person)

    def check_owner(self, person: Person) -> None:
        """Raise `ChatError` unless the room is theirs."""
        if not self.owns(person.identity):
            raise ChatError(ChatCode.NOT_OWNER, f"{self.name} is not yours")

    def find(self, person: Person) -> Person:
        """`person`, who is in the room. Raises `ChatError` otherwise."""
        if person not in self.members:
            raise ChatError(ChatCode.NO_SUCH_PERSON, f"{person.name} is not in {self.name}")
        return person


class Rooms:
    """All rooms, the one that was left last at the end."""

    def __init__(self, limits: ChatLimits) -> None:
        self._limits = limits
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._owned: dict[str, int] = {}

    def restore(self, name: str, owner: str | None, topic: str, mutes: Iterable[str]) -> Room:
        """A room of earlier; without an owner it may be forgotten."""
        room = self._rooms.get(name)
        if room is None:
            room = self._add(name, owner)
            room.topic = topic
            room.mutes.update(mutes)
        return room

    def find(self, name: str) -> Room:
        """The room that somebody is in. Raises `ChatError` if there is none of that name."""
        room = self._rooms.get(name)
        if room is None:
            raise ChatError(ChatCode.NOT_IN_ROOM, f"you are not in {name}")
        return room

    def find_or_make(self, name: str, identity: Identity) -> tuple[Room, bool]:
        """The room, and whether it is new: its owner is `identity` then. Raises `ChatError`."""
        room = self._rooms.get(name)
        if room is not None:
            return room, False
        key = identity.key
        if key is not None and self._owned.get(key, 0) >= self._limits.owned_rooms:
            raise ChatError(ChatCode.LIMIT, f"you own {self._owned[key]} rooms already")
        if len(self._rooms) >= self._limits.rooms:
            self._forget_one()
        return self._add(name, key), True

    def remember(self, name: str, sequence: int) -> None:
        """Something was said; a room that is not known is made, as long as there is space."""
        room = self._rooms.get(name)
        if room is None and len(self._rooms) < self._limits.rooms:
            room = self._add(name, None)
        if room is not None:
            room.history.append(sequence)

    def _add(self, name: str, owner: str | None) -> Room:
        room = self._rooms[name] = Room(name, owner)
        if owner is not None:
            self._owned[owner] = self._owned.get(owner, 0) + 1
        return room

    def _forget_one(self) -> None:
        for room in self._rooms.values():
            if not room.members and room.owner is None:
                del self._rooms[room.name]
                return
        raise ChatError(ChatCode.LIMIT, f"there are {len(self._rooms)} rooms already")

    # --- coming and going -------------------------------------------------------------------------

    def join(self, room: Room, person: Person, link: Hashable, now: float) -> bool:
        """Somebody comes in over `link`; whether they were not there before. Raises `ChatError`."""
        until = room.bans.get(person.identity.standing, 0.0)
        if until > now:
            wait = until - now
            raise ChatError(ChatCode.KICKED, f"you were kicked from {room.name}", wait)
        if link in room.links:
            return False
        fresh = person not in room.members
        if fresh and len(room.members) >= self._limits.members:
            raise ChatError(ChatCode.LIMIT, f"{room.name} is full")
        if sum(link in self._rooms[name].links for name in person.rooms) >= self._limits.joined:
            raise ChatError(ChatCode.LIMIT, f"you are in {self._limits.joined} rooms already")
        room.links[link] = person
        room.members[person] = room.members.get(person, 0) + 1
        person.rooms.add(room.name)
        return fresh

    def part(self, room: Room, link: Hashable) -> bool:
        """A connection leaves; whether that was the person's last one there."""
        person = room.links.pop(link)
        room.members[person] -= 1
        if room.members[person]:
            return False
        del room.members[person]
        person.rooms.discard(room.name)
        if not room.members:
            self._rooms.move_to_end(room.name)
        return True

    def of(self, person: Person, link: Hashable) -> list[Room]:
        """The rooms that somebody is in over `link`."""
        rooms = [self._rooms[name] for name in sorted(person.rooms)]
        return [room for room in rooms if link in room.links]

    def neighbours(self, person: Person) -> dict[Hashable, None]:
        """The connections of all who are in a room with them, their own too."""
        found = dict.fromkeys(person.links)
        for name in person.rooms:
            found.update(dict.fromkeys(self._rooms[name].links))
        return found

    # --- moderation -------------------------------------------------------------------------------

    def kick(self, room: Room, person: Person, now: float) -> None:
        """Throw somebody out, who cannot come back for a while."""
        _not_the_owner(room, person)
        bans = room.bans
        for standing in [one for one, until in bans.items() if until <= now]:
            del bans[standing]
        if len(bans) >= self._limits.bans:
            raise ChatError(ChatCode.LIMIT, f"{len(bans)} people cannot come back already")
        bans[person.identity.standing] = now + self._limits.kick_time
        for link in [link for link, member in room.links.items() if member is person]:
            self.part(room, link)

    def mute(self, room: Room, person: Person) -> bool:
        """Let somebody speak no more; whether that is new. Raises `ChatError`."""
        _not_the_owner(room, person)
        if room.is_muted(person):
            return False
        if len(room.mutes) >= self._limits.mutes:
            raise ChatError(ChatCode.LIMIT, f"{len(room.mutes)} people are muted already")
        room.mutes.add(person.identity.standing)
        return True

    def unmute(self, room: Room, person: Person) -> bool:
        """Let somebody speak again; whether they could not."""
        if not room.is_muted(person):
            return False
        room.mutes.discard(person.identity.standing)
        return True


def _not_the_owner(room: Room, person: Person) -> None:
    if room.owns(person.identity):
        raise ChatError(ChatCode.INVALID, f"{room.name} is theirs")
