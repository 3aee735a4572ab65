"""`twistd` as a program of its own, watched by the reactor of the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

ROOT = Path(__file__).resolve().parents[2]
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
DEADLINE = 30.0
_LISTENS = re.compile(r"listens on (?:127\.0\.0\.1|\[::1?\]|0\.0\.0\.0):(\d+)")
_FINGERPRINT = re.compile(r"fingerprint is (sha256:\S+)")


def environment(home: Path) -> dict[str, str]:
    """That of the test, with the state folder `home` and this source tree."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(home)}


def run_twistd(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `twistd` until it ends, for calls that should end at once."""
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
    found = _LISTENS.search(log)
    assert found, log
    return int(found[1])


def fingerprint_in(log: str) -> str:
    """The fingerprint that a server's log says it has."""
    found = _FINGERPRINT.search(log)
    assert found, log
    return found[1]


class Server(ProcessProtocol):
    """`twistd -n jetstream` on a free port, with `arguments` behind; `output` is what it printed."""

    def __init__(self, home: Path, arguments: Sequence[str] = ()) -> None:
        self.output = self.errors = ""
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self._ended: Deferred[int] = Deferred()
        command = [*TWISTD, "-n", "--pidfile=", "jetstream", "--port", "0", *arguments]
        self._process = reactor.spawnProcess(  # type: ignore[attr-defined]
            self, command[0], command, environment(home), str(home)
        )

    @property
    def port(self) -> int:
        return port_in(self.output)

    @property
    def fingerprint(self) -> str:
        return fingerprint_in(self.output)

    async def listening(self) -> Server:
        """This server, once its first lines are out."""
        await self.said("half open")
        return self

    def said(self, text: str) -> Deferred[None]:
        """Fires when `text` is in the output; fails if it never comes."""
        waiter: Deferred[None] = Deferred()
        waiter.addTimeout(DEADLINE, reactor)  # type: ignore[arg-type]
        self._waiting.append((text, waiter))
        self._look()
        return waiter

    def signal(self, number: int) -> None:
        self._process.signalProcess(signal.Signals(number).name[3:])

    def ended(self) -> Deferred[int]:
        """Fires with the exit status, which is negative for a signal."""
        waiter: Deferred[int] = Deferred()
        self._ended.chainDeferred(waiter)
        self._ended = Deferred()
        return waiter.addTimeout(DEADLINE, reactor)  # type: ignore[arg-type]

    def kill(self) -> Deferred[int] | None:
        """For the end of a test: nothing of the server is left once this has fired."""
        try:
            self._process.signalProcess("KILL")
        except ProcessExitedAlready:
            return None
        return self.ended()

    def outReceived(self, data: bytes) -> None:
        self.output += data.decode()
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.errors += data.decode()

    def processEnded(self, reason: Failure) -> None:
        if reason.check(ProcessDone):
            status = 0
        else:
            status = reason.value.exitCode  # type: ignore[attr-defined]
            if status is None:
                status = -reason.value.signal  # type: ignore[attr-defined]
        waiting, self._waiting = self._waiting, []
        for text, waiter in waiting:
            waiter.errback(AssertionError(f"no {text!r} in {self.output}{self.errors}"))
        self._ended.callback(status)

    def _look(self) -> None:
        found = [(text, waiter) for text, waiter in self._waiting if text in self.output]
        self._waiting = [entry for entry in self._waiting if entry not in found]
        for _, waiter in found:
            waiter.callback(None)
