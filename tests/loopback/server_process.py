"""`twistd jetstream` as a program of its own, watched by the reactor of the test."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

ROOT = Path(__file__).resolve().parents[2]
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
DEADLINE = 60.0
LAST_LINE = "half open"
"""In the last of a server's first lines."""

_PORT = re.compile(r"listens on \S+:(\d+)")
_FINGERPRINT = re.compile(r"fingerprint is (sha256:\S+)")


def environment(home: Path) -> dict[str, str]:
    """That of the test, with the state folder `home` and this source tree."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(home)}


def run_twistd(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `twistd` to its end, for what should end at once."""
    return subprocess.run(
        [*TWISTD, *arguments],
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def port_in(log: str) -> int:
    """The port that a server's log says it listens on."""
    found = _PORT.search(log)
    assert found, log
    return int(found[1])


def fingerprint_in(log: str) -> str:
    """The fingerprint that a server's log says it has."""
    found = _FINGERPRINT.search(log)
    assert found, log
    return found[1]


class Server(ProcessProtocol):
    """`twistd -n jetstream` on a free port, with `arguments` too; `output` is what it printed."""

    def __init__(self, home: Path, arguments: Sequence[str] = ()) -> None:
        self.output = self.errors = ""
        self.status: int | None = None
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self._until_end: list[Deferred[int]] = []
        self._reactor: Any = reactor
        command = [*TWISTD, "-n", "--pidfile=", "jetstream", "--port", "0", *arguments]
        self._process = self._reactor.spawnProcess(
            self, command[0], command, environment(home), str(home)
        )

    def said(self, text: str) -> Deferred[None]:
        """Fires when `text` is in the output; fails if the server ends without it."""
        waiter: Deferred[None] = Deferred()
        self._waiting.append((text, waiter))
        self._look()
        return waiter.addTimeout(DEADLINE, self._reactor)

    def signal(self, number: int) -> None:
        """Send the server a signal."""
        self._process.signalProcess(number)

    def ended(self) -> Deferred[int]:
        """Fires with the exit status, which is negative for a signal."""
        waiter: Deferred[int] = Deferred()
        self._until_end.append(waiter)
        self._look()
        return waiter.addTimeout(DEADLINE, self._reactor)

    def kill(self) -> Deferred[int]:
        """For the end of a test: nothing of the server is left once this has fired."""
        if self.status is None:
            with contextlib.suppress(ProcessExitedAlready):  # its end is about to be reported
                self._process.signalProcess("KILL")
        return self.ended()

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode()

    def processEnded(self, reason: Failure) -> None:
        error = reason.value
        self.status = 0
        if isinstance(error, ProcessTerminated):
            self.status = error.exitCode if error.exitCode is not None else -error.signal
        self._look()

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for text, waiter in waiting:
            if text in self.output:
                waiter.callback(None)
            elif self.status is not None:
                waiter.errback(AssertionError(f"no {text!r} in {self.output}{self.errors}"))
            else:
                self._waiting.append((text, waiter))
        if self.status is not None:
            ends, self._until_end = self._until_end, []
            for end in ends:
                end.callback(self.status)
