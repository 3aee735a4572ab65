"""JetStreamProto: encrypted, multiplexed messages and streams for Twisted.

Everything an application needs is importable from here; docs/guide.md says what for. The modules
behind the names are imported when a name is first used, which keeps the command line quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jetstreamproto._version import __version__

if TYPE_CHECKING:
    from jetstreamproto.client import ReconnectingClient, connect, connect_quic, connect_udp
    from jetstreamproto.datagram import JetStreamDatagramProtocol, listen_udp
    from jetstreamproto.errors import (
        ChannelClosed,
        ChannelError,
        ChannelReset,
        ChatError,
        EventError,
        FileError,
        HandshakeError,
        JetStreamError,
        KeyValueError,
        MessageTooLarge,
        NotAllowed,
        QueueFull,
        RevisionConflict,
        RpcError,
        ServiceNotFound,
        SessionClosed,
        SessionCut,
        SessionError,
        TrustError,
        UnknownHost,
        WireError,
    )
    from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
    from jetstreamproto.opening.destination import Destination
    from jetstreamproto.protocol import JetStreamProtocol
    from jetstreamproto.reactors.profiled import profiled
    from jetstreamproto.reliability.settings import DatagramSettings
    from jetstreamproto.security.identity import Identity
    from jetstreamproto.security.trust import CertificateAuthority, KnownHosts, PinnedKeys
    from jetstreamproto.services.chat.client import ChatClient
    from jetstreamproto.services.chat.model.codes import ChatCode
    from jetstreamproto.services.chat.model.notice import Member, Notice, NoticeKind
    from jetstreamproto.services.chat.room import ChatRoom
    from jetstreamproto.services.chat.service import ChatOffer
    from jetstreamproto.services.events.broker import EventBroker
    from jetstreamproto.services.events.client import EventClient
    from jetstreamproto.services.events.model.event import Event, Policy, Receipt, Start
    from jetstreamproto.services.events.offer import EventOffer
    from jetstreamproto.services.events.receiving import Subscription
    from jetstreamproto.services.files.asking import Transfer
    from jetstreamproto.services.files.client import FileClient
    from jetstreamproto.services.files.model import Overwrite
    from jetstreamproto.services.files.service import FileOffer
    from jetstreamproto.services.kv.client import KeyBucket, KeyValueClient
    from jetstreamproto.services.kv.model import ChangeKind, KeyEntry
    from jetstreamproto.services.kv.service import KeyValueOffer
    from jetstreamproto.services.kv.watch import KeyWatch
    from jetstreamproto.services.rpc.balancer import RpcBalancer
    from jetstreamproto.services.rpc.client import RpcClient
    from jetstreamproto.services.rpc.context import RpcContext
    from jetstreamproto.services.rpc.discovery import RpcDiscovery, connect_provider
    from jetstreamproto.services.rpc.leases import RpcProvider
    from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
    from jetstreamproto.services.rpc.registration import RpcRegistration
    from jetstreamproto.services.rpc.registry import RpcRegistry
    from jetstreamproto.services.rpc.service import RpcServer
    from jetstreamproto.services.rpc.signatures import rpc_method, rpc_service
    from jetstreamproto.services.rpc.stream import RpcStream
    from jetstreamproto.session.channel import Channel
    from jetstreamproto.session.codes import ResetCode
    from jetstreamproto.session.protocol import ChannelProtocol, Inbox
    from jetstreamproto.session.session import Session
    from jetstreamproto.session.settings import SessionSettings
    from jetstreamproto.sockets.profiles import SocketProfile
    from jetstreamproto.wire.session_messages import Mode

_HOMES = {
    "CertificateAuthority": "jetstreamproto.security.trust",
    "ChangeKind": "jetstreamproto.services.kv.model",
    "Channel": "jetstreamproto.session.channel",
    "ChannelClosed": "jetstreamproto.errors",
    "ChannelError": "jetstreamproto.errors",
    "ChannelProtocol": "jetstreamproto.session.protocol",
    "ChannelReset": "jetstreamproto.errors",
    "ChatClient": "jetstreamproto.services.chat.client",
    "ChatCode": "jetstreamproto.services.chat.model.codes",
    "ChatError": "jetstreamproto.errors",
    "ChatOffer": "jetstreamproto.services.chat.service",
    "ChatRoom": "jetstreamproto.services.chat.room",
    "DatagramSettings": "jetstreamproto.reliability.settings",
    "Destination": "jetstreamproto.opening.destination",
    "Event": "jetstreamproto.services.events.model.event",
    "EventBroker": "jetstreamproto.services.events.broker",
    "EventClient": "jetstreamproto.services.events.client",
    "EventError": "jetstreamproto.errors",
    "EventOffer": "jetstreamproto.services.events.offer",
    "FileClient": "jetstreamproto.services.files.client",
    "FileError": "jetstreamproto.errors",
    "FileOffer": "jetstreamproto.services.files.service",
    "HandshakeError": "jetstreamproto.errors",
    "Identity": "jetstreamproto.security.identity",
    "Inbox": "jetstreamproto.session.protocol",
    "JetStreamClientFactory": "jetstreamproto.factory",
    "JetStreamDatagramProtocol": "jetstreamproto.datagram",
    "JetStreamError": "jetstreamproto.errors",
    "JetStreamProtocol": "jetstreamproto.protocol",
    "JetStreamServerFactory": "jetstreamproto.factory",
    "KeyBucket": "jetstreamproto.services.kv.client",
    "KeyEntry": "jetstreamproto.services.kv.model",
    "KeyValueClient": "jetstreamproto.services.kv.client",
    "KeyValueError": "jetstreamproto.errors",
    "KeyValueOffer": "jetstreamproto.services.kv.service",
    "KeyWatch": "jetstreamproto.services.kv.watch",
    "KnownHosts": "jetstreamproto.security.trust",
    "Member": "jetstreamproto.services.chat.model.notice",
    "MessageTooLarge": "jetstreamproto.errors",
    "Mode": "jetstreamproto.wire.session_messages",
    "NotAllowed": "jetstreamproto.errors",
    "Notice": "jetstreamproto.services.chat.model.notice",
    "NoticeKind": "jetstreamproto.services.chat.model.notice",
    "Overwrite": "jetstreamproto.services.files.model",
    "PinnedKeys": "jetstreamproto.security.trust",
    "Policy": "jetstreamproto.services.events.model.event",
    "QueueFull": "jetstreamproto.errors",
    "Receipt": "jetstreamproto.services.events.model.event",
    "ReconnectingClient": "jetstreamproto.client",
    "ResetCode": "jetstreamproto.session.codes",
    "RevisionConflict": "jetstreamproto.errors",
    "RpcBalancer": "jetstreamproto.services.rpc.balancer",
    "RpcClient": "jetstreamproto.services.rpc.client",
    "RpcContext": "jetstreamproto.services.rpc.context",
    "RpcDiscovery": "jetstreamproto.services.rpc.discovery",
    "RpcError": "jetstreamproto.errors",
    "RpcLimits": "jetstreamproto.services.rpc.model",
    "RpcProvider": "jetstreamproto.services.rpc.leases",
    "RpcRegistration": "jetstreamproto.services.rpc.registration",
    "RpcRegistry": "jetstreamproto.services.rpc.registry",
    "RpcServer": "jetstreamproto.services.rpc.service",
    "RpcStatus": "jetstreamproto.services.rpc.model",
    "RpcStream": "jetstreamproto.services.rpc.stream",
    "ServiceNotFound": "jetstreamproto.errors",
    "Session": "jetstreamproto.session.session",
    "SessionClosed": "jetstreamproto.errors",
    "SessionCut": "jetstreamproto.errors",
    "SessionError": "jetstreamproto.errors",
    "SessionSettings": "jetstreamproto.session.settings",
    "SocketProfile": "jetstreamproto.sockets.profiles",
    "Start": "jetstreamproto.services.events.model.event",
    "Subscription": "jetstreamproto.services.events.receiving",
    "Transfer": "jetstreamproto.services.files.asking",
    "TrustError": "jetstreamproto.errors",
    "UnknownHost": "jetstreamproto.errors",
    "WireError": "jetstreamproto.errors",
    "connect": "jetstreamproto.client",
    "connect_provider": "jetstreamproto.services.rpc.discovery",
    "connect_quic": "jetstreamproto.client",
    "connect_udp": "jetstreamproto.client",
    "listen_udp": "jetstreamproto.datagram",
    "profiled": "jetstreamproto.reactors.profiled",
    "rpc_method": "jetstreamproto.services.rpc.signatures",
    "rpc_service": "jetstreamproto.services.rpc.signatures",
}

__all__ = [
    "CertificateAuthority",
    "ChangeKind",
    "Channel",
    "ChannelClosed",
    "ChannelError",
    "ChannelProtocol",
    "ChannelReset",
    "ChatClient",
    "ChatCode",
    "ChatError",
    "ChatOffer",
    "ChatRoom",
    "DatagramSettings",
    "Destination",
    "Event",
    "EventBroker",
    "EventClient",
    "EventError",
    "EventOffer",
    "FileClient",
    "FileError",
    "FileOffer",
    "HandshakeError",
    "Identity",
    "Inbox",
    "JetStreamClientFactory",
    "JetStreamDatagramProtocol",
    "JetStreamError",
    "JetStreamProtocol",
    "JetStreamServerFactory",
    "KeyBucket",
    "KeyEntry",
    "KeyValueClient",
    "KeyValueError",
    "KeyValueOffer",
    "KeyWatch",
    "KnownHosts",
    "Member",
    "MessageTooLarge",
    "Mode",
    "NotAllowed",
    "Notice",
    "NoticeKind",
    "Overwrite",
    "PinnedKeys",
    "Policy",
    "QueueFull",
    "Receipt",
    "ReconnectingClient",
    "ResetCode",
    "RevisionConflict",
    "RpcBalancer",
    "RpcClient",
    "RpcContext",
    "RpcDiscovery",
    "RpcError",
    "RpcLimits",
    "RpcProvider",
    "RpcRegistration",
    "RpcRegistry",
    "RpcServer",
    "RpcStatus",
    "RpcStream",
    "ServiceNotFound",
    "Session",
    "SessionClosed",
    "SessionCut",
    "SessionError",
    "SessionSettings",
    "SocketProfile",
    "Start",
    "Subscription",
    "Transfer",
    "TrustError",
    "UnknownHost",
    "WireError",
    "__version__",
    "connect",
    "connect_provider",
    "connect_quic",
    "connect_udp",
    "listen_udp",
    "profiled",
    "rpc_method",
    "rpc_service",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
