"""A chat server and two people in it, in one program."""

from datetime import UTC, datetime
from pathlib import Path

from twisted.internet import defer, reactor, task

from jetstreamproto import (
    ChatClient,
    ChatOffer,
    EventOffer,
    Identity,
    JetStreamServerFactory,
    NoticeKind,
    PinnedKeys,
    connect,
)

IDENTITY = Identity.load_or_create(Path("state"), datetime.now(UTC))


async def main():
    events = EventOffer(Path("data"))
    chat = ChatOffer(Path("data"), events)
    for offer in (events, chat):
        offer.start(reactor)
    factory = JetStreamServerFactory(IDENTITY, chat.services)
    port = reactor.listenTCP(9000, factory, interface="127.0.0.1")
    trust = PinnedKeys([IDENTITY.fingerprint])
    al, bo = [
        ChatClient(await connect(reactor, "localhost", 9000, trust), name) for name in ("al", "bo")
    ]
    await al.join("kitchen")
    room = await bo.join("kitchen")
    await al.say("kitchen", "Tea?")
    await bo.tell(al.name, "Yes, please.")
    print(", ".join(room.members), "are in", room.name)
    async for notice in al:
        if notice.kind in (NoticeKind.SAID, NoticeKind.TOLD):
            print(notice.name, "->", notice.target or notice.room, ":", notice.text)
        if notice.kind is NoticeKind.TOLD:
            break
    for client in (al, bo):
        client.close()
    await factory.drain()
    await port.stopListening()
    for offer in (chat, events):
        await offer.stop()


task.react(lambda _: defer.ensureDeferred(main()))
