"""Tests for jetstreamproto.security.datagrams."""

from __future__ import annotations

import struct
from itertools import pairwise
from random import Random
from unittest import TestCase

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.security.datagrams import (
    HEADER,
    INITIAL,
    NOT_OURS,
    OVERHEAD,
    RETRY,
    SEALED,
    VERSION,
    DatagramOpener,
    DatagramSealer,
)
from jetstreamproto.security.keys import Cipher, TrafficKeys
from jetstreamproto.security.replay import ReplayWindow

untimed = settings(deadline=None, derandomize=True, database=None)

SECRET = bytes(range(48))
DCID = 0x0123456789ABCDEF
NEVER = 1 << 36


def make_sealer(
    packets: int = 1 << 20, secret: bytes = SECRET, cipher: Cipher = Cipher.AES_256_GCM
) -> DatagramSealer:
    return DatagramSealer(TrafficKeys(secret, cipher), DCID, packets)


def make_opener(
    max_forged: int = NEVER, secret: bytes = SECRET, cipher: Cipher = Cipher.AES_256_GCM
) -> DatagramOpener:
    return DatagramOpener(TrafficKeys(secret, cipher), max_forged, ReplayWindow())


def seal(sealer: DatagramSealer, plaintext: bytes) -> bytes:
    out = bytearray(len(plaintext) + OVERHEAD)
    end = sealer.seal(plaintext, memoryview(out), 0)
    assert end == len(out)
    return bytes(out)


def open_and_commit(opener: DatagramOpener, packet: bytes) -> tuple[int, bytes] | None:
    opened = opener.open(memoryview(packet), 0, len(packet))
    if opened is not None:
        opener.window.commit(opened[0])
    return opened


def flipped(packet: bytes, bit: int) -> bytes:
    damaged = bytearray(packet)
    damaged[bit >> 3] ^= 1 << (bit & 7)
    return bytes(damaged)


def expand(secret: bytes) -> tuple[bytes, bytes, bytes]:
    """Key, IV and next secret, by RFC 5869 and nothing of ours."""
    block = HKDFExpand(SHA384(), 92, b"jetstream keys").derive(secret)
    return block[:32], block[32:44], block[44:]


def nonce(iv: bytes, number: int) -> bytes:
    return bytes(a ^ b for a, b in zip(iv, number.to_bytes(12, "big"), strict=True))


class VectorTests(TestCase):
    """The wire format, made from primitives, and written down once so that both cannot change."""

    def test_sealed(self) -> None:
        for cipher, aead, expected in (
            (
                Cipher.AES_256_GCM,
                AESGCM,
                "200123456789abcdef00000007f3a9800d2806b7cbce1574ebb1c482957e74693ac5570a",
            ),
            (
                Cipher.CHACHA20_POLY1305,
                ChaCha20Poly1305,
                "200123456789abcdef000000072863bec05b1b6f317e6729a6051867fe3930c2302d4132",
            ),
        ):
            with self.subTest(cipher):
                key, iv, _ = expand(SECRET)
                number = 0x1_0000_0007
                header = struct.pack(">BQI", 0x20, DCID, 7)
                by_hand = header + aead(key).encrypt(nonce(iv, number), b"content", header)
                sealer = make_sealer(cipher=cipher)
                sealer.number = number
                self.assertEqual(seal(sealer, b"content").hex(), by_hand.hex())
                self.assertEqual(by_hand.hex(), expected)

    def test_sealed_in_the_next_epoch(self) -> None:
        _, _, secret = expand(SECRET)
        key, iv, _ = expand(secret)
        header = struct.pack(">BQI", 0x21, DCID, 1)
        by_hand = header + AESGCM(key).encrypt(nonce(iv, 1), b"content", header)
        sealer = make_sealer(packets=1)
        seal(sealer, b"")
        sealer.acknowledged(0)
        self.assertEqual(seal(sealer, b"content").hex(), by_hand.hex())
        self.assertEqual(
            by_hand.hex(),
            "210123456789abcdef0000000107cd366deb94d1cabf2b9fc85aa388aa83e917976d1d77",
        )

    def test_constants(self) -> None:
        self.assertEqual((INITIAL, RETRY, SEALED, NOT_OURS, VERSION), (1, 2, 0x20, 0x40, 1))
        self.assertEqual((HEADER.size, OVERHEAD), (13, 29))


