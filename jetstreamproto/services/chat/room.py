"""A room, as one who is in it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from jetstreamproto.services.chat.messages import Answer
from jetstreamproto.services.chat.model.names import name_key
from jetstreamproto.services.chat.model.notice import Member, Notice, NoticeKind

if TYPE_CHECKING:
    from jetstreamproto.services.chat.client import ChatClient


class ChatRoom:
    """A room that a `ChatClient` has joined; it stays so over reconnects.

    `topic` and `members` (by name) are as the notices have it that were taken from the client's
    channel. `history` is what had been said when it was joined. All methods fail with `ChatError`,
    `NotAllowed` or `SessionClosed`.
    """

    def __init__(self, client: ChatClient, name: str) -> None:
        self.name = name
        self.topic = ""
        self.members: dict[str, Member] = {}
        self.history: tuple[Notice, ...] = ()
        self.last = 0
        """The highest sequence that is known."""
        self._client = client

    def say(self, text: str) -> Deferred[None]:
        """Say one line, of at most 4096 bytes; fires once it is on the server's disk.

        It is said once, also if the connection is lost meanwhile. Our own notice of it comes too.
        """
        return self._client.say(self.name, text)

    def set_topic(self, text: str) -> Deferred[None]:
        """Change the topic, which the owner may (anybody, in a room without one)."""
        return self._client.set_topic(self.name, text)

    def kick(self, name: str) -> Deferred[None]:
        """Throw somebody out of a room of ours."""
        return self._client.kick(self.name, name)

    def mute(self, name: str) -> Deferred[None]:
        """Let somebody say nothing in a room of ours, from now on."""
        return self._client.mute(self.name, name)

    def unmute(self, name: str) -> Deferred[None]:
        """Let somebody speak again."""
        return self._client.unmute(self.name, name)

    def part(self) -> Deferred[None]:
        """Leave."""
        return self._client.part(self.name)

    # --- for the client -------------------------------------------------------------------------

    def entered(self, answer: Answer) -> None:
        """We are in the room, which is like this."""
        self.name, self.topic = answer.room, answer.topic
        self.members = {member.name: member for member in answer.members}
        self.last = max(self.last, answer.last)

    def happened(self, notice: Notice) -> None:
        """Keep the room as it is after that."""
        kind, name, target = notice.kind, notice.name, notice.target
        if kind is NoticeKind.RENAMED:
            member = self.members.pop(name, None)
            if member is not None:
                self.members[target] = member._replace(name=target)
        elif kind is NoticeKind.JOINED:
            self.members.setdefault(name, Member(name))
        elif kind is NoticeKind.LEFT:
            self.members.pop(name, None)
        elif kind is NoticeKind.KICKED:
            self.members.pop(target, None)
        elif kind in (NoticeKind.MUTED, NoticeKind.UNMUTED):
            member = self.members.get(target, Member(target))
            self.members[target] = member._replace(muted=kind is NoticeKind.MUTED)
        elif kind is NoticeKind.TOPIC:
            self.topic = notice.text
        elif kind is NoticeKind.SAID:
            self.last = max(self.last, notice.sequence)


def is_same(one: str, other: str) -> bool:
    """Whether two names are the same person's."""
    return name_key(one) == name_key(other)
