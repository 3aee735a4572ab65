"""What calls are made of, apart from any session: status codes, names, limits, deadlines."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

MAX_NAME: Final = 255
"""The longest name of a method, in characters (which are ASCII)."""

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_SERVICE = re.compile(rf"{_WORD}(\.{_WORD})+", re.ASCII)
_METHOD_ONLY = re.compile(_WORD, re.ASCII)
_PREFIX = re.compile(rf"({_WORD}\.)+|{_WORD}(\.{_WORD})+#", re.ASCII)
_TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")
ANY: Final = "*"


class RpcStatus(IntEnum):
    """How a call ended. The numbers and meanings are those of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class RpcLimits:
    """What one side accepts and sends; sizes in bytes, times in seconds.

    - `payload`: of the arguments, the result or one item.
    - `metadata`: of a call's metadata, encoded; at most 65535.
    - `error_text`: characters of an error's message; `error_size`: it with its details, encoded.
    - `calls`: under way at once, of one session.
    - `buffered`: items of one stream that the application has not taken yet, at which the peer
      is told to stop.
    - `shared`: a call with more than this has a channel of its own, so that it holds up no other.
    - `timeout`: the longest that a unary call may take.
    """

    payload: int = 4 << 20
    metadata: int = 8 << 10
    error_text: int = 1024
    error_size: int = 16 << 10
    calls: int = 1000
    buffered: int = 256 << 10
    shared: int = 64 << 10
    timeout: float = 86400.0


DEFAULT_LIMITS: Final = RpcLimits()


def check_service(name: str) -> str:
    """`name` if it is that of a service (`demo.Calculator`), otherwise `ValueError`."""
    if len(name) > MAX_NAME or not _SERVICE.fullmatch(name):
        raise ValueError(f"{name[:MAX_NAME]!r} is not a service, such as demo.Calculator")
    return name


def check_method(name: str) -> str:
    """`name` if it is that of a method (`demo.Calculator#add`), otherwise `ValueError`."""
    service, _, method = name.partition("#")
    if (
        len(name) > MAX_NAME
        or not _SERVICE.fullmatch(service)
        or not _METHOD_ONLY.fullmatch(method)
    ):
        raise ValueError(f"{name[:MAX_NAME]!r} is not a method, such as demo.Calculator#add")
    return name


def check_pattern(pattern: str) -> str:
    """`pattern` if it stands for methods, otherwise `ValueError`.

    It is `demo.Calculator#add`, `demo.Calculator#*`, `demo.*` or `*`.
    """
    prefix = pattern.removesuffix(ANY)
    if len(pattern) <= MAX_NAME and pattern.endswith(ANY):
        if not prefix or _PREFIX.fullmatch(prefix):
            return pattern
        raise ValueError(f"{pattern[:MAX_NAME]!r}: * stands for all, after a dot or a #")
    return check_method(pattern)


def read_target(text: str) -> str:
    """`module:Object` if that is what `text` is, otherwise `ValueError`."""
    if not _TARGET.fullmatch(text):
        raise ValueError(f"{text!r} is not MODULE:OBJECT, such as shop.orders:Orders")
    return text


def matches(patterns: Iterable[str], method: str) -> bool:
    """Whether one of the patterns stands for `method`."""
    return any(
        method.startswith(pattern[:-1]) if pattern.endswith(ANY) else method == pattern
        for pattern in patterns
    )


class DeadlineWheel:
    """When calls are over, for many calls that hardly ever reach their deadlines.

    A deadline is rounded up by 0.8% at most, or 2 ms. So the slots that hold calls are few (some
    thousand for deadlines of up to a day), adding and taking out a call are one set operation
    each, and the owner needs one timer, for `earliest`.
    """

    __slots__ = ("_due", "_seconds", "_slots", "_step")

    _STEPS = 128  # slots to a deadline
    _FINEST = 0.001  # seconds

    def __init__(self) -> None:
        self._slots: dict[float, set[int]] = {}
        self._due: list[float] = []  # a heap of the slots
        self._seconds = self._step = 0.0  # of the latest call: most have the same

    @property
    def earliest(self) -> float | None:
        """When `expire` is to be called next; None while there is nothing."""
        return self._due[0] if self._due else None

    def add(self, call: int, now: float, seconds: float) -> float:
        """Let `call` be over after `seconds`; its slot, which `discard` wants."""
        if seconds != self._seconds:
            step = self._FINEST
            while step * self._STEPS < seconds:
                step *= 2
            self._seconds, self._step = seconds, step
        step = self._step
        slot = (int((now + seconds) / step) + 1) * step
        calls = self._slots.get(slot)
        if calls is None:
            self._slots[slot] = {call}
            heapq.heappush(self._due, slot)
        else:
            calls.add(call)
        return slot

    def discard(self, call: int, slot: float) -> None:
        """`call` has ended in time."""
        calls = self._slots.get(slot)
        if calls is not None:
            calls.discard(call)

    def expire(self, now: float) -> list[int]:
        """The calls whose time is over, which are forgotten."""
        late: list[int] = []
        while self._due and self._due[0] <= now:
            late += self._slots.pop(heapq.heappop(self._due))
        return late
