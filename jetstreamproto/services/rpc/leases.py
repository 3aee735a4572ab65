"""Who provides which service, for as long as leases are kept up. Time and ids are arguments."""

from __future__ import annotations

import heapq
from typing import Annotated

import msgspec

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.model import RpcStatus

MIN_LEASE, MAX_LEASE = 1.0, 3600.0
"""Seconds that a lease may last."""
MAX_LEASES = 10_000
MAX_PROVIDERS = 1_000
"""Of one service."""
MAX_OWNED = 100
"""Leases of one owner."""

# In Python, unlike elsewhere, $ matches before a last newline, too.
_ADDRESS = r"^[!-~]+:[0-9]+$(?!\n)"
_GRAPHIC = r"^[!-~]*$(?!\n)"
_TRANSPORT = r"^(auto|tcp|udp|quic)$(?!\n)"


class RpcProvider(msgspec.Struct, frozen=True, order=True):
    """Where a service can be called.

    `address` is `HOST:PORT`, `fingerprint` what that server shows, or "" where clients have
    another way to know it; `transport` is `tcp`, `udp`, `quic` or `auto`.
    """

    address: Annotated[str, msgspec.Meta(min_length=3, max_length=261, pattern=_ADDRESS)]
    fingerprint: Annotated[str, msgspec.Meta(max_length=100, pattern=_GRAPHIC)] = ""
    transport: Annotated[str, msgspec.Meta(pattern=_TRANSPORT)] = "auto"


class Lease(msgspec.Struct, frozen=True):
    """What was granted: renew it by its `id` within `seconds`."""

    id: str
    seconds: float


class _Entry(msgspec.Struct):
    service: str
    provider: RpcProvider
    owner: object
    seconds: float
    until: float


class LeaseTable:
    """All leases. What it returns of services are those whose providers have changed."""

    def __init__(
        self,
        most: int = MAX_LEASES,
        most_providers: int = MAX_PROVIDERS,
        most_owned: int = MAX_OWNED,
    ) -> None:
        self._most = most
        self._most_providers = most_providers
        self._most_owned = most_owned
        self._entries: dict[str, _Entry] = {}
        self._services: dict[str, dict[str, RpcProvider]] = {}
        self._leases_of: dict[object, set[str]] = {}
        self._due: list[tuple[float, str]] = []  # a heap; a renewed lease stays at its old place

    @property
    def earliest(self) -> float | None:
        """When `expire` is to be called next; None while there is no lease."""
        return self._due[0][0] if self._due else None

    def grant(
        self,
        lease: str,
        owner: object,
        service: str,
        provider: RpcProvider,
        seconds: float,
        now: float,
    ) -> None:
        """Lease a place to `owner`. Raises `RpcError` (RESOURCE_EXHAUSTED) when there is none."""
        held = self._services.get(service, {})
        if len(self._entries) >= self._most or len(held) >= self._most_providers:
            raise RpcError(RpcStatus.RESOURCE_EXHAUSTED, "there are too many leases")
        if len(self._leases_of.get(owner, ())) >= self._most_owned:
            raise RpcError(
                RpcStatus.RESOURCE_EXHAUSTED, f"you have {self._most_owned} leases already"
            )
        self._entries[lease] = _Entry(service, provider, owner, seconds, now + seconds)
        self._services.setdefault(service, {})[lease] = provider
        self._leases_of.setdefault(owner, set()).add(lease)
        heapq.heappush(self._due, (now + seconds, lease))
        if len(self._due) > 2 * len(self._entries) + 64:  # most are of leases that were released
            self._due = [(entry.until, lease) for lease, entry in self._entries.items()]
            heapq.heapify(self._due)

    def renew(self, lease: str, owner: object, now: float) -> float:
        """Start its time again; the seconds. Raises `RpcError` (NOT_FOUND) if it has ended."""
        entry = self._owned(lease, owner)
        entry.until = now + entry.seconds
        return entry.seconds

    def release(self, lease: str, owner: object) -> str:
        """End it; the service. Raises `RpcError` (NOT_FOUND) if it has ended."""
        self._owned(lease, owner)
        return self._end(lease)

    def release_all(self, owner: object) -> set[str]:
        """End all that `owner` has."""
        return {self._end(lease) for lease in tuple(self._leases_of.get(owner, ()))}

    def expire(self, now: float) -> set[str]:
        """End those whose time is over."""
        changed = set()
        while self._due and self._due[0][0] <= now:
            _, lease = heapq.heappop(self._due)
            entry = self._entries.get(lease)
            if entry is None:
                continue
            if entry.until > now:
                heapq.heappush(self._due, (entry.until, lease))
            else:
                changed.add(self._end(lease))
        return changed

    def providers(self, service: str) -> list[RpcProvider]:
        """Those of `service`, each once, in order."""
        return sorted(set(self._services.get(service, {}).values()))

    def services(self) -> list[str]:
        """Those that have a provider."""
        return sorted(self._services)

    def _owned(self, lease: str, owner: object) -> _Entry:
        entry = self._entries.get(lease)
        if entry is None or entry.owner is not owner:
            raise RpcError(RpcStatus.NOT_FOUND, "there is no such lease of yours any more")
        return entry

    def _end(self, lease: str) -> str:
        entry = self._entries.pop(lease)
        held = self._services[entry.service]
        del held[lease]
        if not held:
            del self._services[entry.service]
        owned = self._leases_of[entry.owner]
        owned.discard(lease)
        if not owned:
            del self._leases_of[entry.owner]
        if not self._entries:
            self._due.clear()
        return entry.service
