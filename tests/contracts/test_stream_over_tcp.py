"""The byte stream's contract over the TCP link, on a connection in memory and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.testing.pair import SessionPair
from tests.contracts.stream_contract import StreamContract
from tests.doubles import MIB, make_pair


class StreamOverTcpTests(StreamContract, SynchronousTestCase):
    """At no distance."""

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return make_pair(services or {}, **options)


class StreamOverLongTcpTests(StreamContract, SynchronousTestCase):
    """At 50 ms each way."""

    large = MIB

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return make_pair(services or {}, latency=0.05, **options)
