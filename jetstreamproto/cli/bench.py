"""`jetstream bench`: how fast a server and the way to it are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, show_object
from jetstreamproto.cli.quantity import amount_option

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.cli.load import Load
    from jetstreamproto.session.session import Session

BULK, RPC = "bulk", "rpc"
UP, DOWN = "up", "down"

_DEFAULTS: dict[str, dict[str, Any]] = {
    BULK: {"bytes": 256_000_000, "direction": UP},
    RPC: {"calls": 20_000, "concurrency": 64, "size": 64},
}
_IN_FLIGHT = 1 << 25  # bytes of rpc payload; more only waits in queues


@click.command()
@connection_options
@click.option("--mode", type=click.Choice([BULK, RPC]), required=True, help="What to measure.")
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
    "--size", callback=amount_option, metavar="B", help="rpc: bytes a call.  [default: 64]"
)
@json_option
def bench(
    options: ConnectionOptions,
    mode: str,
    amount: int | None,
    direction: str | None,
    concurrency: int | None,
    calls: int | None,
    size: int | None,
    as_json: bool,
) -> None:
    """Measure the server at HOST:PORT and the way to it.

    bulk streams random bytes in messages of 64 KiB, through the server's discard or source
    service; rpc sends messages to its echo service and waits for them. Nothing is compressed.
    """
    given: dict[str, dict[str, Any]] = {
        BULK: {"bytes": amount, "direction": direction},
        RPC: {"calls": calls, "concurrency": concurrency, "size": size},
    }
    plan = _plan(mode, given)
    report = _bulk(options, plan) if mode == BULK else _rpc(options, plan)
    if as_json:
        show_object(report)
    elif mode == BULK:
        show("{bytes} bytes {direction} in {seconds} s: {MB_per_s} MB/s".format_map(report))
    else:
        show(
            "{calls} calls of {size} bytes, {concurrency} at a time: {calls_per_s} calls/s, "
            "p50 {p50_us} us, p99 {p99_us} us".format_map(report)
        )


def _plan(mode: str, given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was given for `mode`, with defaults for the rest."""
    for other in given.keys() - {mode}:
        for name, value in given[other].items():
            if value is not None:
                raise click.UsageError(f"--{name} goes with --mode {other}")
    plan = {name: value for name, value in given[mode].items() if value is not None}
    plan = _DEFAULTS[mode] | plan
    if mode == RPC and plan["concurrency"] * plan["size"] > _IN_FLIGHT:
        raise click.UsageError(f"--concurrency times --size may be {_IN_FLIGHT} bytes")
    return plan


def _bulk(options: ConnectionOptions, plan: dict[str, Any]) -> dict[str, object]:
    from jetstreamproto.cli.load import Download, Upload
    from jetstreamproto.services.echo import DISCARD
    from jetstreamproto.services.source import SOURCE

    amount, direction = plan["bytes"], plan["direction"]
    load = Upload(amount) if direction == UP else Download(amount)
    seconds = _run(options, DISCARD if direction == UP else SOURCE, load)
    return {
        "MB_per_s": round(amount / seconds / 1e6, 1),
        "bytes": amount,
        "seconds": round(seconds, 6),
        "direction": direction,
        "transport": options.transport,
    }


def _rpc(options: ConnectionOptions, plan: dict[str, Any]) -> dict[str, object]:
    from jetstreamproto.cli.load import Calls
    from jetstreamproto.cli.percentile import percentile
    from jetstreamproto.services.echo import ECHO

    load = Calls(plan["calls"], plan["concurrency"], plan["size"])
    seconds = _run(options, ECHO, load, plan["size"])
    times = sorted(load.times)
    return {
        "calls_per_s": round(plan["calls"] / seconds, 1),
        "p50_us": round(percentile(times, 50) * 1e6, 1),
        "p99_us": round(percentile(times, 99) * 1e6, 1),
        **plan,
    }


def _run(options: ConnectionOptions, service: str, load: Load, size: int = 0) -> float:
    """The seconds that `load` takes on the server's `service`, with messages of `size` bytes."""
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.errors import MessageTooLarge
    from jetstreamproto.session.settings import SessionSettings

    async def work(_reactor: ReactorBase, session: Session) -> float:
        limit = session.peer_hello.max_message
        if size > limit:
            raise MessageTooLarge(f"the server takes messages of at most {limit} bytes")
        await session.open(service, load)
        return await load.finished

    return run_session(options, work, SessionSettings(compression=None))
