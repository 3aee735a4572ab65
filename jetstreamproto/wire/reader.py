"""Reads FlatBuffers values out of bytes that cannot be trusted.

`Reader` follows offsets only after checking them. It accepts every layout that the FlatBuffers
internals document (https://flatbuffers.dev/internals/) allows, and rejects what the reference
implementation's `flatbuffers::Verifier` rejects, with the same notion of alignment: relative to
the start of the buffer, a size prefix included. It is stricter in what that document says and
the verifier does not check: fields lie inside the size that the vtable gives the table, vector
elements are aligned, and text is UTF-8.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from jetstreamproto.errors import WireError

MAX_DEPTH = 64
"""How many tables may be nested in one another, the root included."""

MAX_SIZE = 0x7FFFFFFF
"""The longest buffer, in bytes: offsets have to fit into 31 bits."""

_SHARING = 16
_SHARING_SLACK = 1024

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_VTABLE_START = struct.Struct("<HH")


class Reader:
    """One pass over one buffer.

    Objects may share others, so reading all of a small buffer could take exponentially long.
    Therefore the objects that are read may together have no more bytes than 16 times the
    buffer's length plus 1024. Without sharing they never have more than its length.

    All methods raise WireError, which names the broken rule. Positions count bytes from the
    buffer's start; every position passed to a method is one that the reader gave out, so it is
    inside the buffer and aligned for what it was asked for.
    """

    __slots__ = ("_budget", "_size", "view")

    def __init__(self, view: memoryview) -> None:
        """`view` has one dimension and format "B"."""
        self.view = view
        self._size = len(view)
        self._budget = _SHARING * self._size + _SHARING_SLACK

    def check_size_prefix(self) -> None:
        """The first four bytes must be the number of bytes after them."""
        if self._size < 4:
            raise WireError("the buffer ends within its size prefix")
        announced = _U32.unpack_from(self.view)[0]
        if announced != self._size - 4:
            raise WireError(f"the size prefix says {announced}, but {self._size - 4} bytes follow")

    def root(self, at: int) -> int:
        """The position of the root table, whose offset is at `at`."""
        if at + 4 > self._size:
            raise WireError("the buffer ends within its root offset")
        return self.target(at, _U32.unpack_from(self.view, at)[0])

    def target(self, at: int, distance: int) -> int:
        """Where the offset `distance` found at `at` leads: to an aligned 32-bit word."""
        position = at + distance
        if not 0 < distance <= MAX_SIZE:
            raise WireError(f"the offset {distance} at {at} is not between 1 and 2**31 - 1")
        if position + 4 > self._size:
            raise WireError(f"the offset at {at} leads out of the buffer")
        if position % 4:
            raise WireError(f"the offset at {at} leads to {position}, which is misaligned")
        return position

    def table(self, at: int, slots: Sequence[tuple[int, int]]) -> list[int | None]:
        """The position of every field of the table at `at`, None for those that are absent.

        `slots` has the size and the alignment of each field that the schema knows.
        """
        vtable, vtable_size, table_size = self._vtable(at)
        known = min(len(slots), (vtable_size - 4) // 2)
        positions: list[int | None] = [None] * len(slots)
        for index, offset in enumerate(struct.unpack_from(f"<{known}H", self.view, vtable + 4)):
            if offset == 0:
                continue
            size, align = slots[index]
            if offset < 4 or offset + size > table_size:
                raise WireError(f"field {index} of the table at {at} lies outside of the table")
            if (at + offset) % align:
                raise WireError(f"field {index} of the table at {at} is misaligned")
            positions[index] = at + offset
        return positions

    def _vtable(self, at: int) -> tuple[int, int, int]:
        vtable = at - _I32.unpack_from(self.view, at)[0]
        if not 0 <= vtable <= self._size - 4:
            raise WireError(f"the vtable of the table at {at} is out of the buffer")
        if vtable % 2:
            raise WireError(f"the vtable of the table at {at} is misaligned")
        vtable_size, table_size = _VTABLE_START.unpack_from(self.view, vtable)
        if vtable_size < 4 or vtable_size % 2:
            raise WireError(f"the vtable at {vtable} has the impossible size {vtable_size}")
        if vtable + vtable_size > self._size:
            raise WireError(f"the vtable at {vtable} extends beyond the buffer")
        if table_size < 4:
            raise WireError(f"the table at {at} has the impossible size {table_size}")
        if at + table_size > self._size:
            raise WireError(f"the table at {at} extends beyond the buffer")
        return vtable, vtable_size, table_size

    def vector(self, at: int, size: int, align: int) -> tuple[int, int]:
        """Start and end of the elements of the vector at `at`, each of `size` bytes."""
        length = _U32.unpack_from(self.view, at)[0]
        start = at + 4
        end = start + length * size
        if end > self._size:
            raise WireError(f"the vector at {at} extends beyond the buffer")
        if length and start % align:
            raise WireError(f"the elements of the vector at {at} are misaligned")
        self.spend(end - at)
        return start, end

    def string(self, at: int) -> str:
        """The text at `at`."""
        start, end = self.vector(at, 1, 1)
        if end == self._size or self.view[end]:
            raise WireError(f"the string at {at} does not end with a NUL")
        try:
            return str(self.view[start:end], "utf-8")
        except UnicodeDecodeError as problem:
            raise WireError(f"the string at {at} is not UTF-8: {problem.reason}") from None

    def spend(self, size: int) -> None:
        """Count `size` bytes of an object as read. Vectors and strings count themselves."""
        self._budget -= size
        if self._budget < 0:
            raise WireError("the buffer's objects are shared too often")
