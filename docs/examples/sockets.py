"""Any Twisted protocol on tuned sockets: a server for bulk data beside one for quick answers."""

import jetstreamproto.reactors

jetstreamproto.reactors.install(profile="low-latency")  # before anything imports the reactor

from twisted.internet import protocol, reactor  # noqa: E402
from twisted.internet.endpoints import TCP4ServerEndpoint  # noqa: E402

from jetstreamproto import profiled  # noqa: E402


class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


def listening(port):
    print(f"port {port.getHost().port}: {port.socket_profile.name}", flush=True)


for place in (reactor, profiled(reactor, "bulk")):
    endpoint = TCP4ServerEndpoint(place, 0, interface="127.0.0.1")
    endpoint.listen(protocol.Factory.forProtocol(Echo)).addCallback(listening)
reactor.run()
