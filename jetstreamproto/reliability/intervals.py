"""Sets of whole numbers that mostly follow one another, kept as intervals."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import MutableSequence

Range = tuple[int, int]
"""From a number on, up to but without another."""


def add_range(ranges: MutableSequence[Range], start: int, stop: int) -> None:
    """Put `start` to `stop`, which is not empty, into ranges that are sorted and do not touch."""
    if not ranges or start > ranges[-1][1]:  # nearly always
        ranges.append((start, stop))
        return
    low = bisect_left(ranges, (start, start))
    if low and ranges[low - 1][1] >= start:
        low -= 1
        start = ranges[low][0]
    while low < len(ranges) and ranges[low][0] <= stop:
        stop = max(stop, ranges[low][1])
        del ranges[low]
    ranges.insert(low, (start, stop))


def remove_range(ranges: MutableSequence[Range], start: int, stop: int) -> None:
    """Take what is between `start` and `stop` out of ranges that are sorted and do not touch."""
    if start >= stop or not ranges or start >= ranges[-1][1] or stop <= ranges[0][0]:
        return
    index = bisect_left(ranges, (start, start))
    if index and ranges[index - 1][1] > start:
        index -= 1
    while index < len(ranges) and ranges[index][0] < stop:
        low, high = ranges[index]
        del ranges[index]
        if high > stop:
            ranges.insert(index, (stop, high))
        if low < start:
            ranges.insert(index, (low, start))
            index += 1


class IntervalSet:
    """Numbers, as sorted disjoint intervals: memory grows with the gaps, not with the numbers."""

    __slots__ = ("_starts", "_stops")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._starts, number) - 1
        return index >= 0 and number < self._stops[index]

    @property
    def intervals(self) -> int:
        """How many intervals there are."""
        return len(self._starts)

    def add(self, number: int) -> bool:
        """Put `number` in; False if it was there."""
        starts, stops = self._starts, self._stops
        if stops and number == stops[-1]:  # nearly always
            stops[-1] = number + 1
            return True
        index = bisect_right(starts, number)
        if index and number < stops[index - 1]:
            return False
        joins_left = index > 0 and stops[index - 1] == number
        joins_right = index < len(starts) and starts[index] == number + 1
        if joins_left and joins_right:
            stops[index - 1] = stops[index]
            del starts[index], stops[index]
        elif joins_left:
            stops[index - 1] = number + 1
        elif joins_right:
            starts[index] = number
        else:
            starts.insert(index, number)
            stops.insert(index, number + 1)
        return True
