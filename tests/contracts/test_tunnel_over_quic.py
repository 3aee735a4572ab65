"""The tunnel's contract over QUIC, on a simulated network and in virtual time."""

from __future__ import annotations

from jetstreamproto.testing import LinkOptions
from tests.contracts import test_tunnel_over_udp as over_udp


class TunnelOverQuicTests(over_udp.TunnelOverLossyUdpTests):
    """At 10 ms each way."""

    transport = "quic"
    link = LinkOptions(delay=0.01)
