"""Tests for jetstreamproto.transports.strangers."""

from __future__ import annotations

from unittest import TestCase

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.transports.strangers import recognise

_METHODS = (
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"OPTIONS",
    b"DELETE",
    b"CONNECT",
    b"PATCH",
    b"TRACE",
    b"PRI",
)


class RecogniseTests(TestCase):
    def test_http(self) -> None:
        for method in _METHODS:
            stranger = recognise(method + b" / HTTP/1.1\r\n")
            self.assertEqual(stranger.name, "HTTP")
            head, _, body = stranger.reply.partition(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 400 Bad Request\r\n"))
            self.assertIn(b"Connection: close", head)
            self.assertIn(b"JetStream", body)

    def test_an_http_server_is_not_answered(self) -> None:
        """Or two of them could talk to each other for ever."""
        for first in (b"HTTP/1.1 400 Bad Request", b"<html>\r\n", b"<!DOCTYPE HTML>"):
            stranger = recognise(first)
            self.assertEqual((stranger.name, stranger.reply), ("HTTP", b""))

    def test_tls(self) -> None:
        hello = recognise(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        self.assertEqual(hello.name, "plain TLS")
        self.assertEqual(hello.reply, b"\x15\x03\x03\x00\x02\x02\x46", "fatal protocol_version")
        self.assertEqual(recognise(b"\x15\x03\x01\x00\x02\x02\x28").reply, b"")

    def test_ssh(self) -> None:
        stranger = recognise(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.assertEqual((stranger.name, stranger.reply), ("SSH", b""))

    def test_four_bytes_are_enough(self) -> None:
        for first, name in (
            (b"GET ", "HTTP"),
            (b"HTTP", "HTTP"),
            (b"\x16\x03\x01\x00", "plain TLS"),
            (b"SSH-", "SSH"),
        ):
            self.assertEqual(recognise(first).name, name)

    @given(st.binary(min_size=4, max_size=100))
    def test_anybody_is_named_without_control_characters(self, first: bytes) -> None:
        stranger = recognise(first)
        self.assertTrue(stranger.name.isprintable())
        self.assertLess(len(stranger.name), 100)

    def test_the_unknown_are_described(self) -> None:
        self.assertEqual(
            recognise(b"EHLO mail\r\n\x1b[2J" + bytes(100)).name,
            "something unknown (45 48 4c 4f 20 6d 61 69, 'EHLO mail...[2J.........')",
        )
