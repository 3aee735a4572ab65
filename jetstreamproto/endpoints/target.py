"""The target of client connections: which server, by which transport, and why it is believed.

Endpoints with equal targets share their sessions.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.factory import JetStreamClientFactory
from jetstreamproto.opening.destination import Destination
from jetstreamproto.opening.model import AUTO
from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
from jetstreamproto.security.identity import IDENTITY_FILE, Identity
from jetstreamproto.security.names import canonical_name
from jetstreamproto.security.trust import (
    KNOWN_HOSTS_FILE,
    CertificateAuthority,
    KnownHosts,
    PinnedKeys,
    Trust,
)
from jetstreamproto.server.config import read_transport
from jetstreamproto.server.listeners import show_address
from jetstreamproto.session.settings import SessionSettings
from jetstreamproto.state import default_state_dir

_DRAIN_TIMEOUT = 3.0
"""What a session that nobody uses any more waits for the server's end."""


@attrs.frozen(kw_only=True)
class Target:
    """A server, and how to get to it. Raises `ConfigurationError` for what cannot be used.

    The server is believed by `ca` (a PEM file), by `pins` (fingerprints), otherwise by the
    known-hosts file in `state_dir`, to which `trust_new` adds it at first contact. This side
    shows the certificate in `cert`, otherwise the identity in `state_dir` if there is one.
    `transport`, `bulk` and `datagrams` are those of a `Destination`.
    """

    host: str
    port: int
    transport: str = AUTO
    bulk: bool = False
    pins: tuple[str, ...] = ()
    ca: Path | None = None
    trust_new: bool = False
    state_dir: Path = attrs.field(factory=default_state_dir)
    cert: Path | None = None
    key: Path | None = None
    datagrams: DatagramSettings = DEFAULT_DATAGRAM_SETTINGS

    def __attrs_post_init__(self) -> None:
        canonical_name(self.host)
        if not 0 < self.port < 1 << 16:
            raise ConfigurationError(f"{self.port} is not a port: 1 to 65535")
        if self.transport != AUTO:
            try:
                read_transport(self.transport)
            except ValueError as error:
                raise ConfigurationError(str(error)) from None
        if bool(self.pins) + (self.ca is not None) + self.trust_new > 1:
            raise ConfigurationError("only one of pin, ca and trustNew can be what decides")
        if self.key is not None and self.cert is None:
            raise ConfigurationError("key is of no use without cert")
        if self.pins:
            PinnedKeys(self.pins)

    def __str__(self) -> str:
        return show_address(self.host, self.port)

    def destination(self, reactor: Any, timeout: float) -> Destination:
        """What opens sessions with the server."""
        return Destination(
            reactor,
            self.host,
            self.port,
            transport=self.transport,
            bulk=self.bulk,
            timeout=timeout,
            datagrams=self.datagrams,
        )

    def client_factory(self, reactor: Any) -> JetStreamClientFactory:
        """What makes a session with the server. Reads the files, so do it when there is need."""
        own = self._own_identity()
        identity = own if self.cert is None else Identity.from_files(self.cert, self.key)
        return JetStreamClientFactory(
            self._trust(own),
            host=self.host,
            identity=identity,
            settings=SessionSettings(drain_timeout=_DRAIN_TIMEOUT),
            reactor=reactor,
        )

    def _own_identity(self) -> Identity | None:
        """This host's identity, if it has one. Nothing is created."""
        if not (self.state_dir / IDENTITY_FILE).exists():
            return None
        return Identity.load_or_create(self.state_dir, datetime.now(UTC))

    def _trust(self, own: Identity | None) -> Trust:
        if self.ca is not None:
            return CertificateAuthority(self.ca, self.host.partition("%")[0])
        if self.pins:
            return PinnedKeys(self.pins)
        return KnownHosts(
            self.state_dir / KNOWN_HOSTS_FILE,
            str(self),
            own=own.fingerprint if own is not None else None,
            trust_new=self.trust_new,
        )
