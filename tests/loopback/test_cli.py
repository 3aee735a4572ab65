"""The `jetstream` command as it is run: processes, real sockets, pipes and a terminal."""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import unittest
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from jetstreamproto.security.identity import Identity, parse_fingerprint

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0
NOW = datetime.now(timezone.utc)
ELSEWHERE = "sha256:" + "A" * 43

SERVER = """
import json, os, sys, threading
from pathlib import Path
from twisted.internet import defer, reactor
from jetstreamproto.factory import JetStreamServerFactory
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.services.echo import DISCARD, ECHO, Discard, Echo
from jetstreamproto.services.source import SOURCE, Source
from jetstreamproto.transports.admission import AdmissionLimits

options = json.loads(sys.argv[1])

def log_in(session, hello):
    if (hello.username, hello.password) == ("al", "secret"):
        return defer.succeed(hello.username)
    return defer.fail(ValueError("no"))

factory = JetStreamServerFactory(
    Identity.from_files(Path(options["identity"])),
    {} if options.get("empty") else {ECHO: Echo, DISCARD: Discard, SOURCE: Source},
    clients=PinnedKeys(options["clients"]) if "clients" in options else None,
    authenticate=log_in if options.get("log_in") else None,
    admission=AdmissionLimits(sessions=options.get("sessions", 100)),
)
port = reactor.listenTCP(0, factory, interface="127.0.0.1")
print(port.getHost().port, factory.identity.fingerprint, flush=True)

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
            arguments = json.dumps({"identity": file.name, **options})
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
    server = Server()
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
        """The command fails with this status and one line, with and without --json."""
        found, out, err = self.run_command(*arguments, **options)
        self.assertEqual((found, out, len(err.splitlines())), (status, b"", 1), err)
        self.assertRegex(err, message)
        if arguments[0] != "echo":
            found, out, err = self.run_command(*arguments, "--json", **options)
            error = json.loads(out)["error"]
            self.assertEqual((found, set(error)), (status, {"kind", "message"}), err)
            self.assertRegex(error["message"], message)


class PingTests(CliCase):
    def test_it_prints_each_round_trip(self) -> None:
        server = shared_server()
        status, out, err = self.run_command(
            "ping", server.address, "--pin", server.fingerprint, "-c", "3", "-i", "0"
        )
        self.assertEqual((status, err), (0, ""))
        lines = out.decode().splitlines()
        self.assertEqual(lines[0], f"{server.address} (tcp) {server.fingerprint}")
        for number, line in enumerate(lines[1:4], 1):
            self.assertRegex(line, rf"^{number}: \d+\.\d{{3}} ms$")
        self.assertRegex(lines[4], r"^3 of 3 answered: min .* ms, median .* ms, p99 .* ms$")

    def test_json(self) -> None:
        server = shared_server()
        status, out, err = self.run_command(
            "ping", server.address, "--pin", server.fingerprint, "-c", "9", "-i", "0.01", "--json"
        )
        self.assertEqual((status, err), (0, ""))
        report = json.loads(out)
        rtt = report.pop("rtt_ms")
        expected = {
            "host": server.address,
            "transport": "tcp",
            "fingerprint": server.fingerprint,
            "sent": 9,
            "received": 9,
        }
        self.assertEqual(report, expected)
        self.assertEqual(list(rtt), ["min", "median", "p99"])
        self.assertLessEqual(0 < rtt["min"] <= rtt["median"] <= rtt["p99"], True)

    def test_by_host_name_over_either_address_family(self) -> None:
        server = shared_server()
        status, _, err = self.run_command(
            "ping", f"localhost:{server.port}", "--pin", server.fingerprint, "-c", "1"
        )
        self.assertEqual((status, err), (0, ""))

    def test_a_server_that_falls_silent(self) -> None:
        server = self.server()
        process = self.start(
            *("ping", server.address, "--pin", server.fingerprint),
            *("-c", "1000", "-i", "0", "--timeout", "1"),
        )
        assert process.stdout is not None
        read_line(process.stdout)
        server.process.send_signal(signal.SIGSTOP)
        _, err = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 5)
        self.assertRegex(self.checked(err), r"^jetstream: no answer to ping \d+ within 1 s\n$")

    def test_ctrl_c(self) -> None:
        server = shared_server()
        for number in (signal.SIGINT, signal.SIGTERM):
            for options in ((), ("--json",)):
                process = self.start(
                    *("ping", server.address, "--pin", server.fingerprint),
                    *("-c", "100", "-i", "10", *options),
                )
                assert process.stdout is not None
                if not options:
                    read_line(process.stdout)
                    process.send_signal(number)
                else:
                    self.interrupt_when_connected(process, number)
                out, err = process.communicate(timeout=DEADLINE)
                self.assertEqual((process.returncode, self.checked(err)), (-number, ""))
                if options:
                    self.assertEqual(json.loads(out)["error"]["kind"], "Interrupted")

    def interrupt_when_connected(self, process: subprocess.Popen[bytes], number: int) -> None:
        """The command's handlers are there before its first socket."""
        sockets = Path(f"/proc/{process.pid}/fd")
        while not any("socket" in os.readlink(entry) for entry in sockets.iterdir()):
            pass
        process.send_signal(number)

    def test_a_reader_that_goes_away(self) -> None:
        server = shared_server()
        process = self.start("ping", server.address, "--pin", server.fingerprint, "-i", "0.1")
        assert process.stdout is not None
        read_line(process.stdout)
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE), -signal.SIGPIPE)
        assert process.stderr is not None
        self.assertEqual(process.stderr.read(), b"")


