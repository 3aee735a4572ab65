"""The server as people start it, and sessions with it over real TCP connections."""

from __future__ import annotations

import os
import signal
import socket
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from jetstreamproto.client import connect
from jetstreamproto.errors import HandshakeError, NotAllowed, Refused
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import CertificateAuthority, PinnedKeys, Trust
from jetstreamproto.session.protocol import ChannelProtocol, Inbox
from jetstreamproto.session.session import Session
from tests.certificates import NOW, Authority
from tests.loopback.lingering import linger_shortly
from tests.loopback.server_process import (
    DEADLINE,
    LAST_LINE,
    Server,
    fingerprint_in,
    port_in,
    run_twistd,
)
from tests.ports import free_port


class Told(ChannelProtocol):
    """A client's channel that waits to be told that the session is closing, and then goes on."""

    def __init__(self) -> None:
        self.closing: Deferred[None] = Deferred()
        self.closed: Deferred[object] = Deferred()

    def session_closing(self) -> None:
        self.closing.callback(None)

    def channel_closed(self, reason: object) -> None:
        self.closed.callback(reason)


class TwistdTestCase(TestCase):
    def setUp(self) -> None:
        # The reactor that runs these tests leaves handlers behind which nobody needs afterwards,
        # and which would keep signals from whatever runs the tests.
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name).resolve()
        linger_shortly(self, reactor)  # a server that is slow to answer is asked over UDP, too

    async def serve(self, *arguments: str) -> Server:
        server = Server(self.home, arguments)
        self.addCleanup(server.kill)
        await server.said(LAST_LINE)
        return server

    async def session(
        self, log: str, host: str = "127.0.0.1", trust: Trust | None = None, **options: Any
    ) -> Session:
        """A session with the server of this log, ended with the test."""
        trust = trust or PinnedKeys([fingerprint_in(log)])
        session = await connect(reactor, host, port_in(log), trust, **options)
        self.addCleanup(session.when_closed)
        self.addCleanup(session.abort)
        return session

    def write(self, name: str, content: str | bytes) -> str:
        path = self.home / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)


class StartTests(TwistdTestCase):
    async def test_the_first_lines_say_where_who_and_what_to_try(self) -> None:
        server = await self.serve()
        lines = server.output.splitlines()
        start = next(i for i, line in enumerate(lines) if "listens on" in line)
        port = port_in(server.output)
        self.assertIn(f"127.0.0.1:{port}", lines[start])
        self.assertIn("(tcp, udp, quic)", lines[start])
        before = "\n".join(lines[:start])  # are Twisted's own
        self.assertNotIn("[jetstream", before)
        identity = Identity.load_or_create(self.home, NOW)
        self.assertIn(identity.fingerprint, lines[start + 1])
        self.assertTrue(lines[start + 2].endswith(f"jetstream ping 127.0.0.1:{port}"))
        self.assertEqual(server.errors, "")

    async def test_the_key_is_private_and_stays_the_same(self) -> None:
        first = await self.serve()
        mode = stat.S_IMODE((self.home / "identity.pem").stat().st_mode)
        self.assertEqual(mode, 0o600)
        second = await self.serve("--data-dir", "other")
        self.assertEqual(fingerprint_in(first.output), fingerprint_in(second.output))

    async def test_two_servers_cannot_have_one_folder_of_data(self) -> None:
        await self.serve()
        for workers in ("1", "2"):
            second = run_twistd(
                self.home, "-n", "--pidfile=", "jetstream", "--port", "0", "--workers", workers
            )
            self.assertEqual(second.returncode, 1)
            self.assertIn("is used by another server", second.stderr)
            self.assertNotIn("Traceback", second.stderr)

    async def test_a_damaged_database_is_named(self) -> None:
        (self.home / "data").mkdir()
        (self.home / "data" / "kv.sqlite").write_bytes(b"this is no database" * 1000)
        refused = run_twistd(self.home, "-n", "--pidfile=", "jetstream", "--port", "0")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("kv.sqlite", refused.stdout)  # twistd has begun its log
        self.assertNotIn("Traceback", refused.stderr + refused.stdout)

    async def test_a_session_pings_and_echoes(self) -> None:
        server = await self.serve()
        session = await self.session(server.output)
        self.assertLess(await session.ping(), DEADLINE)
        inbox: Inbox = await session.open("echo")
        message = os.urandom(1 << 20)
        inbox.channel.send(message)
        self.assertEqual(await inbox.get(), message)

    async def test_it_listens_on_ipv6_too(self) -> None:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as error:
            self.skipTest(f"no IPv6 here: {error}")
        server = await self.serve("--interface", "127.0.0.1,::1")
        for host in ("127.0.0.1", "::1"):
            session = await self.session(server.output, host)
            await session.ping()


