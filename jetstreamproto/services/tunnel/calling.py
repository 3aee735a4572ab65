"""Opening a tunnel's channel for a TCP connection that is there already.

Both sides do: a client for connections to its own ports, a server for those to the ports that it
listens on for a client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jetstreamproto.errors import JetStreamError, SessionClosed
from jetstreamproto.services.tunnel.messages import Request
from jetstreamproto.services.tunnel.model import TUNNEL
from jetstreamproto.services.tunnel.relay import Calling
from jetstreamproto.services.tunnel.tcp import TcpSide
from jetstreamproto.session.codes import DEFAULT_URGENCY
from jetstreamproto.session.session import Session


def call(
    session: Session,
    request: Request,
    tcp: TcpSide,
    timeout: float,
    received: bytes = b"",
    *,
    urgency: int = DEFAULT_URGENCY,
    on_gone: Callable[[JetStreamError | None], None] | None = None,
) -> Calling:
    """Open a channel in `session`, ask for `request`, and join `tcp` to it at once.

    What the connection sends (it has sent `received` already) follows the request, so nothing waits
    for the answer. If that is a refusal, `tcp` is reset.
    """
    relay = Calling(request, timeout, on_gone)
    if not session.accepts_channels:
        tcp.abort()
        relay.channel_closed(SessionClosed("the session is closing"))
        return relay
    # secret: what passes through may not be compressed unasked (CRIME)
    opening = session.open(TUNNEL, relay, urgency=urgency, secret=True)
    relay.ask()
    relay.join(tcp, received)
    opening.addErrback(relay.refused)
    return relay


class AcceptedTcp(TcpSide):
    """A connection to a port of ours, of which `accepted` is told with its origin."""

    def __init__(self, accepted: Callable[[TcpSide, Any], None], origin: Any) -> None:
        super().__init__()
        self._accepted = accepted
        self._origin = origin

    def connectionMade(self) -> None:
        super().connectionMade()
        self._accepted(self, self._origin)