class IdentityTests(CliCase):
    def test_it_is_made_at_first_use(self) -> None:
        status, out, err = self.run_command("identity")
        self.assertEqual((status, err), (0, ""))
        fingerprint = out.decode().strip()
        self.assertEqual(parse_fingerprint(fingerprint), fingerprint)
        self.assertEqual(self.run_command("identity"), (status, out, err))
        self.assertEqual((self.home / "identity.pem").stat().st_mode & 0o777, 0o600)

    def test_a_full_disk(self) -> None:
        for options in ((), ("--json",)):
            with open("/dev/full", "wb") as full:
                status, _, err = self.run_command("identity", *options, stdout=full)
            self.assertEqual(status, 1)
            self.assertEqual(err, "jetstream: standard output: No space left on device\n")


class BenchTests(CliCase):
    def bench(self, *options: str) -> dict[str, Any]:
        server = shared_server()
        pin = ("--pin", server.fingerprint)
        status, out, err = self.run_command("bench", server.address, *pin, *options, "--json")
        self.assertEqual((status, err), (0, ""))
        report: dict[str, Any] = json.loads(out)
        return report

    def test_bulk(self) -> None:
        for direction in ("up", "down"):
            report = self.bench("--mode", "bulk", "--bytes", "10MB", "--direction", direction)
            self.assertEqual(
                list(report), ["MB_per_s", "bytes", "seconds", "direction", "transport"]
            )
            self.assertEqual((report["bytes"], report["direction"]), (10_000_000, direction))
            self.assertAlmostEqual(report["MB_per_s"], 10 / report["seconds"], delta=0.1)

    def test_rpc(self) -> None:
        report = self.bench(
            *("--mode", "rpc", "--calls", "500", "--concurrency", "7", "--size", "1KiB")
        )
        self.assertEqual(
            list(report), ["calls_per_s", "p50_us", "p99_us", "calls", "concurrency", "size"]
        )
        self.assertEqual((report["calls"], report["concurrency"], report["size"]), (500, 7, 1024))
        self.assertLessEqual(0 < report["p50_us"] <= report["p99_us"], True)

    def test_for_people(self) -> None:
        server = shared_server()
        for options, line in [
            (("bulk", "--bytes", "1MB"), rb"^1000000 bytes up in \d.* s: \d.* MB/s\n$"),
            (("rpc", "--calls", "9"), rb"^9 calls of 64 bytes, 64 at a time: .* calls/s, p50 .*\n"),
        ]:
            status, out, err = self.run_command(
                "bench", server.address, "--pin", server.fingerprint, "--mode", *options
            )
            self.assertEqual((status, err), (0, ""))
            self.assertRegex(out, line)

    def test_a_server_without_the_service(self) -> None:
        server = self.server(empty=True)
        self.fails(
            *(1, "the server refused: no service 'discard'"),
            *("bench", server.address, "--pin", server.fingerprint, "--mode", "bulk"),
        )
