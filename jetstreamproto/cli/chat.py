"""`jetstream chat`: be in a room."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.client import ReconnectingClient


def _room(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    from jetstreamproto.services.chat.model.names import check_room

    return _checked(check_room, text)


def _name(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    from jetstreamproto.services.chat.model.names import check_name

    return _checked(check_name, text) if text else ""


def _checked(check: Callable[[str], str], text: str) -> str:
    from jetstreamproto.errors import ChatError

    try:
        return check(text)
    except ChatError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@connection_options
@click.argument("room", callback=_room)
@click.option("--name", default="", callback=_name, help="What to be called; kept for later.")
@click.option(
    "--history",
    type=click.IntRange(0, 200),
    metavar="N",
    help="Show the last N messages.  [default: 20 on a terminal, otherwise 0]",
)
@json_option
def chat(
    options: ConnectionOptions, room: str, name: str, history: int | None, as_json: bool
) -> None:
    """Talk in ROOM at the server, which is made if there is none; /help there says how.

    Without a terminal, lines of standard input are said and what happens is printed, until the
    input ends and all is said. With --json that is an object a line.
    """
    from jetstreamproto.cli.keeping import run_kept
    from jetstreamproto.cli.pipe import check_standard_streams

    check_standard_streams()
    on_terminal = not as_json and sys.stdin.isatty() and sys.stdout.isatty()
    if history is None:
        history = 20 if on_terminal else 0
    past = history

    async def work(reactor: ReactorBase, sessions: ReconnectingClient) -> None:
        from jetstreamproto.services.chat.client import ChatClient

        client = ChatClient(sessions.when_connected, name, clock=reactor)
        try:
            joined = await client.join(room, past)
            talk: Any
            if on_terminal:
                from jetstreamproto.cli.chat_terminal import TerminalChat

                talk = TerminalChat(reactor, client, joined)
            else:
                from jetstreamproto.cli.chat_lines import LineChat

                talk = LineChat(reactor, client, joined, as_json)
            await talk.run()
        finally:
            client.close()

    run_kept(options, work)
