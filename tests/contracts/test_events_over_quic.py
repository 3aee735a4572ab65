"""The contract of events over QUIC, on a simulated network and in virtual time."""

from __future__ import annotations

from jetstreamproto.testing import LinkOptions
from tests.contracts import test_events_over_udp as over_udp


class EventsOverQuicTests(over_udp.EventsOverLossyUdpTests):
    """At 10 ms each way."""

    transport = "quic"
    link = LinkOptions(delay=0.01)
