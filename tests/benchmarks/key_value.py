"""Key-value beside redis-server: values of 64 bytes under 10,000 keys, read and written.

Ours is encrypted, and acknowledges what is on disk; redis is neither by default, and with
appendfsync always (redis-always) waits for the disk too. "64 clients" are 64 connections with one
operation under way on each, "64 at a time" one connection with 64 (pipelines of 64 for redis).
Needs redis-server, and the package redis (with hiredis).
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from tests.benchmarks import arguments
from tests.benchmarks.job import Job
from tests.benchmarks.runner import OURS, Child, Figures, certificate, note, rounds
from tests.benchmarks.table import Column

COLUMNS = (
    Column("ops_per_s", "ops/s", ranged=True, compared=True),
    Column("cpu_us", "CPU us/op", "{:.1f}", compared=True),
    Column("client_cpu_us", "client", "{:.1f}"),
    Column("server_cpu_us", "server", "{:.1f}"),
)
CASES = {
    f"{operation}, {name}": (f"kv_{operation}", sessions, outstanding)
    for name, sessions, outstanding in (
        ("1 client", 1, 1),
        ("64 clients", 64, 64),
        ("64 at a time", 1, 64),
    )
    for operation in ("get", "set")
}
_MARGIN = 60.0  # seconds that a run may take beyond its own time


def measure(job: Job) -> Figures:
    """What a client measures against a server of its own, which may be another program."""
    with Child(job) as server:
        port = server.answer()["port"]
        with Child(replace(job, port=port, server_pid=_serving(server.pid))) as client:
            return client.answer()


def _serving(pid: int) -> int:
    """The program that the process has started to serve, if any, or itself."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def main() -> None:
    options = arguments.parser("Key-value beside redis.", ["redis", "redis-always"], 3)
    options.add_argument("--seconds", type=float, default=2.0, help="of each round")
    options.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    chosen = options.parse_args()
    contenders = [OURS, *chosen.peers]
    if which("redis-server") is None or find_spec("redis") is None:
        note("redis is skipped: it needs redis-server, and the Python package redis")
        contenders = [OURS]
    with certificate() as file:

        def run(contender: str, case: str) -> Figures:
            task, sessions, outstanding = CASES[case]
            return measure(
                Job(
                    "kv" if contender == OURS else contender,
                    task,
                    file,
                    sessions=sessions,
                    concurrency=outstanding,
                    seconds=chosen.seconds,
                    deadline=chosen.seconds + _MARGIN,
                )
            )

        results = rounds(chosen.rounds, contenders, chosen.cases, run)
    arguments.show("key-value", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
