"""Watches: clients that are told of every change under a prefix.

A watch is a position in the store's changes and no more, so a slow client costs no memory: it is
told later, and of each key only the last change. Watches of the same prefix that are equally far
share what is read and encoded for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jetstreamproto.services.kv.messages import encode_entry, encode_reply
from jetstreamproto.services.kv.model import ChangeKind, KeyEntry, Refusal, Status
from jetstreamproto.services.kv.store import Changes, Position, Store
from jetstreamproto.session.session import Session

_log = Logger(namespace="jetstream.kv")

MAX_WATCHES = 4096
"""Watches of one server process."""
MAX_WATCHES_PER_SESSION = 256

_A_TURN = 32  # answers read in one turn of the reactor
_UNTOLD = 10_000  # revisions after which a client is told that nothing has happened

RESTARTED = encode_reply(0, [encode_entry(KeyEntry(ChangeKind.RESTART, "", 0))])
"""The message for a watch that is restarted."""


class Watch:
    """One client's. `send` takes a message for it; `known` is what it asked to go on from."""

    def __init__(
        self,
        session: Session,
        bucket: str,
        prefix: str,
        known: Position | None,
        send: Callable[[bytes], None],
    ) -> None:
        self.session = session
        self.bucket = bucket
        self.prefix = prefix
        self.known = known
        self.send = send
        self.position = Position(0)
        self.held = False
        """Whether it takes nothing at present."""
        self.quiet_until = 0
        """Up to this revision it need not know what is gone: it knows nothing yet."""
        self.restarted = False
        """Whether it has to begin from nothing, and be told so."""
        self.told = 0
        """The revision in its last message."""


class Watches:
    """All watches of a store."""

    def __init__(self, store: Store, clock: IReactorTime) -> None:
        self._store = store
        self._clock = clock
        self._watches: dict[Session, set[Watch]] = {}
        self._count = 0
        self._due: deque[Watch] = deque()
        self._is_due: set[Watch] = set()
        self._running = False
        store.subscribe(self._changed)

    def add(self, watch: Watch) -> int:
        """Begin to tell; the revision it begins after. Raises `Refusal` if there are too many."""
        mine = self._watches.get(watch.session, ())
        if self._count >= MAX_WATCHES or len(mine) >= MAX_WATCHES_PER_SESSION:
            raise Refusal(
                Status.LIMIT,
                f"at most {MAX_WATCHES_PER_SESSION} watches a session, {MAX_WATCHES} in all",
            )
        store, known = self._store, watch.known
        store.refresh()
        if known is None:
            watch.position = Position(store.revision + 1)
        elif known == Position(0):
            watch.quiet_until = store.revision
        elif store.floor <= known.revision <= store.revision:
            watch.position = known if known.key else Position(known.revision + 1)
        else:
            watch.quiet_until = store.revision
            watch.restarted = True
        watch.told = max(0, watch.position.revision - 1)
        self._watches.setdefault(watch.session, set()).add(watch)
        self._count += 1
        self.wake(watch)
        return watch.told

    def remove(self, watch: Watch) -> None:
        """Tell it nothing more."""
        watch.held = True
        mine = self._watches.get(watch.session, set())
        if watch in mine:
            mine.remove(watch)
            self._count -= 1
        if not mine:
            self._watches.pop(watch.session, None)

    def wake(self, watch: Watch) -> None:
        """There may be something for it, and it takes it."""
        if watch not in self._is_due and not watch.held and not self._caught_up(watch):
            self._is_due.add(watch)
            self._due.append(watch)
            if not self._running:
                self._running = True
                self._clock.callLater(0, self._run)

    def _caught_up(self, watch: Watch) -> bool:
        return watch.position.revision > self._store.revision

    def _changed(self) -> None:
        for mine in self._watches.values():
            for watch in mine:
                self.wake(watch)

    def _run(self) -> None:
        """Tell the watches that are due; the rest in the next turn, if reading takes long."""
        self._running = False
        found: dict[tuple[str, str, Position], tuple[Changes, bytes]] = {}
        for _ in range(len(self._due)):
            watch = self._due.popleft()
            self._is_due.discard(watch)
            if not watch.held:
                self._advance(watch, found)
            self.wake(watch)
            if len(found) >= _A_TURN:
                break
        if self._due and not self._running:
            self._running = True
            self._clock.callLater(0, self._run)

    def _advance(
        self, watch: Watch, found: dict[tuple[str, str, Position], tuple[Changes, bytes]]
    ) -> None:
        where = (watch.bucket, watch.prefix, watch.position)
        if where not in found:
            try:
                changes = self._store.changes(*where)
            except Refusal as refusal:
                watch.send(encode_reply(0, [refusal.reason.encode()], status=refusal.status))
                self.remove(watch)
                return
            found[where] = (changes, _encode(changes, changes.items))
        changes, message = found[where]
        items = changes.items
        if items and watch.quiet_until >= items[0].revision:
            items = [
                change
                for change in items
                if change.kind is ChangeKind.PUT or change.revision > watch.quiet_until
            ]
            message = _encode(changes, items)
        watch.position = changes.position
        if items or changes.position.revision - watch.told > _UNTOLD:
            watch.told = changes.position.revision - 1
            watch.send(message)


def _encode(changes: Changes, items: Sequence[KeyEntry]) -> bytes:
    revision = changes.position.revision - 1
    return encode_reply(0, [encode_entry(change) for change in items], revision=revision)
