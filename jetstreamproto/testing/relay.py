"""Carries IP packets between two devices through two `LinkModel`s, in real time."""

from __future__ import annotations

import os
import select
from heapq import heappop, heappush
from random import Random
from time import monotonic

from jetstreamproto.testing.linkmodel import LinkModel

_TURN = 64  # packets that are read from one device before the other has its turn
_LONGEST = 65536
_UDP = 17
_TCP = 6
_HEADERS = {_UDP: 8, _TCP: 20}


def flip_payload_bit(packet: bytes, random: Random) -> bytes:
    """The IPv4 packet with a bit flipped behind its headers, unless there is nothing there.

    The kernel would drop a UDP datagram with a wrong checksum, so that is corrected: the program
    receives the wrong payload. TCP's is left, and saves TCP from it.
    """
    header = (packet[0] & 15) * 4 if packet else 0
    fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
    protocol = 0 if fragment or len(packet) < 20 else packet[9]
    start = header + _HEADERS.get(protocol, 8)
    if len(packet) <= start or packet[0] >> 4 != 4:
        return packet
    damaged = bytearray(packet)
    position = random.randrange(start, len(packet))
    damaged[position] ^= 1 << random.randrange(8)
    if protocol == _UDP:
        even = position - (position - header) % 2
        _correct_checksum(damaged, header + 6, packet[even : even + 2], damaged[even : even + 2])
    return bytes(damaged)


def _correct_checksum(packet: bytearray, at: int, before: bytes, after: bytearray) -> None:
    """Change a UDP checksum for 16 bits that have changed (RFC 1624)."""
    checksum = int.from_bytes(packet[at : at + 2], "big")
    if not checksum:
        return  # there is none
    words = [int.from_bytes(word.ljust(2, b"\0"), "big") for word in (before, after)]
    total = (~checksum & 0xFFFF) + (~words[0] & 0xFFFF) + words[1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[at : at + 2] = ((~total & 0xFFFF) or 0xFFFF).to_bytes(2, "big")


class PacketRelay:
    """Carries packets between two devices, each direction through its model, in real time."""

    def __init__(self, devices: tuple[int, int], models: tuple[LinkModel, LinkModel]) -> None:
        self._devices = devices
        self._models = models
        self._heap: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._bytes = [0, 0]
        self._written = [0, 0]
        self._refused = [0, 0]
        self._late = self._latest = 0.0
        self.blackhole = False

    def run(self, until: float, wake: int) -> None:
        """Carry packets until that time, or until the descriptor `wake` can be read."""
        heap, devices, models = self._heap, self._devices, self._models
        watched = [*devices, wake]
        while True:
            now = monotonic()
            while heap and heap[0][0] <= now:
                due, _, side, packet = heappop(heap)
                self._write(side, packet, now - due)
                now = monotonic()
            if now >= until:
                return
            next_time = min(heap[0][0], until) if heap else until
            ready = select.select(watched, [], [], max(0.0, next_time - now))[0]
            if wake in ready:
                return
            for side in (0, 1):
                if devices[side] in ready:
                    self._read(devices[side], models[side], side)

    def _read(self, device: int, model: LinkModel, side: int) -> None:
        for _ in range(_TURN):
            try:
                packet = os.read(device, _LONGEST)
            except BlockingIOError:
                return
            if self.blackhole:
                model.counters.offered += 1
                model.counters.lost += 1
                continue
            for due, carried in model.offer(monotonic(), packet):
                self._number += 1
                heappush(self._heap, (due, self._number, side, carried))

    def _write(self, side: int, packet: bytes, late: float) -> None:
        try:
            os.write(self._devices[1 - side], packet)
        except OSError:
            self._refused[side] += 1
            return
        self._written[side] += 1
        self._bytes[side] += len(packet)
        self._late += late
        self._latest = max(self._latest, late)

    def report(self) -> str:
        """The counters, one direction a line, and how punctual the deliveries were."""
        lines = []
        for side, name in enumerate(("client>server", "server>client")):
            counters = self._models[side].counters
            figures = {
                "offered": counters.offered,
                "delivered": self._written[side],
                "bytes": self._bytes[side],
                "lost": counters.lost,
                "overflowed": counters.overflowed + self._refused[side],
                "duplicated": counters.duplicated,
                "corrupted": counters.corrupted,
                "reordered": counters.reordered,
            }
            lines.append(" ".join([name, *(f"{key}={value}" for key, value in figures.items())]))
        mean = self._late / max(1, sum(self._written))
        lines.append(f"late mean_ms={mean * 1e3:.3f} worst_ms={self._latest * 1e3:.3f}")
        return "\n".join(lines)
