"""`jetstreamproto.testing.wan` on real network namespaces. Needs root on Linux."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import unittest
from pathlib import Path

from jetstreamproto.testing.netns import missing

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
COMMAND = (PYTHON, "-m", "jetstreamproto.testing.wan", "--wait", "0")

ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 7000))
while True:
    data, address = server.recvfrom(65536)
    server.sendto(data, address)
"""

CLIENT = """
import os, signal, socket, sys, time
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def ask(data, patience):
    # The answer and when it came, or None.
    client.settimeout(patience)
    start = time.monotonic()
    try:
        client.sendto(data, ("198.18.0.2", 7000))
        return client.recv(65536), time.monotonic() - start
    except (TimeoutError, ConnectionError):
        return None

def ask_until(data, wanted, patience=1.0):
    # Ask until there is an answer, or none.
    for _ in range(100):
        answer = ask(data, patience)
        if wanted == (answer is not None):
            return answer
    sys.exit("it went on" if wanted else "it never stopped")
"""


def trouble() -> str | None:
    """Why none of this can run here."""
    lacking = missing()
    if lacking is None:
        done = wan("--", "true", ":::", "true")
        return done.stderr.strip() if done.returncode else None
    return lacking


def wan(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*COMMAND, *words],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        **options,
    )


def is_alive(pid: int) -> bool:
    """Whether it runs; init may take a while to see that it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


WHY_NOT = trouble()


@unittest.skipIf(WHY_NOT is not None, f"no network namespaces: {WHY_NOT}")
class WanTests(unittest.TestCase):
    def converse(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a client against the echo server."""
        commands = ("--", PYTHON, "-c", ECHO, ":::", PYTHON, "-c", CLIENT + script)
        done = wan("--limit", "30", *options, *commands)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def counters(self, done: subprocess.CompletedProcess[str], way: str) -> dict[str, int]:
        [line] = [line for line in done.stderr.splitlines() if line.startswith(way)]
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}

    def test_packets_take_their_time(self) -> None:
        script = "print(min(ask_until(b'x', True)[1] for _ in range(5)))"
        done = self.converse(script, "--delay-ms", "30")
        self.assertGreaterEqual(float(done.stdout), 0.06)
        there, back = (self.counters(done, way) for way in ("client>server", "server>client"))
        self.assertGreaterEqual(there["offered"], 5)
        self.assertGreaterEqual(back["delivered"], 5)
        self.assertEqual(there["lost"] + back["lost"], 0)

    def test_the_ways_may_lose_differently(self) -> None:
        done = self.converse("ask(b'x', 0.5)", "--back-loss", "100")
        self.assertEqual(self.counters(done, "server>client")["delivered"], 0)
        self.assertGreater(self.counters(done, "client>server")["delivered"], 0)

    def test_a_damaged_datagram_reaches_the_program(self) -> None:
        script = """
ask_until(b"x" * 400, True)
answers = [ask(bytes(400), 0.5) for _ in range(40)]
print(sum(answer is not None and answer[0].count(0) != 400 for answer in answers))
"""
        done = self.converse(script, "--corrupt", "50", "--seed", "3")
        self.assertGreater(int(done.stdout), 10)
        self.assertGreater(self.counters(done, "client>server")["corrupted"], 10)

    def test_tcp_survives_damage(self) -> None:
        server = "import socket; s = socket.create_server(('', 7000)); c = s.accept()[0]\n"
        server += "while data := c.recv(65536): c.sendall(data)"
        client = """
import socket, time
for _ in range(200):
    try:
        c = socket.create_connection(("198.18.0.2", 7000))
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
data = bytes(range(256)) * 400
c.sendall(data)
got = b""
while len(got) < len(data):
    got += c.recv(65536)
assert got == data
"""
        done = wan("--corrupt", "2", "--", PYTHON, "-c", server, ":::", PYTHON, "-c", client)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_signals_report_and_make_a_blackhole(self) -> None:
        script = """
ask_until(b"x", True)
os.kill(os.getppid(), signal.SIGUSR2)
ask_until(b"x", False)
os.kill(os.getppid(), signal.SIGUSR2)
ask_until(b"x", True)
os.kill(os.getppid(), signal.SIGUSR1)
ask_until(b"x", True)
"""
        done = self.converse(script)
        self.assertEqual(done.stderr.count("client>server"), 2)
        self.assertRegex(done.stderr, r"lost=[1-9]")

    def test_the_status_is_the_clients(self) -> None:
        for script, status in (("exit 7", 7), ("kill -9 $$", 137)):
            with self.subTest(script):
                done = wan("--", "sleep", "100", ":::", "sh", "-c", script)
                self.assertEqual(done.returncode, status, done.stderr)

    def test_a_client_that_takes_too_long_is_stopped(self) -> None:
        done = wan("--limit", "0.2", "--", "sleep", "100", ":::", "sleep", "100")
        self.assertEqual(done.returncode, 124)

    def test_commands_that_are_not_there(self) -> None:
        for words in (("no-such-command", ":::", "true"), ("sleep", "9", ":::", "no-such-command")):
            with self.subTest(words):
                done = wan("--", *words)
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stderr, "wan: no-such-command: No such file or directory\n")

    def test_congestion_control_that_is_not_there(self) -> None:
        done = wan("--cc", "nonesuch", "--", "true", ":::", "true")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"\Awan: tcp_congestion_control nonesuch: .*\n\Z")

    def test_nothing_is_left_behind(self) -> None:
        """Not even what has left its parent, or does not want to end."""
        stubborn = "trap '' TERM; setsid sh -c 'echo $$; exec sleep 1000' & echo $$; wait"
        waits = "read line; exit 0"
        done = wan(
            "--wait", "0.5", "--", "sh", "-c", stubborn, ":::", "sh", "-c", waits, input="\n"
        )
        pids = [int(word) for word in done.stdout.split()]
        self.assertEqual(len(pids), 2, done)
        self.assertEqual([pid for pid in pids if is_alive(pid)], [])

    def test_signals_end_it_cleanly(self) -> None:
        sleeper = ("sh", "-c", "echo $$; exec sleep 1000")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                program = subprocess.Popen(
                    [*COMMAND, "--", *sleeper, ":::", *sleeper],
                    cwd=ROOT,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                assert program.stdout is not None
                pids = [int(program.stdout.readline()) for _ in range(2)]
                program.send_signal(number)
                _, errors = program.communicate(timeout=60)
                self.assertEqual(program.returncode, 128 + number)
                self.assertIn("client>server", errors)
                self.assertEqual([pid for pid in pids if is_alive(pid)], [])
