"""Several processes on one port, as people start them."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto import ChatClient, EventClient, KeyValueClient, NoticeKind
from jetstreamproto.datagram import JetStreamDatagramProtocol
from jetstreamproto.factory import JetStreamClientFactory, JetStreamServerFactory
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.server.datagrams import DatagramListener
from jetstreamproto.server.workers.forwarding import Mailbox, mailboxes
from jetstreamproto.services.echo import Echo
from jetstreamproto.session.protocol import Inbox
from jetstreamproto.session.session import Session
from tests.doubles import IDENTITY
from tests.loopback.server_process import fingerprint_in, port_in, run_twistd
from tests.loopback.test_twistd import TwistdTestCase
from tests.ports import free_port

_WORKER = re.compile(r"worker (\d) is process (\d+)")


class Nat(DatagramProtocol):
    """Carries datagrams of one client to a server, from ports that change."""

    def __init__(self, case: TestCase, server: tuple[str, int]) -> None:
        self._case = case
        self._server = server
        self._client: Any = None
        self._outside: Any = None
        self.port = self._listen(self)
        self.rebind()

    def _listen(self, protocol: DatagramProtocol) -> Any:
        any_reactor: Any = reactor
        port = any_reactor.listenUDP(0, protocol, interface="127.0.0.1", maxPacketSize=65536)
        self._case.addCleanup(port.stopListening)
        return port

    def rebind(self) -> None:
        """Use another port from now on; what comes to the old one is lost."""
        nat = self

        class Outside(DatagramProtocol):
            def datagramReceived(self, datagram: bytes, addr: Any) -> None:
                if nat._outside is self:
                    nat.transport.write(datagram, nat._client)  # type: ignore[union-attr]

        self._outside = Outside()
        self._listen(self._outside)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._client = addr
        if self._outside.transport is not None:
            self._outside.transport.write(datagram, self._server)


class RoamingTestCase(TwistdTestCase):
    async def roam(self, pin: str, port: int, quic: bool) -> None:
        """A session whose client's address changes is served by the process that it began with."""
        nat = Nat(self, ("127.0.0.1", port))
        factory = JetStreamClientFactory(PinnedKeys([pin]), reactor=reactor)  # type: ignore[arg-type]
        protocol = JetStreamDatagramProtocol(reactor=reactor, quic=quic)
        local = reactor.listenUDP(0, protocol, interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(local.stopListening)
        connect = protocol.connect_quic if quic else protocol.connect
        session = connect("127.0.0.1", nat.port.getHost().port, factory)
        self.addCleanup(session.when_closed)
        self.addCleanup(session.abort)
        await session.when_connected()
        inbox: Inbox = await session.open("echo")
        for _ in range(8):
            nat.rebind()
            message = os.urandom(100_000)
            inbox.channel.send(message)
            self.assertTrue(await inbox.get() == message)


class WorkerTests(RoamingTestCase):
    async def many_sessions(self, log: str) -> list[Session]:
        return [await self.session(log) for _ in range(12)]

    async def test_they_serve_restart_and_stop(self) -> None:
        server = await self.serve("--workers", "2")
        sessions = await self.many_sessions(server.output)
        for session in sessions:
            await session.ping()
        os.kill(int(_WORKER.findall(server.output)[0][1]), signal.SIGKILL)
        await server.said("worker 0 ended")
        for session in await self.many_sessions(server.output):  # those of worker 0 wait for it
            await session.ping()
        server.signal(signal.SIGTERM)
        self.assertEqual(await server.ended(), 0)
        self.assertNotIn("Traceback", server.output + server.errors)

    async def test_all_clients_find_the_same_keys_and_events(self) -> None:
        server = await self.serve("--workers", "2")
        sessions = await self.many_sessions(server.output)
        for number, session in enumerate(sessions):
            await KeyValueClient(session).bucket("b").set(f"key{number}", b"%d" % number)
        watching = EventClient(sessions[0])
        heard = await watching.subscribe("news.*")
        for number, session in enumerate(sessions):
            bucket = KeyValueClient(session).bucket("b")
            self.assertEqual(await bucket.get(f"key{11 - number}"), b"%d" % (11 - number))
            events = EventClient(session)
            await events.publish("news.today", b"%d" % number)
            self.assertEqual((await heard.get()).payload, b"%d" % number)
            await events.close()
        await watching.close()

    async def test_people_of_all_workers_are_in_one_room(self) -> None:
        server = await self.serve("--workers", "2")
        people = []
        for number, session in enumerate(await self.many_sessions(server.output)):
            people.append(ChatClient(session, f"p{number}"))
            self.addCleanup(people[-1].close)
            room = await people[-1].join("kitchen")
        self.assertEqual(len(room.members), len(people))
        await people[0].say("kitchen", "Tea?")
        for person in people:
            notice = await person.get()
            while notice.kind is not NoticeKind.SAID:
                notice = await person.get()
            self.assertEqual((notice.name, notice.text), (people[0].name, "Tea?"))

    async def test_no_worker_outlives_its_supervisor(self) -> None:
        server = await self.serve("--workers", "2")
        port = port_in(server.output)
        server.signal(signal.SIGKILL)
        await server.ended()
        while await deferLater(reactor, 0.05, is_served, port):  # type: ignore[arg-type]
            pass

    async def test_a_peer_that_moves_stays_with_its_process(self) -> None:
        server = await self.serve("--workers", "4")
        pin, port = fingerprint_in(server.output), port_in(server.output)
        for quic in (False, True):
            await self.roam(pin, port, quic)

    async def test_no_other_server_may_join(self) -> None:
        server = await self.serve("--workers", "2")
        port = str(port_in(server.output))
        for workers in ("1", "2"):
            own = "--port", port, "--workers", workers, "--data-dir", "other"
            second = run_twistd(self.home, "-n", "--pidfile=", "jetstream", *own)
            self.assertEqual(second.returncode, 1)
            self.assertIn("is taken", second.stderr)

    async def test_a_wrong_setting_is_told_at_once(self) -> None:
        for wrong, word in (
            (("--workers", "0"), "--workers"),
            (("--workers", "65"), "--workers"),
            (("--workers", "2", "--cert", "missing.pem"), "missing.pem"),
        ):
            refused = run_twistd(self.home, "-n", "--pidfile=", "jetstream", *wrong)
            self.assertEqual(refused.returncode, 1)
            self.assertIn(word, refused.stderr)
            self.assertNotIn("Traceback", refused.stderr)


class ForwardingTests(RoamingTestCase):
    """Two servers on one port whose datagrams the system sorts by the peer's address alone."""

    async def test_a_peer_that_moves(self) -> None:
        ends = mailboxes(2)
        port = free_port()
        boxes = []
        for number in range(2):
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(("127.0.0.1", port))
            factory = JetStreamServerFactory(IDENTITY, {"echo": Echo}, reactor=reactor)  # type: ignore[arg-type]
            written = [end.dup() for _, end in ends]
            boxes.append(Mailbox(number, ends[number][0], written))
            settings = JetStreamDatagramProtocol().settings
            listener = DatagramListener(
                reactor, bound, factory, settings, ("udp", "quic"), boxes[-1]
            )
            self.addCleanup(listener.stop)
        for _, end in ends:
            end.close()
        for quic in (False, True):
            before = sum(box.forwarded for box in boxes)
            await self.roam(IDENTITY.fingerprint, port, quic)
            self.assertGreater(sum(box.forwarded for box in boxes), before)


def is_served(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True
