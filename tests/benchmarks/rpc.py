"""Round trips of 64 bytes, with a number of them outstanding on one channel of one session.

`--peers udp udp-1472 udp-fec udp-fec-1472` adds ours over UDP.
"""

from __future__ import annotations

from tests.benchmarks import arguments
from tests.benchmarks.contenders import quic, udp
from tests.benchmarks.job import Job
from tests.benchmarks.runner import Figures, certificate, rounds, run_pair
from tests.benchmarks.table import Column

COLUMNS = (
    Column("calls_per_s", "calls/s", ranged=True, compared=True),
    Column("p50_us", "p50 us", compared=True),
    Column("p99_us", "p99 us"),
    Column("cpu_us_per_call", "CPU us/call", "{:.1f}", compared=True),
    Column("client_cpu_us_per_call", "client", "{:.1f}"),
    Column("server_cpu_us_per_call", "server", "{:.1f}"),
)
_MARGIN = 60.0  # seconds that a run may take beyond its own time


def main() -> None:
    options = arguments.parser(
        "Round trips of 64 bytes.", ["amp", "int32"], 5, others=[*udp.VARIANTS, *quic.VARIANTS]
    )
    options.add_argument("--seconds", type=float, default=2.0, help="of calling in each round")
    options.add_argument(
        "--concurrency", type=int, nargs="+", default=[64, 1], help="calls outstanding"
    )
    chosen = options.parse_args()
    cases = {f"{number} outstanding": number for number in chosen.concurrency}
    with certificate() as file:

        def measure(contender: str, case: str) -> Figures:
            return run_pair(
                Job(
                    contender,
                    "rpc",
                    file,
                    concurrency=cases[case],
                    seconds=chosen.seconds,
                    deadline=chosen.seconds + _MARGIN,
                )
            )

        results = rounds(chosen.rounds, arguments.contenders(chosen), list(cases), measure)
    arguments.show("rpc", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