class RefusedStartTests(TwistdTestCase):
    def assert_one_line(self, *arguments: str) -> str:
        """With and without -n these arguments fail at once, with one line, which is returned."""
        for mode in (["-n"], [f"--logfile={self.home / 'log'}"]):
            done = run_twistd(self.home, *mode, "--pidfile=", "jetstream", *arguments)
            self.assertEqual(done.returncode, 1, done)
            self.assertEqual(done.stdout, "")
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertTrue(done.stderr.startswith("twistd jetstream: "), done.stderr)
        return done.stderr

    def test_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            line = self.assert_one_line("--port", str(port))
        self.assertIn(f"127.0.0.1:{port} (tcp) is taken", line)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            port = free_port()
            other.bind(("127.0.0.1", port))
            line = self.assert_one_line("--port", str(port))
        self.assertIn(f"127.0.0.1:{port} (udp, quic) is taken", line)

    def test_an_unreadable_key(self) -> None:
        garbage = self.write("garbage.pem", "garbage")
        self.assertIn(garbage, self.assert_one_line("--cert", garbage))
        self.assertIn(str(self.home), self.assert_one_line("--cert", str(self.home)))
        (self.home / "identity.pem").mkdir()
        self.assertIn("identity.pem", self.assert_one_line("--port", "0"))

    def test_a_wrong_option(self) -> None:
        self.assertIn("--bogus", self.assert_one_line("--bogus"))
        self.assertIn("--port", self.assert_one_line("--port", "70000"))
        self.assertIn("sctp", self.assert_one_line("--transports", "tcp,sctp"))
        self.assertIn("'vegas'", self.assert_one_line("--congestion", "vegas"))
        self.assertIn("K+R", self.assert_one_line("--fec", "some"))
        self.assertIn("--udp-mtu", self.assert_one_line("--udp-mtu", "100"))

    def test_other_hosts_without_a_word_on_who(self) -> None:
        line = self.assert_one_line("--interface", "0.0.0.0", "--port", "0")
        self.assertIn("--allow-anonymous", line)

    def test_a_wrong_file(self) -> None:
        path = self.write("server.toml", "port = 'x'\n")
        self.assertIn(f"{path}: port", self.assert_one_line("--config", path))


class StopTests(TwistdTestCase):
    async def test_without_sessions_it_ends_at_once(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            server = await self.serve()
            server.signal(number)
            self.assertEqual(await server.ended(), 0)
            self.assertIn("Server Shut Down", server.output)
            self.assertEqual(server.errors, "")
            self.assertNotIn("Traceback", server.output)

    async def test_sessions_are_told_and_may_finish(self) -> None:
        server = await self.serve()
        session = await self.session(server.output)
        told = await session.open("discard", Told())
        server.signal(signal.SIGINT)
        await told.closing
        told.channel.send(b"the rest")
        told.channel.end()
        self.assertIsNone(await told.closed)
        await session.when_closed()
        self.assertIsNone(session.close_reason)
        self.assertEqual(await server.ended(), 0)

    async def test_who_does_not_finish_is_cut_off_at_the_deadline(self) -> None:
        server = await self.serve("--drain-timeout", "0.2")
        session = await self.session(server.output)
        told = await session.open("echo", Told())
        server.signal(signal.SIGTERM)
        await told.closing
        self.assertIsNotNone(await told.closed)
        self.assertEqual(await server.ended(), 0)

    async def test_a_second_signal_does_not_wait(self) -> None:
        server = await self.serve("--drain-timeout", str(10 * DEADLINE))
        session = await self.session(server.output)
        told = await session.open("echo", Told())
        server.signal(signal.SIGINT)
        await told.closing
        server.signal(signal.SIGINT)
        self.assertEqual(await server.ended(), 0)
        self.assertNotIn("Traceback", server.output)

    async def test_nobody_new_is_let_in_meanwhile(self) -> None:
        server = await self.serve("--drain-timeout", str(10 * DEADLINE))
        session = await self.session(server.output)
        told = await session.open("echo", Told())
        server.signal(signal.SIGINT)
        await told.closing
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port_in(server.output)), DEADLINE)


