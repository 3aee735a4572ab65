"""The contract of the service `files` over TCP, in virtual time."""

from __future__ import annotations

from typing import Any

from jetstreamproto.testing import SessionPair
from tests.contracts.files_contract import FilesContract
from tests.doubles import IDENTITY, QuickClock


class FilesOverTcpTests(FilesContract):
    """At 10 ms each way."""

    def connect(self, **options: Any) -> SessionPair:
        return SessionPair(
            self.offer.services, identity=IDENTITY, clock=QuickClock(), latency=0.01, **options
        )


del FilesContract
