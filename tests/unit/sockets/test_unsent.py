"""What of a TCP connection's data waits in the kernel."""

from __future__ import annotations

import socket
import sys
from typing import Any
from unittest import TestCase, skipUnless

from twisted.internet.task import Clock

from jetstreamproto.sockets.unsent import Unsent
from tests.unit.sockets.kernel_socket import KernelSocket, failure

ON_LINUX = sys.platform == "linux"
LOWAT = (socket.IPPROTO_TCP, getattr(socket, "TCP_NOTSENT_LOWAT", 25))
CORK = (socket.IPPROTO_TCP, getattr(socket, "TCP_CORK", 3))


class CountingSocket(KernelSocket):
    """It writes down in which order options are set."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple[int, int], int]] = []

    def setsockopt(self, level: int, name: int, value: int) -> None:
        super().setsockopt(level, name, value)
        self.calls.append(((level, name), value))


def limit_of(handle: Any, clock: Clock) -> Unsent:
    limit = Unsent.of(handle, clock)
    assert limit is not None
    return limit


@skipUnless(hasattr(socket, "TCP_NOTSENT_LOWAT"), "there is no such option on this system")
class LimitTests(TestCase):
    def setUp(self) -> None:
        self.handle, self.clock = KernelSocket(), Clock()

    def drain(self, limit: Unsent, seconds: float) -> int:
        limit.blocked()
        self.clock.advance(seconds)
        limit.drained()
        self.assertEqual(self.handle.options[LOWAT], limit.limit)
        return limit.limit

    def test_it_follows_the_speed(self) -> None:
        limit = limit_of(self.handle, self.clock)
        self.assertEqual(self.handle.options[LOWAT], 1 << 18)
        self.assertEqual(self.drain(limit, 0.001), 1 << 19)
        self.assertEqual(self.drain(limit, 0.005), 1 << 19)
        self.assertEqual(self.drain(limit, 0.020), 1 << 18)

    def test_it_has_bounds(self) -> None:
        limit = limit_of(self.handle, self.clock)
        self.assertEqual([self.drain(limit, 0.0) for _ in range(6)][-2:], [1 << 22] * 2)
        self.assertEqual([self.drain(limit, 1.0) for _ in range(7)][-2:], [1 << 17] * 2)

    def test_where_the_kernel_has_none(self) -> None:
        self.handle.unknown.add(LOWAT)
        self.assertIsNone(Unsent.of(self.handle, self.clock))  # type: ignore[arg-type]


@skipUnless(hasattr(socket, "TCP_CORK"), "there is no such option on this system")
class HoldTests(TestCase):
    def test_each_is_said_once(self) -> None:
        handle = CountingSocket()
        limit = limit_of(handle, Clock())
        limit.release()
        del handle.calls[:]
        for _ in range(3):
            limit.hold()
        limit.release()
        limit.release()
        limit.hold()
        self.assertEqual(handle.calls, [(CORK, 1), (CORK, 0), (CORK, 1)])

    def test_a_socket_that_is_closed(self) -> None:
        class Closed(KernelSocket):
            def setsockopt(self, level: int, name: int, value: int) -> None:
                if (level, name) == CORK:
                    raise failure(9)

        limit = limit_of(Closed(), Clock())
        limit.hold()
        limit.release()

    @skipUnless(ON_LINUX, "when a segment leaves is the business of each kernel")
    def test_the_kernel_keeps_what_fills_no_segment(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as port:
            ours = socket.create_connection(port.getsockname())
            theirs, _ = port.accept()
        with ours, theirs:
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            theirs.setblocking(False)
            limit = limit_of(ours, Clock())
            limit.hold()
            ours.sendall(b"one ")
            with self.assertRaises(BlockingIOError):
                theirs.recv(100)
            ours.sendall(b"two")
            limit.release()
            self.assertEqual(theirs.recv(100), b"one two")
