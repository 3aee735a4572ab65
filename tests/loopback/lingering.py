"""Tests that leave the reactor clean soon after their clients' sessions over UDP and QUIC."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.sockets.offload import BatchingPort
from jetstreamproto.transports import quic, udp


def linger_shortly(case: TestCase, reactor: Any) -> None:
    """A client's socket stays a tenth of a second to repeat its last words; `case` waits for it.

    To be called before the cleanups that end sessions are added.
    """

    async def gone() -> None:
        while any(isinstance(reader, BatchingPort) for reader in reactor.getReaders()):
            await deferLater(reactor, 0.02)

    case.addCleanup(lambda: ensureDeferred(gone()))
    for transport in (udp, quic):
        case.patch(transport, "_LONGEST_LINGER", 0.1)
