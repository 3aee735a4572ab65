"""Which transports are tried, in which order, and what is remembered of a server.

No Twisted, no sockets and no clock: times are arguments, in seconds since the epoch.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TCP, UDP, QUIC = "tcp", "udp", "quic"
AUTO = "auto"
TRANSPORTS = (TCP, UDP, QUIC)

ADDRESS_DELAY = 0.25
"""Seconds after which the next address is tried beside one (RFC 8305, section 5)."""
HEAD_START = 0.5
"""The same for the next transport. TCP needs two round trips to a session and QUIC three, so less
than the round trip of a far server would let TCP win there."""
LONG_HEAD_START = 1.0
"""The same where the next would serve much worse."""
PATIENCE = 3.0
"""Seconds after which a datagram transport counts as blocked, where there are others."""
NEAR = 0.01
"""Seconds in which a TCP connection to a server that is near comes to be."""

LIFETIME = 300.0
"""Seconds for which something is remembered."""
MAX_RECORDS = 512

_ORDER = {False: (QUIC, TCP, UDP), True: (UDP, TCP, QUIC)}  # by whether it is for bulk
_PURPOSES = {False: "any", True: "bulk"}
_MAX_TEXT = 300

Place = tuple[str, int]
"""A server's host name and port."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A transport in a race. It begins `after` seconds, counted from when the one before it did.

    `patience` is how many seconds it has, None for all there are. If `near`, it drops out unless
    its connection comes to be within `NEAR` seconds.
    """

    transport: str
    after: float = 0.0
    patience: float | None = None
    near: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a transport did not serve, and when that was."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Recalled:
    """What is known of a server: the transport that won, and those that did not serve."""

    choice: str | None
    troubles: Mapping[str, Trouble]

    def over(self, transport: str, now: float, *, bulk: bool) -> str | None:
        """Why `transport` was tried before those that should come before it; None if none should.

        "udp did not answer within 1 s, 42 s ago", for example.
        """
        order = _ORDER[bulk]
        before = (self.troubles.get(other) for other in order[: order.index(transport)])
        reasons = [f"{t.reason}, {max(0.0, now - t.at):.0f} s ago" for t in before if t is not None]
        return "; ".join(reasons) or None


NOTHING = Recalled(None, {})


def plan(recalled: Recalled, *, bulk: bool, quic: bool = True) -> list[Entrant]:
    """The race for a session: for `bulk`, which is much data, or for anything.

    What won last time goes first, what did not serve lately goes last. A server of which nothing
    is known is asked over TCP first: if it is near, TCP serves it best, and otherwise hardly any
    time is lost. `quic` says whether there is QUIC here.
    """
    order = [name for name in _ORDER[bulk] if quic or name != QUIC]
    if recalled.choice in order:
        order.sort(key=lambda name: name != recalled.choice)
    order.sort(key=lambda name: name in recalled.troubles)
    entrants = []
    if not bulk and order[0] != TCP and recalled.choice is None and TCP not in recalled.troubles:
        entrants.append(Entrant(TCP, near=True))
    for name in order:
        last_resort = name == UDP or UDP in (entrant.transport for entrant in entrants)
        after = LONG_HEAD_START if last_resort else HEAD_START
        patience = None if name == TCP else PATIENCE
        entrants.append(Entrant(name, after if entrants else 0.0, patience))
    return entrants


class Memory:
    """What is remembered of servers, a while and the latest only.

    `changed` is called with it after a change.
    """

    def __init__(
        self,
        *,
        max_records: int = MAX_RECORDS,
        lifetime: float = LIFETIME,
        changed: Callable[[Memory], None] | None = None,
    ) -> None:
        # by (host, port, subject): of a purpose the transport that won, of a transport its trouble
        self._records: OrderedDict[tuple[str, int, str], tuple[str, float]] = OrderedDict()
        self._max_records = max_records
        self._lifetime = lifetime
        self.changed = changed

    def __len__(self) -> int:
        return len(self._records)

    def recall(self, place: Place, now: float, *, bulk: bool) -> Recalled:
        """What is known of the server at `place`."""
        choice = self._get(place, _PURPOSES[bulk], now)
        troubles = {}
        for transport in TRANSPORTS:
            record = self._get(place, transport, now)
            if record is not None:
                troubles[transport] = Trouble(*record)
        return Recalled(choice[0] if choice is not None else None, troubles)

    def served(self, place: Place, transport: str, now: float, *, bulk: bool) -> None:
        """A session over `transport` came to be.

        What is known already is not made younger: others get another chance after a while.
        """
        found = self._get(place, _PURPOSES[bulk], now)
        cleared = self._records.pop((*place, transport), None) is not None
        if found is None or found[0] != transport:
            self._put((*place, _PURPOSES[bulk]), transport, now)
        elif not cleared:
            return
        self._tell()

    def failed(self, place: Place, transport: str, reason: str, now: float) -> None:
        """`transport` did not serve, for that reason."""
        self._put((*place, transport), reason[:_MAX_TEXT], now)
        self._tell()

    def dump(self) -> list[list[object]]:
        """All of it, as what JSON has."""
        return [[*key, *record] for key, record in self._records.items()]

    def load(self, data: object, now: float) -> None:
        """Take what another's `dump` said. Raises `ValueError` for anything else."""
        if not isinstance(data, list) or len(data) > self._max_records:
            raise ValueError("not a list of so many records")
        for record in data:
            key, value, at = _read(record)
            if self._is_fresh(at, now):
                self._put(key, value, at)

    def _get(self, place: Place, subject: str, now: float) -> tuple[str, float] | None:
        record = self._records.get((*place, subject))
        return record if record is not None and self._is_fresh(record[1], now) else None

    def _is_fresh(self, at: float, now: float) -> bool:
        return now - self._lifetime < at <= now  # a clock that was set back makes it no younger

    def _put(self, key: tuple[str, int, str], value: str, at: float) -> None:
        self._records[key] = (value, at)
        self._records.move_to_end(key)
        while len(self._records) > self._max_records:
            self._records.popitem(last=False)

    def _tell(self) -> None:
        if self.changed is not None:
            self.changed(self)


def _read(record: object) -> tuple[tuple[str, int, str], str, float]:
    match record:
        case [str(host), int(port), str(subject), str(value), int() | float() as at] if (
            len(host) <= _MAX_TEXT
            and len(value) <= _MAX_TEXT
            and 0 < port < 1 << 16
            and math.isfinite(at)
        ):
            choice = subject in _PURPOSES.values() and value in TRANSPORTS
            if choice or subject in TRANSPORTS:
                return (host, port, subject), value, float(at)
    raise ValueError("not a record")
