"""`jetstream kv`: keys and values on a server."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from jetstreamproto.cli.failure import NotFound, StreamFailed
from jetstreamproto.cli.kv_group import KeyCommand, KeyGroup
from jetstreamproto.cli.kv_options import (
    Place,
    after_option,
    key_argument,
    limit_option,
    prefix_argument,
    revision_option,
    ttl_option,
    with_bucket,
    with_client,
)
from jetstreamproto.cli.kv_output import (
    as_object,
    as_value,
    show_bytes,
    show_entry,
    show_value,
)
from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import note, show, show_object

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.services.kv.client import KeyBucket
    from jetstreamproto.session.session import Session


@click.group(cls=KeyGroup, subcommand_metavar="HOST:PORT COMMAND [ARGS]...")
def kv() -> None:
    """Keep keys and values on the server at HOST:PORT.

    A key has a value (get, set), or named fields (hget, hset), or both. `jetstream kv HOST:PORT
    COMMAND --help` shows the options of a command.
    """


# --- whole keys --------------------------------------------------------------------------


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@json_option
def get(options: ConnectionOptions, place: Place, as_json: bool) -> None:
    """Print the value of a key: its bytes as they are. With --json, its fields too."""
    entry = with_bucket(options, place, lambda bucket: bucket.entry(place.key))
    if entry is None or (entry.value is None and not as_json):
        raise NotFound(f"{place} has no value")
    if as_json:
        show_object(as_object(place.bucket, entry))
    else:
        show_bytes(entry.value or b"")


@kv.command(name="set", cls=KeyCommand)
@connection_options
@key_argument
@click.argument("value")
@ttl_option
@revision_option
@json_option
def set_(
    options: ConnectionOptions,
    place: Place,
    value: str,
    ttl: float | None,
    revision: int | None,
    as_json: bool,
) -> None:
    """Give a key this VALUE (- for standard input) and no other fields; prints its revision."""
    content = _read_value(value)
    _show_number(
        "revision",
        with_bucket(
            options,
            place,
            lambda bucket: bucket.set(place.key, content, ttl=ttl, revision=revision),
        ),
        as_json,
    )


@kv.command(name="del", cls=KeyCommand)
@connection_options
@key_argument
@revision_option
@json_option
def del_(options: ConnectionOptions, place: Place, revision: int | None, as_json: bool) -> None:
    """Take a key away; prints how many there were, 1 or 0."""
    _show_number(
        "deleted",
        with_bucket(options, place, lambda bucket: bucket.delete(place.key, revision=revision)),
        as_json,
    )


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@json_option
def exists(options: ConnectionOptions, place: Place, as_json: bool) -> None:
    """Print 1 if there is such a key, 0 if not."""
    found = with_bucket(options, place, lambda bucket: bucket.exists(place.key))
    _show_number("exists", found, as_json)


@kv.command(cls=KeyCommand, context_settings={"ignore_unknown_options": True})  # for BY, as -5
@connection_options
@key_argument
@click.argument("by", type=int, default=1)
@click.option("--field", default="", metavar="NAME", help="A field instead of the value.")
@ttl_option
@json_option
def incr(
    options: ConnectionOptions, place: Place, by: int, field: str, ttl: float | None, as_json: bool
) -> None:
    """Add BY (1 if not given) to a number; prints the sum."""
    total = with_bucket(
        options, place, lambda bucket: bucket.increment(place.key, by, field=field, ttl=ttl)
    )
    _show_number("value", total, as_json)


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@ttl_option
@json_option
def expire(options: ConnectionOptions, place: Place, ttl: float | None, as_json: bool) -> None:
    """Give a key --ttl seconds from now, or for ever without; prints 1 if it is there, or 0."""
    found = with_bucket(options, place, lambda bucket: bucket.expire(place.key, ttl))
    _show_number("exists", found, as_json)


# --- hashes ------------------------------------------------------------------------------


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@click.argument("field")
@json_option
def hget(options: ConnectionOptions, place: Place, field: str, as_json: bool) -> None:
    """Print one field of a key."""
    value = with_bucket(options, place, lambda bucket: bucket.hget(place.key, field))
    if value is None:
        raise NotFound(f"{place} has no field {field!r}")
    if as_json:
        show_object({"value": as_value(value)})
    else:
        show_bytes(value)


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@click.argument("fields", nargs=-1, required=True, metavar="FIELD...")
@json_option
def hmget(options: ConnectionOptions, place: Place, fields: tuple[str, ...], as_json: bool) -> None:
    """Print some fields of a key, a line each; those that are not there are left out."""
    values = with_bucket(options, place, lambda bucket: bucket.hmget(place.key, fields))
    if as_json:
        found = [None if value is None else as_value(value) for value in values]
        show_object({"fields": dict(zip(fields, found, strict=True))})
    else:
        for name, value in zip(fields, values, strict=True):
            if value is not None:
                show_value(name, value)


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@json_option
def hgetall(options: ConnectionOptions, place: Place, as_json: bool) -> None:
    """Print all fields of a key, a line each."""
    fields = with_bucket(options, place, lambda bucket: bucket.hgetall(place.key))
    if as_json:
        show_object({"fields": {name: as_value(value) for name, value in fields.items()}})
    else:
        for name, value in fields.items():
            show_value(name, value)


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@click.argument("pairs", nargs=-1, required=True, metavar="FIELD VALUE...")
@ttl_option
@revision_option
@json_option
def hset(
    options: ConnectionOptions,
    place: Place,
    pairs: tuple[str, ...],
    ttl: float | None,
    revision: int | None,
    as_json: bool,
) -> None:
    """Set one or more fields of a key, all at once; prints its revision."""
    if len(pairs) % 2:
        raise click.UsageError(f"{pairs[-1]!r} has no value")
    if pairs[1::2].count("-") > 1:
        raise click.UsageError("only one value can come from standard input")
    fields = {name: _read_value(value) for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
    _show_number(
        "revision",
        with_bucket(
            options,
            place,
            lambda bucket: bucket.hmset(place.key, fields, ttl=ttl, revision=revision),
        ),
        as_json,
    )


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@click.argument("fields", nargs=-1, required=True, metavar="FIELD...")
@json_option
def hdel(options: ConnectionOptions, place: Place, fields: tuple[str, ...], as_json: bool) -> None:
    """Take fields of a key away; prints how many there were."""
    _show_number(
        "deleted",
        with_bucket(options, place, lambda bucket: bucket.hdel(place.key, *fields)),
        as_json,
    )


@kv.command(cls=KeyCommand)
@connection_options
@key_argument
@click.argument("field")
@json_option
def hexists(options: ConnectionOptions, place: Place, field: str, as_json: bool) -> None:
    """Print 1 if there is such a field, 0 if not."""
    found = with_bucket(options, place, lambda bucket: bucket.hexists(place.key, field))
    _show_number("exists", found, as_json)


# --- many keys ---------------------------------------------------------------------------


@kv.command(cls=KeyCommand)
@connection_options
@prefix_argument
@after_option
@limit_option
@json_option
def keys(options: ConnectionOptions, place: Place, after: str, limit: int, as_json: bool) -> None:
    """Print the keys that start with PREFIX, a page of them."""
    from jetstreamproto.cli.failure import clean

    page = with_bucket(
        options, place, lambda bucket: bucket.keys(place.key, after=after, limit=limit)
    )
    if as_json:
        found = [as_object(place.bucket, entry) for entry in page.entries]
        show_object({"keys": found, "after": page.after})
        return
    for entry in page.entries:
        show(clean(entry.key))
    if page.after is not None:
        note(f"there are more: --after {clean(page.after)!r}")


@kv.command(cls=KeyCommand)
@connection_options
@prefix_argument
@json_option
def scan(options: ConnectionOptions, place: Place, as_json: bool) -> None:
    """Print all keys that start with PREFIX with their fields; with --json, an object a line."""

    async def work(bucket: KeyBucket) -> None:
        async for entry in bucket.scan(place.key):
            show_entry(place.bucket, entry, as_json)

    with_bucket(options, place, work)


@kv.command(cls=KeyCommand)
@connection_options
@after_option
@limit_option
@json_option
def buckets(options: ConnectionOptions, after: str, limit: int, as_json: bool) -> None:
    """Print the names of the buckets that there are."""
    names = with_client(options, lambda client: client.buckets(after, limit))
    if as_json:
        show_object({"buckets": list(names)})
    else:
        for name in names:
            show(name)


@kv.command(cls=KeyCommand)
@connection_options
@prefix_argument
@click.option(
    "--since",
    type=click.IntRange(min=0),
    metavar="N",
    help="Begin after this revision; 0 prints all there is first.  [default: from now on]",
)
@click.option("-C", "count", type=click.IntRange(min=1), metavar="N", help="End after N changes.")
@click.option(
    "-W",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so long.",
)
@json_option
def watch(
    options: ConnectionOptions,
    place: Place,
    since: int | None,
    count: int | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Print changes of keys that start with PREFIX, as they happen."""
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.services.kv.client import KeyValueClient

    async def work(reactor: ReactorBase, session: Session) -> None:
        client = KeyValueClient(session, timeout=options.timeout, clock=reactor)
        changes = await client.bucket(place.bucket).watch(place.key, since=since)
        end = None if seconds is None else reactor.callLater(seconds, changes.stop)
        shown = 0
        async for entry in changes:
            show_entry(place.bucket, entry, as_json)
            shown += 1
            if shown == count:
                break
        if end is not None and end.active():
            end.cancel()
        changes.stop()

    run_session(options, work)


# --- values ------------------------------------------------------------------------------


def _read_value(text: str) -> bytes:
    """The bytes of an argument, or all of standard input for `-`."""
    from jetstreamproto.services.kv.model import MAX_VALUE

    if text != "-":
        return os.fsencode(text)
    try:
        content = sys.stdin.buffer.read(MAX_VALUE + 1)
    except OSError as error:
        raise StreamFailed(f"standard input: {error.strerror}") from error
    if len(content) > MAX_VALUE:
        raise StreamFailed(f"standard input: a value has at most {MAX_VALUE} bytes")
    return content


def _show_number(name: str, number: int, as_json: bool) -> None:
    if as_json:
        show_object({name: number})
    else:
        show(str(int(number)))
