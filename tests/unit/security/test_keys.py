"""Tests for jetstreamproto.security.keys.

What is expected was computed by an HKDF of this file's own (RFC 5869, on `hmac`), and is written
down as literal bytes too, so that a second implementation has something to compare with.
"""

from __future__ import annotations

import hashlib
import hmac
from unittest import TestCase

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.security.keys import (
    EXPORTER_LABEL,
    SECRET_SIZE,
    Cipher,
    TrafficKeys,
    exporter_context,
    split_export,
)

untimed = settings(deadline=None, derandomize=True, database=None)

SECRET = bytes(range(48))
NONCE = bytes(12)

# HKDF-Expand-SHA384(00 01 .. 2f, "jetstream keys", 92), cut into three
KEY = bytes.fromhex("eb7b6b37d26eccac6143367a4301976a907cbcd41766c2e79afdde3b3848eddb")
IV = bytes.fromhex("e581df24ef378796552a30ad")
NEXT = bytes.fromhex(
    "ef541c7f5bf0a9eb0b07d48df4a7928e98455d86b8213e1b"
    "0a5325e6edde5ca4c6b3c23e4f3b910991be259946ed110a"
)
KEY_AFTER_NEXT = bytes.fromhex("21f558f80bd80996f53a376f01dd6d08cb0f7c03970d068ca18e3d01f0850813")


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand of RFC 5869, section 2.3, with SHA-384."""
    output, block = b"", b""
    while len(output) < size:
        counter = bytes([len(output) // 48 + 1])
        block = hmac.new(secret, block + label + counter, hashlib.sha384).digest()
        output += block
    return output[:size]


def schedule(secret: bytes) -> tuple[bytes, bytes, bytes]:
    """The key, the IV and the next secret."""
    block = expand(secret, b"jetstream keys", 92)
    return block[:32], block[32:44], block[44:]


def encrypted(keys: TrafficKeys, plaintext: bytes) -> bytes:
    out = bytearray(len(plaintext) + 16)
    keys.aead.encrypt_into(NONCE, plaintext, b"header", memoryview(out))
    return bytes(out)


class KnownAnswerTests(TestCase):
    def test_the_vectors_are_what_hkdf_says(self) -> None:
        self.assertEqual(schedule(SECRET), (KEY, IV, NEXT))
        self.assertEqual(schedule(NEXT)[0], KEY_AFTER_NEXT)

    def test_the_hkdf_of_this_file_chains_its_blocks(self) -> None:
        first = hmac.digest(b"\x0b" * 48, b"label\x01", "sha384")
        second = hmac.digest(b"\x0b" * 48, first + b"label\x02", "sha384")
        self.assertEqual(expand(b"\x0b" * 48, b"label", 96), first + second)

    def test_iv(self) -> None:
        self.assertEqual(TrafficKeys(SECRET, Cipher.AES_256_GCM).iv, int.from_bytes(IV, "big"))

    def test_key(self) -> None:
        for cipher, aead in (
            (Cipher.AES_256_GCM, AESGCM(KEY)),
            (Cipher.CHACHA20_POLY1305, ChaCha20Poly1305(KEY)),
        ):
            with self.subTest(cipher):
                self.assertEqual(
                    encrypted(TrafficKeys(SECRET, cipher), b"text"),
                    aead.encrypt(NONCE, b"text", b"header"),
                )

    def test_next_epoch(self) -> None:
        first = TrafficKeys(SECRET, Cipher.AES_256_GCM)
        second = first.next_epoch()
        self.assertEqual((first.epoch, second.epoch), (0, 1))
        self.assertIs(second.cipher, first.cipher)
        self.assertEqual(
            encrypted(second, b"text"), AESGCM(KEY_AFTER_NEXT).encrypt(NONCE, b"text", b"header")
        )

    def test_a_hundred_epochs(self) -> None:
        keys, secret = TrafficKeys(SECRET, Cipher.CHACHA20_POLY1305), SECRET
        for epoch in range(1, 101):
            keys, secret = keys.next_epoch(), schedule(secret)[2]
            self.assertEqual(keys.epoch, epoch)
            self.assertEqual(keys.iv, int.from_bytes(schedule(secret)[1], "big"))
        key = schedule(secret)[0]
        self.assertEqual(
            encrypted(keys, b"x"), ChaCha20Poly1305(key).encrypt(NONCE, b"x", b"header")
        )

    def test_epochs_and_ciphers_never_share_a_key(self) -> None:
        seen = set()
        for cipher in Cipher:
            keys = TrafficKeys(SECRET, cipher)
            for _ in range(20):
                seen.add(encrypted(keys, bytes(32)))
                keys = keys.next_epoch()
        self.assertEqual(len(seen), 40)


class ExportTests(TestCase):
    def test_the_numbers_of_the_protocol(self) -> None:
        self.assertEqual(EXPORTER_LABEL, b"EXPORTER-JetStream-1")
        self.assertEqual(SECRET_SIZE, 48)
        self.assertEqual(exporter_context(b"jetstream/1", b"tcp"), b"jetstream\0jetstream/1\0tcp")

    def test_transports_and_versions_have_their_own_keys(self) -> None:
        contexts = {
            exporter_context(alpn, transport)
            for alpn in (b"jetstream/1", b"jetstream/2")
            for transport in (b"tcp", b"udp")
        }
        self.assertEqual(len(contexts), 4)

    def test_the_client_sends_with_the_first_half(self) -> None:
        exported = bytes(range(96))
        self.assertEqual(split_export(exported), (exported[:48], exported[48:]))

    @untimed
    @given(st.binary(max_size=200).filter(lambda data: len(data) != 96))
    def test_any_other_size_is_refused(self, exported: bytes) -> None:
        with self.assertRaisesRegex(ValueError, f"expected 96 exported bytes, got {len(exported)}"):
            split_export(exported)
