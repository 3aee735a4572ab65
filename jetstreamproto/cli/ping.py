"""`jetstream ping`: round-trip times."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, show_object

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.session.session import Session


@click.command()
@connection_options
@click.option(
    "-c", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Round trips."
)
@click.option(
    "-i",
    "interval",
    type=click.FloatRange(min=0),
    default=0.2,
    show_default=True,
    metavar="SECONDS",
    help="Pause between them.",
)
@json_option
def ping(options: ConnectionOptions, count: int, interval: float, as_json: bool) -> None:
    """Measure round trips to the server at HOST:PORT."""
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.cli.figures import read_figures

    async def work(reactor: ReactorBase, session: Session) -> dict[str, object]:
        say = _say_nothing if as_json else show
        say(f"{options.target} ({session.transport}) {session.peer.fingerprint}")
        times = [
            await _round_trip(reactor, session, number, interval, options.timeout, say)
            for number in range(1, count + 1)
        ]
        rtt = _summary(times)
        parts = ", ".join(f"{name} {value:.3f} ms" for name, value in rtt.items())
        say(f"{len(times)} of {count} answered: {parts}")
        return {
            "host": str(options.target),
            "fingerprint": session.peer.fingerprint,
            "sent": count,
            "received": len(times),
            "rtt_ms": rtt,
            "link": read_figures(session.link),
        }

    report = run_session(options, work)
    if as_json:
        show_object(report)


async def _round_trip(
    reactor: ReactorBase,
    session: Session,
    number: int,
    interval: float,
    timeout: float,
    say: Callable[[str], None],
) -> float:
    """One round trip in milliseconds, after a pause if it is not the first."""
    from twisted.internet.task import deferLater

    from jetstreamproto.cli.connection import in_time
    from jetstreamproto.errors import PeerSilent

    if number > 1:
        await deferLater(reactor, interval)
    late = PeerSilent(f"no answer to ping {number} within {timeout:g} s")
    milliseconds = 1e3 * await in_time(reactor, session.ping(), timeout, late)
    say(f"{number}: {milliseconds:.3f} ms")
    return milliseconds


def _say_nothing(_line: str) -> None:
    """With --json, the object is all there is on stdout."""


def _summary(times: list[float]) -> dict[str, float]:
    from statistics import median

    from jetstreamproto.cli.percentile import percentile

    ordered = sorted(times)
    values = {"min": ordered[0], "median": median(ordered), "p99": percentile(ordered, 99)}
    return {name: round(value, 3) for name, value in values.items()}
