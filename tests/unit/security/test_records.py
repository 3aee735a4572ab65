"""Tests for jetstreamproto.security.records."""

from __future__ import annotations

import random
from unittest import TestCase

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.security.keys import TAG_SIZE, Cipher, TrafficKeys
from jetstreamproto.security.records import (
    DEFAULT_LIMITS,
    HEADER_SIZE,
    MAX_BODY,
    MAX_PLAIN_BODY,
    OVERHEAD,
    RecordLimits,
    RecordOpener,
    RecordSealer,
    RecordType,
    parse_header,
    plain_record,
)
from tests.unit.security.test_keys import schedule

untimed = settings(deadline=None, derandomize=True, database=None)

SECRET = bytes(range(48))
TINY = RecordLimits(records=3, hard_records=5)

plaintexts = st.lists(st.binary(max_size=200), max_size=20)
ciphers = st.sampled_from(list(Cipher))
limits = st.builds(
    lambda records, more, size: RecordLimits(records, size, records + more),
    st.integers(2, 6),
    st.integers(0, 3),
    st.integers(1, 300),
)


def sealer(
    limits: RecordLimits = DEFAULT_LIMITS, cipher: Cipher = Cipher.AES_256_GCM
) -> RecordSealer:
    return RecordSealer(TrafficKeys(SECRET, cipher), limits)


def opener(
    limits: RecordLimits = DEFAULT_LIMITS, cipher: Cipher = Cipher.AES_256_GCM
) -> RecordOpener:
    return RecordOpener(TrafficKeys(SECRET, cipher), limits)


def seal(sealer: RecordSealer, plaintext: bytes, kind: int = RecordType.PACKETS) -> bytes:
    """What is written for `plaintext`: a record, after a REKEY record if one is due."""
    out = memoryview(bytearray(len(plaintext) + OVERHEAD))
    return bytes(out[: sealer.seal(kind, plaintext, out)])


def split(stream: bytes) -> list[bytes]:
    """The records in `stream`, each with its header."""
    records = []
    while stream:
        _, length = parse_header(stream, 0)
        records.append(stream[: HEADER_SIZE + length])
        stream = stream[HEADER_SIZE + length :]
    return records


def unseal(opener: RecordOpener, record: bytes) -> bytes:
    out = memoryview(bytearray(max(0, len(record) - HEADER_SIZE)))
    return bytes(opener.open(record[:HEADER_SIZE], memoryview(record)[HEADER_SIZE:], out))


class RoundTripTests(TestCase):
    @untimed
    @given(plaintexts, ciphers, limits)
    def test_what_is_sealed_opens(
        self, texts: list[bytes], cipher: Cipher, limits: RecordLimits
    ) -> None:
        writing, reading = sealer(limits, cipher), opener(limits, cipher)
        stream = b"".join(seal(writing, text) for text in texts)
        opened = [(record[0], unseal(reading, record)) for record in split(stream)]
        self.assertEqual([text for kind, text in opened if kind == RecordType.PACKETS], texts)
        self.assertEqual(reading.epoch, writing.epoch)
        self.assertEqual(
            sum(kind == RecordType.REKEY for kind, _ in opened), writing.epoch, "one rekey an epoch"
        )

    @untimed
    @given(st.lists(st.tuples(st.binary(max_size=60), st.booleans())), limits)
    def test_both_ways_of_sealing_give_the_same(
        self, steps: list[tuple[bytes, bool]], limits: RecordLimits
    ) -> None:
        mixed, one = sealer(limits), sealer(limits)
        for plaintext, short in steps:
            record = (
                mixed.sealed(RecordType.PACKETS, plaintext) if short else seal(mixed, plaintext)
            )
            self.assertEqual(record, seal(one, plaintext))

    def test_the_largest_record(self) -> None:
        text = random.Random(1).randbytes(MAX_BODY - TAG_SIZE)
        record = seal(sealer(), text)
        self.assertEqual(parse_header(record, 0), (RecordType.PACKETS, MAX_BODY))
        self.assertEqual(unseal(opener(), record), text)

    def test_overhead_covers_a_rekey(self) -> None:
        writing = sealer(RecordLimits(records=2))
        sizes = [len(seal(writing, b"x" * 10)) - 10 for _ in range(6)]
        self.assertEqual(max(sizes), OVERHEAD)

    def test_the_kinds_that_are_empty(self) -> None:
        for kind in (RecordType.END, RecordType.REKEY):
            record = seal(sealer(), b"", kind)
            self.assertEqual(len(record), HEADER_SIZE + TAG_SIZE)
            self.assertEqual(unseal(opener(), record), b"")

    def test_a_rekey_or_end_with_content_is_refused(self) -> None:
        for kind in (RecordType.END, RecordType.REKEY):
            record = seal(sealer(), b"content", kind)
            with self.subTest(kind), self.assertRaisesRegex(WireError, "must be empty"):
                parse_header(record, 0)


