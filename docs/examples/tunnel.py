"""A tunnel in one process: a server with rules, and a client's port that leads to a target."""

from datetime import UTC, datetime

from twisted.internet import defer, endpoints, protocol, task

from jetstreamproto import Identity, JetStreamClientFactory, JetStreamServerFactory, PinnedKeys
from jetstreamproto.client import ReconnectingClient
from jetstreamproto.services.tunnel.client import TunnelClient
from jetstreamproto.services.tunnel.service import TunnelOffer
from jetstreamproto.sockets.resolving import resolve


class Greeter(protocol.Protocol):
    def connectionMade(self):
        self.transport.write(b"hello through the tunnel\n")
        self.transport.loseConnection()


class Printer(protocol.Protocol):
    def dataReceived(self, data):
        print(data.decode(), end="")

    def connectionLost(self, reason):
        self.factory.done.callback(None)


async def main(reactor):
    target = reactor.listenTCP(0, protocol.Factory.forProtocol(Greeter), interface="127.0.0.1")

    def patterns(session, service, scope, default=()):  # a server's are its rules of access
        return (f"127.0.0.1:{target.getHost().port}",) if scope == "targets" else ()

    offer = TunnelOffer(patterns, resolve)
    offer.start(reactor)
    identity = Identity.create(datetime.now(UTC))
    server = reactor.listenTCP(
        0, JetStreamServerFactory(identity, offer.services), interface="127.0.0.1"
    )

    factory = JetStreamClientFactory(PinnedKeys([identity.fingerprint]))
    there = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", server.getHost().port)
    sessions = ReconnectingClient(there, factory)
    sessions.startService()
    tunnel = TunnelClient(reactor, sessions.when_connected, resolve)
    host, port = tunnel.listen_local("127.0.0.1", 0, ("127.0.0.1", target.getHost().port))

    program = protocol.Factory.forProtocol(Printer)
    program.done = defer.Deferred()
    await endpoints.TCP4ClientEndpoint(reactor, host, port).connect(program)
    await program.done
    await tunnel.stop()
    await sessions.stopService()


task.react(main)