class DaemonTests(TwistdTestCase):
    async def test_it_goes_to_the_background_and_comes_back(self) -> None:
        pid_file, log_file = self.home / "pid", self.home / "log"
        done = run_twistd(
            self.home, f"--pidfile={pid_file}", f"--logfile={log_file}", "jetstream", "--port", "0"
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        pid = int(pid_file.read_text())
        self.addCleanup(self.kill, pid_file, pid)
        log = await self.logged(log_file, LAST_LINE)
        session = await self.session(log)
        await session.ping()
        os.kill(pid, signal.SIGTERM)
        await session.when_closed()
        self.assertIsNone(session.close_reason)
        await self.logged(log_file, "Server Shut Down")
        self.assertFalse(pid_file.exists())

    async def logged(self, log_file: Path, text: str) -> str:
        """The whole log, once `text` is in it."""
        deadline = time.monotonic() + DEADLINE
        while text not in (log := log_file.read_text()):
            self.assertLess(time.monotonic(), deadline, log)
            await deferLater(reactor, 0.02)
        return log

    def kill(self, pid_file: Path, pid: int) -> None:
        if pid_file.exists():  # it did not end as it should have
            os.kill(pid, signal.SIGKILL)


class WhoTests(TwistdTestCase):
    async def assert_refused(self, *arguments: Any, **options: Any) -> None:
        with self.assertRaises(HandshakeError):
            await self.session(*arguments, **options)

    async def test_users_with_their_password(self) -> None:
        users = self.write("users", "al:secret\n")
        server = await self.serve("--auth", f"file:{users}")
        session = await self.session(server.output, credentials=("al", "secret"))
        await session.ping()
        for credentials in (("al", "wrong"), ("bo", "secret"), None):
            with self.assertRaises(Refused):
                await self.session(server.output, credentials=credentials)

    async def test_clients_with_a_listed_fingerprint(self) -> None:
        known, unknown = Identity.create(NOW), Identity.create(NOW)
        clients = self.write("clients", f"{known.fingerprint} al\n")
        server = await self.serve("--clients", clients)
        session = await self.session(server.output, identity=known)
        await session.ping()
        await self.assert_refused(server.output, identity=unknown)
        await self.assert_refused(server.output)

    async def test_certificates_of_an_authority_on_both_sides(self) -> None:
        authority = Authority.create()
        authority.write(self.home / "ca.pem")
        self.write("server.pem", authority.issue("127.0.0.1").to_pem())
        server = await self.serve("--cert", "server.pem", "--client-ca", "ca.pem")
        trust = CertificateAuthority(self.home / "ca.pem", "127.0.0.1")
        session = await self.session(server.output, trust=trust, identity=authority.issue("al"))
        await session.ping()
        await self.assert_refused(server.output, trust=trust, identity=Identity.create(NOW))

    async def test_rules_in_a_file(self) -> None:
        users = self.write("users", "al:secret\n")
        self.write(
            "server.toml",
            f"""
            auth = "file:{users}"
            allow_anonymous = true

            [[allow]]
            peers = ["user:al"]
            services = ["*"]

            [[allow]]
            peers = ["anonymous"]
            services = ["discard"]
            """,
        )
        server = await self.serve("--config", "server.toml")
        user = await self.session(server.output, credentials=("al", "secret"))
        await user.open("echo")
        nobody = await self.session(server.output)
        await nobody.open("discard")
        with self.assertRaises(NotAllowed):
            await nobody.open("echo")

    async def test_no_more_than_the_limit(self) -> None:
        server = await self.serve("--max-sessions", "1")
        session = await self.session(server.output)
        await self.assert_refused(server.output)
        await session.ping()
