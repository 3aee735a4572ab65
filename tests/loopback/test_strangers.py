"""Other programs at a real port: each gets an answer that it understands, and is named in ours."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import skipUnless

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults, inlineCallbacks
from twisted.internet.endpoints import (
    SSL4ClientEndpoint,
    SSL4ServerEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.ssl import CertificateOptions, PrivateCertificate
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from jetstreamproto.errors import (
    HandshakeError,
    JetStreamError,
    NotJetStream,
    ProtocolViolation,
    Refused,
)
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.protocol import JetStreamProtocol
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.records import RecordType, plain_record
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.session import Session
from jetstreamproto.transports.admission import AdmissionLimits
from tests.certificates import NOW

SERVER = Identity.create(NOW)
CLIENT = Identity.create(NOW)
PATIENCE = 60


class Watched(JetStreamServerFactory):
    """Tells of every session that is lost."""

    def __init__(self, **options: Any) -> None:
        super().__init__(SERVER, {"echo": Echo}, **options)
        self.reasons: list[JetStreamError | None] = []
        self.waiting: list[tuple[int, Deferred[None]]] = []

    def session_lost(self, session: Session, reason: JetStreamError | None) -> None:
        super().session_lost(session, reason)
        self.reasons.append(reason)
        for count, deferred in tuple(self.waiting):
            if len(self.reasons) >= count:
                self.waiting.remove((count, deferred))
                deferred.callback(None)

    def lost(self, count: int) -> Deferred[None]:
        """Fires when so many have been lost."""
        deferred: Deferred[None] = Deferred()
        if len(self.reasons) >= count:
            deferred.callback(None)
        else:
            self.waiting.append((count, deferred))
        return deferred


class PortTestCase(TestCase):
    timeout = 2 * PATIENCE

    @inlineCallbacks
    def serve(self, **options: Any) -> Any:
        """A server's factory and port."""
        factory = Watched(**options)
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = yield endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        return factory, port.getHost().port

    @inlineCallbacks
    def connect(self, port: int, **options: Any) -> Any:
        """A client's session, which is perhaps never connected."""
        factory = JetStreamClientFactory(PinnedKeys([SERVER.fingerprint]), **options)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        protocol = yield endpoint.connect(factory)
        assert isinstance(protocol, JetStreamProtocol)
        return protocol.session

    def says(self, reason: JetStreamError | None, kind: type[JetStreamError], part: str) -> None:
        self.assertIsInstance(reason, kind)
        self.assertIn(part, str(reason))


