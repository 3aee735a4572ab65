"""Two flows in one bottleneck: ours over UDP beside a TCP flow, and what each of them gets.

One starts 2 seconds before the other. Rates are what the receivers had, from 3 seconds after the
second began until the end; the share is the peer's part of both. Needs root on Linux.
"""

from __future__ import annotations

import argparse

from tests.benchmarks import arguments
from tests.benchmarks.links import Ends, Link, RunFailed, ends
from tests.benchmarks.near_end import Start
from tests.benchmarks.runner import Figures, Results, note
from tests.benchmarks.samples import read_flows
from tests.benchmarks.senders import BULK, bulk_command
from tests.benchmarks.table import NAMES, Column

COLUMNS = (
    Column("ours", "ours Mbit/s", "{:.1f}", ranged=True),
    Column("theirs", "its Mbit/s", "{:.1f}", ranged=True),
    Column("share", "its share", "{:.2f}"),
    Column("used", "of the link", "{:.2f}"),
    Column("ours_pause_ms", "longest pause of ours, ms"),
    Column("theirs_pause_ms", "its, ms"),
)
_HEAD_START = 2.0  # seconds
_WARM_UP = 3.0
_ENDLESS = 1 << 40  # bytes
_STARTING = 90.0


def measure(
    files: Ends, ours: str, theirs: str, link: Link, seed: int, options: argparse.Namespace
) -> Figures:
    """Run both for `options.seconds` together. Raises `RunFailed`."""
    order = [ours, theirs] if options.first == "ours" else [theirs, ours]
    seconds = _HEAD_START + options.seconds
    starts = [
        Start(bulk_command(files, contender, _ENDLESS, 10 * seconds), number * _HEAD_START)
        for number, contender in enumerate(order)
    ]
    files.run(link, starts, seed=seed, limit=seconds + _STARTING, seconds=seconds)
    flows = read_flows(files.folder)
    if len(flows) != 2:
        raise RunFailed(f"{len(flows)} flows of two brought something")
    start = flows[1].times[0] + _WARM_UP
    end = min(flow.times[-1] for flow in flows)
    if end <= start:
        raise RunFailed("one of the flows stopped too early")
    first, second = flows if options.first == "ours" else flows[::-1]
    rates = [flow.rate(start, end) / 1e6 for flow in (first, second)]
    return {
        "ours": rates[0],
        "theirs": rates[1],
        "share": rates[1] / sum(rates),
        "used": sum(rates) / link.rate,
        "ours_pause_ms": 1e3 * first.longest_pause(start, end),
        "theirs_pause_ms": 1e3 * second.longest_pause(start, end),
        "seconds": end - start,
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sharing", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="with the seeds 1 to N (3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of both together (20)")
    parser.add_argument("--first", choices=("ours", "peer"), default="peer", help="who starts")
    parser.add_argument("--ours", choices=BULK, default="udp-bbr")
    parser.add_argument(
        "--peers", nargs="+", choices=BULK, default=["tcp-cubic", "tcp-bbr"], help="beside ours"
    )
    parser.add_argument("--rate-mbit", type=float, default=100.0)
    parser.add_argument("--rtt-ms", type=float, default=50.0)
    parser.add_argument("--loss", type=float, default=0.0, help="percent each way (0)")
    parser.add_argument("--queue-ms", type=float, help="of the link (the round trip: 1 BDP)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> None:
    parser = _arguments()
    chosen = parser.parse_args()
    if chosen.rate_mbit <= 0 or chosen.seconds <= _WARM_UP:
        parser.error(f"a rate above 0, and more than {_WARM_UP:g} --seconds")
    queue = chosen.rtt_ms if chosen.queue_ms is None else chosen.queue_ms
    link = Link(chosen.rate_mbit, chosen.rtt_ms, chosen.loss, queue)
    case = f"{NAMES[chosen.ours]} beside: {link}, queue {queue:g} ms"
    results = Results()
    with ends(parser) as files:
        for seed in range(1, chosen.rounds + 1):
            for peer in chosen.peers:
                figures = measure(files, chosen.ours, peer, link, seed, chosen)
                results.add(peer, case, figures)
                note(
                    f"seed {seed}: {chosen.ours} {figures['ours']:.1f}, "
                    f"{peer} {figures['theirs']:.1f} Mbit/s"
                )
    arguments.show("sharing", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
