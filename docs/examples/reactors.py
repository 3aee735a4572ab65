"""An echo server on io_uring where the kernel has it, and on epoll, with the reason, where not."""

import sys

from twisted.logger import globalLogPublisher, textFileLogObserver

import jetstreamproto.reactors.uring

globalLogPublisher.addObserver(textFileLogObserver(sys.stderr))
jetstreamproto.reactors.uring.install()  # before anything imports the reactor

from twisted.internet import protocol, reactor  # noqa: E402
from twisted.internet.endpoints import TCP4ServerEndpoint  # noqa: E402


class Echo(protocol.Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


def listening(port):
    print(f"port {port.getHost().port}: {type(reactor).__name__}", flush=True)


endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
endpoint.listen(protocol.Factory.forProtocol(Echo)).addCallback(listening)
reactor.run()
