"""Paths: whether a peer that seems to have moved can be reached at its new address.

As RFC 9000 section 9: the new address gets a challenge, and at most three times the bytes that
came from it, until it answers.
"""

from __future__ import annotations

from collections.abc import Callable

from jetstreamproto.reliability.frames import PATH_DATA
from jetstreamproto.reliability.settings import MIN_DATAGRAM
from jetstreamproto.security.datagrams import OVERHEAD

Address = tuple[str, int]

_ATTEMPTS = 5
_AMPLIFICATION = 3
_LEAST_SIZE = OVERHEAD + 1 + PATH_DATA
"""Bytes of the smallest datagram that holds a challenge."""


class PathValidator:
    """Validates one new address at a time. `random_bytes(n)` makes the challenges."""

    __slots__ = ("_attempts", "_challenges", "_credit", "_random_bytes", "candidate", "due_at")

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self.candidate: Address | None = None
        self.due_at: float | None = None
        """When the next challenge is to be sent; None also while it lacks credit."""
        self._random_bytes = random_bytes
        self._challenges: list[bytes] = []
        self._attempts = 0
        self._credit = 0

    def heard(self, address: Address, size: int, now: float) -> None:
        """The newest genuine packets of the peer, `size` bytes, came from `address`."""
        if address != self.candidate:
            self.candidate = address
            self._challenges.clear()
            self._attempts = self._credit = 0
            self.due_at = None
        self._credit += _AMPLIFICATION * size
        if self.due_at is None and self._credit >= _LEAST_SIZE:
            self.due_at = now

    def challenge(self, now: float, timeout: float) -> tuple[bytes, int] | None:
        """What to send to `candidate`, and the size its datagram may have; None if nothing."""
        if self.candidate is None or self.due_at is None or now < self.due_at:
            return None
        if self._attempts >= _ATTEMPTS:
            self.forget()
            return None
        if self._credit < _LEAST_SIZE:
            self.due_at = None
            return None
        self._attempts += 1
        self.due_at = now + timeout * (1 << (self._attempts - 1))
        size = min(self._credit, MIN_DATAGRAM)
        self._credit -= size
        data = self._random_bytes(PATH_DATA)
        self._challenges.append(data)
        return data, size

    def responded(self, data: bytes) -> Address | None:
        """The address that has proved itself by this response, if any."""
        if data not in self._challenges:
            return None
        address = self.candidate
        self.forget()
        return address

    def forget(self) -> None:
        """Stay where we are."""
        self.candidate = None
        self.due_at = None
        self._challenges.clear()
