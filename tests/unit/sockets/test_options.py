"""Tests for jetstreamproto.sockets.options."""

from __future__ import annotations

import errno
import socket
from typing import Any
from unittest import TestCase, mock, skipUnless

from jetstreamproto.sockets import options
from jetstreamproto.sockets.options import (
    NO_DELAY,
    ON_LINUX,
    RECEIVE_BUFFER,
    SEND_BUFFER,
    Option,
    Outcome,
    Setting,
    fix_buffer,
    read_congestion,
    set_congestion,
    start_buffer,
    summary,
)
from tests.unit.sockets.kernel_socket import KernelSocket, failure

LOCK = 72


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


class LockSocket(BufferSocket):
    """Has SO_BUF_LOCK, which setting a buffer sets."""

    lock = 0

    def setsockopt(self, level: int, name: int, value: int) -> None:
        if name == LOCK:
            self.lock = value
            return
        super().setsockopt(level, name, value)
        self.lock = 3

    def getsockopt(self, level: int, name: int) -> int:
        return self.lock if name == LOCK else super().getsockopt(level, name)


class OldSocket(BufferSocket):
    """Knows of no SO_BUF_LOCK."""

    def getsockopt(self, level: int, name: int) -> int:
        if name == LOCK:
            raise failure(errno.ENOPROTOOPT)
        return super().getsockopt(level, name)


class OptionTests(TestCase):
    def setUp(self) -> None:
        self.handle = socket.socket()
        self.addCleanup(self.handle.close)

    def test_what_is_set_is_read_back(self) -> None:
        self.assertEqual(
            NO_DELAY.set(self.handle, 1), Setting("TCP_NODELAY", 1, 1, Outcome.GRANTED)
        )
        self.assertEqual(NO_DELAY.read(self.handle), 1)

    def test_what_the_system_has_not_is_absent(self) -> None:
        option = Option("SO_NOTHING", socket.SOL_SOCKET, None)
        self.assertIs(option.set(self.handle, 1).outcome, Outcome.ABSENT)
        self.assertIsNone(option.read(self.handle))

    def test_what_the_kernel_refuses_is_told_with_its_reason(self) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            setting = NO_DELAY.set(other, 1)
        self.assertIs(setting.outcome, Outcome.REFUSED)
        self.assertIn("not supported", setting.why)

    def test_a_congestion_control_that_there_is_not(self) -> None:
        with mock.patch.object(socket, "TCP_CONGESTION", None):
            self.assertIs(set_congestion(self.handle, "reno").outcome, Outcome.ABSENT)
            self.assertIsNone(read_congestion(self.handle))

    @skipUnless(ON_LINUX, "Linux names them")
    def test_congestion_control(self) -> None:
        setting = set_congestion(self.handle, "reno")
        self.assertEqual((setting.outcome, setting.granted), (Outcome.GRANTED, "reno"))
        setting = set_congestion(self.handle, "nonesuch")
        self.assertEqual((setting.outcome, setting.granted), (Outcome.REFUSED, "reno"))
        self.assertEqual(setting.why, "not loaded")

    def test_a_congestion_control_that_was_not_to_be_had(self) -> None:
        with socket.socket() as handle:
            found = options.review_congestion(handle, "there_is_none")
            self.assertEqual(
                (found.outcome, found.granted), (Outcome.REFUSED, read_congestion(handle))
            )
            found = options.review_congestion(handle, read_congestion(handle) or "")
            self.assertEqual(found.outcome, Outcome.GRANTED)
        found = options.review_congestion(handle, "cubic")
        self.assertEqual((found.outcome, found.granted), (Outcome.ABSENT, None))

    def test_whether_both_ends_are_on_this_host(self) -> None:
        for peer, own, local in (
            (("127.0.0.1", 9000), ("127.0.0.1", 50000), True),
            (("127.0.0.1", 9000), ("127.0.0.9", 50000), True),
            (("192.0.2.7", 9000), ("192.0.2.7", 50000), True),
            (("192.0.2.7", 9000), ("192.0.2.8", 50000), False),
            (("12.7.0.1", 9000), ("192.0.2.8", 50000), False),
            (("::1", 9000, 0, 0), ("::1", 50000, 0, 0), True),
            (("::ffff:127.0.0.1", 9000, 0, 0), ("::ffff:127.0.0.2", 50000, 0, 0), True),
            (("2001:db8::1", 9000, 0, 0), ("2001:db8::2", 50000, 0, 0), False),
            ("", "/run/a", False),
            ((2, 1024), (2, 1025), False),  # a virtual machine's socket
        ):
            handle = mock.Mock()
            handle.getpeername.return_value, handle.getsockname.return_value = peer, own
            self.assertIs(options.is_local(handle), local, (peer, own))
        with socket.socket() as unconnected:
            self.assertFalse(options.is_local(unconnected))

    def test_what_the_system_has_not_is_absent_later_too(self) -> None:
        with socket.socket() as handle:
            found = Option("SO_NONE", socket.SOL_SOCKET, None).review(handle, 1)
        self.assertEqual((found.outcome, found.granted), (Outcome.ABSENT, None))
        self.assertEqual(found.to_object()["outcome"], "not on this system")

    def test_the_summary_names_what_was_not_granted(self) -> None:
        self.assertEqual(summary([]), "nothing set")
        settings = [
            Setting("A", 1, 1, Outcome.GRANTED),
            Setting("B", 9, 5, Outcome.CLAMPED),
            Setting("C", 1, None, Outcome.REFUSED, "No"),
            Setting("D", 1, None, Outcome.ABSENT),
        ]
        self.assertEqual(
            summary(settings),
            "A 1; clamped: B 5 of 9; refused: C No; not on this system: D not on this system",
        )


