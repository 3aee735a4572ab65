"""A stock room: a server, a client that orders and one that watches, in one program."""

from datetime import UTC, datetime
from pathlib import Path

from twisted.internet import defer, reactor, task

from jetstreamproto import (
    Identity,
    JetStreamServerFactory,
    KeyValueClient,
    KeyValueOffer,
    PinnedKeys,
    RevisionConflict,
    connect,
)

IDENTITY = Identity.load_or_create(Path("state"), datetime.now(UTC))


async def order(stock, item, count):
    """Take some from the stock, unless somebody else is quicker."""
    while True:
        entry = await stock.entry(item)
        left = int(entry.fields["count"]) - count
        try:
            return await stock.hset(item, "count", b"%d" % left, revision=entry.revision)
        except RevisionConflict:
            pass  # it has changed meanwhile: look again


async def main():
    offer = KeyValueOffer(Path("data"))
    offer.start(reactor)
    factory = JetStreamServerFactory(IDENTITY, offer.services)
    port = reactor.listenTCP(9000, factory, interface="127.0.0.1")
    session = await connect(reactor, "localhost", 9000, PinnedKeys([IDENTITY.fingerprint]))
    stock = KeyValueClient(session).bucket("stock")
    await stock.batch().hmset("tea", {"count": b"20", "unit": b"box"}).set("open", b"yes").send()
    changes = await stock.watch("tea")
    await defer.gatherResults(
        [defer.ensureDeferred(order(stock, "tea", count)) for count in (5, 3)]
    )
    print("left:", (await stock.hget("tea", "count")).decode())
    change = await anext(changes)
    print("watched:", change.kind.name, change.key)
    changes.stop()
    await session.close()
    await port.stopListening()
    await offer.stop()


task.react(lambda _: defer.ensureDeferred(main()))
