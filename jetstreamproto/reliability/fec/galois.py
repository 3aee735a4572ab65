"""Arithmetic in GF(2^8), and with it zfec's code in Python alone, for where zfec is not installed.

zfec's code (Rizzo, "Effective Erasure Codes for Reliable Computer Communication Protocols", 1997)
takes `k` blocks as the values of a polynomial at the first `k` of the points 0, 1, 2, 4 ..., the
powers of 2, and a share is its value at one of the others. So Lagrange's formula gives every
share from any `k`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

Block = bytes | memoryview

_POLYNOMIAL = 0x11D


@cache
def products(by: int) -> bytes:
    """The products of `by` and everything, for `bytes.translate`."""
    table = []
    for value in range(256):
        product, left = 0, by
        while left:
            if left & 1:
                product ^= value
            value <<= 1
            if value & 0x100:
                value ^= _POLYNOMIAL
            left >>= 1
        table.append(product)
    return bytes(table)


@cache
def inverse(value: int) -> int:
    """What multiplied by `value` gives 1."""
    return products(value).index(1)


def add(blocks: Iterable[tuple[int, Block]], size: int) -> bytes:
    """The sum of blocks, each multiplied by the factor before it, in `size` bytes."""
    total = 0
    for by, block in blocks:
        total ^= int.from_bytes(bytes(block).translate(products(by)), "little")
    return total.to_bytes(size, "little")


@cache
def _point(share: int) -> int:
    """Where the polynomial of the blocks has the value that is share number `share`."""
    if share == 0:
        return 0
    return 1 if share == 1 else products(2)[_point(share - 1)]


@lru_cache(1024)
def _weights(known: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    """The factors of the `known` shares whose sum is the share `wanted`."""
    at = _point(wanted)
    points = [_point(share) for share in known]
    weights = []
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = products(above)[at ^ other]
                below = products(below)[point ^ other]
        weights.append(products(above)[inverse(below)])
    return tuple(weights)


def _share(blocks: Sequence[Block], known: tuple[int, ...], wanted: int) -> bytes:
    return add(zip(_weights(known, wanted), blocks, strict=True), len(blocks[0]))


class Encoder:
    """As `zfec.Encoder`: `k` blocks of one size are the first of `m` shares."""

    def __init__(self, k: int, m: int) -> None:
        self._primary = tuple(range(k))

    def encode(self, blocks: Sequence[Block], shares: Sequence[int]) -> list[bytes]:
        """The shares of these numbers."""
        return [_share(blocks, self._primary, share) for share in shares]


class Decoder:
    """As `zfec.Decoder`: any `k` shares give the blocks."""

    def __init__(self, k: int, m: int) -> None:
        self._k = k

    def decode(self, blocks: Sequence[Block], shares: Sequence[int]) -> list[Block]:
        """The blocks, from shares of which each that is a block stands at its own place."""
        known = tuple(shares)
        return [
            block if share == place else _share(blocks, known, place)
            for place, (block, share) in enumerate(zip(blocks, known, strict=True))
        ]
