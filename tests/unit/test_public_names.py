"""The public names: what applications import may be added to, but not lost by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import TestCase

import jetstreamproto

ROOT = Path(__file__).parents[2]

PUBLIC = {
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
}


class PublicNamesTests(TestCase):
    def test_these_and_no_others(self) -> None:
        self.assertEqual(set(jetstreamproto.__all__), PUBLIC)

    def test_each_is_there_and_documented(self) -> None:
        for name in PUBLIC - {"__version__"}:
            with self.subTest(name):
                value = getattr(jetstreamproto, name)
                self.assertEqual(value.__name__, name)
                self.assertTrue(value.__doc__)

    def test_others_are_missing_as_from_any_module(self) -> None:
        with self.assertRaises(AttributeError):
            jetstreamproto.nothing_of_that_name  # noqa: B018
        self.assertLessEqual(PUBLIC, set(dir(jetstreamproto)))

    def test_importing_the_package_installs_no_reactor(self) -> None:
        script = (
            "import sys, jetstreamproto\n"
            "[getattr(jetstreamproto, name) for name in jetstreamproto.__all__]\n"
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, cwd=ROOT)
        self.assertEqual(done.returncode, 0)
