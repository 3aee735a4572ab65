"""`jetstream services`: what a server exposes to calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.failure import clean
from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, show_object

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.session.session import Session


@click.command()
@connection_options
@json_option
def services(options: ConnectionOptions, as_json: bool) -> None:
    """List the services at HOST:PORT of which you may call something, and their methods."""
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.services.rpc.service import Reflection

    async def work(reactor: ReactorBase, session: Session) -> Any:
        from jetstreamproto.services.rpc.client import RpcClient

        reflection = RpcClient(session, timeout=options.timeout).proxy(Reflection)
        return await reflection.services()

    found = run_session(options, work)
    if as_json:
        show_object(
            {
                "services": [
                    {"service": one.service, "methods": one.methods, "doc": one.doc}
                    for one in found
                ]
            }
        )
        return
    for one in found:
        show(clean(one.service) + (f": {clean(one.doc)}" if one.doc else ""))
        for method in one.methods:
            show(f"  {clean(one.service)}#{clean(method)}")
