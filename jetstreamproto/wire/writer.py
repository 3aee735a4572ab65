"""Collects the pieces of a FlatBuffers buffer that is written from front to back."""

from __future__ import annotations

from jetstreamproto.wire.reader import MAX_SIZE


class Writer:
    """A growing buffer. Positions count bytes from its start."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    def append(self, piece: bytes, align: int = 1) -> int:
        """Add `piece` at the next multiple of `align`; returns its position."""
        self._pad(-self.size % align)
        self._pieces.append(piece)
        self.size += len(piece)
        return self.size - len(piece)

    def reserve(self, size: int, align: int) -> tuple[int, int]:
        """Leave `size` bytes for `fill`; returns the piece's number and its position."""
        self._pad(-self.size % align)
        self._pieces.append(b"")
        self.size += size
        return len(self._pieces) - 1, self.size - size

    def fill(self, number: int, piece: bytes) -> None:
        """Put `piece` where `reserve` left room for it."""
        self._pieces[number] = piece

    def vector(self, length: int, align: int) -> int:
        """Add a vector's length so that its elements, which follow, are aligned."""
        self._pad(-self.size % 4)
        self._pad(-(self.size + 4) % align)
        return self.append(length.to_bytes(4, "little"))

    def finish(self) -> bytes:
        """Everything that was added. Raises ValueError if it is longer than offsets reach."""
        if self.size > MAX_SIZE:
            raise ValueError(f"{self.size} bytes are too many for a FlatBuffers buffer")
        return b"".join(self._pieces)

    def _pad(self, size: int) -> None:
        if size:
            self._pieces.append(bytes(size))
            self.size += size
