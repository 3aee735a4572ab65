"""`jetstream kv`: keys and values on a server."""

from __future__ import annotations

import os
import sys
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.failure import NotFound, StreamFailed
from jetstreamproto.cli.kv_group import KeyCommand, KeyGroup
from jetstreamproto.cli.kv_options import (
    Ask,
    Parameter,
    Place,
    Work,
    after_option,
    bucket_argument,
    field_argument,
    fields_argument,
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
    from collections.abc import Callable, Mapping, Sequence

    from twisted.internet.base import ReactorBase

    from jetstreamproto.services.kv.batch import BatchResult
    from jetstreamproto.services.kv.client import KeyBucket
    from jetstreamproto.session.session import Session


@click.group(cls=KeyGroup, subcommand_metavar="HOST:PORT COMMAND [ARGS]...")
def kv() -> None:
    """Keep keys and values on the server at HOST:PORT.

    A key has a value (get, set), or named fields (hget, hset), or both. `jetstream kv HOST:PORT
    COMMAND --help` shows the options of a command.
    """


# --- what the commands share -------------------------------------------------------------


def _bucket_command(
    place: Parameter, *parameters: Parameter, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., None]], click.Command]:
    """A command on a place. It is called with `ask`, which does some work with the bucket there."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def command(options: ConnectionOptions, place: Place, **given: Any) -> None:
            function(partial(with_bucket, options, place), place, **given)

        decorated: Callable[..., None] = command
        shared: Sequence[Parameter] = (place, *parameters, json_option)
        for parameter in reversed(shared):
            decorated = parameter(decorated)
        decorated = connection_options(decorated)
        return kv.command(name=name, cls=KeyCommand, **settings)(decorated)

    return decorate


def _number_command(
    shown: str, *parameters: Parameter, name: str | None = None, **settings: Any
) -> Callable[[Callable[..., Work[int]]], click.Command]:
    """A command on a key that prints one number, with --json as `shown`.

    It is called with the key, and returns the work that the number comes from.
    """

    def decorate(function: Callable[..., Work[int]]) -> click.Command:
        @wraps(function)
        def command(ask: Ask, place: Place, as_json: bool, **given: Any) -> None:
            number = ask(function(place.key, **given))
            if as_json:
                show_object({shown: number})
            else:
                show(str(int(number)))

        return _bucket_command(key_argument, *parameters, name=name, **settings)(command)

    return decorate


# --- whole keys --------------------------------------------------------------------------


@_bucket_command(key_argument)
def get(ask: Ask, place: Place, as_json: bool) -> None:
    """Print the value of a key: its bytes as they are. With --json, its fields too."""
    entry = ask(lambda bucket: bucket.entry(place.key))
    if entry is None or (entry.value is None and not as_json):
        raise NotFound(f"{place} has no value")
    if as_json:
        show_object(as_object(place.bucket, entry))
    else:
        show_bytes(entry.value or b"")


@_number_command("revision", click.argument("value"), ttl_option, revision_option, name="set")
def set_(key: str, value: str, ttl: float | None, revision: int | None) -> Work[int]:
    """Give a key this VALUE (- for standard input) and no other fields; prints its revision."""
    content = _read_value(value)
    return lambda bucket: bucket.set(key, content, ttl=ttl, revision=revision)


@_number_command("deleted", revision_option, name="del")
def del_(key: str, revision: int | None) -> Work[int]:
    """Take a key away; prints how many there were, 1 or 0."""
    return lambda bucket: bucket.delete(key, revision=revision)


@_number_command("exists")
def exists(key: str) -> Work[int]:
    """Print 1 if there is such a key, 0 if not."""
    return lambda bucket: bucket.exists(key)


@_number_command(
    "value",
    click.argument("by", type=int, default=1),
    click.option("--field", default="", metavar="NAME", help="A field instead of the value."),
    ttl_option,
    context_settings={"ignore_unknown_options": True},  # for BY, as -5
)
def incr(key: str, by: int, field: str, ttl: float | None) -> Work[int]:
    """Add BY (1 if not given) to a number; prints the sum."""
    return lambda bucket: bucket.increment(key, by, field=field, ttl=ttl)


@_number_command("exists", ttl_option)
def expire(key: str, ttl: float | None) -> Work[int]:
    """Give a key --ttl seconds from now, or for ever without; prints 1 if it is there, or 0."""
    return lambda bucket: bucket.expire(key, ttl)


# --- hashes ------------------------------------------------------------------------------


@_bucket_command(key_argument, field_argument)
def hget(ask: Ask, place: Place, field: str, as_json: bool) -> None:
    """Print one field of a key."""
    value = ask(lambda bucket: bucket.hget(place.key, field))
    if value is None:
        raise NotFound(f"{place} has no field {field!r}")
    if as_json:
        show_object({"value": as_value(value)})
    else:
        show_bytes(value)


@_bucket_command(key_argument, fields_argument)
def hmget(ask: Ask, place: Place, fields: tuple[str, ...], as_json: bool) -> None:
    """Print some fields of a key, a line each; those that are not there are left out."""
    values = ask(lambda bucket: bucket.hmget(place.key, fields))
    _show_fields(dict(zip(fields, values, strict=True)), as_json)


@_bucket_command(key_argument)
def hgetall(ask: Ask, place: Place, as_json: bool) -> None:
    """Print all fields of a key, a line each."""
    _show_fields(ask(lambda bucket: bucket.hgetall(place.key)), as_json)


@_number_command(
    "revision",
    click.argument("pairs", nargs=-1, required=True, metavar="FIELD VALUE..."),
    ttl_option,
    revision_option,
)
def hset(key: str, pairs: tuple[str, ...], ttl: float | None, revision: int | None) -> Work[int]:
    """Set one or more fields of a key, all at once; prints its revision."""
    if len(pairs) % 2:
        raise click.UsageError(f"{pairs[-1]!r} has no value")
    if pairs[1::2].count("-") > 1:
        raise click.UsageError("only one value can come from standard input")
    fields = {name: _read_value(value) for name, value in zip(pairs[::2], pairs[1::2], strict=True)}
    return lambda bucket: bucket.hmset(key, fields, ttl=ttl, revision=revision)


@_number_command("deleted", fields_argument)
def hdel(key: str, fields: tuple[str, ...]) -> Work[int]:
    """Take fields of a key away; prints how many there were."""
    return lambda bucket: bucket.hdel(key, *fields)


@_number_command("exists", field_argument)
def hexists(key: str, field: str) -> Work[int]:
    """Print 1 if there is such a field, 0 if not."""
    return lambda bucket: bucket.hexists(key, field)


# --- many keys ---------------------------------------------------------------------------


@_bucket_command(bucket_argument)
def batch(ask: Ask, place: Place, as_json: bool) -> None:
    """Do the writes that standard input has, a line each: all of them or none.

    A line is as on the command line (set KEY VALUE --ttl 5, hset KEY FIELD VALUE..., del KEY
    --revision 7, hdel KEY FIELD..., incr KEY BY, expire KEY --ttl 5, check KEY --revision 7), or
    a JSON object: {"op": "set", "key": "k", "value": "v"}. Prints a number for each, as those
    commands do; a set has 1, an hset how many fields are new.
    """
    from jetstreamproto.cli.kv_batch import at_line, read_batch
    from jetstreamproto.errors import KeyValueError

    steps, lines = read_batch(sys.stdin.buffer)

    async def work(bucket: KeyBucket) -> BatchResult:
        try:
            return await bucket.write(steps)
        except KeyValueError as error:
            error.args = (at_line(lines, error),)
            raise

    done = ask(work)
    if as_json:
        show_object({"revision": done.revision, "results": list(done.results)})
    else:
        for number in done.results:
            show(str(number))


@_bucket_command(prefix_argument, after_option, limit_option)
def keys(ask: Ask, place: Place, after: str, limit: int, as_json: bool) -> None:
    """Print the keys that start with PREFIX, a page of them."""
    from jetstreamproto.cli.failure import clean

    page = ask(lambda bucket: bucket.keys(place.key, after=after, limit=limit))
    if as_json:
        found = [as_object(place.bucket, entry) for entry in page.entries]
        show_object({"keys": found, "after": page.after})
        return
    for entry in page.entries:
        show(clean(entry.key))
    if page.after is not None:
        note(f"there are more: --after {clean(page.after)!r}")


@_bucket_command(prefix_argument)
def scan(ask: Ask, place: Place, as_json: bool) -> None:
    """Print all keys that start with PREFIX with their fields; with --json, an object a line."""

    async def work(bucket: KeyBucket) -> None:
        async for entry in bucket.scan(place.key):
            show_entry(place.bucket, entry, as_json)

    ask(work)


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


def _show_fields(fields: Mapping[str, bytes | None], as_json: bool) -> None:
    if as_json:
        found = {
            name: value if value is None else as_value(value) for name, value in fields.items()
        }
        show_object({"fields": found})
        return
    for name, value in fields.items():
        if value is not None:
            show_value(name, value)
