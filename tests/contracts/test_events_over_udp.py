"""The contract of events over UDP, on a simulated network and in virtual time."""

from __future__ import annotations

from typing import Any

from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts import event_contract
from tests.doubles import IDENTITY


class EventsOverLossyUdpTests(event_contract.EventContract):
    """Where packets get lost, doubled and reordered."""

    large = 200_000
    transport = "udp"
    link = LinkOptions(delay=0.01, jitter=0.005, loss=0.03, duplicate=0.02, reorder=0.02)

    def connect(self, services: Any, latency: float = 0.0, **options: Any) -> Any:
        return DatagramPair(
            services,
            link=self.link,
            transport=self.transport,
            identity=IDENTITY,
            within=12 * 3600.0,
            **options,
        )
