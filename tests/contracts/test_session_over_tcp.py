"""The session's contract over the TCP link, on a connection in memory and in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.testing.pair import SessionPair
from tests.contracts.session_contract import SessionContract
from tests.doubles import KIB, make_pair


class SessionOverTcpTests(SessionContract, SynchronousTestCase):
    """At no distance."""

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return make_pair(services or {}, **options)


class SessionOverLongTcpTests(SessionContract, SynchronousTestCase):
    """At 50 ms each way."""

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return make_pair(services or {}, latency=0.05, **options)


class SessionOverChoppedTcpTests(SessionContract, SynchronousTestCase):
    """With every byte arriving on its own."""

    large = 200 * KIB

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return make_pair(services or {}, chop=1, **options)
