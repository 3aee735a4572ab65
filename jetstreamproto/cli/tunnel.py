"""`jetstream tunnel`: TCP connections through the session, until Ctrl-C."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.failure import Interrupted
from jetstreamproto.cli.forwards import DYNAMIC, LOCAL, REMOTE, Forward, parse_forward
from jetstreamproto.cli.options import ConnectionOptions, connection_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.base import ReactorBase
    from twisted.internet.defer import Deferred

    from jetstreamproto.factory import JetStreamClientFactory
    from jetstreamproto.session.session import Session

_BULK_URGENCY = 6


def _forwards(
    _context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> list[Forward]:
    try:
        return [parse_forward(parameter.opts[0], text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@connection_options
@click.option(
    LOCAL,
    "local",
    multiple=True,
    callback=_forwards,
    metavar="[BIND:]PORT:TARGET:TPORT",
    help="Carry connections to this host's PORT to TARGET, as seen from the server.",
)
@click.option(
    REMOTE,
    "remote",
    multiple=True,
    callback=_forwards,
    metavar="[BIND:]PORT:TARGET:TPORT",
    help="Carry connections to the server's PORT to TARGET, as seen from here.",
)
@click.option(
    DYNAMIC,
    "dynamic",
    multiple=True,
    callback=_forwards,
    metavar="[BIND:]PORT",
    help="A SOCKS5 proxy on this host's PORT, for targets as seen from the server.",
)
@click.option(
    "--exit-on-failure", is_flag=True, help="End, with status 1, if any port cannot be listened on."
)
@click.option("--bulk", is_flag=True, help="Much will be moved: choose the transport for that.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
def tunnel(
    options: ConnectionOptions,
    local: list[Forward],
    remote: list[Forward],
    dynamic: list[Forward],
    exit_on_failure: bool,
    bulk: bool,
    as_json: bool,
) -> None:
    """Carry TCP connections through a session with the server at HOST:PORT.

    -L, -R and -D may be given several times. BIND is 127.0.0.1 unless it is said, IPv6 is
    written in brackets, and PORT 0 takes a free one. What the server connects to and listens on
    is up to its rules of access. Runs until Ctrl-C, and connects again when the session is lost.
    """
    from jetstreamproto.cli.carrying import Carrying, TunnelPlan
    from jetstreamproto.cli.connection import run_sessions
    from jetstreamproto.session.codes import DEFAULT_URGENCY

    forwards = [*local, *remote, *dynamic]
    if not forwards:
        raise click.UsageError("say what to carry, with -L, -R or -D")
    plan = TunnelPlan(
        forwards,
        exit_on_failure=exit_on_failure,
        urgency=_BULK_URGENCY if bulk else DEFAULT_URGENCY,
        as_json=as_json,
        wait=options.timeout,
    )
    begun: list[Carrying] = []

    async def work(
        reactor: ReactorBase,
        factory: JetStreamClientFactory,
        connect: Callable[[], Deferred[Session]],
    ) -> Any:
        begun.append(Carrying(reactor, factory, connect, plan))
        await begun[0].run()

    try:
        run_sessions(replace(options, bulk=bulk), work)
    except Interrupted:
        if not (begun and begun[0].ready):
            raise
