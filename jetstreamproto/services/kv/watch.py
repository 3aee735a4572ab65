"""The client's side of a watch, which outlives the session it began on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from jetstreamproto.errors import (
    ChannelError,
    ChannelReset,
    JetStreamError,
    SessionError,
)
from jetstreamproto.services.kv.connection import check_reply
from jetstreamproto.services.kv.messages import Reply, encode_request, read_entry, read_reply
from jetstreamproto.services.kv.model import KV, Action, ChangeKind, KeyEntry
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session

Connect = Callable[[], Coroutine[Deferred[Any], Any, Session]]


class _Changes(Inbox):
    """The messages of one channel, which ends when the server ends it, or goes away."""

    def session_closing(self) -> None:
        self.channel.end()

    def end_received(self) -> None:
        super().end_received()
        self.channel.end()


class KeyWatch:
    """Changes under a prefix, in the order of their revisions: `async for entry in watch`.

    Of a key that changes several times in short order, or while there is no session, only the
    last change may be told. When the session is lost, the watch goes on with the next one where
    it was, if it is from a `ReconnectingClient`; or else it raises what ended the session. An
    entry of kind RESTART says that the server does not know any more what has been deleted
    since: everything that there is follows, and what is not among it is gone.
    """

    def __init__(self, connect: Connect, bucket: str, prefix: str, since: int | None) -> None:
        self._connect = connect
        self._bucket = bucket
        self._prefix = prefix
        self._known = -1 if since is None else since
        self._key = ""
        self._inbox: _Changes | None = None
        self._entries: deque[KeyEntry] = deque()
        self._stopped = False

    @property
    def revision(self) -> int:
        """What `since` could be for a watch that goes on after the last entry that has come."""
        return self._known

    async def start(self) -> KeyWatch:
        """Have the server begin; see `KeyBucket.watch`."""
        session = await self._connect()
        inbox = await session.open(KV, _Changes())
        try:
            inbox.channel.send(
                encode_request(
                    Action.WATCH,
                    self._bucket,
                    self._prefix,
                    id=1,
                    names=(self._key,) if self._key else (),
                    revision=self._known,
                )
            )
            reply = check_reply(read_reply(await inbox.get()))
        except BaseException:
            inbox.channel.reset(ResetCode.CANCELLED)
            raise
        self._inbox = inbox
        if self._known < 0:
            self._known = reply.revision
        return self

    def stop(self) -> None:
        """Have the server tell no more; whoever waits for an entry sees the end of the watch."""
        self._stopped = True
        if self._inbox is not None:
            self._inbox.channel.reset(ResetCode.CANCELLED)

    def __aiter__(self) -> KeyWatch:
        return self

    async def __anext__(self) -> KeyEntry:
        while not self._entries:
            if self._stopped:
                raise StopAsyncIteration
            if self._inbox is None:
                await self.start()
            else:
                await self._receive(self._inbox)
        return self._entries.popleft()

    async def _receive(self, inbox: _Changes) -> None:
        try:
            message = await inbox.get()
        except (ChannelError, SessionError) as error:
            self._inbox = None
            refused = isinstance(error, ChannelReset) and error.code != ResetCode.GOING_AWAY
            if refused and not self._stopped and inbox.channel.session.accepts_channels:
                raise
            return
        try:
            self._take(check_reply(read_reply(message)))
        except JetStreamError:
            self._inbox = None
            inbox.channel.reset(ResetCode.BAD_MESSAGE)
            raise

    def _take(self, reply: Reply) -> None:
        for message in reply.values:
            entry = read_entry(message or b"")
            self._entries.append(entry)
            restart = entry.kind is ChangeKind.RESTART
            self._known, self._key = (0, "") if restart else (entry.revision, entry.key)
        if reply.revision > self._known:
            self._known, self._key = reply.revision, ""
