"""Endpoints: any Twisted protocol over a byte stream in a session.

    serverFromString(reactor, "jetstream:9000").listen(factory)
    clientFromString(reactor, "jetstream:localhost:9000").connect(factory)

Twisted finds the parsers of these strings by its plugins; `strings` says what may stand in them.
What is named here is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetstreamproto.endpoints.client import JetStreamClientEndpoint
    from jetstreamproto.endpoints.pool import SessionPool, session_pool
    from jetstreamproto.endpoints.server import JetStreamPort, JetStreamServerEndpoint

_HOMES = {
    "JetStreamClientEndpoint": "client",
    "JetStreamPort": "server",
    "JetStreamServerEndpoint": "server",
    "SessionPool": "pool",
    "session_pool": "pool",
}

__all__ = [
    "JetStreamClientEndpoint",
    "JetStreamPort",
    "JetStreamServerEndpoint",
    "SessionPool",
    "session_pool",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
