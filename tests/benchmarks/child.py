"""What runs in a child process: `python -m tests.benchmarks.child JOB`, one JSON object.

It speaks with its parent in lines of JSON on stdout and of words on stdin: a server says its
port, a client what it measured. It ends when stdin does, and at the job's deadline at the latest.
"""

from __future__ import annotations

import gc
import json
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet import epollreactor, stdio
from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from tests.benchmarks import crowd
from tests.benchmarks.job import Job

MEASURE, TURN = "measure", "turn"
TURNS = "turns"
"""The task of a client that makes new sessions for `job.seconds` each time its parent says TURN."""

_BACKLOG = 1024


class Parent(LineOnlyReceiver):
    """The line to the parent."""

    delimiter = b"\n"

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.on_turn: Callable[[], None]

    def tell(self, **values: object) -> None:
        self.sendLine(json.dumps(values).encode())

    def lineReceived(self, line: bytes) -> None:
        if line.decode() == MEASURE:
            gc.collect()
            self.tell(**memory())
        elif line.decode() == TURN:
            self.on_turn()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reactor.running:
            self._reactor.stop()


def memory() -> dict[str, int]:
    """This process's memory in KiB, as the kernel counts it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    status = Path("/proc/self/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return {
        "rss": int(resident.split()[1]),
        "rollup_rss": sizes["Rss"],
        "private": sizes["Private_Clean"] + sizes["Private_Dirty"],
    }


def serve(reactor: Any, job: Job, parent: Parent, contender: Any) -> None:
    if hasattr(contender, "listen"):
        _tell(parent, _listen(reactor, job, contender))
        return
    port = reactor.listenTCP(0, contender.server(job), backlog=_BACKLOG, interface="127.0.0.1")
    parent.tell(port=port.getHost().port)


async def _listen(reactor: Any, job: Job, contender: Any) -> dict[str, object]:
    return {"port": await contender.listen(reactor, job)}


def call(reactor: Any, job: Job, parent: Parent, contender: Any) -> None:
    if hasattr(contender, job.task):
        task = getattr(contender, job.task)(reactor, job)
    elif job.task == TURNS:
        churn = crowd.Churn(job, contender.Sessions(reactor, job))
        parent.on_turn = lambda: _tell(parent, churn.turn())
        task = churn.warm_up()
    else:
        task = getattr(crowd, job.task)(reactor, job, contender.Sessions(reactor, job))
    _tell(parent, task)


def _tell(parent: Parent, finding: Coroutine[Any, Any, dict[str, Any]]) -> None:
    """Tell the parent what is found, or what went wrong."""
    found = ensureDeferred(finding)
    found.addCallback(lambda values: parent.tell(**values))
    found.addErrback(lambda failure: parent.tell(error=failure.getTraceback()))


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> None:
    job = Job.from_json(sys.argv[1])
    signal.alarm(max(1, round(job.deadline)))  # whatever happens, this process ends by then
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to that
    _raise_file_limit()
    contender = job.module()
    if job.reactor:
        import_module("tests.benchmarks.contenders.reactors").install(job.reactor)
    else:
        getattr(contender, "install_reactor", epollreactor.install)()
    from twisted.internet import reactor

    parent = Parent(reactor)
    stdio.StandardIO(parent)
    reactor.callWhenRunning(call if job.port else serve, reactor, job, parent, contender)
    if job.profile:
        profiler = import_module("tests.benchmarks.profiler")
        profiler.run(reactor, job)
    else:
        reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
