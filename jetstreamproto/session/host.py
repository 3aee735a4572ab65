"""What a session needs of the factory it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred

from jetstreamproto.errors import JetStreamError
from jetstreamproto.session.protocol import ChannelProtocol
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.wire.session_messages import Hello

if TYPE_CHECKING:
    from jetstreamproto.session.session import Session


class SessionHost(Protocol):
    """Offers services, judges peers, and is told of sessions that come and go."""

    settings: SessionSettings

    @property
    def authenticates(self) -> bool:
        """Whether `authenticate` may refuse a client, which then is not greeted before."""

    def accept(self, session: Session, service: str) -> ChannelProtocol:
        """The protocol for a channel the peer opens; raises `ServiceNotFound` or `NotAllowed`."""

    def authenticate(self, session: Session, hello: Hello) -> Deferred[object] | None:
        """Judge a client's credentials: None to accept, or a Deferred of its avatar."""

    def credentials(self) -> tuple[str, str] | None:
        """The user name and password that a client introduces itself with."""

    def session_made(self, session: Session) -> None:
        """The session is connected."""

    def session_lost(self, session: Session, reason: JetStreamError | None) -> None:
        """The session, connected or not, is gone."""
