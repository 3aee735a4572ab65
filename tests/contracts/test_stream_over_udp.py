"""The byte stream's contract over UDP, on a simulated network and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.stream_contract import StreamContract
from tests.doubles import IDENTITY, KIB, MIB, QuickClock


class _OverUdp(StreamContract):
    large = MIB
    name = "udp"
    link = LinkOptions()

    def connect(self, services: Any = None, **options: Any) -> DatagramPair:
        return DatagramPair(
            services or {}, link=self.link, identity=IDENTITY, clock=QuickClock(), **options
        )


class StreamOverUdpTests(_OverUdp, SynchronousTestCase):
    """At no distance."""


class StreamOverLossyUdpTests(_OverUdp, SynchronousTestCase):
    """Where packets get lost, doubled and reordered."""

    large = 300 * KIB
    link = LinkOptions(delay=0.025, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)
