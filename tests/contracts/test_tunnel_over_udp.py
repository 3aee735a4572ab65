"""The tunnel's contract over UDP, on a simulated network and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.tunnel_contract import TunnelContract
from tests.doubles import IDENTITY


class TunnelOverLossyUdpTests(TunnelContract, SynchronousTestCase):
    """Where packets get lost, doubled and reordered."""

    large = 200_000
    transport = "udp"
    link = LinkOptions(delay=0.025, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)

    def connect(self, services: Any, client_services: Any, **options: Any) -> Any:
        return DatagramPair(
            services,
            client_services,
            link=self.link,
            transport=self.transport,
            identity=IDENTITY,
            within=12 * 3600.0,
            **options,
        )
