"""The byte stream's contract over QUIC, on a simulated network and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.stream_contract import StreamContract
from tests.doubles import IDENTITY, KIB, QuickClock


class StreamOverQuicTests(StreamContract, SynchronousTestCase):
    """At 10 ms each way."""

    large = 300 * KIB
    name = "quic"
    link = LinkOptions(delay=0.01)

    def connect(self, services: Any = None, **options: Any) -> DatagramPair:
        return DatagramPair(
            services or {},
            transport="quic",
            link=self.link,
            identity=IDENTITY,
            clock=QuickClock(),
            **options,
        )


class StreamOverLossyQuicTests(StreamOverQuicTests):
    """Where packets get lost, doubled and reordered."""

    link = LinkOptions(delay=0.025, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)