def exchange(port: int, data: bytes) -> bytes:
    """Send `data`, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                received += part
        return received


class StrangersTests(PortTestCase):
    @inlineCallbacks
    def meet(self, visit: Callable[..., Any], *args: Any) -> Any:
        """What the visitor brings home from our port, and how our side ended."""
        factory, port = yield self.serve()
        result = yield deferToThread(visit, port, *args)
        yield factory.lost(1)
        (reason,) = factory.reasons
        return result, reason

    @inlineCallbacks
    def test_http(self) -> Any:
        def visit(port: int) -> tuple[int, str | None, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/")
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type"), response.read()

        (status, kind, body), reason = yield self.meet(visit)
        self.assertEqual((status, kind), (400, "text/plain"))
        self.assertIn(b"This port speaks JetStream, not HTTP", body)
        self.says(reason, NotJetStream, "HTTP")

    @skipUnless(shutil.which("curl"), "curl is not installed")
    @inlineCallbacks
    def test_curl(self) -> Any:
        def visit(port: int, *options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["curl", "-q", "-s", "-S", "-m", str(PATIENCE), "--noproxy", "*", *options],
                capture_output=True,
                text=True,
                check=False,
            )

        factory, port = yield self.serve()
        done = yield deferToThread(visit, port, f"http://127.0.0.1:{port}/")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("This port speaks JetStream, not HTTP", done.stdout)
        done = yield deferToThread(visit, port, "-k", f"https://127.0.0.1:{port}/")
        self.assertNotEqual(done.returncode, 0)
        self.assertRegex(done.stderr, "protocol version|alert")
        yield factory.lost(2)
        self.says(factory.reasons[0], NotJetStream, "HTTP")
        self.says(factory.reasons[1], NotJetStream, "plain TLS")

    @inlineCallbacks
    def test_tls(self) -> Any:
        def visit(port: int) -> str:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                try:
                    context.wrap_socket(connection)
                except ssl.SSLError as error:
                    return error.reason
            return "no error"

        said, reason = yield self.meet(visit)
        self.assertEqual(said, "TLSV1_ALERT_PROTOCOL_VERSION")
        self.says(reason, NotJetStream, "plain TLS")

    @skipUnless(shutil.which("openssl"), "openssl is not installed")
    @inlineCallbacks
    def test_openssl_s_client(self) -> Any:
        def visit(port: int) -> str:
            done = subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE,
                text=True,
                check=False,
            )
            return done.stderr + done.stdout

        said, reason = yield self.meet(visit)
        self.assertIn("alert protocol version", said)
        self.says(reason, NotJetStream, "plain TLS")

    @inlineCallbacks
    def test_ssh(self) -> Any:
        said, reason = yield self.meet(exchange, b"SSH-2.0-OpenSSH_9.6\r\n")
        self.assertEqual(said, b"")
        self.says(reason, NotJetStream, "SSH")

    @inlineCallbacks
    def test_garbage(self) -> Any:
        for data in (b"\0" * 100, b"\xff" * 70_000, b"hello\r\n", bytes(range(6, 200))):
            said, reason = yield self.meet(exchange, data)
            self.assertEqual(said, b"")
            self.says(reason, NotJetStream, "something unknown")

    @inlineCallbacks
    def test_a_sealed_record_at_once(self) -> Any:
        _, reason = yield self.meet(exchange, b"\x03\x00\x01\x00")
        self.says(reason, ProtocolViolation, "before the handshake")

    @inlineCallbacks
    def test_tls_that_is_none(self) -> Any:
        said, reason = yield self.meet(exchange, plain_record(RecordType.CRYPTO, b"x" * 100))
        self.assertTrue(said.startswith(bytes([RecordType.CRYPTO])) or said[0] == RecordType.ALERT)
        self.says(reason, HandshakeError, "")

    @inlineCallbacks
    def test_a_visitor_that_leaves_at_once(self) -> Any:
        def visit(port: int) -> None:
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()

        _, reason = yield self.meet(visit)
        self.says(reason, HandshakeError, "closed the connection during the handshake")

    @inlineCallbacks
    def test_the_server_lives_on(self) -> Any:
        factory, port = yield self.serve()
        visits = [b"GET / HTTP/1.1\r\n\r\n", b"garbage, garbage", b"\x16\x03\x01\x02\x00\x01"] * 10
        yield DeferredList([deferToThread(exchange, port, data) for data in visits])
        yield factory.lost(len(visits))
        session = yield self.connect(port)
        yield session.when_connected()
        inbox = yield session.open("echo")
        inbox.channel.send(b"hello")
        said = yield inbox.get()
        self.assertEqual(said, b"hello")
        inbox.channel.end()
        yield session.close()
        yield factory.lost(len(visits) + 1)
        self.assertIsNone(factory.reasons[-1])
        yield deferLater(reactor, 0)
        self.assertEqual((factory.sessions, factory._tickets), (set(), {}))


class WrongPortTests(PortTestCase):
    """Our client at somebody else's port."""

    @inlineCallbacks
    def refused(self, port: int) -> Any:
        session = yield self.connect(port)
        with self.assertRaises(NotJetStream) as caught:
            yield session.when_connected()
        return str(caught.exception)

    @inlineCallbacks
    def test_an_http_server(self) -> Any:
        class Silent(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            said = yield deferToThread(exchange, server.server_address[1], b"\x01 not HTTP\r\n")
            server.shutdown()
            thread.join()
        self.assertIn(b"400", said)
        port = self.answering(said)
        text = yield self.refused(port)
        self.assertIn("HTTP", text)

    @inlineCallbacks
    def test_other_servers(self) -> Any:
        for greeting, name in (
            (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
            (b"<html>\r\n<head><title>400 Bad Request", "HTTP"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "plain TLS"),
            (b"220 mail.example ESMTP\r\n", "something unknown"),
        ):
            text = yield self.refused(self.answering(greeting))
            self.assertIn(name, text)

    def answering(self, greeting: bytes) -> int:
        """The port of a server that says one thing and closes."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        return int(listener.getsockname()[1])


class RefusalTests(PortTestCase):
    """Our own client, refused over a real connection: the reason is not lost in the close."""

    TIMES = 20

    @inlineCallbacks
    def refusals(self, port: int, **options: Any) -> Any:
        """What clients are told that come at the same time."""

        @inlineCallbacks
        def visit() -> Any:
            session = yield self.connect(port, **options)
            try:
                yield session.when_connected()
            except JetStreamError as error:
                return error
            raise AssertionError("it was let in")

        found = yield gatherResults([visit() for _ in range(self.TIMES)], consumeErrors=True)
        return found

    @inlineCallbacks
    def test_a_full_server(self) -> Any:
        factory, port = yield self.serve(admission=AdmissionLimits(sessions=1))
        session = yield self.connect(port)
        yield session.when_connected()
        for error in (yield self.refusals(port)):
            self.says(error, Refused, "the server has too many connections")
        yield session.close()
        yield factory.lost(1)
        self.assertEqual(factory.admission.refused, self.TIMES)

    @inlineCallbacks
    def test_a_client_without_a_certificate(self) -> Any:
        factory, port = yield self.serve(clients=PinnedKeys([CLIENT.fingerprint]))
        for error in (yield self.refusals(port)):
            self.says(error, HandshakeError, "requires a client certificate")
        yield factory.lost(self.TIMES)
        for reason in factory.reasons:
            self.says(reason, HandshakeError, "showed no certificate")

    @inlineCallbacks
    def test_the_wrong_certificate(self) -> Any:
        factory, port = yield self.serve(clients=PinnedKeys([CLIENT.fingerprint]))
        for error in (yield self.refusals(port, identity=Identity.create(NOW))):
            self.says(error, HandshakeError, "refused our certificate")
        yield factory.lost(self.TIMES)
        session = yield self.connect(port, identity=CLIENT)
        yield session.when_connected()
        self.assertEqual([s.peer.fingerprint for s in factory.sessions], [CLIENT.fingerprint])
        yield session.close()
        yield factory.lost(self.TIMES + 1)


class OtherStreamsTests(TestCase):
    """A stream is a stream."""

    timeout = 2 * PATIENCE

    @inlineCallbacks
    def test_inside_tls(self) -> Any:
        """As behind a proxy that wants it. Twisted's TLS has transports of its own kind."""
        factory = Watched()
        certificate = PrivateCertificate.loadPEM(SERVER.to_pem())
        endpoint = SSL4ServerEndpoint(reactor, 0, certificate.options(), interface="127.0.0.1")
        port = yield endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        client = SSL4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port, CertificateOptions())
        protocol = yield client.connect(JetStreamClientFactory(PinnedKeys([SERVER.fingerprint])))
        yield self.converse(protocol, factory)

    @inlineCallbacks
    def converse(self, protocol: Any, factory: Watched) -> Any:
        session = yield protocol.when_connected()
        inbox = yield session.open("echo")
        message = random.Random(5).randbytes(3_000_000)
        inbox.channel.send(message)
        self.assertEqual((yield inbox.get()), message)
        inbox.channel.end()
        yield session.close()
        yield factory.lost(1)
        self.assertIsNone(session.close_reason)
        self.assertEqual(factory.reasons, [None])

    @inlineCallbacks
    def test_a_unix_socket(self) -> Any:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = str(Path(folder.name) / "socket")
        factory = Watched()
        port = reactor.listenUNIX(path, factory)  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        client = JetStreamClientFactory(PinnedKeys([SERVER.fingerprint]))
        protocol = yield UNIXClientEndpoint(reactor, path).connect(client)
        yield self.converse(protocol, factory)
