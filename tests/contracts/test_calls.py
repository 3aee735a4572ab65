"""The contract of calls over each transport, in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.testing import DatagramPair, LinkOptions
from jetstreamproto.testing.pair import SessionPair
from tests.contracts.calls_contract import CallsContract
from tests.doubles import IDENTITY, QuickClock, make_pair


class CallsOverTcpTests(CallsContract, SynchronousTestCase):
    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return make_pair(services or {}, latency=0.01, **options)


class _OverDatagrams(CallsContract):
    transport = "udp"
    link = LinkOptions(delay=0.01)

    def connect(self, services: Any = None, **options: Any) -> DatagramPair:
        return DatagramPair(
            services or {},
            transport=self.transport,
            link=self.link,
            identity=IDENTITY,
            clock=QuickClock(),
            datagrams=DatagramSettings(mtu=1452),
            **options,
        )


class CallsOverUdpTests(_OverDatagrams, SynchronousTestCase):
    pass


class CallsOverLossyUdpTests(_OverDatagrams, SynchronousTestCase):
    """Where packets get lost, doubled and reordered: no call is made twice."""

    link = LinkOptions(delay=0.02, jitter=0.005, loss=0.05, duplicate=0.05, reorder=0.05)


class CallsOverQuicTests(_OverDatagrams, SynchronousTestCase):
    transport = "quic"
