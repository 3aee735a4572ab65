"""JetStreamProto: encrypted, multiplexed messages and streams for Twisted.

Everything an application needs is importable from here; see docs/ for each name's page.
"""

from jetstreamproto._version import __version__
from jetstreamproto.client import ReconnectingClient, connect
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
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import CertificateAuthority, KnownHosts, PinnedKeys
from jetstreamproto.session.channel import Channel
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import SessionSettings

__all__ = [
    "CertificateAuthority",
    "Channel",
    "ChannelClosed",
    "ChannelError",
    "ChannelProtocol",
    "ChannelReset",
    "HandshakeError",
    "Identity",
    "Inbox",
    "JetStreamClientFactory",
    "JetStreamError",
    "JetStreamProtocol",
    "JetStreamServerFactory",
    "KnownHosts",
    "MessageTooLarge",
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
]
