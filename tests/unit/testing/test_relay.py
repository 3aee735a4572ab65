"""Packets of the relay that are damaged: as a program sees them, and not the kernel."""

from __future__ import annotations

import unittest
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.testing.relay import flip_payload_bit

untimed = settings(deadline=None)
randoms = st.integers().map(Random)
UDP, TCP, ICMP = 17, 6, 1


def ones_sum(data: bytes) -> int:
    """The Internet checksum's sum (RFC 1071): 0xFFFF over data with a right checksum."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(packet: bytes, header: int) -> bytes:
    return packet[12:20] + bytes((0, packet[9])) + (len(packet) - header).to_bytes(2, "big")


def ip(protocol: int, rest: bytes, options: int = 0, fragment: int = 0) -> bytes:
    """An IPv4 packet with so many words of IP options."""
    start = bytes((0x45 + options, 0)) + (20 + 4 * options + len(rest)).to_bytes(2, "big")
    start += b"\x12\x34" + fragment.to_bytes(2, "big") + bytes((64, protocol, 0, 0))
    return start + bytes((198, 18, 0, 1, 198, 18, 0, 2)) + bytes(4 * options) + rest


def udp(payload: bytes, options: int = 0, checksum: bool = True) -> bytes:
    head = bytes((0x10, 0, 0x20, 0)) + (8 + len(payload)).to_bytes(2, "big")
    packet = ip(UDP, head + b"\0\0" + payload, options)
    if not checksum:
        return packet
    header = 20 + 4 * options
    value = 0xFFFF - ones_sum(pseudo_header(packet, header) + packet[header:]) or 0xFFFF
    return packet[: header + 6] + value.to_bytes(2, "big") + packet[header + 8 :]


def changed(before: bytes, after: bytes) -> list[int]:
    """Where they differ, once for each bit."""
    return [
        position
        for position, (one, other) in enumerate(zip(before, after, strict=True))
        for _ in range((one ^ other).bit_count())
    ]


class DamageTests(unittest.TestCase):
    @untimed
    @given(st.binary(min_size=1, max_size=99), st.integers(0, 10), randoms)
    def test_udp_has_a_wrong_payload_and_a_right_checksum(
        self, payload: bytes, options: int, random: Random
    ) -> None:
        packet = udp(payload, options)
        header = 20 + 4 * options
        damaged = flip_payload_bit(packet, random)
        self.assertEqual(ones_sum(pseudo_header(damaged, header) + damaged[header:]), 0xFFFF)
        wrong = [at for at in changed(packet, damaged) if at not in (header + 6, header + 7)]
        self.assertEqual(len(wrong), 1)
        self.assertGreaterEqual(wrong[0], header + 8)
        self.assertNotEqual(damaged[header + 6 : header + 8], b"\0\0")

    @untimed
    @given(st.binary(min_size=1, max_size=99), randoms)
    def test_udp_without_a_checksum_stays_without(self, payload: bytes, random: Random) -> None:
        packet = udp(payload, checksum=False)
        damaged = flip_payload_bit(packet, random)
        [wrong] = changed(packet, damaged)
        self.assertGreaterEqual(wrong, 28)

    @untimed
    @given(
        st.sampled_from((TCP, ICMP, 50)),
        st.binary(min_size=21, max_size=99),
        st.sampled_from((0, 0x2000, 0x00B9)),
        randoms,
    )
    def test_of_other_packets_one_bit_is_wrong(
        self, protocol: int, rest: bytes, fragment: int, random: Random
    ) -> None:
        packet = ip(protocol, rest, fragment=fragment)
        [wrong] = changed(packet, flip_payload_bit(packet, random))
        self.assertGreaterEqual(wrong, 40 if protocol == TCP and fragment != 0x00B9 else 28)

    @untimed
    @given(st.binary(min_size=9, max_size=99), randoms)
    def test_a_later_fragment_has_no_checksum_to_correct(self, rest: bytes, random: Random) -> None:
        packet = ip(UDP, rest, fragment=0x00B9)
        self.assertEqual(len(changed(packet, flip_payload_bit(packet, random))), 1)

    @untimed
    @given(st.binary(max_size=99), randoms)
    def test_nothing_makes_it_fail(self, packet: bytes, random: Random) -> None:
        self.assertEqual(len(flip_payload_bit(packet, random)), len(packet))

    def test_a_packet_without_payload_is_left_alone(self) -> None:
        for packet in (udp(b""), ip(TCP, bytes(20)), b"", b"\x60" + bytes(60)):
            self.assertIs(flip_payload_bit(packet, Random(1)), packet)