class SealedTests(TestCase):
    @untimed
    @given(st.lists(st.binary(max_size=50), max_size=30), st.data())
    def test_any_order_and_copies(self, plaintexts: list[bytes], data: st.DataObject) -> None:
        for cipher in Cipher:
            sealer, opener = make_sealer(cipher=cipher), make_opener(cipher=cipher)
            packets = [(number, seal(sealer, text)) for number, text in enumerate(plaintexts)]
            seen = set[int]()
            for number, packet in data.draw(st.permutations(packets + packets[:5])):
                opened = open_and_commit(opener, packet)
                self.assertEqual(opened, None if number in seen else (number, plaintexts[number]))
                seen.add(number)
            self.assertEqual((opener.forged, len(seen)), (0, len(plaintexts)))

    def test_several_in_one_buffer(self) -> None:
        sealer, opener, out = make_sealer(), make_opener(), bytearray(500)
        ends = [7]
        for text in (b"one", b"", b"three" * 20):
            ends.append(sealer.seal(text, memoryview(out), ends[-1]))
        self.assertEqual(ends, [7, 39, 68, 197])
        self.assertEqual((out[:7], out[197:]), (bytes(7), bytes(303)))
        view = memoryview(out)
        opened = [opener.open(view, *bounds) for bounds in pairwise(ends)]
        self.assertEqual(opened, [(0, b"one"), (1, b""), (2, b"three" * 20)])

    def test_opening_alone_remembers_nothing(self) -> None:
        packet, opener = seal(make_sealer(), b"again"), make_opener()
        for _ in range(2):
            self.assertEqual(opener.open(memoryview(packet), 0, len(packet)), (0, b"again"))
        opener.window.commit(0)
        self.assertIsNone(opener.open(memoryview(packet), 0, len(packet)))
        self.assertEqual(opener.forged, 0, "a replay is not a forgery")

    def test_any_bit(self) -> None:
        packet = seal(make_sealer(), b"content")
        opener = make_opener()
        for bit in range(8 * len(packet)):
            self.assertIsNone(open_and_commit(opener, flipped(packet, bit)))
        self.assertEqual((opener.forged, opener.epoch), (8 * len(packet), 0))
        self.assertEqual(open_and_commit(opener, packet), (0, b"content"))

    def test_truncated_and_extended(self) -> None:
        packet, opener = seal(make_sealer(), b"content"), make_opener()
        for size in range(len(packet)):
            self.assertIsNone(open_and_commit(opener, packet[:size]))
        self.assertEqual(opener.forged, 7, "less than a tag is not even tried")
        self.assertIsNone(open_and_commit(opener, packet + b"x"))

    def test_other_keys(self) -> None:
        packet = seal(make_sealer(), b"content")
        for opener in (
            make_opener(secret=bytes(48)),
            make_opener(cipher=Cipher.CHACHA20_POLY1305),
        ):
            self.assertIsNone(open_and_commit(opener, packet))
            self.assertEqual(opener.forged, 1)

    def test_too_many_forgeries(self) -> None:
        opener = make_opener(max_forged=3)
        for bit in (0, 100, 150):
            self.assertIsNone(open_and_commit(opener, flipped(seal(make_sealer(), b"x"), bit)))
        for epoch in (0, 1, 5, 15):
            with self.assertRaisesRegex(ProtocolViolation, "forged"):
                open_and_commit(opener, bytes((SEALED | epoch,)) + bytes(40))

    @untimed
    @given(st.binary(max_size=60))
    def test_any_bytes(self, packet: bytes) -> None:
        opener = make_opener()
        self.assertIsNone(open_and_commit(opener, packet))
        self.assertEqual((opener.epoch, opener.window.highest), (0, -1))


class NumberTests(TestCase):
    def by_the_book(self, highest: int, low: int) -> int:
        """RFC 9000 appendix A.3."""
        expected, window, half, mask = highest + 1, 1 << 32, 1 << 31, (1 << 32) - 1
        candidate = (expected & ~mask) | low
        if candidate <= expected - half and candidate < (1 << 62) - window:
            return candidate + window
        if candidate > expected + half and candidate >= window:
            return candidate - window
        return candidate

    def expand(self, highest: int, low: int) -> int:
        opener = make_opener()
        opener.window.highest = highest
        return opener.expand(low)

    @untimed
    @given(st.integers(-1, 1 << 40), st.integers(-(1 << 31), 1 << 31))
    def test_as_the_rfc_has_it(self, highest: int, distance: int) -> None:
        low = highest + 1 + distance & 0xFFFFFFFF
        expected = self.by_the_book(highest, low)
        if expected > highest + 1 + (1 << 31):
            expected -= 1 << 32  # below zero, and no packet at all
        self.assertEqual(self.expand(highest, low), expected)

    def test_around_wraps(self) -> None:
        wrap, half = 1 << 32, 1 << 31
        for highest, low, number in (
            (-1, 0, 0),
            (-1, half, half),
            (-1, wrap - 1, -1),
            (wrap - 2, wrap - 1, wrap - 1),
            (wrap - 2, 0, wrap),
            (wrap - 1, 0, wrap),
            (wrap - 1, wrap - 1, wrap - 1),
            (wrap + 5, wrap - 1, wrap - 1),
            (3 * wrap - 1, half, 3 * wrap + half),
            (3 * wrap - 1, half + 1, 2 * wrap + half + 1),
            (3 * wrap + half - 1, 0, 4 * wrap),
            (3 * wrap + half - 2, 0, 3 * wrap),
        ):
            with self.subTest(highest=highest, low=low):
                self.assertEqual(self.expand(highest, low), number)

    def test_packets_around_a_wrap(self) -> None:
        sealer, opener = make_sealer(), make_opener()
        sealer.number = (1 << 32) - 3
        opener.window.commit((1 << 32) - 10)
        packets = [(sealer.number, seal(sealer, b"x")) for _ in range(6)]
        for number, packet in reversed(packets):
            self.assertEqual(open_and_commit(opener, packet), (number, b"x"))


