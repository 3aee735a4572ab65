"""Tests for jetstreamproto.sockets.datagrams."""

from __future__ import annotations

import socket
from typing import Any
from unittest import TestCase, mock

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.sockets import datagrams
from jetstreamproto.sockets.datagrams import (
    DatagramOptions,
    can_split_datagrams,
    forbid_fragments,
    join_datagrams,
    plain_address,
    queue_errors,
)
from jetstreamproto.sockets.options import Outcome
from tests.unit.sockets.kernel_socket import KernelSocket


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

    def test_what_became_of_the_path_options_is_told(self) -> None:
        granted = datagrams.prepare_datagrams(self.handle())
        self.assertEqual([str(one) for one in granted], ["IP_MTU_DISCOVER 3", "IP_RECVERR 1"])
        handle = self.handle()
        handle.unknown = {(0, 10), (0, 11)}
        outcomes = [one.outcome for one in datagrams.prepare_datagrams(handle)]
        self.assertEqual(outcomes, [Outcome.ABSENT] * 2)

    def test_addresses(self) -> None:
        self.assertEqual(plain_address(("192.0.2.1", 1)), ("192.0.2.1", 1))
        self.assertEqual(plain_address(("2001:db8::1", 1, 7, 0)), ("2001:db8::1", 1))
        self.assertEqual(plain_address(("fe80::1", 1, 0, 3)), ("fe80::1%3", 1))

    def test_options_are_checked(self) -> None:
        for name in ("receive_buffer", "send_buffer", "max_packet_size"):
            with self.assertRaisesRegex(ConfigurationError, name):
                DatagramOptions(**{name: -1})
