"""The factories with plain `listenTCP` and `connectTCP`, on a real reactor."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.trial.unittest import TestCase

from jetstreamproto import (
    Identity,
    JetStreamClientFactory,
    JetStreamServerFactory,
    PinnedKeys,
    Session,
)
from jetstreamproto.services.echo import Echo


class TcpTests(TestCase):
    timeout = 60

    @inlineCallbacks
    def test_listen_and_connect(self) -> Any:
        from twisted.internet import reactor

        made: Deferred[Session] = Deferred()

        class ClientFactory(JetStreamClientFactory):
            def session_made(self, session: Session) -> None:
                super().session_made(session)
                made.callback(session)

        identity = Identity.create(datetime.now(UTC))
        server = JetStreamServerFactory(identity, {"echo": Echo})
        port = reactor.listenTCP(0, server, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        client = ClientFactory(PinnedKeys([identity.fingerprint]), host="localhost")
        reactor.connectTCP("127.0.0.1", port.getHost().port, client)
        session = yield made
        inbox = yield session.open("echo")
        inbox.channel.send(b"over connectTCP")
        self.assertEqual((yield inbox.get()), b"over connectTCP")
        yield session.close()
        self.assertIsNone(session.close_reason)
        yield server.drain()
        self.assertEqual(server.sessions, set())
