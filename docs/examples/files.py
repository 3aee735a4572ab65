"""A server of files and a client of it: python files.py FOLDER."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from jetstreamproto import (
    FileClient,
    FileOffer,
    Identity,
    JetStreamServerFactory,
    PinnedKeys,
    connect,
)


async def main(reactor, folder):
    root = Path(folder)
    identity = Identity.create(datetime.now(UTC))
    offer = FileOffer(root, writable=True)
    offer.start(reactor)
    server = JetStreamServerFactory(identity, offer.services)
    port = reactor.listenTCP(0, server, interface="127.0.0.1").getHost().port

    session = await connect(reactor, "127.0.0.1", port, PinnedKeys([identity.fingerprint]))
    files = FileClient(session)
    transfer = await files.send(__file__, "examples/files.py")
    print(f"{transfer.sent} of {transfer.size} bytes sent, BLAKE3 {transfer.digest}")
    for entry in (await files.list(deep=True)).entries:
        print(entry.kind.name, entry.path, entry.size)
    await files.get("examples/files.py", root / "copy.py")
    await session.close()


react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
