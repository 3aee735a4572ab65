"""The contract of the service `files` over UDP, in virtual time."""

from __future__ import annotations

from typing import Any

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.files_contract import FilesContract
from tests.doubles import IDENTITY, QuickClock


class FilesOverUdpTests(FilesContract):
    """At no distance."""

    link = LinkOptions()
    datagrams = DatagramSettings(mtu=1452)

    def connect(self, **options: Any) -> DatagramPair:
        return DatagramPair(
            self.offer.services,
            link=self.link,
            identity=IDENTITY,
            clock=QuickClock(),
            datagrams=self.datagrams,
            **options,
        )


class FilesOverLossyUdpTests(FilesOverUdpTests):
    """Where packets get lost, doubled and reordered."""

    link = LinkOptions(delay=0.025, jitter=0.005, loss=0.05, duplicate=0.02, reorder=0.02)


class FilesOverFecTests(FilesOverUdpTests):
    """With everything protected, on a path that loses a tenth."""

    link = LinkOptions(delay=0.01, loss=0.1)
    datagrams = DatagramSettings(mtu=1452, fec="10+2")


del FilesContract
