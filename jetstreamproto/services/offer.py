"""Offers: the services that a server has of one kind, and what they need while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from jetstreamproto.factory import Service
from jetstreamproto.session.session import Session


class Permissions(Protocol):
    """What the rules of access say beyond the name of a service; see `AccessRules.patterns`."""

    def __call__(
        self, session: Session, service: str, scope: str, default: Sequence[str] = ()
    ) -> tuple[str, ...]:
        """The patterns of a scope (`targets`, `publish`, ...) for the session's peer.

        They are those of every rule that lets the peer use `service`; a rule that says nothing
        of the scope counts as one with `default`. Nothing that matches none of them is allowed.
        """


class Offer:
    """One kind of service: what its channels are called, and how it begins and ends.

    Whatever is wrong with its settings is a `ConfigurationError` of the constructor, which may
    run in a process that becomes a daemon afterwards: files and databases are opened by `start`.
    """

    single = False
    """Whether all clients must find the same one, however many processes share the port."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self.services = services
        """What makes the protocol of a channel, by the name that clients open it by."""

    def check(self) -> None:
        """Raise `ConfigurationError` for what would keep `start` from succeeding just now.

        Leaves nothing behind: it may be called by another user, and in another process.
        """

    def start(self, reactor: Any) -> None:
        """The server is about to accept sessions."""

    def stop(self) -> Deferred[None] | None:
        """The last session has ended. A Deferred is waited for."""
        return None
