"""The supervisor: starts the workers, starts those again that die, and stops them all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from jetstreamproto.server.signals import StopSignals
from jetstreamproto.server.workers.part import WorkerPart, open_backend

_log = Logger(namespace="jetstream")

PROCESS = "jetstreamproto.server.workers.process"
"""The module that is a worker's program."""

SERVING = "serving"
"""What a worker writes when it has begun."""

_LONGEST_LINE = 1 << 14
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0
_STABLE = 60.0
"""Seconds that a worker must live for its end to be no reason for a longer delay."""
_LATE = 5.0
"""What a worker has beyond its time to drain before it is killed."""

Command = Callable[[str], Sequence[str]]
"""The command line of a worker, without the program, from what describes its part."""


def restart_delay(failures: int) -> float:
    """Seconds before the next start, after so many ends in a row that came too early."""
    return float(min(_FIRST_DELAY * 2.0 ** max(failures - 1, 0), _LAST_DELAY))


class Supervisor(Service):
    """Runs a worker for each of `parts`, which belong to it from now on.

    `drain_timeout` is what a worker may take to stop, in seconds. `announcement` is logged once
    all of them serve.
    """

    def __init__(
        self,
        parts: Sequence[WorkerPart],
        command: Command,
        announcement: Sequence[str],
        drain_timeout: float,
        reactor: Any = None,
    ) -> None:
        self.workers = [Worker(self, part, command) for part in parts]
        self.backend: Worker | None = None
        """Starts first and stops last."""
        self._command = command
        self.stopping = False
        self._folder = ""
        self._announcement = announcement
        self._drain_timeout = drain_timeout
        self._given = reactor
        self._announced = False

    @property
    def reactor(self) -> Any:
        """The reactor that was given, or the installed one."""
        if self._given is None:
            from twisted.internet import reactor

            self._given = reactor
        return self._given

    def startService(self) -> None:
        super().startService()
        self.reactor.callWhenRunning(self.start)

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        return self.stop()

    def start(self) -> None:
        """Start the workers."""
        StopSignals(self.reactor, self.hurry).install()
        self._folder = tempfile.mkdtemp(prefix="jetstream-")  # for this user alone
        part, path = open_backend(self._folder, len(self.workers))
        self.backend = Worker(self, part, self._command)
        for worker in (self.backend, *self.workers):
            worker.start(path)

    def stop(self) -> Deferred[Any]:
        """Have the workers drain; fires when they have all ended."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.stopping = True
        await DeferredList([worker.stop(self._drain_timeout) for worker in self.workers])
        if self.backend is not None:
            await self.backend.stop(self._drain_timeout)
            shutil.rmtree(self._folder, ignore_errors=True)

    def hurry(self) -> None:
        """Have the workers drop the sessions that are left."""
        for worker in self._everybody:
            worker.signal("TERM")

    @property
    def _everybody(self) -> list[Worker]:
        return [*self.workers, *([self.backend] if self.backend is not None else [])]

    def worker_serves(self) -> None:
        """One more serves."""
        if not self._announced and all(worker.serving for worker in self._everybody):
            self._announced = True
            for line in self._announcement:
                _log.info("{line}", line=line)


class Worker:
    """One worker or the backend, whichever process it is just now."""

    def __init__(self, supervisor: Supervisor, part: WorkerPart, command: Command) -> None:
        self.part = part
        self.serving = False
        self._supervisor = supervisor
        self._command = command
        self._backend = ""
        self._process: Any = None
        self._started_at = 0.0
        self._failures = 0  # in a row
        self._restarting: IDelayedCall | None = None
        self._ended: Deferred[None] | None = None  # whoever waits for the end

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        pid: int | None = self._process.pid if self._process is not None else None
        return pid

    def start(self, backend: str) -> None:
        """Start the process, and tell it where the backend listens."""
        self._backend = backend
        self._start()

    def _start(self) -> None:
        self._restarting = None
        reactor = self._supervisor.reactor
        self._started_at = reactor.seconds()
        described = self.part.describe(self._backend)
        arguments = [sys.executable, "-m", PROCESS, *self._command(described)]
        descriptors: dict[int, int | str] = {0: "w", 1: "r", 2: "r", **self.part.descriptors()}
        self._process = reactor.spawnProcess(
            _Output(self), sys.executable, arguments, os.environ, childFDs=descriptors
        )
        _log.info("{name} is process {pid}", name=self.part.name, pid=self.pid)

    def signal(self, name: str) -> None:
        """Send the process a signal, if there is one."""
        try:
            if self._process is not None:
                self._process.signalProcess(name)
        except ProcessExitedAlready:
            pass  # and we shall be told

    def stop(self, within: float) -> Deferred[None]:
        """Have the process drain within so many seconds; fires when it has ended."""
        ended: Deferred[None] = Deferred()
        self.part.close()  # otherwise connections would still be let in, and wait for nobody
        if self._restarting is not None:
            self._restarting.cancel()
            self._restarting = None
        if self._process is None:
            ended.callback(None)
            return ended
        self._ended = ended
        if self.part.is_backend:
            self._process.closeStdin()  # it takes no signals: others may send them to all of us
        else:
            self.signal("TERM")
        kill = self._supervisor.reactor.callLater(2 * within + _LATE, self.signal, "KILL")
        return ended.addBoth(lambda _: kill.cancel() if kill.active() else None)

    def said(self, line: str) -> None:
        """The process has written a line."""
        if line == SERVING and not self.serving:
            self.serving = True
            self._supervisor.worker_serves()
        else:
            _log.info("{name}: {line}", name=self.part.name, line=line)

    def ended(self, reason: Failure) -> None:
        """The process is gone."""
        self._process = None
        self.serving = False
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended.callback(None)
            return
        if self._supervisor.stopping:
            return
        reactor = self._supervisor.reactor
        lived = reactor.seconds() - self._started_at
        self._failures = 1 if lived >= _STABLE else self._failures + 1
        delay = restart_delay(self._failures)
        _log.error(
            "{name} ended ({how}); it starts again in {delay:g} s",
            name=self.part.name,
            how="exit status 0" if reason.check(ProcessDone) else reason.getErrorMessage(),
            delay=delay,
        )
        self._restarting = reactor.callLater(delay, self._start)


class _Output(ProcessProtocol):
    """Cuts what a worker's process writes into lines."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._rests: dict[int, bytes] = {}

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._rests.get(childFD, b"") + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._rests[childFD] = rest
        for line in lines:
            self._worker.said(line.decode(errors="replace"))

    def processEnded(self, reason: Failure) -> None:
        self._worker.ended(reason)
