"""`jetstream sub`: print the events of a pattern."""

from __future__ import annotations

import base64
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import with_route

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.client import ReconnectingClient
    from jetstreamproto.services.events.model.event import Event

_STARTS = ("all", "last", "new")
_NUMBERED = re.compile(r"seq:([0-9]{1,15})", re.ASCII)
_TIMED = "time:"


class Origin(click.ParamType):  # type: ignore[type-arg]
    """Where to begin: a name of a `Start`, and its sequence or time."""

    name = "origin"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        if value in _STARTS:
            return value.upper(), 0
        numbered = _NUMBERED.fullmatch(value)
        if numbered:
            return "SEQUENCE", int(numbered[1])
        if value.startswith(_TIMED):
            return "TIME", self._time(value[len(_TIMED) :], param, ctx)
        self.fail(f"{value!r} is not all, last, new, seq:N or time:T", param, ctx)

    def _time(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from datetime import UTC, datetime

        try:
            seconds = float(text)
        except ValueError:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                self.fail(f"{text!r} is neither 2026-01-31T12:00 nor seconds", param, ctx)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if not 0 <= seconds < 1e11:
            self.fail(f"{text!r} is not a time after 1970", param, ctx)
        return round(seconds * 1e6)


def pattern_argument(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """The callback of a PATTERN."""
    from jetstreamproto.errors import EventError
    from jetstreamproto.services.events.model.topics import check_pattern

    try:
        return check_pattern(text)
    except EventError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@connection_options
@click.argument("pattern", callback=pattern_argument)
@click.option("-C", "count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option(
    "-W",
    "wait",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so long; with -C that is exit status 5.",
)
@click.option(
    "--from",
    "origin",
    type=Origin(),
    default="new",
    show_default=True,
    metavar="all|last|new|seq:N|time:T",
    help="Read the stream of these topics; T is seconds since 1970 or 2026-01-31T12:00 (UTC).",
)
@click.option("--durable", default="", metavar="NAME", help="Go on where this consumer was.")
@click.option("--group", default="", metavar="NAME", help="Share the events with its members.")
@click.option("-v", "--verbose", is_flag=True, help="Print the topic before each event.")
@json_option
def sub(
    options: ConnectionOptions,
    pattern: str,
    count: int | None,
    wait: float | None,
    origin: tuple[str, int],
    durable: str,
    group: str,
    verbose: bool,
    as_json: bool,
) -> None:
    """Print the events whose topics match PATTERN (`*` is one token, `>` the rest), one a line.

    With --durable each is acknowledged once it is written. With --json a line is an object, in
    which bytes that are not UTF-8 text are base64. Goes on when the session was lost, as soon as
    there is one again; events that are not kept in a stream are missed meanwhile.
    """
    from jetstreamproto.cli.events import EventWriter
    from jetstreamproto.cli.failure import EndedEarly
    from jetstreamproto.cli.keeping import run_kept
    from jetstreamproto.cli.output import note
    from jetstreamproto.services.events.client import EventClient
    from jetstreamproto.services.events.model.event import Start

    form = _json_line if as_json else _topic_line if verbose else _line

    async def work(reactor: ReactorBase, sessions: ReconnectingClient) -> None:
        subscription = await EventClient(sessions.when_connected, clock=reactor).subscribe(
            pattern, start=Start[origin[0]], origin=origin[1], durable=durable, group=group
        )
        writer = EventWriter(reactor, subscription, form, wait)
        left = await writer.run(count)
        subscription.close()
        if subscription.missed:
            note(f"{subscription.missed} events were missed: this side was too slow")
        if left:
            raise EndedEarly(f"{left} of {count} events did not come within {wait:g} s")

    run_kept(options, work)


def _line(event: Event) -> bytes:
    return _shown(event.payload) + b"\n"


def _topic_line(event: Event) -> bytes:
    return event.topic.encode() + b" " + _line(event)


def _shown(payload: bytes) -> bytes:
    """As it is, unless a terminal would act on it."""
    if not sys.stdout.isatty():
        return payload
    from jetstreamproto.cli.failure import clean

    return clean(payload.decode("utf-8", "replace")).encode()


def _json_line(event: Event) -> bytes:
    shown: dict[str, Any] = {"topic": event.topic, "time": event.time / 1e6}
    if event.sequence:
        shown["sequence"] = event.sequence
    if event.attempt > 1:
        shown["attempt"] = event.attempt
    try:
        shown["data"] = event.payload.decode()
    except UnicodeDecodeError:
        shown["base64"] = base64.b64encode(event.payload).decode()
    return json.dumps(with_route(shown)).encode() + b"\n"
