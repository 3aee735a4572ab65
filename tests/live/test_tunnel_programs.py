"""Third-party programs through the tunnel, unchanged: iperf3, curl, ssh, rsync, redis."""

from __future__ import annotations

import filecmp
import json
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
import unittest
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.doubles import noise
from tests.loopback.test_cli_tunnel import HERE, TunnelCase
from tests.ports import free_port

LIMIT = 60
SSHD = "/usr/sbin/sshd"  # which insists on its full path


def needs(*programs: str) -> Callable[[Any], Any]:
    """Skip where one of these is not installed."""
    missing = [name for name in programs if shutil.which(name) is None]
    return unittest.skipIf(bool(missing), f"not installed: {', '.join(missing)}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class ProgramTests(TunnelCase):
    """Each over TCP, but for what says otherwise."""

    def setUp(self) -> None:
        super().setUp()
        self.files = Path(self.enterContext(TemporaryDirectory()))

    def run_program(self, *words: str, **options: Any) -> str:
        """What a program prints that is to succeed."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, **options)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def serve(self, *words: str, port: int) -> None:
        """A program that listens on `port`, until the test has ended."""
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        end = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection((HERE, port)).close()
                return
            except ConnectionRefusedError:
                self.assertIsNone(process.poll(), f"{words[0]} ended")
                self.assertLess(time.monotonic(), end, f"{words[0]} does not listen")
                time.sleep(0.05)

    @needs("iperf3")
    def test_iperf3_both_ways_over_udp(self) -> None:
        port = free_port()
        self.serve("iperf3", "-s", "-B", HERE, "-p", str(port), port=port)
        _, local = self.forwarded(port, "--transport", "udp")
        for direction in ((), ("-R",), ("-P", "3")):
            words = ("iperf3", "-c", HERE, "-p", str(local), "-n", "20M", "-J", *direction)
            report = json.loads(self.run_program(*words))
            self.assertGreaterEqual(report["end"]["sum_sent"]["bytes"], 20_000_000)
            # what is still under way when the sender has done is not counted by iperf3
            self.assertGreater(report["end"]["sum_received"]["bytes"], 5_000_000)

    @needs("curl")
    def test_curl_by_a_port_and_by_the_proxy(self) -> None:
        (self.files / "page").write_bytes(noise(3_000_000))
        web = ThreadingHTTPServer((HERE, 0), partial(_Quiet, directory=str(self.files)))
        threading.Thread(target=web.serve_forever, daemon=True).start()
        self.addCleanup(web.server_close)
        self.addCleanup(web.shutdown)
        port = web.server_address[1]
        process, local = self.forwarded(port, "-D", "0")
        proxy = self.event(process, "listening")["port"]
        for number, words in enumerate(
            (
                (f"http://{HERE}:{local}/page",),
                ("--socks5", f"{HERE}:{proxy}", f"http://{HERE}:{port}/page"),
                ("--socks5-hostname", f"{HERE}:{proxy}", f"http://localhost:{port}/page"),
            )
        ):
            out = self.files / f"out{number}"
            self.run_program("curl", "-sS", "--fail", "-o", str(out), *words)
            self.assertTrue(filecmp.cmp(self.files / "page", out, shallow=False))
        refused = subprocess.run(
            ["curl", "-sS", "--socks5", f"{HERE}:{proxy}", "http://10.9.8.7/"],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        self.assertEqual(refused.returncode, 97)  # the proxy's handshake
        self.assertIn("(2)", refused.stderr)  # not allowed by the rules

    def ssh(self) -> tuple[str, ...]:
        """A command for a host whose sshd is at the other end of a tunnel."""
        if os.geteuid() == 0:
            entries = (line.split(":") for line in Path("/etc/shadow").read_text().splitlines())
            if any(name == "root" and password.startswith("!") for name, password, *_ in entries):
                self.skipTest("sshd lets no locked account in, and root's is")
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own, which its start-up script makes
        for name in ("host", "user"):
            key = str(self.files / name)
            self.run_program("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        port = free_port()
        config = self.files / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress {HERE}\nHostKey {self.files}/host\nUsePAM no\n"
            f"AuthorizedKeysFile {self.files}/user.pub\nStrictModes no\nPidFile none\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        self.serve(SSHD, "-D", "-f", str(config), port=port)
        _, local = self.forwarded(port)
        return (
            *("ssh", "-F", "none", "-i", f"{self.files}/user", "-p", str(local)),
            *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"),
            *("-o", f"UserKnownHostsFile={self.files}/known"),
        )

    def login(self) -> str:
        return f"{pwd.getpwuid(os.geteuid()).pw_name}@{HERE}"

    @needs("ssh", "ssh-keygen", SSHD)
    def test_ssh_runs_a_command_and_carries_its_streams(self) -> None:
        words = (*self.ssh(), self.login(), "cat; echo done >&2; exit 7")
        data = noise(2_000_000)
        done = subprocess.run(words, input=data, capture_output=True, timeout=LIMIT)
        self.assertEqual((done.returncode, done.stderr), (7, b"done\n"))
        self.assertTrue(done.stdout == data)

    @needs("ssh", "ssh-keygen", SSHD, "rsync")
    def test_rsync_over_ssh(self) -> None:
        source, copy = self.files / "source", self.files / "copy"
        (source / "folder").mkdir(parents=True)
        for number in range(20):
            (source / "folder" / f"{number}").write_bytes(noise(100_000, number))
        shell = " ".join(self.ssh())
        self.run_program("rsync", "-a", "-e", shell, f"{source}/", f"{self.login()}:{copy}/")
        compared = filecmp.cmpfiles(
            source / "folder", copy / "folder", [f"{n}" for n in range(20)], shallow=False
        )
        self.assertEqual((len(compared[0]), compared[1:]), (20, ([], [])))

    @needs("redis-server", "redis-cli")
    def test_redis(self) -> None:
        port = free_port()
        words = ("--port", str(port), "--bind", HERE, "--save", "", "--dir", str(self.files))
        self.serve("redis-server", *words, port=port)
        _, local = self.forwarded(port)
        client = ("redis-cli", "-h", HERE, "-p", str(local))
        self.assertEqual(self.run_program(*client, "set", "key", "a value"), "OK\n")
        self.assertEqual(self.run_program(*client, "get", "key"), "a value\n")
        piped = "".join("incr counter\r\n" for _ in range(1000))
        self.assertEqual(self.run_program(*client, input=piped).split()[-1], "1000")
