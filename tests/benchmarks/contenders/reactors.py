"""Plain servers under one reactor or another, and a client that is quicker than any of them.

The client has no reactor: it drives a ring by itself, the same for all, so that what is measured
is the server. `eager` is Twisted's epoll reactor with a protocol that writes to the socket
at once: what a reactor with less overhead could do without io_uring.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from tests.benchmarks.job import Job
from tests.benchmarks.window import Window

REACTORS = ("uring", "epoll", "eager", "tuned", "uvloop")
MESSAGE = bytes(range(64))
STREAM = bytes(1 << 20)

_BACKLOG = 4096
_DATAGRAM = b"d" * 200
_BURST = 16
_SPLIT = 17, 103  # SOL_UDP, UDP_SEGMENT
_WARM_UP = 0.3  # of the seconds measured


def install(name: str) -> None:
    """Install the reactor of this name, and no other in its place."""
    if name == "uring":
        from jetstreamproto.reactors import uring

        reason = uring.why_not()
        if reason:
            raise SystemExit(f"jetstream-uring cannot run here: {reason}")
        uring.install()
    elif name == "tuned":
        from jetstreamproto.reactors import tuned

        tuned.install()
    elif name == "uvloop":
        import uvloop
        from twisted.internet import asyncioreactor

        asyncioreactor.install(uvloop.new_event_loop())
    else:
        from twisted.internet import epollreactor

        epollreactor.install()


# --- servers -----------------------------------------------------------------------------


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class EagerEcho(Protocol):
    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        sent = transport.writeSomeData(data)
        if isinstance(sent, int) and sent < len(data):
            transport.write(data[sent:])


class Source(Protocol):
    """A megabyte for each byte that comes."""

    def dataReceived(self, data: bytes) -> None:
        for _ in data:
            self.transport.write(STREAM)  # type: ignore[union-attr]


class Sink(Protocol):
    """A byte for each megabyte that comes."""

    _received = 0

    def dataReceived(self, data: bytes) -> None:
        self._received += len(data)
        if self._received >= len(STREAM):
            self._received -= len(STREAM)
            self.transport.write(b"x")  # type: ignore[union-attr]


class DatagramEcho(DatagramProtocol):
    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.transport.write(datagram, addr)  # type: ignore[union-attr]


_PROTOCOLS = {"echo": Echo, "down": Source, "up": Sink}


async def listen(reactor: Any, job: Job) -> int:
    if job.task in ("datagrams", "bursts"):
        port = reactor.listenUDP(0, DatagramEcho(), interface="127.0.0.1")
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    else:
        eager = job.reactor == "eager" and job.task == "echo"
        factory = Factory.forProtocol(EagerEcho if eager else _PROTOCOLS[job.task])
        factory.noisy = False
        port = reactor.listenTCP(0, factory, backlog=_BACKLOG, interface="127.0.0.1")
    found: int = port.getHost().port
    return found


# --- the client --------------------------------------------------------------------------


async def echo(_reactor: Any, job: Job) -> dict[str, float]:
    return _Load(job, MESSAGE, len(MESSAGE)).run()


async def down(_reactor: Any, job: Job) -> dict[str, float]:
    return _Load(job, b"x", len(STREAM)).run()


async def up(_reactor: Any, job: Job) -> dict[str, float]:
    return _Load(job, STREAM, 1).run()


async def datagrams(_reactor: Any, job: Job) -> dict[str, float]:
    return _Load(job, _DATAGRAM, len(_DATAGRAM), socket.SOCK_DGRAM).run()


async def bursts(_reactor: Any, job: Job) -> dict[str, float]:
    load = _Load(job, _BURST * _DATAGRAM, _BURST * len(_DATAGRAM), socket.SOCK_DGRAM)
    for handle in load.sockets:
        handle.setsockopt(*_SPLIT, len(_DATAGRAM))
    return load.run()


class _Load:
    """Connections that each ask again as soon as they have their answer."""

    def __init__(
        self,
        job: Job,
        request: bytes,
        answer_size: int,
        kind: socket.SocketKind = socket.SOCK_STREAM,
    ) -> None:
        from jetstreamproto.reactors import _uring

        self._api = _uring
        self._ring = _uring.Ring(4096, 16384, 2048, 4096 if answer_size < 4096 else 65536)
        self._job, self._request, self._answer_size = job, request, answer_size
        self._datagrams = kind == socket.SOCK_DGRAM
        self.sockets = [socket.socket(socket.AF_INET, kind) for _ in range(job.concurrency)]
        self._slots: list[list[Any]] = []  # slot, bytes still to come, socket
        for handle in self.sockets:
            handle.connect(("127.0.0.1", job.port))
            if not self._datagrams:
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handle.setblocking(False)
            owner = [0, answer_size, handle]
            owner[0] = self._ring.add(handle.fileno(), owner, _uring.STREAM)
            self._ring.receive(owner[0], True)
            self._slots.append(owner)

    def run(self) -> dict[str, float]:
        for owner in self._slots:
            self._ring.send(owner[0], self._request, False)
        self._answers(monotonic() + _WARM_UP * self._job.seconds)
        window = Window(self._job.server_pid)
        window.start()
        count = self._answers(monotonic() + self._job.seconds)
        measured = window.stop()
        self._ring.close()
        return {
            "per_s": count / measured["seconds"],
            "server_us": 1e6 * measured["server_cpu"] / max(1, count),
            "load": measured["client_cpu"] / measured["seconds"],
        }

    def _answers(self, until: float) -> int:
        received, send, size = self._api.RECEIVED, self._ring.send, self._answer_size
        readable, scratch = self._api.READABLE, bytearray(1 << 18)
        request, count = self._request, 0
        while True:
            left = until - monotonic()
            if left <= 0:
                return count
            events = self._ring.wait(min(left, 0.2))
            if not events and self._datagrams:  # some were lost
                for owner in self._slots:
                    send(owner[0], request, False)
            for owner, kind, data in events:
                if kind == readable:
                    try:
                        length = owner[2].recv_into(scratch)
                    except BlockingIOError:  # it was read in the same turn
                        continue
                else:
                    length = len(data) if kind == received else 0
                if not length:
                    raise RuntimeError(f"the server broke off: {data!r}")
                owner[1] -= length
                if owner[1] <= 0:
                    owner[1] = size
                    count += 1
                    send(owner[0], request, False)