class KnownAnswerTests(TestCase):
    """Records written by hand from the description of the format."""

    def test_the_first_record(self) -> None:
        record = seal(sealer(), b"JetStream")
        self.assertEqual(
            record.hex(" ", -4), "03000019 1d2a8a58 0a5ca524 c7025be4 03d7e008 71d1b1c5 a4fa55f9 42"
        )

    def test_every_record_of_a_ratcheting_sender(self) -> None:
        for cipher, aead in (
            (Cipher.AES_256_GCM, AESGCM),
            (Cipher.CHACHA20_POLY1305, ChaCha20Poly1305),
        ):
            writing = sealer(TINY, cipher)
            stream = b"".join(seal(writing, bytes([number])) for number in range(10))
            expected, secret = [], SECRET
            for number, (kind, text) in enumerate(self.schedule()):
                key, iv_bytes, following = schedule(secret)
                iv = int.from_bytes(iv_bytes, "big")
                header = bytes([kind]) + (len(text) + 16).to_bytes(3, "big")
                nonce = (iv ^ number).to_bytes(12, "big")
                expected.append(header + aead(key).encrypt(nonce, text, header))
                if kind == 4:
                    secret = following
            self.assertEqual(split(stream), expected)

    def schedule(self) -> list[tuple[int, bytes]]:
        """Two records and a REKEY fill an epoch of three."""
        found: list[tuple[int, bytes]] = []
        for number in range(10):
            if number and number % 2 == 0:
                found.append((4, b""))
            found.append((3, bytes([number])))
        return found


