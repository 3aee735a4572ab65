"""What the factories offer to transports other than TCP."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.factory import Admitted, JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.protocol import JetStreamProtocol, TurnedAway
from jetstreamproto.security.handshake import Role
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.session.state import SessionState
from jetstreamproto.transports.admission import AdmissionLimits
from jetstreamproto.transports.link import Peer
from tests.certificates import NOW

IDENTITY = Identity.create(NOW)


class DeadLink:
    """A link that is gone as soon as it is asked to be."""

    peer = Peer("192.0.2.1:9000")

    def __init__(self, admitted: Admitted) -> None:
        self._admitted = admitted

    def abort(self) -> None:
        self._admitted.session.link_lost(None)
        self._admitted.release()


class ServerTests(SynchronousTestCase):
    def factory(self, **limits: int) -> JetStreamServerFactory:
        return JetStreamServerFactory(
            IDENTITY, admission=AdmissionLimits(**limits), reactor=Clock()
        )

    def admit(self, factory: JetStreamServerFactory, host: str = "192.0.2.1") -> Admitted:
        admitted = factory.admit(host)
        assert isinstance(admitted, Admitted), admitted
        return admitted

    def test_the_limits_count_all_transports(self) -> None:
        factory = self.factory(sessions=2)
        self.assertIsInstance(factory.buildProtocol(None), JetStreamProtocol)
        admitted = self.admit(factory)
        self.assertEqual(factory.admit("192.0.2.2"), "the server has too many connections")
        self.assertIsInstance(factory.buildProtocol(None), TurnedAway)
        admitted.release()
        self.assertIsInstance(factory.buildProtocol(None), JetStreamProtocol)
        self.assertEqual(factory.admission.refused, 2)

    def test_a_second_release_does_no_harm(self) -> None:
        factory = self.factory(sessions=2)
        first, _ = self.admit(factory), self.admit(factory)
        first.release()
        first.release()
        self.admit(factory)
        self.assertIsInstance(factory.admit("192.0.2.1"), str)

    def test_addresses_have_limits_of_their_own(self) -> None:
        factory = self.factory(half_open_per_address=1)
        self.admit(factory, "2001:db8::1")
        self.assertIsInstance(factory.admit("2001:db8::2"), str)
        self.admit(factory, "192.0.2.1")
        self.assertIsInstance(factory.admit("::ffff:192.0.2.1"), str)

    def test_a_connected_session_is_not_half_open(self) -> None:
        factory = self.factory(half_open=1)
        admitted = self.admit(factory)
        self.assertIsInstance(factory.admit("192.0.2.2"), str)
        factory.session_made(admitted.session)
        self.admit(factory)

    def test_nobody_is_admitted_to_a_server_that_drains(self) -> None:
        factory = self.factory()
        admitted = self.admit(factory)
        admitted.session.start(DeadLink(admitted))  # type: ignore[arg-type]
        self.assertFalse(factory.draining)
        self.successResultOf(factory.drain())
        self.assertTrue(factory.draining)
        self.assertIs(admitted.session.state, SessionState.CLOSED)
        self.assertEqual(factory.admit("192.0.2.1"), "the server is shutting down")

    def test_handshakes(self) -> None:
        factory = self.factory()
        one, other = factory.handshake(), factory.handshake()
        self.assertIs(one.role, Role.SERVER)
        self.assertIsNot(one, other)


class ClientTests(SynchronousTestCase):
    def test_sessions_and_handshakes(self) -> None:
        trust = PinnedKeys([IDENTITY.fingerprint])
        factory = JetStreamClientFactory(trust, host="server.example", reactor=Clock())
        self.assertIsNot(factory.new_session(), factory.new_session())
        handshake = factory.handshake()
        self.assertIs(handshake.role, Role.CLIENT)
        handshake.start()
        self.assertIn(b"server.example", handshake.outgoing())
