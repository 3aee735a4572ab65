"""A worker's part: the sockets that it inherits from its supervisor."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.listeners import Listeners, open_shared_listeners
from jetstreamproto.server.workers.forwarding import Mailbox, mailboxes
from jetstreamproto.server.workers.steering import steer
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, SocketProfile

_BACKLOG = 128
_FIRST = 3  # descriptor after the standard ones


@dataclass(frozen=True)
class WorkerPart:
    """What worker `number` of `count` has: listening sockets, and a mailbox for each of UDP.

    After the last of them comes the backend, which listens at a UNIX socket of its own.
    """

    number: int
    count: int
    listeners: Listeners
    inboxes: Sequence[socket.socket] = ()
    others: Sequence[Sequence[socket.socket]] = field(default=())
    backend: str = ""
    """The path of the backend's socket, known to the process that this part is for."""

    @property
    def is_backend(self) -> bool:
        return self.number == self.count

    @property
    def name(self) -> str:
        """What the process is called in the log."""
        return "the backend" if self.is_backend else f"worker {self.number}"

    @property
    def _sockets(self) -> list[socket.socket]:
        mail = [*self.inboxes, *(end for ends in self.others for end in ends)]
        return [*self.listeners.streams, *self.listeners.datagrams, *mail]

    def descriptors(self) -> dict[int, int]:
        """This process's descriptors by the number that they have in the worker."""
        return {_FIRST + place: one.fileno() for place, one in enumerate(self._sockets)}

    def describe(self, backend: str) -> str:
        """What `inherit` needs to find its way among the descriptors, and to the backend."""
        listeners = self.listeners
        counts = len(listeners.streams), len(listeners.datagrams)
        return json.dumps([self.number, self.count, *counts, listeners.transports, backend])

    @classmethod
    def inherit(cls, described: str) -> WorkerPart:
        """The part of this process, which was started with the descriptors of such a part."""
        number, count, streams, datagrams, transports, backend = json.loads(described)
        places = iter(range(_FIRST, _FIRST + streams + datagrams * (2 + count)))

        def take(how_many: int) -> list[socket.socket]:
            return [socket.socket(fileno=next(places)) for _ in range(how_many)]

        listeners = Listeners(take(streams), take(datagrams), transports)
        inboxes = take(datagrams)
        others = [take(count) for _ in range(datagrams)]
        return cls(number, count, listeners, inboxes, others, backend)

    def mailboxes(self) -> list[Mailbox]:
        """The part in each UDP socket, of which the sockets belong to the mailboxes now."""
        pairs = zip(self.inboxes, self.others, strict=True)
        return [Mailbox(self.number, inbox, others) for inbox, others in pairs]

    def close(self) -> None:
        """Close this process's descriptors."""
        for one in self._sockets:
            one.close()


def open_parts(
    interfaces: Sequence[str],
    port: int,
    transports: Sequence[str],
    count: int,
    profile: SocketProfile = DEFAULT_PROFILE,
) -> tuple[list[WorkerPart], str | None]:
    """The parts of `count` workers, and why the kernel cannot steer datagrams, if it cannot.

    Raises `ConfigurationError`.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("--workers: this system has no SO_REUSEPORT")
    shared = open_shared_listeners(interfaces, port, transports, count, profile)
    bound = shared[0].datagrams
    refusals = [refusal for one in bound if (refusal := steer(one)) is not None]
    mail = [mailboxes(count) for _ in bound]
    parts = [
        WorkerPart(
            number,
            count,
            listeners,
            [boxes[number][0] for boxes in mail],
            [[written for _, written in boxes] for boxes in mail],
        )
        for number, listeners in enumerate(shared)
    ]
    return parts, refusals[0] if refusals else None


def open_backend(folder: str, count: int) -> tuple[WorkerPart, str]:
    """The part of the backend of `count` workers, and the path of its socket in `folder`."""
    path = str(Path(folder) / "backend")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return WorkerPart(count, count, Listeners([listener], transports=())), path
