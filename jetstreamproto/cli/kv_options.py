"""What the commands of `jetstream kv` share: arguments, options, and a client to work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

import click

from jetstreamproto.cli.options import ConnectionOptions

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.services.kv.client import KeyBucket, KeyValueClient
    from jetstreamproto.session.session import Session

T = TypeVar("T")

Parameter = Callable[[Callable[..., None]], Callable[..., None]]
"""An argument or an option, as a decorator."""
Work: TypeAlias = "Callable[[KeyBucket], Awaitable[T]]"
"""What is to be done with a bucket."""


class Place(NamedTuple):
    """BUCKET/KEY, or BUCKET/PREFIX."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"


def _place(_context: click.Context, parameter: click.Parameter, text: str) -> Place:
    bucket, slash, key = text.partition("/")
    whole, alone = parameter.metavar == "BUCKET/KEY", parameter.metavar == "BUCKET"
    if not bucket or (whole and not key) or (alone and slash):
        raise click.BadParameter(f"{text!r} is not {parameter.metavar}")
    return Place(bucket, key)


key_argument = click.argument("place", metavar="BUCKET/KEY", callback=_place)
bucket_argument = click.argument("place", metavar="BUCKET", callback=_place)
field_argument = click.argument("field")
fields_argument = click.argument("fields", nargs=-1, required=True, metavar="FIELD...")
prefix_argument = click.argument("place", metavar="BUCKET[/PREFIX]", callback=_place)
ttl_option = click.option(
    "--ttl",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long the key is to live.",
)
revision_option = click.option(
    "--revision",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if that is the key's revision; 0: only if there is no such key.",
)
after_option = click.option("--after", default="", metavar="NAME", help="Begin after this one.")
limit_option = click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    metavar="N",
    help="How many at most.",
)


def with_client(options: ConnectionOptions, work: Callable[[KeyValueClient], Awaitable[T]]) -> T:
    """What `work` returns, given a client in a session of its own."""
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.services.kv.client import KeyValueClient

    async def in_session(reactor: ReactorBase, session: Session) -> T:
        return await work(KeyValueClient(session, timeout=options.timeout, clock=reactor))

    return run_session(options, in_session)


class Ask(Protocol):
    """Does some work with a bucket, in a session of its own, and returns what comes of it."""

    def __call__(self, work: Work[T]) -> T: ...


def with_bucket(options: ConnectionOptions, place: Place, work: Work[T]) -> T:
    """What `work` returns, given the bucket of a place."""
    return with_client(options, lambda client: work(client.bucket(place.bucket)))
