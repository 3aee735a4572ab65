"""Bulk goodput over emulated long-distance links: ours over UDP, and plain TCP.

The clock runs from the opening of the channel (TCP: from the connection) until the receiver has
confirmed every byte, so start-up and the tail are in it. Whoever takes longer than --limit seconds
is cut off: then it is the rate of what had arrived. Needs root on Linux.
"""

from __future__ import annotations

import argparse
from typing import Any

from tests.benchmarks import arguments
from tests.benchmarks.links import Ends, Link, RunFailed, ends, link_argument
from tests.benchmarks.near_end import Start
from tests.benchmarks.runner import Figures, Results, note
from tests.benchmarks.samples import read_flows
from tests.benchmarks.senders import BULK, bulk_command
from tests.benchmarks.table import Column

TARGETS = {"100/50/0": 90.0, "100/50/2": 86.0, "100/50/10": 75.0, "50/200/5": 38.0}
"""The links that are measured unless others are asked for, and the Mbit/s that ours is to reach."""
_DEFAULT = ("udp-bbr", "tcp-cubic", "tcp-bbr")
_AIMED = "udp-bbr"
COLUMNS = (
    Column("Mbit_per_s", "Mbit/s", "{:.1f}", ranged=True),
    Column("target", "target", "{:.0f}"),
    Column("MB", "MB", "{:.1f}"),
    Column("seconds", "s", "{:.1f}"),
)
_CONNECTING = 5.0  # seconds that ours gets beyond the limit
_STARTING = 90.0  # seconds for processes to start and end


def measure(
    files: Ends, contender: str, link: Link, target: float | None, seed: int, size: int, cut: float
) -> Figures:
    """One run; it counts as nothing if it fails."""
    start = Start(bulk_command(files, contender, size, cut))
    ours = contender.startswith("udp")
    limit = cut + (_CONNECTING if ours else _STARTING)
    try:
        run = files.run(link, [start], seed=seed, limit=limit + _STARTING, seconds=limit)
        found = run.figures() if run.printed else _arrived(files)
    except RunFailed as failure:
        note(f"{contender}, {link}, seed {seed}: {failure}")
        found = {"Mbit_per_s": 0.0, "bytes": 0, "seconds": 0.0, "finished": False}
    figures = {
        "Mbit_per_s": found["Mbit_per_s"],
        "MB": found["bytes"] / 1e6,
        "seconds": found["seconds"],
        "finished": float(found.get("finished", True)),
    }
    if target is not None and contender == _AIMED:
        figures["target"] = target
    return figures


def _arrived(files: Ends) -> dict[str, Any]:
    """What the receiver had of a sender that was cut off. Raises `RunFailed`."""
    flows = read_flows(files.folder)
    if not flows:
        raise RunFailed("nothing arrived")
    start, end = flows[0].times[0], flows[0].times[-1]
    rate = flows[0].rate(start, end) / 1e6 if end > start else 0.0
    return {
        "Mbit_per_s": rate,
        "bytes": flows[0].total,
        "seconds": end - start,
        "finished": False,
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wan", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="with the seeds 1 to N (3)")
    parser.add_argument(
        "--links",
        nargs="+",
        type=link_argument,
        default=list(TARGETS),
        metavar="MBIT/RTT_MS/LOSS",
        help=f"loss in percent each way ({' '.join(TARGETS)})",
    )
    parser.add_argument("--contenders", nargs="+", choices=BULK, default=list(_DEFAULT))
    parser.add_argument("--megabytes", type=float, default=30.0, help="of each run (30)")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of each run (20)")
    parser.add_argument("--queue-ms", type=float, default=50.0, help="of the link (50)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> None:
    parser = _arguments()
    chosen = parser.parse_args()
    size = round(chosen.megabytes * 1e6)
    results = Results()
    with ends(parser) as files:
        for seed in range(1, chosen.rounds + 1):
            for text in chosen.links:
                link = Link.parse(text, chosen.queue_ms)
                target = TARGETS.get(text) if chosen.megabytes == 30 else None
                for contender in chosen.contenders:
                    figures = measure(files, contender, link, target, seed, size, chosen.limit)
                    results.add(contender, str(link), figures)
                    note(f"seed {seed}: {link}, {contender}: {figures['Mbit_per_s']:.1f} Mbit/s")
    arguments.show("wan", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
