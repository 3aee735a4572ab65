"""The options that the benchmarks share, and how they show what came out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from tests.benchmarks.runner import OURS, Results, machine, note
from tests.benchmarks.table import Column, compare

OPTIONAL = {"aioquic": "aioquic", "grpc": "grpcio"}
"""Contenders that need a module of their name, which need not be there, and its package."""


def parser(
    description: str, peers: Sequence[str], rounds: int, others: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """The common options. Ours is compared with `peers`, and with `others` only when asked."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--rounds", type=int, default=rounds, help="of each contender")
    options.add_argument(
        "--peers",
        nargs="*",
        choices=[*peers, *others],
        default=peers,
        help=f"whom to compare with ({' '.join(peers)})",
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def contenders(options: argparse.Namespace) -> list[str]:
    """Ours, and those of the peers asked for that can run here."""
    missing = [name for name in options.peers if name in OPTIONAL and find_spec(name) is None]
    for name in missing:
        note(f"{name} is skipped: the package is not installed (pip install {OPTIONAL[name]})")
    return [OURS, *(name for name in options.peers if name not in missing)]


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
