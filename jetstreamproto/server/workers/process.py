"""A worker's program. A supervisor starts it, with the sockets that it is to serve.

    python -m jetstreamproto.server.workers.process PART REACTOR [OPTION...]

REACTOR is the name that `twistd --reactor` knows it by, empty for the default one; the options are
those of `twistd jetstream`. It stops when its standard input ends, as it does with the supervisor.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Any

from twisted.application.reactors import installReactor
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import FileLogObserver, LogEvent, formatEvent, globalLogBeginner
from zope.interface import implementer

_STDIN = 0


@implementer(IReadDescriptor)
class SupervisorWatch:
    """Stops the reactor when the supervisor is gone."""

    def __init__(self, reactor: Any, descriptor: int = _STDIN) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "supervisor"

    def doRead(self) -> None:
        if not os.read(self._descriptor, 4096):
            self.connectionLost(None)

    def connectionLost(self, reason: object) -> None:
        """The pipe is closed at its other end, as poll(2) says; or the reactor is stopping."""
        self._reactor.removeReader(self)
        with suppress(ReactorNotRunning):
            self._reactor.stop()


def format_line(event: LogEvent) -> str | None:
    """A log event as the supervisor gets it, which adds the time."""
    text = formatEvent(event)
    failure = event.get("log_failure")
    if failure is not None:
        text = f"{text}\n{failure.getTraceback()}"
    return text.rstrip("\n") + "\n" if text else None


def main(arguments: list[str]) -> None:
    """Serve until a signal comes."""
    from jetstreamproto.server.workers.part import WorkerPart

    described, reactor_name, *options = arguments
    part = WorkerPart.inherit(described)
    # Ctrl-C reaches every process of a terminal; what it means is the supervisor's to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if part.is_backend:  # it outlives the workers, also when all of them get a signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # and the reactor shall leave it so
    if reactor_name:
        installReactor(reactor_name)
    from twisted.internet import reactor

    from jetstreamproto.server.tap import Options, make_worker
    from jetstreamproto.server.workers.supervisor import SERVING

    globalLogBeginner.beginLoggingTo(
        [FileLogObserver(sys.stdout, format_line)], redirectStandardIO=False
    )
    parsed = Options()
    parsed.parseOptions(options)
    service = make_worker(parsed, part)
    running: Any = reactor
    running.addSystemEventTrigger("before", "shutdown", service.stopService)
    running.addReader(SupervisorWatch(running))
    service.startService()
    running.callWhenRunning(print, SERVING, flush=True)
    running.run(installSignalHandlers=not part.is_backend)


if __name__ == "__main__":
    main(sys.argv[1:])
