"""A listing, read and sent a part at a time, no faster than the peer takes it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from jetstreamproto.errors import FileError, JetStreamError, WireError
from jetstreamproto.services.files.conversation import Conversation
from jetstreamproto.services.files.messages import ENTRIES, Entries, Entry, Kind
from jetstreamproto.services.files.model import FileCode

MAX_ENTRIES = 1_000_000
"""Entries in one listing."""
PART_ENTRIES = 500
"""Entries in one message."""
_DIGEST_OF_NOTHING = bytes(32)


@implementer(IPullProducer)
class Listing:
    """Sends the entries that `scan` gives; `None` among them are counted, but have no name."""

    def __init__(
        self, conversation: Conversation, scan: Callable[[], Iterator[Entry | None]]
    ) -> None:
        self._talk = conversation
        self._scan = scan
        self._entries: Iterator[Entry | None] | None = None
        self._sent = 0
        self._busy = self._closed = False

    def start(self) -> None:
        """Send it."""
        self._talk.channel.registerProducer(self, False)

    def part_received(self, kind: int, _number: int, _body: memoryview) -> None:
        """Nothing is to be said meanwhile."""
        raise WireError(f"a message of kind {kind} during a listing")

    def closed(self) -> None:
        """The channel is gone."""
        self._closed = True

    def resumeProducing(self) -> None:
        if not self._busy and not self._closed:
            self._busy = True
            self._talk.work(self._read, self._was_read)

    def stopProducing(self) -> None:
        """The channel is gone, and `closed` is called."""

    def _read(self) -> list[Entry | None]:
        if self._entries is None:
            self._entries = self._scan()
        return list(itertools.islice(self._entries, PART_ENTRIES))

    def _was_read(self, found: list[Entry | None] | None, error: JetStreamError | None) -> None:
        self._busy = False
        if self._closed:
            return
        if found is None:
            self._talk.fail(error or WireError("no listing"))
            return
        self._talk.heard()
        self._sent += len(found)
        if self._sent > MAX_ENTRIES:
            self._talk.fail(FileError(FileCode.TOO_LARGE, f"over {MAX_ENTRIES} entries"))
            return
        if found:
            entries = tuple(entry for entry in found if entry is not None)
            part = Entries(entries, len(found) - len(entries))
            self._talk.say(Kind.ENTRIES, ENTRIES.encode(part))
        if len(found) < PART_ENTRIES:
            self._talk.channel.unregisterProducer()
            self._talk.say(Kind.DONE, _DIGEST_OF_NOTHING)
        elif self._talk.channel.queued < 1 << 16:
            self.resumeProducing()
