"""`jetstream pub`: publish one event, or every line of standard input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show_object

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.session.session import Session


def topic_argument(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """The callback of a TOPIC."""
    from jetstreamproto.errors import EventError
    from jetstreamproto.services.events.model.topics import check_topic

    try:
        return check_topic(text)
    except EventError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@connection_options
@click.argument("topic", callback=topic_argument)
@click.argument("message", required=False)
@json_option
def pub(options: ConnectionOptions, topic: str, message: str | None, as_json: bool) -> None:
    """Publish MESSAGE on TOPIC at the server, or every line of standard input without one.

    It returns once all are taken, and on the server's disk if a stream keeps the topic.
    """
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.cli.lines import LinePublisher
    from jetstreamproto.services.events.client import EventClient

    async def work(reactor: ReactorBase, session: Session) -> dict[str, Any]:
        client = EventClient(session)
        if message is None:
            publisher = LinePublisher(reactor, client, topic)
            receipts = await publisher.run()
        else:
            receipts = LinePublisher.count([await client.publish(topic, message)])
        return {"topic": topic, **receipts}

    report = run_session(options, work)
    if as_json:
        show_object(report)
