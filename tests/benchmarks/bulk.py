"""One session, one direction, as fast as it goes: incompressible 64 KiB messages, encrypted.

The receiver counts the bytes, and the clock stops when its count has come back to the sender.
`--peers udp udp-1472 udp-fec udp-fec-1472 quic quic-1472` adds ours over UDP and QUIC;
`--peers aioquic` adds that library's own server and client.
"""

from __future__ import annotations

from tests.benchmarks import arguments
from tests.benchmarks.contenders import quic, udp
from tests.benchmarks.job import Job
from tests.benchmarks.runner import certificate, rounds, run_pair
from tests.benchmarks.table import Column

COLUMNS = (
    Column("MB_per_s", "MB/s", ranged=True, compared=True),
    Column("cpu_s_per_GB", "CPU s/GB", "{:.2f}", compared=True),
    Column("client_cpu_s_per_GB", "sender", "{:.2f}"),
    Column("server_cpu_s_per_GB", "receiver", "{:.2f}"),
)
_MARGIN = 60.0  # seconds that a run may take beyond its own time


def main() -> None:
    options = arguments.parser(
        "Bulk throughput in MB/s (1e6 bytes).",
        ["tls", "tls-pull", "tls-queue", "tcp", "tcp-pull", "tcp-queue"],
        5,
        others=[*udp.VARIANTS, *quic.VARIANTS, "aioquic"],
    )
    options.add_argument("--seconds", type=float, default=3.0, help="of sending in each round")
    chosen = options.parse_args()
    with certificate() as file:
        results = rounds(
            chosen.rounds,
            arguments.contenders(chosen),
            ["one session"],
            lambda contender, _: run_pair(
                Job(
                    contender,
                    "bulk",
                    file,
                    seconds=chosen.seconds,
                    deadline=chosen.seconds + _MARGIN,
                )
            ),
        )
    arguments.show("bulk", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
