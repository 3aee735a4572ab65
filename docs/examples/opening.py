"""Keeps a session over whatever gets there: python opening.py HOST PORT FINGERPRINT [PINGS]."""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from jetstreamproto import Destination, JetStreamClientFactory, PinnedKeys, ReconnectingClient


async def main(reactor, host, port, fingerprint, pings):
    destination = Destination(reactor, host, int(port), bulk=True)
    factory = JetStreamClientFactory(PinnedKeys([fingerprint]), host=host)
    client = ReconnectingClient(destination, factory)
    client.startService()
    for _ in range(int(pings)):
        session = await client.when_connected()
        reason = f" ({session.fallback})" if session.fallback else ""
        print(f"over {session.transport}{reason}: {1000 * await session.ping():.1f} ms")
        await deferLater(reactor, 0.5)
    await client.stopService()


arguments = [*sys.argv[1:4], *(sys.argv[4:] or ["10"])]
react(lambda reactor: Deferred.fromCoroutine(main(reactor, *arguments)))
