"""Twisted's own tests of connections, run on our endpoints over real sockets, on several reactors.

Of Twisted's mixins these apply: `ConnectionTestsMixin`, `AbortConnectionMixin`, most of
`StreamClientTestsMixin`, and of `WriteSequenceTestsMixin` what asks for no buffer size. These do
not: `ClientEndpointTestCaseMixin` and `ServerEndpointTestCaseMixin` compare the arguments that
a `MemoryReactor` was given with what a TCP endpoint would give it; `StreamTransportTestsMixin`
compares the repr and the log messages of `tcp.Port`; `ListenTCPMixin` and `ConnectTCPMixin` test
the reactor's methods; the half-close tests of `twisted.test.test_tcp` call `listenTCP` themselves.
"""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ClientFactory, Factory, Protocol
from twisted.internet.test.connectionmixins import (
    ConnectionTestsMixin,
    EndpointCreator,
    StreamClientTestsMixin,
)
from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.internet.test.test_tcp import (
    AbortConnectionMixin,
    WriteSequenceTestsMixin,
)

from jetstreamproto import bytestream
from jetstreamproto.bytestream import ChannelTransport
from jetstreamproto.endpoints.client import JetStreamClientEndpoint
from jetstreamproto.endpoints.server import JetStreamServerEndpoint, Listening
from jetstreamproto.endpoints.target import Target
from tests.doubles import IDENTITY


class Creator(EndpointCreator):  # type: ignore[misc]
    """Endpoints of one transport, with keys in `folder`."""

    def __init__(self, folder: Path, transport: str) -> None:
        self.folder = folder
        self.transport = transport
        (folder / "server.pem").write_bytes(IDENTITY.to_pem())

    def server(self, reactor: Any) -> JetStreamServerEndpoint:
        cert = self.folder / "server.pem"
        listening = Listening(
            port=0, transports=(self.transport,), state_dir=self.folder, cert=cert
        )
        return JetStreamServerEndpoint(reactor, listening)

    def client(self, reactor: Any, serverAddress: Any) -> JetStreamClientEndpoint:
        target = Target(
            host="127.0.0.1",
            port=serverAddress.port,
            transport=self.transport,
            pins=(serverAddress.fingerprint,),
            state_dir=self.folder,
        )
        return JetStreamClientEndpoint(reactor, target)


class _OnEndpoints(ReactorBuilder):  # type: ignore[misc]
    timeout = 30
    transport: str

    def setUp(self) -> None:
        super().setUp()
        self.patch(bytestream, "_LINGER", 0.5)  # type: ignore[attr-defined]
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)  # type: ignore[attr-defined]
        self.endpoints = Creator(Path(folder.name), self.transport)

    def listen(self, reactor: Any, factory: Any) -> None:
        self._port = self.endpoints.server(reactor).listen(factory)

    def connect(self, reactor: Any, factory: Any) -> None:
        self._port.addCallback(
            lambda port: self.endpoints.client(reactor, port.getHost()).connect(factory)
        )
        self._port.addErrback(lambda failure: factory.clientConnectionFailed(None, failure))


class _Connections(_OnEndpoints, ConnectionTestsMixin, StreamClientTestsMixin):  # type: ignore[misc]
    @unittest.skip("endpoints give no IConnector")
    def test_interface(self) -> None: ...

    def test_clientConnectionFailedStopsReactor(self) -> None:
        """As in the mixin; there is no port to connect to."""
        reactor = self.buildReactor()
        self._port = Deferred()
        failed: list[Any] = []

        class Stop(ClientFactory):
            def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
                failed.append(reason)
                reactor.stop()

        endpoint = JetStreamClientEndpoint(
            reactor,
            Target(host="127.0.0.1", port=1, transport=self.transport, state_dir=Path("none")),
        )
        reactor.callWhenRunning(
            lambda: endpoint.connect(Stop()).addErrback(
                lambda failure: Stop().clientConnectionFailed(None, failure)
            )
        )
        self.runReactor(reactor)
        self.assertEqual(len(failed), 1)  # type: ignore[attr-defined]


class TcpConnections(_Connections):
    transport = "tcp"


class UdpConnections(_Connections):
    transport = "udp"


class _Aborts(_OnEndpoints, AbortConnectionMixin):  # type: ignore[misc]
    def setUp(self) -> None:
        super().setUp()
        # the mixin's servers use what only descriptors have
        for name, method in (
            ("stopReading", ChannelTransport.pauseProducing),
            ("startReading", ChannelTransport.resumeProducing),
        ):
            setattr(ChannelTransport, name, method)
            self.addCleanup(delattr, ChannelTransport, name)  # type: ignore[attr-defined]


class TcpAborts(_Aborts):
    transport = "tcp"


class UdpAborts(_Aborts):
    transport = "udp"


class _WriteSequences(_OnEndpoints, WriteSequenceTestsMixin):  # type: ignore[misc]
    def getConnectedClientAndServer(self, reactor: Any, interface: str, family: Any) -> Any:
        accepted: Deferred[Protocol] = Deferred()

        class Paired(Protocol):
            def connectionLost(self, reason: Any = None) -> None:
                if reactor.running:
                    reactor.stop()

        class Accepting(Paired):
            def connectionMade(self) -> None:
                accepted.callback(self)

        async def steps() -> Any:
            port = await self.endpoints.server(reactor).listen(Factory.forProtocol(Accepting))
            client = self.endpoints.client(reactor, port.getHost())
            protocol, server = await gatherResults(
                [client.connect(Factory.forProtocol(Paired)), accepted]
            )
            return protocol, server, port

        connected: Deferred[Any] = Deferred()
        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(steps()).addBoth(connected.callback))
        return connected

    @unittest.skip("sets the buffer size of a descriptor; tests.contracts has its own test")
    def test_streamingProducer(self) -> None: ...

    @unittest.skip("as test_streamingProducer")
    def test_nonStreamingProducer(self) -> None: ...


class TcpWriteSequences(_WriteSequences):
    transport = "tcp"


class UdpWriteSequences(_WriteSequences):
    transport = "udp"


_LEFT_OUT = ("ThreadedSelectReactor", "_PollReactor")  # they show nothing that the others do not

for _builder in (
    *(TcpConnections, UdpConnections, TcpAborts, UdpAborts),
    *(TcpWriteSequences, UdpWriteSequences),
):
    for _name, _case in _builder.makeTestCaseClasses().items():
        if not any(left_out in _name for left_out in _LEFT_OUT):
            globals()[_name] = _case
