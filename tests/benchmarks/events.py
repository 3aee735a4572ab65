"""Latency of small events at a steady pace over a long-distance link that loses packets.

200 bytes 100 times a second, one way, timed by the receiver on the same host's clock: ours over UDP
with FEC and without, ours over TCP, and a plain TCP stream. Wire bytes are those of both directions
with the headers of IP; they are compared with those of ours over UDP without FEC on the same
link without loss. Needs root on Linux.
"""

from __future__ import annotations

import argparse
from typing import Any

from tests.benchmarks import arguments
from tests.benchmarks.links import Ends, Link, Outcome, ends
from tests.benchmarks.near_end import Start
from tests.benchmarks.runner import OURS, Figures, Results, note
from tests.benchmarks.senders import tcp_command
from tests.benchmarks.table import Column

_ADAPTIVE, _OFF = "udp-adaptive", "udp-off"
_PLAIN = ("tcp-bbr", "tcp-cubic")
CONTENDERS = (_ADAPTIVE, _OFF, OURS, *_PLAIN)
_DEFAULT = (_ADAPTIVE, _OFF, OURS, "tcp-bbr")
COLUMNS = (
    Column("p50_ms", "p50 ms", "{:.1f}"),
    Column("p99_ms", "p99 ms", "{:.1f}", ranged=True),
    Column("p999_ms", "p99.9 ms", "{:.1f}"),
    Column("max_ms", "max ms", "{:.1f}"),
    Column("lost", "lost"),
    Column("wire_per_event", "wire B/event"),
    Column("wire_ratio", "to no FEC, no loss", "{:.3f}"),
)
_STARTING = 90.0  # seconds for processes to start, connect and end
_PERCENTILES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def run(
    files: Ends, contender: str, link: Link, seed: int, options: argparse.Namespace
) -> tuple[dict[str, Any], float]:
    """One run: what the sender reports, and the bytes on the wire.

    Ours over UDP counts those of its session; over TCP they are the link's, which include the
    connection's set-up.
    """
    words = [f"--count={options.count}", f"--rate={options.rate:g}", f"--size={options.size}"]
    congestion = options.congestion
    transport, _, variant = contender.partition("-")
    if contender in _PLAIN:
        congestion = variant
        program = tcp_command("events", *words, f"--congestion={congestion}")
    else:
        how = [f"--fec={variant}"] if transport == "udp" else []
        how.append(f"--transport={transport if how else 'tcp'}")
        if options.deadline:
            how.append(f"--deadline={options.deadline:g}")
        program = files.bench("--mode", "events", *words, *how)
    limit = options.count / options.rate + _STARTING
    outcome: Outcome = files.run(
        link, [Start(program)], seed=seed, limit=limit, congestion=congestion
    )
    found = outcome.figures()
    return found, found["wire_bytes"] if transport == "udp" else outcome.link_bytes


def measure(found: dict[str, Any], wire: float, baseline: float, count: int) -> Figures:
    figures = {name: float(found[name]) for name in _PERCENTILES if found[name] is not None}
    figures["lost"] = count - found["delivered"]
    figures["wire_per_event"] = wire / count
    figures["wire_ratio"] = wire / baseline
    for name in ("packets_lost", "fec_recovered", "retransmitted"):
        if name in found:
            figures[name] = found[name]
    return figures


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="events", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="with the seeds 1 to N (3)")
    parser.add_argument("--count", type=int, default=4000, help="events of each run (4000)")
    parser.add_argument("--rate", type=float, default=100.0, help="events a second (100)")
    parser.add_argument("--size", type=int, default=200, help="bytes of each (200)")
    parser.add_argument(
        "--loss", nargs="+", type=float, default=[2.0, 5.0], help="percent each way (2 5)"
    )
    parser.add_argument("--rtt-ms", type=float, default=50.0, help="of the link (50)")
    parser.add_argument("--deadline", type=float, help="ms, of ours (that of jetstream bench)")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(_DEFAULT))
    parser.add_argument(
        "--congestion", default="bbr", help="of TCP, where the contender does not say (bbr)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main() -> None:
    parser = _arguments()
    chosen = parser.parse_args()
    results = Results()
    with ends(parser) as files:
        clean = Link(0.0, chosen.rtt_ms, 0.0)
        found, baseline = run(files, _OFF, clean, 1, chosen)
        # what is late there is the machine's doing: both ends and the link share its processors
        results.add(_OFF, str(clean), measure(found, baseline, baseline, chosen.count))
        note(f"without FEC and loss: {baseline / chosen.count:.1f} bytes an event on the wire")
        for seed in range(1, chosen.rounds + 1):
            for loss in chosen.loss:
                link = Link(0.0, chosen.rtt_ms, loss)
                for contender in chosen.contenders:
                    found, wire = run(files, contender, link, seed, chosen)
                    figures = measure(found, wire, baseline, chosen.count)
                    results.add(contender, str(link), figures)
                    note(f"seed {seed}: {link}, {contender}: p99 {figures['p99_ms']:.1f} ms")
    arguments.show("events", chosen, results, lambda _: COLUMNS)


if __name__ == "__main__":
    main()
