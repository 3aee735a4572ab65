"""Which error ends a race, and which is shown."""

from __future__ import annotations

import unittest

from twisted.internet import error as network
from twisted.internet.defer import CancelledError

from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeError,
    HandshakeTimeout,
    NothingListens,
    NotJetStream,
    NotLetIn,
    PeerSilent,
    Refused,
    SessionCut,
    UnknownHost,
    WrongFingerprint,
)
from jetstreamproto.opening.failures import is_final, most_telling, reason

ORDER: list[tuple[str, Exception]] = [
    ("quic", NotJetStream("this is another program")),
    ("tcp", HandshakeTimeout("accepted")),
    ("tcp", network.NoRouteError()),
    ("tcp", network.ConnectionRefusedError()),
    ("tcp", network.TimeoutError()),
    ("udp", NothingListens("nothing")),
    ("quic", HandshakeTimeout("no answer")),
]


class FailureTests(unittest.TestCase):
    def test_verdicts_are_final(self) -> None:
        for error in (
            *(WrongFingerprint("x"), UnknownHost("h", "f"), NotLetIn("x"), Refused("full")),
            *(ConfigurationError("x"), ZeroDivisionError(), CancelledError(), GeneratorExit()),
        ):
            self.assertTrue(is_final(error), error)

    def test_what_only_concerns_one_transport_is_not(self) -> None:
        for error in (
            *(NothingListens("x"), HandshakeTimeout("x"), NotJetStream("x"), HandshakeError("x")),
            *(SessionCut("x"), PeerSilent("x"), network.ConnectionRefusedError()),
            *(network.TimeoutError(), network.CannotListenError("", 0, OSError())),
        ):
            self.assertFalse(is_final(error), error)

    def test_what_is_shown(self) -> None:
        for index, (_, error) in enumerate(ORDER):
            self.assertIs(most_telling(list(reversed(ORDER[index:]))), error)

    def test_reasons(self) -> None:
        self.assertEqual(reason("udp", None, 3.0), "udp did not answer within 3 s")
        self.assertEqual(
            reason("udp", HandshakeTimeout("x"), 0.256), "udp did not answer within 0.26 s"
        )
        self.assertEqual(reason("udp", NothingListens("x"), 1), "udp: nothing listens there")
        self.assertEqual(reason("tcp", NotJetStream("a web server"), 1), "tcp: a web server")
