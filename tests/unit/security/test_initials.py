"""Tests for the INITIAL and RETRY datagrams of jetstreamproto.security.datagrams."""

from __future__ import annotations

import struct
from unittest import TestCase

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import WireError
from jetstreamproto.security.datagrams import (
    INITIAL,
    RETRY,
    SEALED,
    VERSION,
    InitialProtection,
    initial_overhead,
    is_genuine_retry,
    parse_initial,
    retry_datagram,
)
from tests.unit.security.test_datagrams import DCID, expand, flipped, nonce, untimed


class VectorTests(TestCase):
    """The wire format, made from primitives, and written down once so that both cannot change."""

    def test_initial(self) -> None:
        salt = b"JetStream datagrams, version 1"
        secrets = HKDF(SHA384(), 96, salt, b"initial").derive(DCID.to_bytes(8, "big"))
        for client, secret, expected in (
            (
                True,
                secrets[:48],
                (
                    "01000000010000000000001111000000000000222205746f6b656e00000001c1aeb0270bab40540e"
                    "180e2e661f85ba559079513aa56b"
                ),
            ),
            (
                False,
                secrets[48:],
                (
                    "01000000010000000000001111000000000000222205746f6b656e00000001bc3a288d90ea02f3d9"
                    "0e0dccd01cd9b1454edd1540f646"
                ),
            ),
        ):
            with self.subTest(client=client):
                key, iv, _ = expand(secret)
                protection = InitialProtection(DCID, client=client)
                protection.seal(1, 2, b"", b"")
                header = struct.pack(">BIQQB5sI", 1, 1, 0x1111, 0x2222, 5, b"token", 1)
                by_hand = header + AESGCM(key).encrypt(nonce(iv, 1), b"content", header)
                made = protection.seal(0x1111, 0x2222, b"token", b"content")
                self.assertEqual(made.hex(), by_hand.hex())
                self.assertEqual(by_hand.hex(), expected)

    def test_retry(self) -> None:
        salt = b"JetStream datagrams, version 1"
        key = HKDF(SHA384(), 32, salt, b"retry").derive(DCID.to_bytes(8, "big"))
        header = struct.pack(">BIQQ5s", 2, 1, DCID, 0x2222, b"token")
        by_hand = header + AESGCM(key).encrypt(bytes(12), b"", header)
        self.assertEqual(retry_datagram(DCID, 0x2222, b"token").hex(), by_hand.hex())
        self.assertEqual(
            by_hand.hex(),
            (
                "02000000010123456789abcdef0000000000002222746f6b656eb20debebbd290791ac3137bd1934"
                "9491"
            ),
        )


class InitialTests(TestCase):
    def pair(self) -> tuple[InitialProtection, InitialProtection]:
        return InitialProtection(DCID, client=True), InitialProtection(DCID, client=False)

    @untimed
    @given(st.integers(0, (1 << 64) - 1), st.binary(max_size=255), st.binary(max_size=99))
    def test_both_ways(self, other: int, token: bytes, plaintext: bytes) -> None:
        client, server = self.pair()
        for _ in range(2):
            datagram = client.seal(other, DCID, token, plaintext)
            self.assertEqual(len(datagram), len(plaintext) + initial_overhead(token))
            self.assertEqual(parse_initial(datagram), (VERSION, other, DCID, token))
            self.assertEqual(server.open(datagram), plaintext)
            self.assertIsNone(client.open(datagram), "one's own does not come back")
            datagram = server.seal(DCID, other, b"", plaintext)
            self.assertEqual(client.open(datagram), plaintext)

    def test_damage(self) -> None:
        client, server = self.pair()
        datagram = client.seal(5, DCID, b"token", b"content")
        for bit in range(8 * len(datagram)):
            self.assertIsNone(server.open(flipped(datagram, bit)))
        for size in range(len(datagram)):
            self.assertIsNone(server.open(datagram[:size]))
        self.assertIsNone(server.open(datagram + b"x"))
        self.assertIsNone(InitialProtection(DCID + 1, client=False).open(datagram))

    @untimed
    @given(st.binary(max_size=120))
    def test_any_bytes(self, datagram: bytes) -> None:
        for protection in self.pair():
            self.assertIsNone(protection.open(datagram))
        for kind in (b"", b"\x01", b"\x02"):
            try:
                _, _, _, token = parse_initial(kind + datagram)
            except WireError:
                continue
            self.assertIn((kind + datagram)[0], (INITIAL, RETRY))
            self.assertIn(token, datagram)

    def test_parsing_what_is_too_short_or_something_else(self) -> None:
        datagram = InitialProtection(DCID, client=True).seal(5, DCID, b"token", b"")
        for size in range(len(datagram)):
            with self.assertRaises(WireError):
                parse_initial(datagram[:size])
        for kind in (0, 3, SEALED, 0x41, 0xFF):
            with self.assertRaisesRegex(WireError, "not a handshake"):
                parse_initial(bytes((kind,)) + datagram[1:])

    def test_a_token_that_is_too_long(self) -> None:
        with self.assertRaisesRegex(ValueError, "at most 255"):
            InitialProtection(DCID, client=True).seal(5, DCID, bytes(256), b"")


class RetryTests(TestCase):
    @untimed
    @given(st.integers(0, (1 << 64) - 1), st.binary(min_size=1, max_size=255))
    def test_genuine(self, server_id: int, token: bytes) -> None:
        datagram = retry_datagram(DCID, server_id, token)
        self.assertTrue(is_genuine_retry(datagram, DCID))
        self.assertFalse(is_genuine_retry(datagram, DCID + 1))
        self.assertEqual(parse_initial(datagram), (VERSION, DCID, server_id, token))

    def test_damage(self) -> None:
        datagram = retry_datagram(DCID, 5, b"token")
        for bit in range(8 * len(datagram)):
            self.assertFalse(is_genuine_retry(flipped(datagram, bit), DCID))
        for size in range(len(datagram)):
            self.assertFalse(is_genuine_retry(datagram[:size], DCID))
        self.assertFalse(is_genuine_retry(datagram + b"x", DCID))

    @untimed
    @given(st.binary(max_size=80))
    def test_any_bytes(self, datagram: bytes) -> None:
        self.assertFalse(is_genuine_retry(datagram, DCID))

    def test_tokens_of_no_or_too_many_bytes(self) -> None:
        with self.assertRaisesRegex(ValueError, "at most 255"):
            retry_datagram(DCID, 5, bytes(256))
        with self.assertRaisesRegex(WireError, "too short"):
            parse_initial(retry_datagram(DCID, 5, b""))
        long = retry_datagram(DCID, 5, bytes(255))
        self.assertEqual(len(parse_initial(long)[3]), 255)
        with self.assertRaisesRegex(WireError, "at most 255"):
            parse_initial(long + b"x")
