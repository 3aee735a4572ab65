"""`jetstream tunnel` between real programs: what plain TCP would show them."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.doubles import noise
from tests.loopback.command import DEADLINE, ROOT, CliCase, read_line
from tests.ports import free_port

HERE = "127.0.0.1"
RULES = """
[[allow]]
peers = ["*"]
services = ["*"]
targets = ["127.0.0.1:*"]
listen = ["127.0.0.1:*"]
"""
RESET = struct.pack("ii", 1, 0)  # close with RST


class Twistd:
    """`twistd jetstream` with these rules, in a process of its own."""

    def __init__(self, home: Path, rules: str = RULES, port: int = 0) -> None:
        self.home = home
        config = home / "server.toml"
        config.write_text(rules)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n"),
                *("--pidfile=", "jetstream", "--port", str(port), "--config", str(config)),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(home)},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,  # or else what `select` waits for may have been read already
        )
        assert self.process.stdout is not None
        log = ""
        try:
            while "half open" not in log:
                line = read_line(self.process.stdout)
                assert line, log
                log += line
        except AssertionError:
            self.kill()
            raise
        found = re.search(r"listens on \S+:(\d+)", log)
        assert found, log
        self.port = int(found[1])
        self.address = f"{HERE}:{self.port}"
        # what it says from now on is of no interest, but must not fill the pipe
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@functools.cache
def shared_twistd() -> Twistd:
    """The server for all tests that do it no harm, there until they end."""
    folder = tempfile.TemporaryDirectory()
    server = Twistd(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return server


class TunnelCase(CliCase):
    """Tests with a shared server that lets clients reach this host."""

    def setUp(self) -> None:
        super().setUp()
        self.served = shared_twistd()
        self.home = self.served.home  # so the server is known

    def tunnel(self, *arguments: str, server: str = "") -> subprocess.Popen[bytes]:
        """The command, which says what happens in JSON."""
        server = server or self.served.address
        return self.start("tunnel", server, "--json", *arguments, bufsize=0)

    def event(self, process: subprocess.Popen[bytes], wanted: str) -> dict[str, Any]:
        """The next event of that kind."""
        assert process.stdout is not None
        while True:
            line = read_line(process.stdout)
            assert line, process.stderr and process.stderr.read()
            event: dict[str, Any] = json.loads(line)
            if event.get("event") == wanted:
                return event

    def forwarded(self, port: int, *arguments: str) -> tuple[subprocess.Popen[bytes], int]:
        """A tunnel to a port here, and the port to connect to."""
        process = self.tunnel("-L", f"0:{HERE}:{port}", *arguments)
        return process, self.event(process, "listening")["port"]

    def listen(self) -> socket.socket:
        listener = socket.create_server((HERE, 0))
        listener.settimeout(DEADLINE)
        self.addCleanup(listener.close)
        return listener

    def accept(self, listener: socket.socket) -> socket.socket:
        taken, _ = listener.accept()
        taken.settimeout(DEADLINE)
        self.addCleanup(taken.close)
        return taken

    def dial(self, port: int) -> socket.socket:
        connection = socket.create_connection((HERE, port), DEADLINE)
        self.addCleanup(connection.close)
        return connection

    def joined(self, *arguments: str) -> tuple[socket.socket, socket.socket]:
        """Two sockets with a tunnel between them: ours, and the target's."""
        listener = self.listen()
        _, port = self.forwarded(listener.getsockname()[1], *arguments)
        mine = self.dial(port)
        return mine, self.accept(listener)

    def assert_dialling_resets(self, port: int) -> None:
        """The kernel accepts for a program that resets: before or after connecting has returned."""
        with contextlib.suppress(ConnectionResetError):
            connection = self.dial(port)
            self.assert_reset(connection)

    def assert_reset(self, connection: socket.socket) -> bytes:
        """What still comes before the reset."""
        received = b""
        with self.assertRaises(ConnectionResetError):
            while True:
                piece = connection.recv(1 << 16)
                self.assertTrue(piece, "an end instead of a reset")
                received += piece
        return received


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def in_background(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(DEADLINE)
    assert not thread.is_alive()


class StreamTests(TunnelCase):
    def carry(self, *arguments: str) -> None:
        mine, theirs = self.joined(*arguments)
        data = noise(8_000_000)

        def send() -> None:
            mine.sendall(data)
            mine.shutdown(socket.SHUT_WR)

        with in_background(send):
            self.assertTrue(read_all(theirs) == data)
        with in_background(lambda: theirs.sendall(data) or theirs.close()):  # type: ignore[func-returns-value]
            self.assertTrue(read_all(mine) == data)

    def test_both_directions_one_after_the_other(self) -> None:
        self.carry()

    def test_over_udp(self) -> None:
        self.carry("--transport", "udp", "--bulk")

    def test_a_reset_at_either_end(self) -> None:
        for first in (0, 1):
            ends = self.joined()
            ends[first].sendall(b"last words")
            self.assertEqual(ends[1 - first].recv(100), b"last words")
            ends[first].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            ends[first].close()
            self.assertEqual(self.assert_reset(ends[1 - first]), b"")

    def test_what_came_before_a_reset_is_delivered(self) -> None:
        """A program that ends with bytes unread resets its connection, after what it has said."""
        mine, theirs = self.joined()
        mine.sendall(b"a question that is not read")
        theirs.recv(1)
        theirs.sendall(noise(50_000))
        theirs.close()
        self.assertTrue(self.assert_reset(mine) == noise(50_000))

    def test_a_refused_target_resets(self) -> None:
        port = free_port()
        process, local = self.forwarded(port)
        self.assert_dialling_resets(local)
        failed = self.event(process, "failed")
        self.assertEqual(failed["kind"], "ConnectionRefused")
        self.assertEqual(failed["message"], f"{HERE}:{port} refuses the connection")

    def test_the_tunnel_that_is_killed_resets_both(self) -> None:
        listener = self.listen()
        process, port = self.forwarded(listener.getsockname()[1])
        mine = self.dial(port)
        theirs = self.accept(listener)
        mine.sendall(b"x")
        theirs.recv(1)
        process.kill()
        self.assert_reset(theirs)
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(mine.recv(1), b"")  # its kernel's end, as without a tunnel

    def test_bytes_are_counted(self) -> None:
        listener = self.listen()
        process, port = self.forwarded(listener.getsockname()[1])
        mine = self.dial(port)
        theirs = self.accept(listener)
        opened = self.event(process, "opened")
        self.assertEqual(opened["target"], f"{HERE}:{listener.getsockname()[1]}")
        self.assertEqual(opened["origin"], "{}:{}".format(*mine.getsockname()))
        mine.sendall(b"12345")
        mine.shutdown(socket.SHUT_WR)
        self.assertEqual(read_all(theirs), b"12345")
        theirs.sendall(b"123")
        theirs.close()
        self.assertEqual(read_all(mine), b"123")
        closed = self.event(process, "closed")
        self.assertEqual((closed["to_channel"], closed["to_tcp"]), (5, 3))
        self.assertEqual((closed["id"], closed["message"]), (opened["id"], None))


class OtherForwardTests(TunnelCase):
    def test_the_server_listens(self) -> None:
        listener = self.listen()
        process = self.tunnel("-R", f"0:{HERE}:{listener.getsockname()[1]}")
        event = self.event(process, "listening")
        self.assertEqual((event["forward"], event["host"]), ("-R", HERE))
        far = self.dial(event["port"])
        near = self.accept(listener)
        far.sendall(b"from the server's side")
        self.assertEqual(near.recv(100), b"from the server's side")
        near.close()
        self.assertEqual(far.recv(1), b"")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(DEADLINE), 0)
        with self.assertRaises(ConnectionRefusedError):
            self.dial(event["port"])

    def test_a_proxy(self) -> None:
        listener = self.listen()
        process = self.tunnel("-D", "0")
        port = self.event(process, "listening")["port"]
        request = b"\x05\x01\x00\x01" + socket.inet_aton(HERE)
        mine = self.dial(port)
        mine.sendall(b"\x05\x01\x00" + request + struct.pack(">H", listener.getsockname()[1]))
        theirs = self.accept(listener)
        answer = mine.recv(2)
        answer += mine.recv(10)
        self.assertEqual(answer[:6], b"\x05\x00\x05\x00\x00\x01")
        mine.sendall(b"ping")
        self.assertEqual(theirs.recv(4), b"ping")
        refused = self.dial(port)
        refused.sendall(b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50")
        self.assertEqual(read_all(refused)[:4], b"\x05\x00\x05\x02")


class CommandTests(TunnelCase):
    def test_what_it_says_to_people(self) -> None:
        process = self.start(
            "tunnel", self.served.address, "-L", f"0:{HERE}:1", "-D", "0", bufsize=0
        )
        assert process.stderr is not None
        lines = [read_line(process.stderr) for _ in range(3)]
        self.assertRegex(lines[0], rf"^connected to {self.served.address} over (tcp|quic)\n$")
        self.assertRegex(lines[1], rf"^-L {HERE}:\d+ -> {HERE}:1: ready\n$")
        self.assertRegex(lines[2], rf"^-D {HERE}:\d+ -> SOCKS5: ready\n$")
        self.dial(int(re.findall(r"\d+", lines[1])[4]))
        self.assertRegex(read_line(process.stderr), rf"^{HERE}:\d+ -> {HERE}:1: .* refuses")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual((process.returncode, out, self.checked(err)), (0, b"", ""))

    def test_wrong_usage(self) -> None:
        for words, message in (
            ((), "say what to carry"),
            (("-L", "80:host"), r"'80:host' is not \[BIND:\]PORT:TARGET:TPORT"),
            (("-L", "host:80:h:80"), "not an address to listen on"),
            (("-R", "80:h:99999"), "not a port"),
            (("-D", "::1:80"), "is not"),
        ):
            with self.subTest(words):
                status, _, err = self.run_command("tunnel", "127.0.0.1:1", *words)
                self.assertEqual(status, 2)
                self.assertRegex(err, message)

    def test_without_a_server(self) -> None:
        self.fails(1, "nothing listens at 127.0.0.1:1", "tunnel", "127.0.0.1:1", "-D", "0")

    def test_a_taken_port(self) -> None:
        taken = self.listen().getsockname()[1]
        why = f"cannot listen on {HERE}:{taken} \\(-L\\): {os.strerror(errno.EADDRINUSE)}"
        command = ("tunnel", self.served.address, "--json", "-L", f"{taken}:{HERE}:1")
        status, out, err = self.run_command(*command, "--exit-on-failure", "-D", "0")
        error = json.loads(out.splitlines()[-1])["error"]
        self.assertRegex(error["message"], why)
        self.assertEqual((status, err), (1, f"jetstream: {error['message']}\n"))
        status, out, _ = self.run_command(*command)
        events = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(status, 1)
        self.assertEqual(events[1]["event"], "not_listening")
        self.assertEqual(events[2]["error"]["message"], "there is nothing left to carry")
        process = self.tunnel("-L", f"{taken}:{HERE}:1", "-D", "0")
        self.assertEqual(self.event(process, "not_listening")["port"], taken)
        self.event(process, "listening")

    def test_a_port_of_the_server_that_is_taken(self) -> None:
        taken = self.listen().getsockname()[1]
        command = ("tunnel", self.served.address, "--json", "-R", f"{taken}:{HERE}:1")
        status, out, _ = self.run_command(*command)
        self.assertEqual((status, json.loads(out.splitlines()[1])["event"]), (1, "not_listening"))
        process = self.start(*command, "--exit-on-failure")
        out, err = process.communicate(timeout=DEADLINE)
        error = json.loads(out.splitlines()[-1])["error"]
        self.assertRegex(error["message"], f":{taken} \\(-R\\): .*in use")
        self.assertEqual(
            (process.returncode, err.decode()), (1, f"jetstream: {error['message']}\n")
        )

    def test_nobody_reads_the_events(self) -> None:
        process = self.tunnel("-L", f"0:{HERE}:1")
        port = self.event(process, "listening")["port"]
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        self.dial(port)  # which fails, and that is an event
        self.assertEqual(process.wait(DEADLINE), -signal.SIGPIPE)
        self.assertEqual(self.checked(process.stderr.read()), "")


class LifeTests(TunnelCase):
    def test_it_connects_again(self) -> None:
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        server = Twistd(self.home, port=free_port())
        listener = self.listen()
        target = f"0:{HERE}:{listener.getsockname()[1]}"
        try:
            process = self.tunnel("-L", target, "-R", target, server=server.address)
            port = self.event(process, "listening")["port"]
            remote = self.event(process, "listening")["port"]
            mine = self.dial(port)
            self.accept(listener)
        finally:
            server.kill()
        self.assert_reset(mine)
        self.event(process, "lost")
        self.event(process, "retrying")
        again = Twistd(self.home, port=server.port)
        self.addCleanup(again.kill)
        waiting = self.dial(port)
        waiting.sendall(b"patience")
        self.event(process, "connected")
        self.assertEqual(self.accept(listener).recv(100), b"patience")
        self.assertEqual(self.event(process, "listening")["port"], remote)
        self.dial(remote).sendall(b"here too")
        self.assertEqual(self.accept(listener).recv(100), b"here too")

    def test_another_server_in_the_place_of_ours(self) -> None:
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        server = Twistd(self.home, port=free_port())
        self.addCleanup(server.kill)
        process = self.tunnel("-D", "0", server=server.address)
        self.event(process, "listening")
        server.kill()
        self.event(process, "lost")
        other = Path(self.enterContext(tempfile.TemporaryDirectory()))
        impostor = Twistd(other, port=server.port)
        self.addCleanup(impostor.kill)
        out, err = process.communicate(timeout=DEADLINE)
        self.assertEqual(
            (process.returncode, json.loads(out.splitlines()[-1])["error"]["kind"]),
            (3, "UnknownHost"),
            self.checked(err),
        )

    def test_without_rules_a_server_connects_nobody(self) -> None:
        self.home = Path(self.enterContext(tempfile.TemporaryDirectory()))
        server = Twistd(self.home, "")
        self.addCleanup(server.kill)
        process = self.tunnel("-L", f"0:{HERE}:{server.port}", server=server.address)
        port = self.event(process, "listening")["port"]
        self.assert_dialling_resets(port)
        failed = self.event(process, "failed")
        self.assertEqual(failed["kind"], "NotAllowed")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, 0)
