"""Unary calls with 64 bytes each way, a number of them outstanding: ours, AMP's and grpcio's.

Ours are encrypted, the others are not. grpcio is not a dependency: `pip install grpcio`.
"""

from __future__ import annotations

from tests.benchmarks import arguments
from tests.benchmarks.job import Job
from tests.benchmarks.rpc import COLUMNS
from tests.benchmarks.runner import OURS, Figures, certificate, rounds, run_pair

_MARGIN = 60.0  # seconds that a run may take beyond its own time
_CONTENDERS = {OURS: "calls"}


def main() -> None:
    options = arguments.parser("Unary calls of 64 bytes.", ["amp", "grpc"], 5)
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
                    _CONTENDERS.get(contender, contender),
                    "rpc",
                    file,
                    concurrency=cases[case],
                    seconds=chosen.seconds,
                    deadline=chosen.seconds + _MARGIN,
                )
            )

        results = rounds(chosen.rounds, arguments.contenders(chosen), list(cases), measure)
    arguments.show("calls", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
