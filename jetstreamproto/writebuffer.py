"""The write buffer of a byte stream: small writes are joined, large ones cut, each once."""

from __future__ import annotations

from collections import deque


class WriteBuffer:
    """Bytes in the order in which they were written; `size` of them."""

    __slots__ = ("_offset", "_pieces", "size")

    def __init__(self) -> None:
        self.size = 0
        self._pieces: deque[bytes] = deque()
        self._offset = 0  # of the first piece, taken already

    def append(self, data: bytes) -> None:
        """Add `data`, which is not empty."""
        self._pieces.append(data)
        self.size += len(data)

    def take(self, most: int) -> bytes:
        """Remove and return up to `most` bytes, as many as there are. There must be some."""
        pieces, start = self._pieces, self._offset
        first = pieces[0]
        left = len(first) - start
        if left > most:
            taken = first[start : start + most]
            self._offset = start + most
        elif left == most or len(pieces) == 1:
            taken = first[start:]  # the piece itself where nothing was taken of it
            self._pop()
        else:
            taken = self._join(most)
        self.size -= len(taken)
        return taken

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self.size = self._offset = 0

    def _join(self, most: int) -> bytes:
        pieces, parts, room = self._pieces, list[bytes | memoryview](), most
        while pieces and room:
            part = memoryview(pieces[0])[self._offset : self._offset + room]
            parts.append(part)
            room -= len(part)
            if self._offset + len(part) == len(pieces[0]):
                self._pop()
            else:
                self._offset += len(part)
        return b"".join(parts)

    def _pop(self) -> None:
        self._pieces.popleft()
        self._offset = 0
