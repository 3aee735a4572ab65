"""The replay window: which packet numbers have come (RFC 4303 appendix A2, RFC 6479).

Packets may come in any order, each counts once, and what is too far behind counts as seen.
"""

from __future__ import annotations

DEFAULT_SIZE = 8192


class ReplayWindow:
    """Remembers the `size` numbers up to the highest one that came.

    Numbers `_base`..`highest` all came; bit i of `_older` says whether `_base - 1 - i` did. A
    packet in order thus only moves `highest`, and the bitmap is shifted once a gap.
    """

    __slots__ = ("_base", "_mask", "_older", "highest", "size")

    def __init__(self, size: int = DEFAULT_SIZE) -> None:
        if size < 1:
            raise ValueError("a replay window must hold a number at least")
        self.size = size
        self.highest = -1
        """The highest number that came; -1 before the first."""
        self._base = 0
        self._older = 0
        self._mask = (1 << size) - 1

    def check(self, number: int) -> bool:
        """Whether `number` is new, and not too old to tell. Nothing changes."""
        if number > self.highest:
            return True
        base = self._base
        if number >= base or number <= self.highest - self.size or number < 0:
            return False
        return not self._older >> (base - 1 - number) & 1

    def commit(self, number: int) -> None:
        """Remember `number`, once its packet has proved genuine."""
        highest = self.highest
        if number == highest + 1:
            self.highest = number
        elif number > highest:
            self._move(number)
            self.highest = number
        elif number < self._base:
            self._mark(number, 1)

    def commit_run(self, first: int, count: int) -> None:
        """Remember `count` numbers from `first` on, of which some may be known already."""
        if count < 1:
            return
        last = first + count - 1
        if first > self.highest + 1:
            self._move(first)
        elif first < self._base:
            self._mark(first, min(last + 1, self._base) - first)
        if last > self.highest:
            self.highest = last

    def recent(self, count: int) -> int:
        """Which of the newest `count` numbers came: bit i is for `highest` - i."""
        contiguous = self.highest + 1 - self._base
        if contiguous >= count:
            return (1 << count) - 1
        return (self._older << contiguous | (1 << contiguous) - 1) & ((1 << count) - 1)

    def _move(self, first: int) -> None:
        """Let the contiguous numbers begin at `first`, which is beyond a gap."""
        size = self.size
        contiguous = min(self.highest + 1 - self._base, size)
        gap = first - self.highest - 1
        self._base = first
        if gap >= size:
            self._older = 0
        else:
            older = self._older << contiguous | (1 << contiguous) - 1
            self._older = older << gap & self._mask

    def _mark(self, first: int, count: int) -> None:
        """Mark `count` numbers from `first` on, all below `_base`, as far as they matter."""
        oldest = max(0, self.highest - self.size + 1)
        if first < oldest:
            first, count = oldest, count - (oldest - first)
        if count > 0:
            self._older |= ((1 << count) - 1) << (self._base - first - count)
