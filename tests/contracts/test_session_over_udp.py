"""The session's contract over UDP, on a simulated network and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.session_contract import SessionContract
from tests.doubles import IDENTITY, KIB, MIB, QuickClock


class _OverUdp(SessionContract):
    large = MIB
    link = LinkOptions()
    batches = True
    datagrams = DatagramSettings(mtu=1452)  # a search would count where bytes are counted

    def connect(self, services: Any = None, **options: Any) -> DatagramPair:
        return DatagramPair(
            services or {},
            link=self.link,
            batches=self.batches,
            identity=IDENTITY,
            clock=QuickClock(),
            datagrams=self.datagrams,
            **options,
        )


class SessionOverUdpTests(_OverUdp, SynchronousTestCase):
    """At no distance."""


class SessionOverPlainUdpTests(_OverUdp, SynchronousTestCase):
    """On a port of Twisted's own, 25 ms away."""

    link = LinkOptions(delay=0.025)
    batches = False


class _OverLossyUdp(_OverUdp):
    large = 200 * KIB

    def test_a_paused_receiver_stops_the_sender_within_the_window(self) -> None:
        """Bytes on the wire say nothing about the window here."""


class SessionOverLossyUdpTests(_OverLossyUdp, SynchronousTestCase):
    """Where packets get lost, doubled and reordered."""

    link = LinkOptions(delay=0.025, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)


class SessionOverFecTests(_OverLossyUdp, SynchronousTestCase):
    """With everything protected, on a path that loses a tenth, and corrupts some."""

    link = LinkOptions(delay=0.01, loss=0.1, corrupt=0.02)
    datagrams = DatagramSettings(mtu=1200, fec="10+2")
