"""Tables, aligned for the eye and ready to be pasted into a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.runner import OURS, Results


@dataclass(frozen=True)
class Column:
    """A metric and how its median is shown, with its range and our ratio to it where asked.

    Who does not have it is shown nothing.
    """

    metric: str
    title: str
    form: str = "{:.0f}"
    ranged: bool = False
    compared: bool = False


NAMES = {
    OURS: "JetStreamProto",
    "tls": "Twisted TLS 1.3",
    "tls-pull": "Twisted TLS 1.3, pull producer",
    "tls-queue": "Twisted TLS 1.3, no producer",
    "tcp": "Twisted TCP, plain",
    "tcp-pull": "Twisted TCP, plain, pull producer",
    "tcp-queue": "Twisted TCP, plain, no producer",
    "amp": "Twisted AMP, plain",
    "grpc": "grpcio aio, plain",
    "int32": "Int32StringReceiver, plain",
    "redis": "redis, redis-py",
    "redis-always": "redis, redis-py, appendfsync always",
    "udp": "JetStreamProto, UDP",
    "udp-1472": "JetStreamProto, UDP, 1472",
    "udp-fec": "JetStreamProto, UDP, FEC 10+2",
    "udp-fec-1472": "JetStreamProto, UDP, FEC 10+2, 1472",
    "aioquic": "aioquic, QUIC",
    "quic": "JetStreamProto, QUIC",
    "quic-1472": "JetStreamProto, QUIC, 1472",
    "udp-bbr": "JetStreamProto, UDP, bbr",
    "udp-cubic": "JetStreamProto, UDP, cubic",
    "udp-newreno": "JetStreamProto, UDP, newreno",
    "tcp-bbr": "TCP, plain, bbr",
    "tcp-cubic": "TCP, plain, cubic",
    "udp-adaptive": "JetStreamProto, UDP, FEC adaptive",
    "udp-off": "JetStreamProto, UDP, FEC off",
    "uring": "jetstream-uring",
    "epoll": "Twisted epollreactor",
    "eager": "the same, writing eagerly",
    "tuned": "jetstream-epoll",
    "uvloop": "asyncioreactor on uvloop",
}


def render(rows: Sequence[Sequence[str]]) -> str:
    """The rows as a Markdown table: the first is the head, the first column is left-aligned."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        first, *rest = row
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(results: Results, case: str, columns: Sequence[Column]) -> str:
    """One case: a row for each contender, medians over the rounds, and ours to each peer."""
    head = [case]
    for column in columns:
        head += [column.title, *_titles(column)]
    rows = [head]
    for contender in results.contenders(case):
        row = [NAMES.get(contender, contender)]
        for column in columns:
            if not results.has(case, contender, column.metric):
                row += ["", *("" for _ in _titles(column))]
                continue
            row.append(column.form.format(results.median(case, contender, column.metric)))
            if column.ranged:
                values = results.values(case, contender, column.metric)
                row.append("-".join(column.form.format(end) for end in (min(values), max(values))))
            if column.compared:
                row.append(_ratio(results.ratio(case, contender, column.metric), contender))
        rows.append(row)
    return render(rows)


def _titles(column: Column) -> list[str]:
    return ["range"] * column.ranged + ["ours/peer"] * column.compared


def _ratio(ratio: float | None, contender: str) -> str:
    return "" if ratio is None or contender == OURS else f"{ratio:.2f}"
