"""Tests for jetstreamproto.sockets.error_queue."""

from __future__ import annotations

import errno
import socket
from typing import Any
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.sockets.error_queue import (
    ERRORS_A_TURN,
    REPORTS_A_SECOND,
    ErrorQueue,
    read_error,
)
from tests.unit.sockets.kernel_socket import ADDRESS, KernelSocket

untimed = settings(deadline=None, derandomize=True, database=None)

OTHER = ("192.0.2.2", 9)


class ReadTests(TestCase):
    def read(self, handle: KernelSocket) -> Any:
        return read_error(handle)  # type: ignore[arg-type]

    def test_an_empty_queue(self) -> None:
        self.assertIsNone(self.read(KernelSocket()))

    def test_a_refusal(self) -> None:
        handle = KernelSocket()
        handle.queue_error(errno.ECONNREFUSED, info=99)
        self.assertEqual(self.read(handle), (ADDRESS, errno.ECONNREFUSED, 0))

    def test_too_long_for_the_path(self) -> None:
        handle = KernelSocket()
        handle.queue_error(errno.EMSGSIZE, info=1280)
        self.assertEqual(self.read(handle), (ADDRESS, errno.EMSGSIZE, 1280))

    def test_ipv6(self) -> None:
        handle = KernelSocket(socket.AF_INET6)
        handle.queue_error(errno.EHOSTUNREACH, address=("fe80::1", 9, 0, 2))
        self.assertEqual(self.read(handle), (("fe80::1%2", 9), errno.EHOSTUNREACH, 0))

    def test_no_address(self) -> None:
        handle = KernelSocket()
        handle.queue_error(errno.EHOSTUNREACH, address=None)
        self.assertEqual(self.read(handle), (("", 0), errno.EHOSTUNREACH, 0))

    @untimed
    @given(st.integers(0, 60), st.integers(0, 60), st.binary(max_size=40))
    def test_any_ancillary_data(self, level: int, kind: int, data: bytes) -> None:
        handle = KernelSocket()
        handle.error_queue.append((level, kind, data, ADDRESS))
        self.assertIsNotNone(self.read(handle))


class QueueTests(TestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.told: list[tuple[Any, int, int]] = []
        self.errors = ErrorQueue(lambda: self.now, lambda *error: self.told.append(error))
        self.handle = KernelSocket()

    def report(self) -> None:
        self.errors.report(self.handle)  # type: ignore[arg-type]

    def test_nothing_to_tell(self) -> None:
        self.report()
        self.assertEqual((self.told, len(self.errors)), ([], 0))

    def test_each_error_once_a_turn(self) -> None:
        for _ in range(5):
            self.handle.queue_error(errno.ECONNREFUSED)
            self.handle.queue_error(errno.ECONNREFUSED, address=OTHER)
        self.report()
        refused = errno.ECONNREFUSED
        self.assertEqual(self.told, [(ADDRESS, refused, 0), (OTHER, refused, 0)])
        self.assertEqual(self.errors.count, 2)

    def test_what_the_kernel_said_at_once_and_in_the_queue_is_one(self) -> None:
        self.errors.note(ADDRESS, errno.EMSGSIZE)
        self.assertEqual((self.told, len(self.errors)), ([], 1))
        self.handle.queue_error(errno.EMSGSIZE, 1400)
        self.report()
        self.assertEqual(self.told, [(ADDRESS, errno.EMSGSIZE, 1400)])
        self.assertEqual((len(self.errors), self.errors.count), (0, 1))

    def test_the_queue_may_not_know_the_port(self) -> None:
        self.errors.note(ADDRESS, errno.EMSGSIZE)
        self.errors.note(OTHER, errno.EMSGSIZE)
        self.errors.note(ADDRESS, errno.EHOSTUNREACH)
        self.handle.queue_error(errno.EMSGSIZE, 1500, address=(ADDRESS[0], 0))
        self.handle.queue_error(errno.EMSGSIZE, 1500, address=("192.0.2.9", 0))
        self.report()
        self.assertEqual(
            self.told,
            [
                (ADDRESS, errno.EMSGSIZE, 1500),
                (OTHER, errno.EMSGSIZE, 0),
                (ADDRESS, errno.EHOSTUNREACH, 0),
            ],
        )
        self.assertEqual(self.errors.count, 3)

    def test_a_flood_is_read_in_shares(self) -> None:
        for port in range(3 * ERRORS_A_TURN):
            self.handle.queue_error(errno.ECONNREFUSED, address=("192.0.2.3", port + 1))
        self.report()
        self.assertEqual(len(self.handle.error_queue), 2 * ERRORS_A_TURN)

    def test_a_flood_is_not_told(self) -> None:
        for _ in range(4):
            for port in range(1, ERRORS_A_TURN + 1):
                self.handle.queue_error(errno.ECONNREFUSED, address=("192.0.2.3", port))
            self.report()
        self.assertEqual(len(self.told), REPORTS_A_SECOND)
        self.assertEqual(self.errors.count, 4 * ERRORS_A_TURN)
        for now in (1000.9, 1001.1, 5.0):  # also after the clock went back
            self.now = now
            self.handle.queue_error(errno.ECONNREFUSED)
            self.report()
        self.assertEqual(len(self.told), REPORTS_A_SECOND + 2)

    def test_what_is_no_error_is_not_told(self) -> None:
        self.handle.queue_error(0)
        self.handle.error_queue.append((1, 2, b"", ADDRESS))
        self.report()
        self.assertEqual((self.told, len(self.handle.error_queue)), ([], 0))

    def test_notes_are_bounded(self) -> None:
        for port in range(10 * ERRORS_A_TURN):
            self.errors.note(("192.0.2.3", port), errno.ENETUNREACH)
        self.assertEqual(len(self.errors), ERRORS_A_TURN)
