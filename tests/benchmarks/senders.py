"""Who sends over a link, by name: ours over UDP and plain TCP, each by congestion control."""

from __future__ import annotations

import sys

from jetstreamproto.testing.wan import SERVER_ADDRESS
from tests.benchmarks.links import Ends

BULK = ("udp-bbr", "udp-cubic", "udp-newreno", "tcp-cubic", "tcp-bbr")
"""Transport and congestion control: `udp` is ours, `tcp` is plain."""


def bulk_command(ends: Ends, contender: str, size: int, limit: float) -> list[str]:
    """The program that sends `size` bytes; plain TCP gives up after `limit` seconds."""
    transport, congestion = contender.split("-")
    if transport == "udp":
        options = ["--transport", "udp", "--congestion", congestion]
        return ends.bench(*options, "--mode", "bulk", "--bytes", str(size))
    words = ["--congestion", congestion, "--bytes", str(size), "--limit", f"{limit:g}"]
    return tcp_command("bulk", *words)


def tcp_command(task: str, *options: str) -> list[str]:
    """A plain TCP sender."""
    return [sys.executable, "-m", "tests.benchmarks.plain_tcp", task, SERVER_ADDRESS, *options]