@skipUnless(ON_LINUX, "as Linux counts them")
class BufferTests(TestCase):
    def test_buffers_beyond_the_limit_for_who_may(self) -> None:
        for kind, force in ((RECEIVE_BUFFER, 33), (SEND_BUFFER, 32)):
            handle: Any = BufferSocket(1000, True, now=200)
            self.assertEqual(fix_buffer(handle, kind, 5000).granted, 5000)
            self.assertEqual(handle.asked, [force])

    def test_buffers_up_to_the_limit_for_others(self) -> None:
        for kind, force in ((RECEIVE_BUFFER, 33), (SEND_BUFFER, 32)):
            handle: Any = BufferSocket(1000, False, now=200)
            self.assertEqual(fix_buffer(handle, kind, 5000).granted, 1000)
            self.assertEqual(handle.asked, [force, kind.number])

    def test_a_buffer_is_never_made_smaller(self) -> None:
        handle: Any = BufferSocket(1000, True, now=6000)
        self.assertEqual(fix_buffer(handle, RECEIVE_BUFFER, 5000).granted, 6000)
        self.assertEqual(handle.asked, [])

    def test_a_stream_buffer_is_set_and_left_to_grow(self) -> None:
        for privileged, granted in ((True, 5000), (False, 1000)):
            handle: Any = LockSocket(1000, privileged, now=200)
            setting = start_buffer(handle, RECEIVE_BUFFER, 5000)
            self.assertEqual((setting.granted, handle.lock), (granted, 0))
            self.assertIs(setting.outcome, Outcome.GRANTED if privileged else Outcome.CLAMPED)

    def test_a_stream_buffer_that_would_stop_growing_is_not_set(self) -> None:
        handle: Any = OldSocket(1000, True, now=200)
        self.assertIs(start_buffer(handle, RECEIVE_BUFFER, 5000).outcome, Outcome.ABSENT)
        self.assertEqual(handle.asked, [])
        with mock.patch.object(options, "ON_LINUX", False):
            handle = LockSocket(1000, True, now=200)
            self.assertIs(start_buffer(handle, SEND_BUFFER, 5000).outcome, Outcome.ABSENT)
            self.assertEqual(handle.asked, [])

    def test_a_buffer_is_judged_as_it_was_asked_for(self) -> None:
        for now, outcome in ((100, Outcome.CLAMPED), (1000, Outcome.GRANTED)):
            found = options.review_start(LockSocket(0, False, now), SEND_BUFFER, 1000)
            self.assertEqual((found.granted, found.outcome), (now, outcome))
        found = options.review_start(OldSocket(0, False, 1000), SEND_BUFFER, 1000)
        self.assertEqual((found.granted, found.outcome), (None, Outcome.ABSENT))

    def test_a_closed_socket_is_no_exception(self) -> None:
        handle = socket.socket()
        handle.close()
        self.assertIs(fix_buffer(handle, SEND_BUFFER, 1).outcome, Outcome.REFUSED)
