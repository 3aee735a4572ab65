"""The path's MTU, found by probes that cost nothing but themselves (DPLPMTUD, RFC 8899)."""

from __future__ import annotations

from jetstreamproto.reliability.settings import MIN_DATAGRAM

_STEPS = (1452, 1472, 2800, 8952, 16384, 65507)
"""Sizes that links have (Ethernet under IPv6 and IPv4, jumbo frames, loopback), tried first."""
_MAX_PROBES = 3
_CLOSE_ENOUGH = 16
_RAISE_AFTER = 600.0
_BLACK_HOLE = 8
"""Full packets lost in a row, with none arriving between, that mean a smaller MTU."""


class MtuSearch:
    """How large datagrams may be: `size` is known to work, `next_probe` asks for more.

    Sizes are of UDP payload. `fixed` turns the search off.
    """

    __slots__ = (
        "_attempts",
        "_fixed",
        "_lost_in_a_row",
        "_most",
        "_probe",
        "_ruled_out",
        "_wait_until",
        "size",
    )

    def __init__(self, most: int, fixed: int = 0) -> None:
        self.size = fixed or MIN_DATAGRAM
        self._fixed = bool(fixed)
        self._most = self.size if fixed else most
        self._ruled_out = self._most + 1  # the least size known not to work
        self._probe: int | None = None
        self._attempts = 0
        self._lost_in_a_row = 0
        self._wait_until = 0.0

    def next_probe(self, now: float) -> int | None:
        """The size of a probe to send now, if one is due."""
        if self._probe is not None or now < self._wait_until:
            return None
        candidate = self._candidate()
        if candidate is None:
            self._wait_until = now + _RAISE_AFTER
            self._ruled_out = self._most + 1
            return None
        self._probe = candidate
        return candidate

    def probe_acked(self, size: int) -> None:
        """A probe of `size` bytes has arrived."""
        if size != self._probe:
            return  # it was for another path
        self._probe, self._attempts = None, 0
        if self.size < size < self._ruled_out:
            self.size = size
            self._lost_in_a_row = 0

    def probe_lost(self, size: int) -> None:
        """A probe of `size` bytes has not."""
        if size != self._probe:
            return
        self._probe = None
        self._attempts += 1
        if self._attempts >= _MAX_PROBES:
            self.too_big(size)

    def too_big(self, size: int) -> None:
        """A datagram of `size` bytes cannot pass, as the local system or a router says."""
        if size <= MIN_DATAGRAM:
            return
        self._probe, self._attempts = None, 0
        self._ruled_out = min(self._ruled_out, size)
        if size <= self.size:
            self._shrink()

    def full_packet_acked(self) -> None:
        """A packet of `size` bytes has arrived."""
        self._lost_in_a_row = 0

    def full_packets_lost(self, count: int) -> bool:
        """`count` packets of `size` bytes were lost; whether the path may have become narrower.

        That is not certain, so the size is not ruled out: probes will tell.
        """
        self._lost_in_a_row += count
        if self._lost_in_a_row < _BLACK_HOLE or self.size <= MIN_DATAGRAM:
            return False
        self._shrink()
        return True

    def reset(self) -> None:
        """The path is another one."""
        self.size = self._most if self._fixed else MIN_DATAGRAM
        self._ruled_out = self._most + 1
        self._probe, self._attempts, self._wait_until = None, 0, 0.0

    def _shrink(self) -> None:
        """Start again from what every path carries."""
        self.size = MIN_DATAGRAM
        self._probe, self._attempts = None, 0
        self._lost_in_a_row, self._wait_until = 0, 0.0

    def _candidate(self) -> int | None:
        for step in _STEPS:
            if self.size < step < self._ruled_out:
                return step
        if self._ruled_out - self.size <= _CLOSE_ENOUGH:
            return None
        if self._ruled_out > self._most:
            return self._most if self._most > self.size else None
        return (self.size + self._ruled_out) // 2
