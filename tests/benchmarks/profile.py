"""Where the time goes: client and server of a benchmark under a profiler, and single steps timed.

The shares are of processor time. For bulk over UDP each function's share is shown in microseconds a
datagram too, and what a datagram costs without a profiler: the processor time of each end, kernel
included, by the datagrams that the sender sent.
"""

from __future__ import annotations

import argparse
import json
import linecache
import pstats
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks import steps
from tests.benchmarks.job import Job
from tests.benchmarks.runner import OURS, Child, Figures, certificate, machine, note, run_pair
from tests.benchmarks.table import render

_TASKS = {
    "bulk": Job(OURS, "bulk", ""),
    "rpc": Job(OURS, "rpc", "", concurrency=64),
    "rpc-1": Job(OURS, "rpc", "", concurrency=1),
    "sessions": Job(OURS, "churn", "", concurrency=16),
    "udp-bulk": Job("udp-1472", "bulk", ""),
    "udp-fec-bulk": Job("udp-fec-1472", "bulk", ""),
    "udp-rpc": Job("udp-1472", "rpc", "", concurrency=64),
}
_MARGIN = 60.0  # seconds that a run may take beyond its own time
_C_METHOD = re.compile(r"<method '(\w+)' of '(?:.*\.)?(\w+)' objects>")

Cost = dict[str, Any]


_PER_PACKET = {"client": "sender_us_per_packet", "server": "receiver_us_per_packet"}


def profiled(job: Job, folder: Path) -> Iterator[tuple[str, Path, float | None]]:
    """Run both ends under the profiler: who it was, the file with what was found, us a datagram.

    The last is None where datagrams were not counted.
    """
    files = {side: folder / f"{job.contender}-{job.task}-{side}" for side in ("client", "server")}
    with Child(replace(job, profile=str(files["server"]))) as server:
        port = server.answer()["port"]
        asked = replace(job, port=port, server_pid=server.pid, profile=str(files["client"]))
        with Child(asked) as client:
            figures = client.answer()
    for side, path in files.items():
        yield side, path, figures.get(_PER_PACKET[side])


def called(path: Path, top: int) -> list[Cost]:
    """The functions that took most time of their own, from cProfile's statistics."""
    stats: Any = pstats.Stats(str(path))
    costs = [
        {
            "where": _function(file, name),
            "calls": calls,
            "us_per_call": 1e6 * own / calls,
            "seconds": own,
        }
        for (file, _, name), (_, calls, own, _, _) in stats.stats.items()
    ]
    return _shares(costs, top)


def sampled(path: Path, top: int) -> list[Cost]:
    """The functions that were met most often, and their hottest lines, from the sampler's file."""
    costs: dict[str, Cost] = {}
    for file, number, name, count in json.loads(path.read_text()):  # the hottest line comes first
        where = _function(file, name)
        if where not in costs:
            costs[where] = {
                "where": where,
                "line": f"{linecache.getline(file, number).strip():.60}",
                "seconds": 0.0,
            }
        costs[where]["seconds"] += count
    return _shares([*costs.values()], top)


def _shares(costs: list[Cost], top: int) -> list[Cost]:
    busy = sum(cost["seconds"] for cost in costs)
    costs.sort(key=lambda cost: -cost["seconds"])
    for cost in costs:
        cost["share"] = cost.pop("seconds") / busy
    return costs[:top]


def _function(file: str, name: str) -> str:
    """`session/channel.py emit`; the name alone for what is not Python."""
    if not file.endswith(".py"):
        method = _C_METHOD.match(name)
        return f"{method[2]}.{method[1]}" if method else name.strip("<>")
    parts = Path(file).parts
    known = [at for at, part in enumerate(parts) if part in ("jetstreamproto", "twisted", "tests")]
    if not known:
        return f"{parts[-1]} {name}"
    start = known[-1] + (parts[known[-1]] == "jetstreamproto")
    return f"{'/'.join(parts[start:])} {name}"


def show_costs(title: str, costs: list[Cost]) -> None:
    if not costs:
        return
    lines, packets = "line" in costs[0], "us_per_packet" in costs[0]
    rows = [[title, *(["hottest line"] if lines else ["calls", "us/call"]), "share"]]
    rows[0] += ["us/datagram"] * packets
    for cost in costs:
        shown = [f"`{cost['line']}`"] if lines else _counted(cost)
        rows.append([f"`{cost['where']}`", *shown, f"{cost['share']:.1%}"])
        if packets:
            rows[-1].append(f"{cost['us_per_packet']:.2f}")
    print("\n" + render(rows))


def _counted(cost: Cost) -> list[str]:
    return [f"{cost['calls']}", f"{cost['us_per_call']:.2f}"]


def show_packets(packets: dict[str, Figures]) -> None:
    """What a datagram takes at both ends, without a profiler."""
    if not packets:
        return
    rows = [["CPU us a datagram", "sender", "receiver", "datagrams", "MB/s"]]
    for task, figures in packets.items():
        both = [f"{figures[name]:.2f}" for name in _PER_PACKET.values()]
        rows.append([task, *both, f"{figures['packets']:.0f}", f"{figures['MB_per_s']:.0f}"])
    print("\n" + render(rows))


def show_steps(timings: dict[str, float]) -> None:
    print("\n" + render([["step", "us"], *([name, f"{us:.2f}"] for name, us in timings.items())]))


def main() -> None:
    options = argparse.ArgumentParser(description="Where the time goes.")
    options.add_argument("--tasks", nargs="*", choices=_TASKS, default=["bulk", "rpc"])
    options.add_argument("--seconds", type=float, default=3.0, help="of each task")
    options.add_argument("--top", type=int, default=12, help="lines of each table")
    options.add_argument("--sampled", action="store_true", help="sample lines, without cProfile")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--no-steps", action="store_true", help="do not time single steps")
    chosen = options.parse_args()
    found: dict[str, list[Cost]] = {}
    packets: dict[str, Figures] = {}
    read = sampled if chosen.sampled else called
    with certificate() as file, tempfile.TemporaryDirectory() as folder:
        for task in chosen.tasks:
            note(f"profiling {task}")
            job = replace(
                _TASKS[task],
                certificate=file,
                seconds=chosen.seconds,
                deadline=chosen.seconds + _MARGIN,
                sampled=chosen.sampled,
            )
            if job.contender.startswith("udp") and job.task == "bulk":
                packets[task] = run_pair(job)
            for side, path, us_per_packet in profiled(job, Path(folder)):
                costs = found[f"{task}, {side}"] = read(path, chosen.top)
                for cost in costs if us_per_packet is not None else []:
                    cost["us_per_packet"] = cost["share"] * us_per_packet
    timings = {} if chosen.no_steps else steps.timings()
    if chosen.json:
        shown = {"profiles": found, "datagrams": packets, "steps_us": timings}
        print(json.dumps({"machine": machine(), **shown}))
        return
    show_packets(packets)
    for title, costs in found.items():
        show_costs(title, costs)
    if timings:
        show_steps(timings)


if __name__ == "__main__":
    main()
