"""What more processes on one port bring: new sessions and round trips, by several clients at once.

The server is `twistd jetstream --workers N`, the clients are processes of their own, each with
sessions of its own. All of them share the machine, so there is nothing to gain beyond its cores.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic

from tests.benchmarks import arguments
from tests.benchmarks.job import Job
from tests.benchmarks.runner import ROOT, Child, Figures, Results, certificate, note
from tests.benchmarks.table import Column

RPC, SESSIONS = "round trips, 64 outstanding a client", "new sessions, 16 at a time a client"
_TASKS = {RPC: ("rpc", 64, "calls_per_s"), SESSIONS: ("churn", 16, "sessions_per_s")}
_COLUMNS = {
    RPC: (Column("calls_per_s", "calls/s", ranged=True),),
    SESSIONS: (Column("sessions_per_s", "sessions/s", ranged=True),),
}
_TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
_LISTENS = re.compile(rb"listens on \S+:(\d+)")
_PATIENCE, _MARGIN = 30.0, 60.0  # seconds for the server to start; beyond a client's own time


@contextmanager
def server(file: str, workers: int) -> Iterator[int]:
    """The port of a server with so many workers, which shows the certificate in `file`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(*_TWISTD, "-n", "--pidfile=", "jetstream", "--port", "0", "--cert", file),
            *("--transports", "tcp", "--state-dir", folder, "--workers", str(workers)),
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        try:
            yield _port(process)
        finally:
            process.terminate()
            process.communicate(timeout=_PATIENCE)


def _port(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    end = monotonic() + _PATIENCE
    while monotonic() < end:
        line = process.stdout.readline()
        found = _LISTENS.search(line)
        if found:
            return int(found[1])
        if not line:
            break
    raise SystemExit("the server did not start")


def measure(file: str, workers: int, clients: int, case: str, seconds: float) -> Figures:
    """The sum of what so many clients see at a time."""
    task, concurrency, metric = _TASKS[case]
    with server(file, workers) as port, ExitStack() as running:
        job = Job(
            "jetstream",
            task,
            file,
            port=port,
            concurrency=concurrency,
            seconds=seconds,
            deadline=seconds + _MARGIN,
        )
        children = [running.enter_context(Child(job)) for _ in range(clients)]
        return {metric: sum(child.answer()[metric] for child in children)}


def main() -> None:
    options = arguments.parser(__doc__.splitlines()[0], [], 3)
    options.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options.add_argument("--clients", type=int, default=2, help="processes (2)")
    options.add_argument("--seconds", type=float, default=4.0, help="of each client's run")
    chosen = options.parse_args()
    results = Results()
    with certificate() as file:
        for number in range(chosen.rounds):
            for case in _TASKS:
                for workers in chosen.workers:
                    figures = measure(file, workers, chosen.clients, case, chosen.seconds)
                    results.add(f"{workers} worker(s)", case, figures)
                    note(f"round {number + 1}: {workers} worker(s), {case}: {figures}")
    arguments.show("workers", chosen, results, lambda case: _COLUMNS[case])


if __name__ == "__main__":
    main()
