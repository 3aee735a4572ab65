"""JetStreamProto: encrypted, multiplexed messages and streams for Twisted.

Everything an application needs is importable from here; docs/guide.md says what for. The modules
behind the names are imported when a name is first used, which keeps the command line quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jetstreamproto._version import __version__

if TYPE_CHECKING:
    from jetstreamproto.client import ReconnectingClient, connect
    from jetstreamproto.datagram import JetStreamDatagramProtocol, connect_udp, listen_udp
    from jetstreamproto.errors import (
        ChannelClosed,
        ChannelError,
        ChannelReset,
        HandshakeError,
        JetStreamError,
        MessageTooLarge,
        NotAllowed,
        QueueFull,
        ServiceNotFound,
        SessionClosed,
        SessionCut,
        SessionError,
        TrustError,
        UnknownHost,
        WireError,
    )
    from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
    from jetstreamproto.protocol import JetStreamProtocol
    from jetstreamproto.reliability.settings import DatagramSettings
    from jetstreamproto.security.identity import Identity
    from jetstreamproto.security.trust import CertificateAuthority, KnownHosts, PinnedKeys
    from jetstreamproto.session.channel import Channel
    from jetstreamproto.session.codes import ResetCode
    from jetstreamproto.session.protocol import ChannelProtocol, Inbox
    from jetstreamproto.session.session import Session
    from jetstreamproto.session.settings import SessionSettings
    from jetstreamproto.wire.session_messages import Mode

_HOMES = {
    "CertificateAuthority": "jetstreamproto.security.trust",
    "Channel": "jetstreamproto.session.channel",
    "ChannelClosed": "jetstreamproto.errors",
    "ChannelError": "jetstreamproto.errors",
    "ChannelProtocol": "jetstreamproto.session.protocol",
    "ChannelReset": "jetstreamproto.errors",
    "DatagramSettings": "jetstreamproto.reliability.settings",
    "HandshakeError": "jetstreamproto.errors",
    "Identity": "jetstreamproto.security.identity",
    "Inbox": "jetstreamproto.session.protocol",
    "JetStreamClientFactory": "jetstreamproto.factory",
    "JetStreamDatagramProtocol": "jetstreamproto.datagram",
    "JetStreamError": "jetstreamproto.errors",
    "JetStreamProtocol": "jetstreamproto.protocol",
    "JetStreamServerFactory": "jetstreamproto.factory",
    "KnownHosts": "jetstreamproto.security.trust",
    "MessageTooLarge": "jetstreamproto.errors",
    "Mode": "jetstreamproto.wire.session_messages",
    "NotAllowed": "jetstreamproto.errors",
    "PinnedKeys": "jetstreamproto.security.trust",
    "QueueFull": "jetstreamproto.errors",
    "ReconnectingClient": "jetstreamproto.client",
    "ResetCode": "jetstreamproto.session.codes",
    "ServiceNotFound": "jetstreamproto.errors",
    "Session": "jetstreamproto.session.session",
    "SessionClosed": "jetstreamproto.errors",
    "SessionCut": "jetstreamproto.errors",
    "SessionError": "jetstreamproto.errors",
    "SessionSettings": "jetstreamproto.session.settings",
    "TrustError": "jetstreamproto.errors",
    "UnknownHost": "jetstreamproto.errors",
    "WireError": "jetstreamproto.errors",
    "connect": "jetstreamproto.client",
    "connect_udp": "jetstreamproto.datagram",
    "listen_udp": "jetstreamproto.datagram",
}

__all__ = [
    "CertificateAuthority",
    "Channel",
    "ChannelClosed",
    "ChannelError",
    "ChannelProtocol",
    "ChannelReset",
    "DatagramSettings",
    "HandshakeError",
    "Identity",
    "Inbox",
    "JetStreamClientFactory",
    "JetStreamDatagramProtocol",
    "JetStreamError",
    "JetStreamProtocol",
    "JetStreamServerFactory",
    "KnownHosts",
    "MessageTooLarge",
    "Mode",
    "NotAllowed",
    "PinnedKeys",
    "QueueFull",
    "ReconnectingClient",
    "ResetCode",
    "ServiceNotFound",
    "Session",
    "SessionClosed",
    "SessionCut",
    "SessionError",
    "SessionSettings",
    "TrustError",
    "UnknownHost",
    "WireError",
    "__version__",
    "connect",
    "connect_udp",
    "listen_udp",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
