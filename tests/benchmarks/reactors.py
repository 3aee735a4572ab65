"""One reactor or another under the same servers: `jetstream-uring`, Twisted's epoll, ours, uvloop.

Answers per second of a plain server that a client keeps busy, and CPU time of the server for each:
64-byte echoes over 1, 64 and 1000 connections, streams of a megabyte either way, datagrams, and
datagrams that a peer sends 16 at a time (UDP_SEGMENT), for which 16 are one answer; then
JetStream's own rpc and bulk over TCP and UDP, with both ends on the reactor. `load` is the share of
a core that the client of the plain servers was busy: near 1 it was the client that was measured.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from tests.benchmarks import arguments
from tests.benchmarks.contenders.reactors import REACTORS
from tests.benchmarks.job import Job
from tests.benchmarks.runner import OURS, Figures, certificate, note, rounds, run_pair
from tests.benchmarks.table import NAMES, Column

PLAIN = (
    Column("per_s", "answers/s", ranged=True, compared=True),
    Column("server_us", "server us/answer", "{:.1f}", compared=True),
    Column("load", "load", "{:.2f}"),
)
RPC = (
    Column("calls_per_s", "calls/s", ranged=True, compared=True),
    Column("p50_us", "p50 us", compared=True),
    Column("server_cpu_us_per_call", "server", "{:.1f}"),
)
BULK = (
    Column("MB_per_s", "MB/s", ranged=True, compared=True),
    Column("cpu_s_per_GB", "CPU s/GB", "{:.2f}", compared=True),
)
CASES = {
    "echo, 1 connection": ("reactors", "echo", 1, PLAIN),
    "echo, 64 connections": ("reactors", "echo", 64, PLAIN),
    "echo, 1000 connections": ("reactors", "echo", 1000, PLAIN),
    "1 MB down, 8 connections": ("reactors", "down", 8, PLAIN),
    "1 MB up, 8 connections": ("reactors", "up", 8, PLAIN),
    "datagrams, 64 peers": ("reactors", "datagrams", 64, PLAIN),
    "16 datagrams in one call, 8 peers": ("reactors", "bursts", 8, PLAIN),
    "JetStream rpc, 1 outstanding": ("jetstream", "rpc", 1, RPC),
    "JetStream rpc, 64 outstanding": ("jetstream", "rpc", 64, RPC),
    "JetStream bulk": ("jetstream", "bulk", 1, BULK),
    "JetStream rpc over UDP, 1 outstanding": ("udp", "rpc", 1, RPC),
    "JetStream rpc over UDP, 64 outstanding": ("udp", "rpc", 64, RPC),
    "JetStream bulk over UDP": ("udp", "bulk", 1, BULK),
    "JetStream bulk over UDP, 1472": ("udp-1472", "bulk", 1, BULK),
}
_MARGIN = 60.0


def main() -> None:
    peers = [name for name in REACTORS if name != "uring"]
    options = arguments.parser("Reactors under the same servers.", peers, 3)
    options.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    options.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    chosen = options.parse_args()
    if "uvloop" in chosen.peers and find_spec("uvloop") is None:
        note("uvloop is skipped: the package is not installed (pip install uvloop)")
        chosen.peers.remove("uvloop")
    NAMES[OURS] = NAMES["uring"]
    with certificate() as file:

        def measure(contender: str, case: str) -> Figures:
            module, task, concurrency, _ = CASES[case]
            job = Job(module, task, file, concurrency=concurrency, seconds=chosen.seconds)
            name = "uring" if contender == OURS else contender
            return run_pair(replace(job, reactor=name, deadline=chosen.seconds + _MARGIN))

        results = rounds(chosen.rounds, [OURS, *chosen.peers], chosen.cases, measure)
    arguments.show("reactors", chosen, results, lambda case: CASES[case][3])


if __name__ == "__main__":
    main()
