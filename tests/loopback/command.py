"""The `jetstream` command and a server for it, as processes of their own."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
import unittest
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from jetstreamproto.security.identity import Identity
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
NOW = datetime.now(UTC)

SERVER = """
import json, os, sys, threading
from pathlib import Path
from twisted.internet import defer, reactor
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from jetstreamproto.services.latency import LATENCY, Latency
from jetstreamproto.services.source import SOURCE, Source
from jetstreamproto.transports.admission import AdmissionLimits

options = json.loads(sys.argv[1])

def log_in(session, hello):
    if (hello.username, hello.password) == ("al", "secret"):
        return defer.succeed(hello.username)
    return defer.fail(ValueError("no"))

factory = JetStreamServerFactory(
    Identity.from_files(Path(options["identity"])),
    {}
    if options.get("empty")
    else {ECHO: Echo, DISCARD: Discard, SOURCE: Source, LATENCY: Latency},
    clients=PinnedKeys(options["clients"]) if "clients" in options else None,
    authenticate=log_in if options.get("log_in") else None,
    admission=AdmissionLimits(sessions=options.get("sessions", 100)),
)
port = options["port"]
if not options.get("no_tcp"):
    reactor.listenTCP(port, factory, interface="127.0.0.1")
if options.get("udp"):
    from jetstreamproto.datagram import listen_udp

    listen_udp(reactor, port, factory, interface="127.0.0.1", quic=True)
print(port, factory.identity.fingerprint, flush=True)

def end_with_the_test():
    os.read(0, 1)
    os._exit(0)

threading.Thread(target=end_with_the_test, daemon=True).start()
reactor.run()
"""


def read_line(stream: IO[bytes]) -> str:
    """A line that a process prints, if it comes in time."""
    assert select.select([stream], [], [], DEADLINE)[0], "nothing was printed"
    return stream.readline().decode()


class Server:
    """A server in a process of its own, which ends with the test's. `options` as in SERVER."""

    def __init__(self, identity: Identity | None = None, **options: object) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write((identity or Identity.create(NOW)).to_pem())
            file.flush()
            arguments = json.dumps({"identity": file.name, "port": free_port(), **options})
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVER, arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self.process.stdout is not None
            port, self.fingerprint = read_line(self.process.stdout).split()
        self.address = f"127.0.0.1:{port}"
        self.port = int(port)

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@functools.cache
def shared_server() -> Server:
    """The plain server, for all tests that do it no harm."""
    return keep_server(Server())


def keep_server(server: Server) -> Server:
    """`server`, which is stopped when the tests end."""
    atexit.register(server.stop)
    return server


class CliCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)

    @property
    def known_hosts(self) -> Path:
        return self.home / "known_hosts"

    def server(self, identity: Identity | None = None, **options: object) -> Server:
        server = Server(identity, **options)
        self.addCleanup(server.stop)
        return server

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """The command as a process without a terminal."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(self.home)}
        environ.update(options.pop("environ", {}))
        process = subprocess.Popen(
            [sys.executable, "-m", "jetstreamproto.cli", *arguments],
            env=environ,
            start_new_session=True,
            **{name: options.pop(name, subprocess.PIPE) for name in ("stdin", "stdout", "stderr")},
            **options,
        )
        self.addCleanup(self._reap, process)
        return process

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def run_command(
        self, *arguments: str, given: bytes = b"", **options: Any
    ) -> tuple[int, bytes, str]:
        """The exit status, stdout and stderr. There is never a traceback in it."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(given, timeout=DEADLINE)
        return process.returncode, out, self.checked(err)

    def checked(self, err: bytes) -> str:
        text = err.decode()
        self.assertNotIn("Traceback", text)
        self.assertNotIn("Unhandled", text)
        return text

    def fails(self, status: int, message: str, *arguments: str, **options: Any) -> None:
        """With --json the command fails with this status, one object and one line."""
        found, out, err = self.run_command(*arguments, "--json", **options)
        error = json.loads(out)["error"]
        self.assertEqual((found, set(error)), (status, {"kind", "message"}), err)
        self.assertRegex(error["message"], message)
        self.assertEqual(err, f"jetstream: {error['message']}\n")
