"""A UDP port that several processes share: whose a datagram is stands in its connection id."""

from __future__ import annotations

from typing import Protocol

from jetstreamproto.reliability.paths import Address

MAX_WORKERS = 64
"""Processes that may share a port."""


class PortShare(Protocol):
    """One process's part in a shared port.

    The first byte of every connection id that it chooses is its `number`. The operating system
    is asked to sort datagrams by that; `forward` is for those that come to the wrong process
    all the same.
    """

    number: int

    def forward(self, owner: int, data: memoryview, segment: int, address: Address) -> bool:
        """Hand datagrams, each of `segment` bytes, to process `owner`; whether there is one."""
