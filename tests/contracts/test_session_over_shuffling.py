"""The session's contract over a link on which packets of different channels change places."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.testing.pair import SessionPair
from tests.contracts.session_contract import SessionContract
from tests.shuffling import ShufflingPair


class SessionOverShufflingTests(SessionContract, SynchronousTestCase):
    """At no distance."""

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return ShufflingPair(services or {}, seed=1, **options)


class SessionOverLongShufflingTests(SessionContract, SynchronousTestCase):
    """At 50 ms each way."""

    def connect(self, services: Any = None, **options: Any) -> SessionPair:
        return ShufflingPair(services or {}, seed=2, latency=0.05, **options)