class EpochTests(TestCase):
    def test_a_key_serves_its_packets(self) -> None:
        sealer = make_sealer(packets=16)
        for number in range(16):
            seal(sealer, b"")
            sealer.acknowledged(number)
            self.assertEqual(sealer.epoch, int(number == 15))

    def test_the_next_key_waits_for_an_acknowledgement_under_the_last(self) -> None:
        sealer = make_sealer(packets=16)
        for _ in range(20):
            seal(sealer, b"")
        self.assertEqual(sealer.epoch, 0)
        sealer.acknowledged(3)
        self.assertEqual(sealer.epoch, 1)
        for _ in range(30):
            seal(sealer, b"")
        sealer.acknowledged(19)
        self.assertEqual(sealer.epoch, 1, "it was sealed under the key before")
        sealer.acknowledged(20)
        self.assertEqual(sealer.epoch, 2)

    def test_many_epochs(self) -> None:
        sealer, opener = make_sealer(packets=16), make_opener()
        for number in range(16 * 40):
            self.assertEqual(open_and_commit(opener, seal(sealer, b"x")), (number, b"x"))
            sealer.acknowledged(number)
        self.assertEqual((sealer.epoch, opener.epoch, opener.forged), (40, 39, 0))

    def test_reordered_across_a_change(self) -> None:
        for seed in range(20):
            random = Random(seed)
            sealer, opener = make_sealer(packets=16), make_opener()
            window: list[tuple[int, bytes]] = []
            opened = 0
            for number in range(500):
                window.append((number, seal(sealer, b"x")))
                if len(window) == 8:
                    overdue = number - window[0][0] > 12
                    later, packet = window.pop(0 if overdue else random.randrange(8))
                    self.assertEqual(open_and_commit(opener, packet), (later, b"x"), f"{seed=}")
                    sealer.acknowledged(later)
                    opened += 1
            self.assertEqual((opener.forged, opened), (0, 493))
            self.assertGreater(opener.epoch, 10)

    def test_the_first_of_the_next_epoch_may_be_lost(self) -> None:
        sealer, opener = make_sealer(packets=16), make_opener()
        late = [seal(sealer, b"late") for _ in range(16)]
        open_and_commit(opener, late.pop(0))
        sealer.acknowledged(0)
        for _ in range(5):
            seal(sealer, b"")
        self.assertEqual(open_and_commit(opener, seal(sealer, b"next")), (21, b"next"))
        self.assertEqual(opener.epoch, 1)
        for number, packet in enumerate(late, 1):
            self.assertEqual(open_and_commit(opener, packet), (number, b"late"))
        self.assertEqual(opener.epoch, 1)

    def test_two_epochs_ago_is_too_old(self) -> None:
        sealer, opener = make_sealer(packets=1), make_opener()
        first, late = seal(sealer, b"0"), seal(sealer, b"late")
        open_and_commit(opener, first)
        for number in (0, 2):
            sealer.acknowledged(number)
            open_and_commit(opener, seal(sealer, b"next"))
        self.assertEqual(opener.epoch, 2)
        self.assertIsNone(open_and_commit(opener, late))
        self.assertEqual(opener.forged, 1)

    def test_forged_packets_of_any_epoch_move_nothing(self) -> None:
        for opened_before in (0, 40):
            sealer, opener = make_sealer(packets=16), make_opener()
            for number in range(opened_before):
                open_and_commit(opener, seal(sealer, b"x"))
                sealer.acknowledged(number)
            epoch = opener.epoch
            for other in range(16):
                for forged in (
                    HEADER.pack(SEALED | other, DCID, opened_before) + bytes(40),
                    bytes((SEALED | other,)) + seal(make_sealer(secret=bytes(48)), b"x")[1:],
                ):
                    self.assertIsNone(open_and_commit(opener, forged))
            self.assertEqual(opener.epoch, epoch)
            self.assertEqual(open_and_commit(opener, seal(sealer, b"x")), (opened_before, b"x"))
