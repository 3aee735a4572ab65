"""Tests for jetstreamproto.sockets.datagrams."""

from __future__ import annotations

import errno
import socket
from typing import Any
from unittest import TestCase, mock

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.sockets import datagrams
from jetstreamproto.sockets.datagrams import (
    DatagramOptions,
    can_split_datagrams,
    forbid_fragments,
    grow_buffer,
    join_datagrams,
    plain_address,
    queue_errors,
)
from tests.unit.sockets.kernel_socket import KernelSocket, failure


class BufferSocket(KernelSocket):
    """Grants up to `limit` bytes, and anything to who may force it."""

    def __init__(self, limit: int, privileged: bool, now: int) -> None:
        super().__init__()
        self.limit = limit
        self.privileged = privileged
        self.size = 2 * now
        self.asked: list[int] = []

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self.asked.append(name)
        if name in (32, 33) and not self.privileged:
            raise failure(errno.EPERM)
        self.size = 2 * (value if name in (32, 33) else min(value, self.limit))

    def getsockopt(self, level: int, name: int) -> int:
        return self.size


class DatagramTests(TestCase):
    def handle(self, family: socket.AddressFamily = socket.AF_INET) -> Any:
        return KernelSocket(family)

    def test_nothing_is_fragmented(self) -> None:
        handle = self.handle()
        forbid_fragments(handle)
        self.assertEqual(handle.options, {(0, 10): 3})

    def test_nothing_is_fragmented_to_either_family(self) -> None:
        handle = self.handle(socket.AF_INET6)
        forbid_fragments(handle)
        self.assertEqual(handle.options, {(0, 10): 3, (41, 23): 3, (41, 62): 1})

    def test_errors_are_queued(self) -> None:
        handle = self.handle()
        self.assertTrue(queue_errors(handle))
        self.assertEqual(handle.options, {(0, 11): 1})
        handle = self.handle(socket.AF_INET6)
        self.assertTrue(queue_errors(handle))
        self.assertEqual(handle.options, {(0, 11): 1, (41, 25): 1})

    def test_offload(self) -> None:
        handle = self.handle()
        self.assertTrue(join_datagrams(handle))
        self.assertTrue(can_split_datagrams(handle))
        self.assertEqual(handle.options, {(17, 104): 1, (17, 103): 0})

    def test_a_kernel_that_knows_nothing(self) -> None:
        handle = self.handle(socket.AF_INET6)
        handle.unknown = {(0, 10), (0, 11), (41, 23), (41, 25), (41, 62), (17, 103), (17, 104)}
        forbid_fragments(handle)
        for ask in (queue_errors, join_datagrams, can_split_datagrams):
            self.assertFalse(ask(handle))

    def test_another_system_is_not_even_asked(self) -> None:
        handle = self.handle(socket.AF_INET6)
        with mock.patch.object(datagrams, "ON_LINUX", False):
            forbid_fragments(handle)
            for ask in (queue_errors, join_datagrams, can_split_datagrams):
                self.assertFalse(ask(handle))
        self.assertEqual(handle.options, {})

    def test_buffers_beyond_the_limit_for_who_may(self) -> None:
        for kind, force in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):
            handle: Any = BufferSocket(1000, True, now=200)
            self.assertEqual(grow_buffer(handle, kind, 5000), 5000)
            self.assertEqual(handle.asked, [force])

    def test_buffers_up_to_the_limit_for_others(self) -> None:
        for kind, force in ((socket.SO_RCVBUF, 33), (socket.SO_SNDBUF, 32)):
            handle: Any = BufferSocket(1000, False, now=200)
            self.assertEqual(grow_buffer(handle, kind, 5000), 1000)
            self.assertEqual(handle.asked, [force, kind])

    def test_a_buffer_is_never_made_smaller(self) -> None:
        handle: Any = BufferSocket(1000, True, now=6000)
        self.assertEqual(grow_buffer(handle, socket.SO_RCVBUF, 5000), 6000)
        self.assertEqual(handle.asked, [])

    def test_addresses(self) -> None:
        self.assertEqual(plain_address(("192.0.2.1", 1)), ("192.0.2.1", 1))
        self.assertEqual(plain_address(("2001:db8::1", 1, 7, 0)), ("2001:db8::1", 1))
        self.assertEqual(plain_address(("fe80::1", 1, 0, 3)), ("fe80::1%3", 1))

    def test_options_are_checked(self) -> None:
        for name in ("receive_buffer", "send_buffer", "max_packet_size"):
            with self.assertRaisesRegex(ConfigurationError, name):
                DatagramOptions(**{name: 0})
