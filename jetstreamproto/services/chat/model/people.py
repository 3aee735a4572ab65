"""Who is here, and who owns which name."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

from jetstreamproto.errors import ChatError
from jetstreamproto.services.chat.model.bucket import TokenBucket
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.limits import ChatLimits
from jetstreamproto.services.chat.model.names import GUEST, check_name, guest_name, name_key

_ATTEMPTS = 64  # to make up a name that nobody has


class Identity(NamedTuple):
    """How somebody is known again.

    `key` is what they proved, None for a guest. `standing` is what mutes and bans hold by: the
    same, or the host that a guest comes from.
    """

    key: str | None
    standing: str


class Person:
    """Somebody who is here, over one or more connections (`links`), in some rooms (by name)."""

    __slots__ = ("bucket", "identity", "links", "name", "rooms")

    def __init__(self, identity: Identity, name: str, bucket: TokenBucket) -> None:
        self.identity = identity
        self.name = name
        self.bucket = bucket
        self.links: set[Hashable] = set()
        self.rooms: set[str] = set()


class People:
    """Everybody who is here, by name, and the names that identities have claimed.

    `number` returns a random one.
    """

    def __init__(self, limits: ChatLimits, number: Callable[[], int]) -> None:
        self._limits = limits
        self._number = number
        self._here: dict[str, Person] = {}
        self._known: dict[str, Person] = {}  # by identity
        self._owners: dict[str, str] = {}
        self._claims: dict[str, list[str]] = {}
        self._last: dict[str, str] = {}  # what an identity was called last
        self.resting: dict[str, TokenBucket] = {}
        """Of identities that have left while they had not all of their tokens."""

    def restore(self, name: str, identity: str) -> None:
        """A name was claimed earlier; in the order in which they were used."""
        self._own(name_key(name), identity)
        self._last[identity] = name

    def find(self, name: str) -> Person:
        """Who is called that. Raises `ChatError` if nobody here is."""
        person = self._here.get(name_key(name))
        if person is None:
            raise ChatError(ChatCode.NO_SUCH_PERSON, f"nobody here is called {name[:32]!a}")
        return person

    # --- names --------------------------------------------------------------------------------

    def name_for(self, identity: Identity, wanted: str) -> tuple[str, bool]:
        """What `wanted` comes to for them, and whether it has just been claimed.

        Nothing is the name that they had last, or a new one of a guest's. Raises `ChatError`.
        """
        if identity.key is None:
            return self._guest(wanted), False
        if not wanted:
            known = self._last.get(identity.key)
            return (known, False) if known is not None else (self._guest(""), False)
        name = check_name(wanted)
        if name_key(name).startswith(GUEST):
            raise ChatError(ChatCode.INVALID, f"names with {GUEST} are the guests'")
        return name, self._claim(name, identity.key)

    def is_used(self, identity: Identity, name: str) -> bool:
        """Whether that is what they were called last."""
        return identity.key is not None and self._last.get(identity.key) == name

    def used(self, identity: Identity, name: str) -> None:
        """They are called that now, which they own."""
        if identity.key is not None and self._owners.get(name_key(name)) == identity.key:
            self._last[identity.key] = name

    def disown(self, name: str, identity: Identity) -> None:
        """Undo a claim that could not be kept."""
        key = name_key(name)
        if identity.key is not None and self._owners.get(key) == identity.key:
            del self._owners[key]
            self._claims[identity.key].remove(key)

    def _guest(self, wanted: str) -> str:
        if wanted:
            name = guest_name(wanted, 0)
            if name_key(name) in self._here:
                raise ChatError(ChatCode.NAME_TAKEN, f"somebody here is called {name} already")
            return name
        for _ in range(_ATTEMPTS):
            name = guest_name("", self._number())
            if name not in self._here:
                return name
        raise ChatError(ChatCode.LIMIT, "there are too many guests")

    def _claim(self, name: str, identity: str) -> bool:
        key = name_key(name)
        owner = self._owners.get(key)
        if owner is not None and owner != identity:
            raise ChatError(ChatCode.NAME_TAKEN, f"the name {name} belongs to somebody else")
        if owner is not None:
            return False
        if len(self._claims.get(identity, ())) >= self._limits.names:
            raise ChatError(
                ChatCode.LIMIT, f"you have claimed {self._limits.names} names, and may use these"
            )
        if len(self._owners) >= self._limits.claimed_names:
            raise ChatError(ChatCode.LIMIT, "no more names can be claimed here")
        self._own(key, identity)
        return True

    def _own(self, key: str, identity: str) -> None:
        self._owners[key] = identity
        self._claims.setdefault(identity, []).append(key)

    # --- coming and going -----------------------------------------------------------------------

    def arrive(self, link: Hashable, identity: Identity, name: str, now: float) -> Person:
        """Somebody is here over one more connection, called `name`. Raises `ChatError`."""
        person = None if identity.key is None else self._known.get(identity.key)
        if person is None:
            if len(self._here) >= self._limits.people:
                raise ChatError(ChatCode.LIMIT, "there are too many people here")
            person = Person(identity, name, self._bucket(identity, now))
            self._here[name_key(name)] = person
            if identity.key is not None:
                self._known[identity.key] = person
        elif len(person.links) >= self._limits.connections:
            raise ChatError(ChatCode.LIMIT, f"you are here {len(person.links)} times already")
        person.links.add(link)
        return person

    def leave(self, person: Person, link: Hashable, now: float) -> None:
        """One of somebody's connections has ended."""
        person.links.discard(link)
        if person.links:
            return
        del self._here[name_key(person.name)]
        if person.identity.key is not None:
            del self._known[person.identity.key]
            self.resting[person.identity.key] = person.bucket
            if len(self.resting) > self._limits.people:
                del self.resting[next(iter(self.resting))]

    def rename(self, person: Person, name: str) -> None:
        """Somebody is called `name` from now on, which nobody else here is."""
        del self._here[name_key(person.name)]
        person.name = name
        self._here[name_key(name)] = person

    def _bucket(self, identity: Identity, now: float) -> TokenBucket:
        rested = self.resting.pop(identity.key, None) if identity.key is not None else None
        return rested or TokenBucket(self._limits.burst, self._limits.rate, now)
