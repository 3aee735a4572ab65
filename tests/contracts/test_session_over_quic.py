"""The session's contract over QUIC, on a simulated network and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.session_contract import SessionContract
from tests.doubles import IDENTITY, KIB, MIB, QuickClock


class _OverQuic(SessionContract):
    large = MIB
    link = LinkOptions()
    batches = True
    datagrams = DatagramSettings(mtu=1452)

    def connect(self, services: Any = None, **options: Any) -> DatagramPair:
        return DatagramPair(
            services or {},
            transport="quic",
            link=self.link,
            batches=self.batches,
            identity=IDENTITY,
            clock=QuickClock(),
            datagrams=self.datagrams,
            **options,
        )


class SessionOverQuicTests(_OverQuic, SynchronousTestCase):
    """At no distance."""


class SessionOverPlainQuicTests(_OverQuic, SynchronousTestCase):
    """On a port of Twisted's own, 25 ms away."""

    large = 400 * KIB
    link = LinkOptions(delay=0.025)
    batches = False


class SessionOverLossyQuicTests(_OverQuic, SynchronousTestCase):
    """Where packets get lost, doubled and reordered."""

    large = 200 * KIB
    link = LinkOptions(delay=0.025, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)

    def test_a_paused_receiver_stops_the_sender_within_the_window(self) -> None:
        """Bytes on the wire say nothing about the window here."""
