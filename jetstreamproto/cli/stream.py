"""`jetstream stream`: what the server keeps of events."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.failure import clean
from jetstreamproto.cli.kv_group import KeyCommand, KeyGroup
from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, show_object
from jetstreamproto.cli.quantity import amount_option

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase
    from twisted.internet.defer import Deferred

    from jetstreamproto.services.events.client import EventClient
    from jetstreamproto.services.events.messages import Stream
    from jetstreamproto.session.session import Session


@click.group(cls=KeyGroup, subcommand_metavar="HOST:PORT COMMAND [ARGS]...")
def stream() -> None:
    """Manage the streams of the server at HOST:PORT: which topics it keeps, and how long."""


@stream.command(cls=KeyCommand)
@connection_options
@json_option
def ls(options: ConnectionOptions, as_json: bool) -> None:
    """List the streams."""
    found = _ask(options, lambda client: client.streams())
    if as_json:
        show_object({"streams": [_object(one) for one in found]})
        return
    for one in found:
        show(_line(one))


@stream.command(cls=KeyCommand)
@connection_options
@click.argument("name")
@click.argument("topics", nargs=-1, required=True)
@click.option(
    "--max-age", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Keep so long."
)
@click.option("--max-bytes", callback=amount_option, metavar="N", help="Keep so much, as in 1GiB.")
@click.option("--max-count", type=click.IntRange(min=0), default=0, help="Keep so many events.")
@json_option
def add(
    options: ConnectionOptions,
    name: str,
    topics: tuple[str, ...],
    max_age: float,
    max_bytes: int | None,
    max_count: int,
    as_json: bool,
) -> None:
    """Have the stream NAME keep what is published on TOPICS (patterns), or change it to that."""
    _show(
        _ask(
            options,
            lambda client: client.add_stream(
                name, topics, max_age=max_age, max_bytes=max_bytes or 0, max_count=max_count
            ),
        ),
        as_json,
    )


@stream.command(cls=KeyCommand)
@connection_options
@click.argument("name")
@json_option
def info(options: ConnectionOptions, name: str, as_json: bool) -> None:
    """Show the stream NAME and its durable consumers."""
    _show(_ask(options, lambda client: client.stream(name)), as_json)


@stream.command(cls=KeyCommand)
@connection_options
@click.argument("name")
@json_option
def rm(options: ConnectionOptions, name: str, as_json: bool) -> None:
    """Remove the stream NAME with its events and consumers."""
    _show(_ask(options, lambda client: client.remove_stream(name)), as_json)


@stream.command(cls=KeyCommand)
@connection_options
@click.argument("name")
@click.argument("consumer")
@json_option
def forget(options: ConnectionOptions, name: str, consumer: str, as_json: bool) -> None:
    """Remove the durable CONSUMER of the stream NAME."""
    _show(_ask(options, lambda client: client.forget_consumer(name, consumer)), as_json)


def _ask(options: ConnectionOptions, ask: Callable[[EventClient], Deferred[Any]]) -> Any:
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.services.events.client import EventClient

    async def work(_reactor: ReactorBase, session: Session) -> Any:
        return await ask(EventClient(session))

    return run_session(options, work)


def _show(found: Stream, as_json: bool) -> None:
    if as_json:
        show_object(_object(found))
        return
    show(_line(found))
    for consumer in found.consumers:
        group = f", group {clean(consumer.group)}" if consumer.group else ""
        show(
            f"  {clean(consumer.name)}: {clean(consumer.pattern)}{group}, done up to"
            f" {consumer.floor}, {consumer.outstanding} outstanding, {consumer.members} connected"
        )


def _line(found: Stream) -> str:
    topics = " ".join(clean(topic) for topic in found.config.topics)
    return (
        f"{clean(found.config.name)}: {topics}, {found.events} events, {found.size} bytes,"
        f" from {found.first} to {found.last}"
    )


def _object(found: Stream) -> dict[str, Any]:
    shown = {**found.config._asdict(), **found._asdict()}
    shown["consumers"] = [consumer._asdict() for consumer in found.consumers]
    del shown["config"]
    return shown
