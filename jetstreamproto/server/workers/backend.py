"""The backend: the process that has the services which only one process can have.

Its sessions are with the workers, each in the name of a client; the socket is in a folder that only
the server's user can enter, and a worker proves itself by the server's own key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed

from jetstreamproto.errors import ProtocolViolation
from jetstreamproto.factory import Access, JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.offer import Offer
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.transports.admission import AdmissionLimits
from jetstreamproto.transports.link import Peer
from jetstreamproto.wire.session_messages import Hello

_MANY = 1 << 30


def describe_peer(client: Session) -> tuple[str, str]:
    """What a worker's HELLO says of the client: its name, and its avatar for a password."""
    peer, avatar = client.peer, client.avatar
    named = json.dumps([peer.address, peer.fingerprint, avatar is not None], ensure_ascii=False)
    return named, "" if avatar is None else str(avatar)


def adopt_peer(session: Session, hello: Hello) -> Deferred[object]:
    """Make the session with a worker one with the client; fires with the client's avatar."""
    try:
        address, fingerprint, known = json.loads(hello.username or "")
    except ValueError:
        return fail(ProtocolViolation("a worker that does not say who its client is"))
    session.link.peer = Peer(address, fingerprint)  # type: ignore[misc]
    return succeed(hello.password if known else None)


def backend(
    identity: Identity, offers: Sequence[Offer], access: Access, settings: SessionSettings
) -> tuple[Sequence[Offer], JetStreamServerFactory]:
    """What the backend offers, and the factory of its sessions with workers."""
    single = [offer for offer in offers if offer.single]
    factory = JetStreamServerFactory(
        identity,
        {name: service for offer in single for name, service in offer.services.items()},
        clients=PinnedKeys([identity.fingerprint]),
        authenticate=adopt_peer,
        access=access,
        settings=settings,
        admission=AdmissionLimits(_MANY, _MANY, _MANY),  # the workers' limits are what counts
    )
    return single, factory
