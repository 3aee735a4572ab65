"""A server, a publisher and a worker in one program: python events.py FOLDER."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from jetstreamproto import (
    EventClient,
    EventOffer,
    Identity,
    JetStreamServerFactory,
    PinnedKeys,
    Start,
    connect,
)


async def main(reactor, folder):
    identity = Identity.create(datetime.now(UTC))
    offer = EventOffer(Path(folder))
    offer.start(reactor)
    server = JetStreamServerFactory(identity, offer.services)
    port = reactor.listenTCP(0, server, interface="127.0.0.1").getHost().port

    session = await connect(reactor, "127.0.0.1", port, PinnedKeys([identity.fingerprint]))
    events = EventClient(session)
    await events.add_stream("orders", ["orders.>"], max_age=7 * 86400)
    receipt = await events.publish("orders.new", "two pairs of socks")  # on disk from here on
    print(f"published as {receipt.sequence}")

    orders = await events.subscribe("orders.*", durable="packer", start=Start.ALL)
    order = await orders.get()
    print(f"{order.topic}: {order.payload.decode()}")
    await orders.ack(order)  # never comes again, whatever crashes
    await events.close()
    await session.close()
    await offer.stop()


react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
