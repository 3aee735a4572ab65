"""The contract of the service `files` over QUIC, in virtual time."""

from __future__ import annotations

from typing import Any

from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.testing import DatagramPair, LinkOptions
from tests.contracts.files_contract import FilesContract
from tests.doubles import IDENTITY, QuickClock


class FilesOverQuicTests(FilesContract):
    """Where packets get lost."""

    def connect(self, **options: Any) -> DatagramPair:
        return DatagramPair(
            self.offer.services,
            transport="quic",
            link=LinkOptions(delay=0.01, loss=0.02),
            identity=IDENTITY,
            clock=QuickClock(),
            datagrams=DatagramSettings(mtu=1452),
            **options,
        )


del FilesContract
