"""Services of a backend, reached through a worker: two sessions, one over a UNIX socket."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.errors import ChannelReset, JetStreamError
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.server.access import AccessRules, AllowRule
from jetstreamproto.server.workers.backend import backend
from jetstreamproto.server.workers.relay import relays
from jetstreamproto.services.echo import Echo
from jetstreamproto.services.offer import Offer
from jetstreamproto.session.codes import ResetCode
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.session import Session
from jetstreamproto.session.settings import DEFAULT_SETTINGS
from tests.doubles import IDENTITY, Recorder, Registry, noise

_REACTOR: Any = reactor


class Whoami(ChannelProtocol):
    """Answers what it knows of its peer."""

    def end_received(self) -> None:
        session = self.channel.session
        known = session.peer.address, session.peer.fingerprint, session.avatar
        self.channel.send(repr(known).encode())
        self.channel.end()


class CallBack(ChannelProtocol):
    """Opens a channel to its peer, and sends what it hears there."""

    def channel_opened(self) -> None:
        opening: Deferred[Inbox] = self.channel.session.open("mine")
        opening.addCallback(self.ask)

    def ask(self, inbox: Inbox) -> None:
        inbox.channel.send(b"who?")
        inbox.get().addCallback(self.channel.send)


class Single(Offer):
    single = True


class RelayTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        self.path = str(Path(folder) / "backend")
        self.held = Registry(lambda: Recorder(stay=True))
        services = {"echo": Echo, "whoami": Whoami, "callback": CallBack, "held": self.held}
        self.offers = [Single(services)]
        self.access = AccessRules([AllowRule(frozenset("*"), frozenset(services) - {"secret"})])
        self.start_backend()
        self.port: Any = None
        self.identity = Identity.create(datetime.now(UTC))

    def start_backend(self) -> None:
        _, self.backend = backend(IDENTITY, self.offers, self.access, DEFAULT_SETTINGS)
        self.unix = _REACTOR.listenUNIX(self.path, self.backend)
        self.addCleanup(self.unix.stopListening)
        self.addCleanup(lambda: [session.abort() for session in set(self.backend.sessions)])

    async def session(self, services: Any = None) -> Session:
        """A client's session with a worker."""
        relayed = relays(IDENTITY, self.offers, DEFAULT_SETTINGS, self.path)
        self.worker = JetStreamServerFactory(
            IDENTITY,
            {**relayed, "secret": relayed["echo"]},
            clients=PinnedKeys([self.identity.fingerprint]),
            authenticate=lambda session, hello: succeed("al"),
            reactor=_REACTOR,
        )
        port = _REACTOR.listenTCP(0, self.worker, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        factory = JetStreamClientFactory(
            PinnedKeys([IDENTITY.fingerprint]),
            identity=self.identity,
            services=services,
            reactor=_REACTOR,
        )
        endpoint = TCP4ClientEndpoint(_REACTOR, "127.0.0.1", port.getHost().port)
        protocol: Any = await endpoint.connect(factory)
        session: Session = await protocol.when_connected()
        self.addCleanup(self.gone)
        self.addCleanup(session.when_closed)
        self.addCleanup(session.abort)
        return session

    async def gone(self) -> None:
        """The sessions with the backend end with those of the clients."""
        while self.backend.sessions or self.worker.sessions:
            await deferLater(_REACTOR, 0.01)

    async def test_messages_both_ways(self) -> None:
        session = await self.session()
        inbox: Inbox = await session.open("echo")
        messages = [noise(size, size) for size in (0, 1, 1000, 300_000, 4_000_000)]
        for message in messages:
            inbox.channel.send(message)
        inbox.channel.end()
        self.assertTrue([message async for message in inbox] == messages)
        await inbox.channel.when_closed()

    async def test_many_channels_in_one_session_with_the_backend(self) -> None:
        session = await self.session()
        inboxes: list[Inbox] = [await session.open("echo") for _ in range(20)]
        for number, inbox in enumerate(inboxes):
            inbox.channel.send(b"%d" % number)
        for number, inbox in enumerate(inboxes):
            self.assertEqual(await inbox.get(), b"%d" % number)
        self.assertEqual(len(self.backend.sessions), 1)

    async def test_the_backend_knows_the_client(self) -> None:
        session = await self.session()
        inbox: Inbox = await session.open("whoami")
        inbox.channel.end()
        (seen,) = self.worker.sessions
        known = seen.peer.address, self.identity.fingerprint, "al"
        self.assertEqual(await inbox.get(), repr(known).encode())

    async def test_what_the_backend_does_not_allow(self) -> None:
        session = await self.session()
        inbox: Inbox = await session.open("secret")
        with self.assertRaises(ChannelReset) as caught:
            await inbox.channel.when_closed()
        self.assertEqual(caught.exception.code, ResetCode.NOT_ALLOWED)
        self.assertIn("secret", caught.exception.reason)
        self.assertLess(await session.ping(), 10)

    async def test_the_backend_reaches_the_client(self) -> None:
        session = await self.session({"mine": Echo})
        inbox: Inbox = await session.open("callback")
        self.assertEqual(await inbox.get(), b"who?")

    async def test_a_reset_keeps_its_code_both_ways(self) -> None:
        session = await self.session()
        mine: Recorder = await session.open("held", Recorder(stay=True))
        mine.channel.send(b"x")
        while not self.held.made or not self.held.made[0].messages:
            await deferLater(_REACTOR, 0.01)
        theirs = self.held.made[0]
        mine.channel.reset(77, "why not")
        await self.until_closed(theirs)
        self.assertEqual((theirs.reason.code, theirs.reason.reason), (77, "why not"))
        mine = await session.open("held", Recorder(stay=True))
        mine.channel.send(b"x")
        while len(self.held.made) < 2:
            await deferLater(_REACTOR, 0.01)
        self.held.made[1].channel.reset(78, "because")
        await self.until_closed(mine)
        reason: Any = mine.reason
        self.assertEqual((reason.code, reason.reason), (78, "because"))

    async def until_closed(self, recorder: Recorder) -> None:
        while "closed" not in recorder.events:
            await deferLater(_REACTOR, 0.01)

    async def test_one_that_does_not_read_costs_bounded_memory(self) -> None:
        session = await self.session()
        mine: Recorder = await session.open("held", Recorder(stay=True))
        while not self.held.made:
            await deferLater(_REACTOR, 0.01)
        self.held.made[0].channel.pauseProducing()
        sent = 0
        while mine.channel.queued < 2_000_000 and sent < 100_000_000:
            mine.channel.send(noise(100_000))
            sent += 100_000
            await deferLater(_REACTOR, 0)
        self.assertLess(sent, 100_000_000)
        (served,) = self.worker.sessions
        self.assertLess(sum(channel.queued for channel in served.channels), 5_000_000)
        self.held.made[0].channel.resumeProducing()
        while self.held.made[0].received < sent:
            await deferLater(_REACTOR, 0.01)

    async def test_a_backend_that_starts_again(self) -> None:
        session = await self.session()
        inbox: Inbox = await session.open("echo")
        inbox.channel.send(b"first")
        self.assertEqual(await inbox.get(), b"first")
        await self.unix.stopListening()
        for one in set(self.backend.sessions):
            one.abort()
        with self.assertRaises(JetStreamError):
            await inbox.channel.when_closed()
        self.start_backend()
        inbox = await session.open("echo")
        inbox.channel.send(b"second")
        self.assertEqual(await inbox.get(), b"second")

    async def test_without_a_backend_the_session_lives(self) -> None:
        session = await self.session()
        await self.unix.stopListening()
        inbox: Inbox = await session.open("echo")
        with self.assertRaises(ChannelReset) as caught:
            await inbox.channel.when_closed()
        self.assertIn("backend", caught.exception.reason)
        self.assertLess(await session.ping(), 10)
