"""What a QUIC connection needs of its surroundings: a port, and a timer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.sockets.options import Setting
from jetstreamproto.transports.quic_outlet import Sender

if TYPE_CHECKING:
    from jetstreamproto.transports.quic import QuicLink


class QuicPort(Sender, Protocol):
    """What a link needs of whoever owns the socket."""

    settings: DatagramSettings

    @property
    def clock(self) -> IReactorTime: ...

    def now(self) -> float:
        """Seconds on a monotonic clock."""

    def socket_figures(self) -> Mapping[str, int | str]:
        """What the kernel has granted to the socket."""

    def socket_settings(self) -> tuple[Setting, ...]:
        """What was asked for the socket, and what became of it."""

    def touched(self, link: QuicLink) -> None:
        """Call `link.settle` when the batch that is being received has ended."""

    def closed(self, link: QuicLink) -> None:
        """`link` is over: forget it."""

    def id_added(self, link: QuicLink, connection_id: bytes) -> None:
        """Datagrams for `connection_id` are the link's, from now on."""

    def id_removed(self, link: QuicLink, connection_id: bytes) -> None:
        """... until now."""


class Alarm:
    """One timer, that of the earliest time it is set to. Who is called sets it again."""

    def __init__(self, port: QuicPort) -> None:
        self._port = port
        self._call: IDelayedCall | None = None
        self._when = 0.0

    @property
    def is_set(self) -> bool:
        return self._call is not None

    def set(self, when: float, ring: Callable[[], None]) -> None:
        """Call `ring` at `when`, unless something is called before that."""
        if self._call is not None:
            if self._when <= when:
                return
            self._call.cancel()
        self._when = when
        delay = max(0.0, when - self._port.now())
        self._call = self._port.clock.callLater(delay, self._ring, ring)

    def stop(self) -> None:
        """Call nobody."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _ring(self, ring: Callable[[], None]) -> None:
        self._call = None
        ring()
