"""`jetstream echo`: standard input to the server's echo service to standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.session.session import Session


@click.command()
@connection_options
def echo(options: ConnectionOptions) -> None:
    """Send standard input to the echo service at HOST:PORT, and print what comes back.

    Any bytes in any amount: `jetstream echo HOST:PORT < FILE | cmp - FILE` checks the whole way.
    """
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.cli.pipe import EchoPipe, check_standard_streams
    from jetstreamproto.services.echo import ECHO

    async def work(reactor: ReactorBase, session: Session) -> None:
        pipe = EchoPipe(reactor)
        await session.open(ECHO, pipe)
        await pipe.finished

    check_standard_streams()
    run_session(options, work)