class TamperingTests(TestCase):
    def test_every_flipped_bit(self) -> None:
        for cipher in Cipher:
            record = seal(sealer(cipher=cipher), b"a plaintext of 28 bytes here")
            for bit in range(8 * len(record)):
                changed = bytearray(record)
                changed[bit // 8] ^= 1 << bit % 8
                with self.assertRaises(ProtocolViolation, msg=f"bit {bit} of {cipher}"):
                    unseal(opener(cipher=cipher), bytes(changed))

    def test_cut_and_lengthened_bodies(self) -> None:
        record = seal(sealer(), b"plaintext")
        for size in range(HEADER_SIZE + TAG_SIZE, len(record)):
            with self.assertRaises(ProtocolViolation):
                unseal(opener(), record[:size])
        with self.assertRaises(ProtocolViolation):
            unseal(opener(), record + b"\0")

    def test_a_replay(self) -> None:
        record, reading = seal(sealer(), b"again"), opener()
        self.assertEqual(unseal(reading, record), b"again")
        with self.assertRaises(ProtocolViolation):
            unseal(reading, record)

    @untimed
    @given(st.integers(0, 7), st.integers(0, 7), limits)
    def test_a_moved_or_repeated_record(self, start: int, to: int, limits: RecordLimits) -> None:
        writing = sealer(limits)
        records = split(b"".join(seal(writing, bytes([n])) for n in range(8)))
        moved = [*records[:to], records[start], *records[to:]]
        opened, reading = 0, opener(limits)
        try:
            for record in moved:
                unseal(reading, record)
                opened += 1
        except ProtocolViolation:
            pass
        self.assertEqual(opened, to if to != start else to + 1)

    @untimed
    @given(st.integers(0, 6), limits)
    def test_a_dropped_record(self, dropped: int, limits: RecordLimits) -> None:
        writing = sealer(limits)
        records = split(b"".join(seal(writing, bytes([n])) for n in range(8)))
        reading = opener(limits)
        for record in records[:dropped]:
            unseal(reading, record)
        with self.assertRaises(ProtocolViolation):
            unseal(reading, records[dropped + 1])

    def test_the_other_direction_or_another_cipher_does_not_open(self) -> None:
        record = seal(sealer(), b"text")
        other = RecordOpener(TrafficKeys(SECRET[::-1], Cipher.AES_256_GCM))
        for reading in (other, opener(cipher=Cipher.CHACHA20_POLY1305)):
            with self.assertRaises(ProtocolViolation):
                unseal(reading, record)

    def test_a_failed_record_does_not_spend_a_number(self) -> None:
        first, second = (writing := sealer()), opener()
        record = seal(first, b"text")
        with self.assertRaises(ProtocolViolation):
            unseal(second, record[:-1] + b"\0")
        self.assertEqual(unseal(second, record), b"text")
        self.assertEqual(unseal(second, seal(writing, b"more")), b"more")

    def test_the_kind_is_authenticated(self) -> None:
        """An END cannot be made from an empty record of another kind, nor the other way round."""
        kinds = (RecordType.PACKETS, RecordType.REKEY, RecordType.END)
        for sent in kinds:
            record = seal(sealer(), b"", sent)
            for claimed in kinds:
                if claimed is not sent:
                    with self.assertRaises(ProtocolViolation):
                        unseal(opener(), bytes([claimed]) + record[1:])


class RatchetTests(TestCase):
    def test_a_new_epoch_after_so_many_records(self) -> None:
        writing = sealer(TINY)
        epochs = []
        for _ in range(8):
            seal(writing, b"")
            epochs.append(writing.epoch)
        self.assertEqual(epochs, [0, 0, 1, 1, 2, 2, 3, 3])

    def test_a_new_epoch_after_so_many_bytes(self) -> None:
        writing = sealer(RecordLimits(bytes=100))
        epochs = []
        for size in (50, 49, 1, 1, 200, 1, 99, 1, 1):
            seal(writing, bytes(size))
            epochs.append(writing.epoch)
        self.assertEqual(epochs, [0, 0, 0, 1, 1, 2, 2, 3, 3])

    def test_no_epoch_has_more_records_than_its_limit(self) -> None:
        for records in (2, 3, 7):
            writing = sealer(RecordLimits(records=records, hard_records=records))
            reading = opener(RecordLimits(records=records, hard_records=records))
            count, most = 0, 0
            for record in split(b"".join(seal(writing, b"") for _ in range(50))):
                unseal(reading, record)
                count += 1
                most = max(most, count)
                if record[0] == RecordType.REKEY:
                    count = 0
            self.assertEqual(most, records)

    def test_a_peer_that_does_not_rekey_is_refused(self) -> None:
        writing, reading = sealer(), opener(TINY)
        for _ in range(TINY.hard_records):
            unseal(reading, seal(writing, b"x"))
        with self.assertRaisesRegex(ProtocolViolation, "one key for too many records"):
            unseal(reading, seal(writing, b"x"))

    def test_a_rekey_starts_the_count_again(self) -> None:
        writing, reading = sealer(RecordLimits(records=5)), opener(TINY)
        for _ in range(100):
            for record in split(seal(writing, b"x")):
                unseal(reading, record)
        self.assertEqual(reading.epoch, writing.epoch)

    def test_limits_that_make_no_sense(self) -> None:
        for arguments in (
            {"records": 1},
            {"records": 0},
            {"records": 10, "hard_records": 9},
            {"hard_records": (1 << 23) + 1},
            {"bytes": 0},
        ):
            with self.subTest(arguments), self.assertRaises(ValueError):
                RecordLimits(**arguments)

    def test_the_default_limits_are_those_of_rfc_9001(self) -> None:
        self.assertLessEqual(DEFAULT_LIMITS.hard_records, 1 << 23)
        self.assertLessEqual(DEFAULT_LIMITS.records, DEFAULT_LIMITS.hard_records // 4)


class HeaderTests(TestCase):
    def header(self, kind: int, length: int) -> bytes:
        return bytes([kind]) + length.to_bytes(3, "big")

    def test_every_kind_and_its_bounds(self) -> None:
        for kind, lowest, highest in (
            (RecordType.CRYPTO, 0, MAX_PLAIN_BODY),
            (RecordType.ALERT, 0, MAX_PLAIN_BODY),
            (RecordType.PACKETS, TAG_SIZE, MAX_BODY),
            (RecordType.REKEY, TAG_SIZE, TAG_SIZE),
            (RecordType.END, TAG_SIZE, TAG_SIZE),
        ):
            for length in sorted({lowest, highest}):
                self.assertEqual(parse_header(self.header(kind, length), 0), (kind, length))
            if lowest:
                with self.assertRaisesRegex(WireError, "shorter than its tag"):
                    parse_header(self.header(kind, lowest - 1), 0)

    def test_long_bodies_are_refused_by_their_header_alone(self) -> None:
        for kind, limit in (
            (RecordType.CRYPTO, MAX_PLAIN_BODY),
            (RecordType.ALERT, MAX_PLAIN_BODY),
            (RecordType.PACKETS, MAX_BODY),
            (RecordType.REKEY, MAX_BODY),
            (RecordType.END, MAX_BODY),
        ):
            for length in (limit + 1, (1 << 24) - 1):
                with self.subTest(kind, length=length), self.assertRaisesRegex(WireError, "over"):
                    parse_header(self.header(kind, length), 0)

    def test_unknown_kinds(self) -> None:
        known = set(map(int, RecordType))
        self.assertEqual(known, {1, 2, 3, 4, 5})
        for kind in set(range(256)) - known:
            with self.assertRaisesRegex(WireError, f"unknown record type 0x{kind:02x}"):
                parse_header(self.header(kind, 20), 0)

    def test_no_kind_has_quics_bit(self) -> None:
        self.assertFalse([kind for kind in RecordType if kind & 0x40])

    @untimed
    @given(st.binary(min_size=4, max_size=12), st.integers(0, 8))
    def test_any_bytes_parse_or_are_a_wire_error(self, data: bytes, offset: int) -> None:
        offset = min(offset, len(data) - HEADER_SIZE)
        for buffer in (data, bytearray(data), memoryview(data)):
            try:
                kind, length = parse_header(buffer, offset)
            except WireError:
                continue
            self.assertEqual(data[offset : offset + 4], self.header(kind, length))

    def test_a_record_that_is_not_sealed(self) -> None:
        self.assertEqual(plain_record(RecordType.CRYPTO, b"abc"), b"\x01\0\0\x03abc")
        self.assertEqual(plain_record(RecordType.ALERT, b""), b"\x02\0\0\0")
