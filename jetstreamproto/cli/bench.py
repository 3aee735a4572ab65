"""`jetstream bench`: how fast a server and the way to it are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, show_object
from jetstreamproto.cli.quantity import amount_option

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.cli.figures import Figures
    from jetstreamproto.cli.load import Load
    from jetstreamproto.session.session import Session

L = TypeVar("L", bound="Load")

BULK, RPC, EVENTS = "bulk", "rpc", "events"
UP, DOWN = "up", "down"

_DEFAULTS: dict[str, dict[str, Any]] = {
    BULK: {"bytes": 256_000_000, "direction": UP},
    RPC: {"calls": 20_000, "concurrency": 64, "size": 64},
    EVENTS: {"count": 1000, "rate": 100.0, "size": 200, "deadline": 45.0},
}
_IN_FLIGHT = 1 << 25  # bytes of rpc payload; more only waits in queues
_MOST_EVENTS = 1_000_000  # that the latency service takes
_LEAST_EVENT, _LARGEST_EVENT = 8, 1 << 16  # bytes: a time stamp, one packet


@click.command()
@connection_options
@click.option(
    "--mode", type=click.Choice([BULK, RPC, EVENTS]), required=True, help="What to measure."
)
@click.option(
    "--bytes",
    "amount",
    callback=amount_option,
    metavar="N",
    help="bulk: how much, as in 64KiB or 1.5GB.  [default: 256MB]",
)
@click.option(
    "--direction", type=click.Choice([UP, DOWN]), help="bulk: to or from the server.  [default: up]"
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="rpc: calls under way at a time.  [default: 64]",
)
@click.option(
    "--calls", type=click.IntRange(1), metavar="N", help="rpc: calls in all.  [default: 20000]"
)
@click.option(
    "--size",
    callback=amount_option,
    metavar="B",
    help="rpc, events: bytes of each.  [default: 64, 200]",
)
@click.option(
    "--count",
    type=click.IntRange(1, _MOST_EVENTS),
    metavar="N",
    help="events: how many.  [default: 1000]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1e6, min_open=True),
    metavar="R",
    help="events: how many a second.  [default: 100]",
)
@click.option(
    "--deadline",
    type=click.FloatRange(1, 60_000),
    metavar="MS",
    help="events: how long each may take to be of use, in ms.  [default: 35]",
)
@json_option
def bench(
    options: ConnectionOptions, mode: str, amount: int | None, as_json: bool, **given: Any
) -> None:
    """Measure the server at HOST:PORT and the way to it.

    bulk streams random bytes in messages of 64 KiB, through the server's discard or source
    service; rpc sends messages to its echo service and waits for them; events sends messages at
    a steady rate to its latency service, which times them (this needs both ends on one host).
    Nothing is compressed.
    """
    plan = _plan(mode, {"bytes": amount, **given})
    report = {BULK: _bulk, RPC: _rpc, EVENTS: _events}[mode](options, plan)
    if as_json:
        show_object(report)
    else:
        show(_LINES[mode].format_map(report))


_LINES = {
    BULK: "{bytes} bytes {direction} in {seconds} s: {MB_per_s} MB/s",
    RPC: "{calls} calls of {size} bytes, {concurrency} at a time: {calls_per_s} calls/s, "
    "p50 {p50_us} us, p99 {p99_us} us",
    EVENTS: "{delivered} of {count} events in {seconds} s: p50 {p50_ms} ms, p99 {p99_ms} ms, "
    "max {max_ms} ms; {wire_bytes} bytes on the wire for {payload_bytes}",
}


def _plan(mode: str, given: dict[str, Any]) -> dict[str, Any]:
    """What was given for `mode`, with defaults for the rest."""
    plan = dict(_DEFAULTS[mode])
    for name, value in given.items():
        if value is None:
            continue
        if name not in plan:
            modes = " or ".join(other for other, names in _DEFAULTS.items() if name in names)
            raise click.UsageError(f"--{name} goes with --mode {modes}")
        plan[name] = value
    if mode == RPC and plan["concurrency"] * plan["size"] > _IN_FLIGHT:
        raise click.UsageError(f"--concurrency times --size may be {_IN_FLIGHT} bytes")
    if mode == EVENTS and not _LEAST_EVENT <= plan["size"] <= _LARGEST_EVENT:
        raise click.UsageError(f"--size of an event is {_LEAST_EVENT} to {_LARGEST_EVENT} bytes")
    return plan


def _bulk(options: ConnectionOptions, plan: dict[str, Any]) -> dict[str, object]:
    from jetstreamproto.cli.load import Download, Upload
    from jetstreamproto.services.echo import DISCARD
    from jetstreamproto.services.source import SOURCE

    amount, direction = plan["bytes"], plan["direction"]
    up = direction == UP
    run = _run(
        options,
        DISCARD if up else SOURCE,
        lambda _: Upload(amount) if up else Download(amount),
    )
    return {
        "MB_per_s": round(amount / run.seconds / 1e6, 1),
        "Mbit_per_s": round(8 * amount / run.seconds / 1e6, 1),
        "bytes": amount,
        "seconds": round(run.seconds, 6),
        "direction": direction,
        "link": run.after,
    }


def _rpc(options: ConnectionOptions, plan: dict[str, Any]) -> dict[str, object]:
    from jetstreamproto.cli.load import Calls
    from jetstreamproto.cli.percentile import percentile
    from jetstreamproto.services.echo import ECHO

    load = Calls(plan["calls"], plan["concurrency"], plan["size"])
    run = _run(options, ECHO, lambda _: load, plan["size"])
    times = sorted(load.times)
    return {
        "calls_per_s": round(plan["calls"] / run.seconds, 1),
        "p50_us": round(percentile(times, 50) * 1e6, 1),
        "p99_us": round(percentile(times, 99) * 1e6, 1),
        **plan,
        "link": run.after,
    }


def _events(options: ConnectionOptions, plan: dict[str, Any]) -> dict[str, object]:
    from jetstreamproto.cli.figures import growth, wire_bytes
    from jetstreamproto.cli.load import Events
    from jetstreamproto.cli.pace import Pace
    from jetstreamproto.services.latency import LATENCY
    from jetstreamproto.wire.session_messages import Mode

    count, size = plan["count"], plan["size"]
    run = _run(
        options,
        LATENCY,
        lambda reactor: Events(reactor, Pace(plan["rate"], count), size),
        size,
        mode=Mode.UNORDERED,
        deadline=plan["deadline"] / 1000,
    )
    latencies = run.load.latencies
    return {
        "delivered": len(latencies),
        **plan,
        **_milliseconds(latencies),
        "wire_bytes": wire_bytes(run.before, run.after, run.address),
        "payload_bytes": count * size,
        "seconds": round(run.seconds, 6),
        **growth(
            run.before,
            run.after,
            packets_lost="packets_lost",
            fec_recovered="fec_repaired",  # by the peer, of what we sent
            retransmitted="retransmitted_bytes",
        ),
        "link": run.after,
    }


def _milliseconds(latencies: Iterable[int]) -> dict[str, float | None]:
    """Percentiles and the largest of these microseconds; None where there are none."""
    from jetstreamproto.cli.percentile import percentile

    names = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}
    ordered = sorted(latencies)
    return {
        name: percentile(ordered, percent) / 1000 if ordered else None
        for name, percent in names.items()
    }


class _Run(NamedTuple, Generic[L]):
    """How a load went: its seconds, and the figures of the link at its start and end."""

    load: L
    seconds: float
    before: Figures
    after: Figures
    address: str


def _run(
    options: ConnectionOptions,
    service: str,
    make_load: Callable[[ReactorBase], L],
    size: int = 0,
    **channel: Any,
) -> _Run[L]:
    """Put a load of messages of `size` bytes on the server's `service`, on such a channel."""
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.cli.figures import read_figures
    from jetstreamproto.errors import MessageTooLarge
    from jetstreamproto.session.settings import SessionSettings

    async def work(reactor: ReactorBase, session: Session) -> _Run[L]:
        limit = session.peer_hello.max_message
        if size > limit:
            raise MessageTooLarge(f"the server takes messages of at most {limit} bytes")
        before = read_figures(session.link)
        load = make_load(reactor)
        await session.open(service, load, **channel)
        seconds = await load.finished
        after = read_figures(session.link)
        return _Run(load, seconds, before, after, session.peer.address)

    return run_session(options, work, SessionSettings(compression=None))
