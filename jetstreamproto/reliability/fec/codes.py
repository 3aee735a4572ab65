"""The code behind repair symbols: systematic Reed-Solomon over GF(2^8), as zfec computes it.

A repair symbol of `row` over `count` symbols from number `base` on is a linear combination of
them. Symbol `base + i` stands at position `(base + i) % k`; positions without a symbol hold
zeros, and so does what a symbol lacks to the length of the longest. Any `n` rows of one window
are enough for `n` of its symbols; windows that overlap can be solved together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from jetstreamproto.reliability.fec.galois import Block, add, inverse, products

try:
    from zfec import Decoder, Encoder
except ImportError:  # it needs a compiler where it has no wheel
    from jetstreamproto.reliability.fec.galois import Decoder, Encoder

SHARES = 256
"""Positions and rows of a code together: `k <= row < SHARES`. A row does not depend on it."""

Sum = list[tuple[int, int]]
"""Terms of a linear combination: index and factor."""


@cache  # at most 255 of each, 8 MB in all
def _encoder(k: int) -> Encoder:
    return Encoder(k, SHARES)


@cache
def _decoder(k: int) -> Decoder:
    return Decoder(k, SHARES)


def encode(symbols: Sequence[Block], base: int, k: int, rows: Sequence[int]) -> list[bytes]:
    """The repair symbols of `rows` over `symbols`, at least one and at most `k`."""
    sizes = set(map(len, symbols))
    size = max(sizes)
    blocks: Sequence[Block] = symbols
    if len(sizes) > 1:
        blocks = [_padded(symbol, size) for symbol in symbols]
    if len(blocks) < k:
        blocks = [*blocks, *[bytes(size)] * (k - len(blocks))]
    shift = base % k
    if shift:
        blocks = [*blocks[k - shift :], *blocks[: k - shift]]
    encoded: list[bytes] = _encoder(k).encode(tuple(blocks), tuple(rows))
    return encoded


def restore(
    window: Sequence[Block | None], base: int, k: int, repairs: Mapping[int, Block]
) -> list[bytes]:
    """The symbols that are None in `window`, in order, from as many repairs (row: data) of it.

    They have the length of the repairs, which all have the same. Raises `ValueError` if a symbol
    that is there is longer.
    """
    size = len(next(iter(repairs.values())))
    blocks: list[Block] = [bytes(size)] * k
    shares = list(range(k))
    spare = iter(repairs.items())
    lost = []
    for position, symbol in enumerate(window, base):
        position %= k
        if symbol is None:
            lost.append(position)
            shares[position], blocks[position] = next(spare)
        else:
            blocks[position] = symbol if len(symbol) == size else _padded(symbol, size)
    decoded: list[bytes] = _decoder(k).decode(tuple(blocks), tuple(shares))
    return [decoded[position] for position in lost]


def _padded(symbol: Block, size: int) -> bytes:
    if len(symbol) > size:
        raise ValueError(f"a symbol of {len(symbol)} bytes under a repair of {size}")
    return bytes(symbol).ljust(size, b"\0")


# --- windows that overlap -----------------------------------------------------------------


@cache  # for each k one matrix of (256 - k) * k bytes at most
def _matrix(k: int) -> list[bytes]:
    units = tuple(bytes(i == j for j in range(k)) for i in range(k))
    rows: list[bytes] = _encoder(k).encode(units, tuple(range(k, SHARES)))
    return rows


def factor(k: int, row: int, number: int) -> int:
    """What symbol `number` of a window is multiplied by in `row`; never 0."""
    return _matrix(k)[row - k][number % k]


def solve(equations: Sequence[Mapping[int, int]]) -> dict[int, Sum]:
    """Which unknowns linear equations determine, and as which sum of the equations.

    An equation maps the numbers of its unknowns to their factors. Takes time in the order of
    the square of the equations times their unknowns.
    """
    unknowns = sorted(set().union(*equations))
    width, height = len(unknowns), len(equations)
    rows = [
        bytes(equation.get(unknown, 0) for unknown in unknowns)
        + bytes(i == index for i in range(height))
        for index, equation in enumerate(equations)
    ]
    done = 0
    for column in range(width):
        pivot = next((i for i in range(done, height) if rows[i][column]), None)
        if pivot is None:
            continue
        row = rows[pivot].translate(products(inverse(rows[pivot][column])))
        rows[pivot], rows[done] = rows[done], row
        for i, other in enumerate(rows):
            if i != done and other[column]:
                rows[i] = add(((1, other), (other[column], row)), len(row))
        done += 1
    solution: dict[int, Sum] = {}
    for row in rows[:done]:
        if row.count(0, 0, width) == width - 1:
            column = next(i for i in range(width) if row[i])
            solution[unknowns[column]] = [(i, by) for i, by in enumerate(row[width:]) if by]
    return solution
