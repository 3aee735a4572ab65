"""The options that the benchmarks share, and how they show what came out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from tests.benchmarks.runner import OURS, Results, machine
from tests.benchmarks.table import Column, compare


def parser(description: str, peers: Sequence[str], rounds: int) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=rounds, help="of each contender")
    options.add_argument(
        "--peers", nargs="*", choices=peers, default=peers, help="whom to compare with"
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def contenders(options: argparse.Namespace) -> list[str]:
    return [OURS, *options.peers]


def show(
    benchmark: str,
    options: argparse.Namespace,
    results: Results,
    columns: Callable[[str], Sequence[Column]],
) -> None:
    """Print the tables, with the columns for each case, or the object of a run."""
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        shown = {"benchmark": benchmark, "settings": settings, "machine": machine()}
        print(json.dumps({**shown, "cases": results.to_object()}))
        return
    print(f"{benchmark}: median of rounds: {options.rounds}")
    for case in results.cases:
        print("\n" + compare(results, case, columns(case)))
