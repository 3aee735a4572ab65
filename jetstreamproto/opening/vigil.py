"""The watch over a session on datagrams, which may be filtered from any moment on."""

from __future__ import annotations

from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from jetstreamproto.errors import PeerSilent
from jetstreamproto.opening.attempts import is_reachable
from jetstreamproto.reliability.paths import Address
from jetstreamproto.session.session import Session

_LOOKS = 3
"""Looks in a row at which nothing has come. They are counted, and not the time between them:
after a host has slept, the peer still has that many to answer in."""


class _Figures(Protocol):
    """Of the statistics of a link over datagrams."""

    bytes_received: int
    in_flight: int


class _DatagramLink(Protocol):
    """What `UdpLink` and `QuicLink` have beside the contract."""

    @property
    def address(self) -> Address: ...

    @property
    def stats(self) -> _Figures: ...


class Vigil:
    """Ends a session over UDP or QUIC early if its peer answers over TCP and not there.

    Once the peer has left something unacknowledged and has sent nothing at all for `silence`
    seconds, its host is asked for a TCP connection. If there is one, datagrams are filtered, or
    the server knows nothing of the session any more, and the session ends with `PeerSilent`. If
    there is none the network is gone, and the session waits for it as long as it would otherwise.
    """

    def __init__(self, reactor: Any, session: Session, silence: float) -> None:
        self._reactor = reactor
        self._session = session
        self._link = cast(_DatagramLink, session.link)
        self._period = silence / _LOOKS
        self._heard = 0
        self._quiet = 0  # looks at which nothing had come, though something should have
        self._asking: Deferred[None] | None = None
        self._timer: IDelayedCall = reactor.callLater(self._period, self._look)
        session.when_closed().addCallback(self._stop)

    def _look(self) -> None:
        self._timer = self._reactor.callLater(self._period, self._look)
        self._quiet = self._quiet + 1 if self._is_quiet() else 0
        if self._quiet >= _LOOKS and self._asking is None:
            self._asking = Deferred.fromCoroutine(self._ask())

    def _is_quiet(self) -> bool:
        """Whether nothing has come since the last time, and the peer owes an acknowledgement."""
        figures = self._link.stats
        before, self._heard = self._heard, figures.bytes_received
        return figures.bytes_received == before and figures.in_flight > 0

    async def _ask(self) -> None:
        try:
            reachable = await is_reachable(self._reactor, *self._link.address, self._period)
        finally:
            self._asking = None
        if reachable and self._is_quiet():
            name = self._session.transport
            reason = f"the peer answers nothing over {name}, and can be reached over tcp"
            self._session.give_up(PeerSilent(reason))

    def _stop(self, _: None) -> None:
        self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
