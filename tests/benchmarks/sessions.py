"""What sessions cost a server: the memory of an idle one, and how many can be made a second.

Memory is the growth of the server's resident memory over its sessions, after a collection and
without giving anything back to the system first. A new session is a connection, a handshake with
the server verified, one byte echoed by the application, and a clean close. They are made in short
turns, each contender's between the others', so that a machine whose speed changes from one second
to the next is as fast for all of them.
"""

from __future__ import annotations

import resource
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from statistics import median
from time import sleep

from tests.benchmarks import arguments
from tests.benchmarks.child import TURNS
from tests.benchmarks.job import Job
from tests.benchmarks.runner import Child, Figures, Results, certificate, note, rounds
from tests.benchmarks.table import Column

MEMORY_COLUMNS = (
    Column("kib_per_session", "KiB/session", "{:.1f}", ranged=True, compared=True),
    Column("private_kib_per_session", "private", "{:.1f}"),
    Column("before_mib", "VmRSS before, MiB", "{:.1f}"),
    Column("after_mib", "after, MiB", "{:.1f}"),
)
RATE_COLUMNS = (
    Column("sessions_per_s", "sessions/s", ranged=True, compared=True),
    Column("p50_ms", "first byte p50 ms", "{:.1f}"),
    Column("cpu_ms", "CPU ms/session", "{:.2f}", compared=True),
    Column("client_cpu_ms", "client", "{:.2f}"),
    Column("server_cpu_ms", "server", "{:.2f}"),
)
_RATE = "new sessions"
_TURN = 0.5  # seconds
_WARM_UP = 4  # sessions before the first look at the memory: what is made once is made by then
_SETTLING = 0.5  # seconds
_MARGIN = 60.0  # seconds that a run may take beyond its own time
_OTHER_FILES = 100  # that a process has open besides its sessions
_SLOWEST = 50.0  # sessions a second


def memory(job: Job) -> Figures:
    """The growth of a server's memory by `job.sessions` idle sessions."""
    with Child(job) as server:
        job = replace(job, port=server.answer()["port"], server_pid=server.pid)
        with Child(replace(job, sessions=_WARM_UP)) as client:
            client.answer()
        sleep(_SETTLING)
        before = server.measure()
        with Child(job) as client:
            client.answer()
            sleep(_SETTLING)
            after = server.measure()
    growth = {name: (after[name] - before[name]) / job.sessions for name in before}
    return {
        "kib_per_session": growth["rss"],
        "private_kib_per_session": growth["private"],
        "before_mib": before["rss"] / 1024,
        "after_mib": after["rss"] / 1024,
    }


def new_sessions(jobs: Sequence[Job], turns: int, order: Random) -> dict[str, Figures]:
    """The medians of each contender's turns."""
    found: dict[str, list[Figures]] = {job.contender: [] for job in jobs}
    with ExitStack() as running:
        clients = []
        for job in jobs:
            server = running.enter_context(Child(job))
            port = server.answer()["port"]
            client = running.enter_context(Child(replace(job, port=port, server_pid=server.pid)))
            client.answer()  # when it is warm
            clients.append((job.contender, client))
        for _ in range(turns):
            for contender, client in order.sample(clients, len(clients)):
                found[contender].append(client.turn())
    return {
        contender: {name: median(one[name] for one in figures) for name in figures[0]}
        for contender, figures in found.items()
    }


def columns(case: str) -> Sequence[Column]:
    return RATE_COLUMNS if case == _RATE else MEMORY_COLUMNS


def rate(chosen: Namespace, file: str, contenders: Sequence[str], results: Results) -> None:
    """Add rounds of new sessions."""
    turns = max(1, round(chosen.seconds / _TURN))
    deadline = 2 * len(contenders) * chosen.seconds + _MARGIN
    job = Job("", TURNS, file, seconds=_TURN, concurrency=chosen.in_flight, deadline=deadline)
    jobs = [replace(job, contender=contender) for contender in contenders]
    for number in range(1, chosen.rounds + 1):
        for contender, figures in new_sessions(jobs, turns, Random(number)).items():
            results.add(contender, _RATE, figures)
            note(f"round {number}/{chosen.rounds}: {contender}: {figures['sessions_per_s']:.6g}")


def main() -> None:
    options = arguments.parser("Memory of idle sessions, and new sessions a second.", ["tls"], 3)
    options.add_argument("--sessions", type=int, nargs="*", default=[2000, 10000], help="idle ones")
    options.add_argument("--in-flight", type=int, default=16, help="handshakes at a time")
    options.add_argument(
        "--seconds", type=float, default=5.0, help="of new sessions in each round; 0 for none"
    )
    chosen = options.parse_args()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if max(chosen.sessions, default=0) + _OTHER_FILES > files:
        options.error(f"a process may open {files} files here (ulimit -Hn): fewer --sessions")
    cases = {f"{number} idle sessions": number for number in chosen.sessions}

    with certificate() as file:

        def measure(contender: str, case: str) -> Figures:
            number = cases[case]
            deadline = number / _SLOWEST + _MARGIN
            job = Job(contender, "hold", file, concurrency=chosen.in_flight, deadline=deadline)
            return memory(replace(job, sessions=number))

        contenders = arguments.contenders(chosen)
        results = rounds(chosen.rounds, contenders, [*cases], measure)
        if chosen.seconds:
            rate(chosen, file, contenders, results)
    arguments.show("sessions", chosen, results, columns)


if __name__ == "__main__":
    main()
