"""`jetstream call`: one call to a method that a server exposes."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, stdout_failure, with_route

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from jetstreamproto.services.rpc.stream import RpcStream
    from jetstreamproto.session.session import Session

_STDIN = "-"
_DEADLINE = 30.0
_MOST = 4 << 20  # bytes of arguments, or of an item
_CHUNK = 1 << 16


def _method(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from jetstreamproto.services.rpc.model import check_method

    try:
        return check_method(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _metadata(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if not all(key and equals for key, equals, _ in pairs):
        raise click.BadParameter("metadata is written NAME=TEXT")
    return {key: text for key, _, text in pairs}


@click.command()
@connection_options
@click.argument("method", metavar="SERVICE#METHOD", callback=_method)
@click.option(
    "-d",
    "--data",
    metavar="JSON",
    help="The arguments: an object by name, an array by position; - reads standard input.",
)
@click.option(
    "--items", metavar="FILE", help="Send these items, one JSON value a line; - is standard input."
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, max=86400),
    default=_DEADLINE,
    show_default=True,
    metavar="S",
    help="Seconds the call may take; 0 for no deadline.",
)
@click.option(
    "--metadata", multiple=True, callback=_metadata, metavar="NAME=TEXT", help="Sent along."
)
@click.option("--raw", is_flag=True, help="Data, items and results are bytes as they are.")
@json_option
def call(
    options: ConnectionOptions,
    method: str,
    data: str | None,
    items: str | None,
    deadline: float,
    metadata: dict[str, str],
    raw: bool,
    as_json: bool,
) -> None:
    """Call a method of the server at HOST:PORT, as in demo.Calculator#add.

    Prints the result as JSON; a stream of items, one a line. Bytes are base64 there. With --json
    each line is an object with the key `item` or `result`.
    """
    from jetstreamproto.cli.connection import run_session

    if data == _STDIN and items == _STDIN:
        raise click.UsageError("only one of --data and --items can be standard input")
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    positional, named = _arguments(data, raw)
    descriptor = None if items is None else _open(items)

    async def work(reactor: ReactorBase, session: Session) -> None:
        from jetstreamproto.errors import RpcError
        from jetstreamproto.services.rpc.client import RpcClient

        try:
            stream = RpcClient(session).stream(
                method,
                *positional,
                named=named,
                timeout=deadline or None,
                metadata=metadata,
                raw=raw,
            )
        except (TypeError, ValueError) as error:  # what msgspec or the limits refuse
            raise click.UsageError(str(error)) from None
        problems: list[Exception] = []
        sending = _send(stream, descriptor, raw, problems)
        try:
            async for item in stream:
                _print(item, "item", raw, as_json)
            result = await stream.result()
            if not stream.streamed:
                _print(result, "result", raw, as_json)
        except RpcError as error:
            raise (problems or [error])[0] from None
        finally:
            sending.cancel()
            stream.cancel()

    run_session(options, work)


def _arguments(data: str | None, raw: bool) -> tuple[tuple[Any, ...], dict[str, Any] | None]:
    """What was given by position, and what by name."""
    import json

    text = sys.stdin.buffer.read(_MOST + 1) if data == _STDIN else os.fsencode(data or "")
    if len(text) > _MOST:
        raise click.UsageError(f"--data has more than {_MOST} bytes")
    if raw:
        return ((text,) if data is not None else ()), None
    if data is None:
        return (), None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--data is not JSON: {error}") from None
    if isinstance(value, dict):
        return (), value
    return (tuple(value) if isinstance(value, list) else (value,)), None


def _open(name: str) -> int:
    """A descriptor: a thread that is stuck in reading one holds up nothing at the end."""
    try:
        return sys.stdin.fileno() if name == _STDIN else os.open(name, os.O_RDONLY)
    except OSError as error:
        raise click.UsageError(f"--items {name}: {error.strerror}") from None


def _send(
    stream: RpcStream, descriptor: int | None, raw: bool, problems: list[Exception]
) -> Deferred[None]:
    """Send the items, if there are any, and end. What is wrong with them cancels the call."""
    from twisted.internet.defer import CancelledError, Deferred

    async def send() -> None:
        if descriptor is not None:
            async for line in _lines(descriptor):
                if raw or line.strip():
                    await stream.send(line if raw else _item(line))
        stream.end()

    def failed(failure: Failure) -> None:
        if not failure.check(CancelledError):
            problems.append(failure.value)  # type: ignore[arg-type]
            stream.cancel()

    return Deferred.fromCoroutine(send()).addErrback(failed)


async def _lines(descriptor: int) -> AsyncIterator[bytes]:
    """The lines that a descriptor has, read in a thread, without their ends."""
    from twisted.internet.threads import deferToThread

    rest = b""
    while chunk := await deferToThread(os.read, descriptor, _CHUNK):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > _MOST:
            raise click.UsageError(f"an item has more than {_MOST} bytes")
    if rest:
        yield rest


def _item(line: bytes) -> Any:
    import json

    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"an item is not JSON: {error}") from None


def _print(value: Any, key: str, raw: bool, as_json: bool) -> None:
    import json

    import msgspec

    from jetstreamproto.errors import RpcError
    from jetstreamproto.services.rpc.model import RpcStatus

    if raw:
        if not isinstance(value, bytes):
            raise RpcError(RpcStatus.INTERNAL, "the server returned no bytes")
        try:
            sys.stdout.buffer.write(value)
            sys.stdout.buffer.flush()
        except OSError as error:
            raise stdout_failure(error) from error
        return
    # json.dumps writes everything but ASCII as escapes, which no terminal acts on.
    try:
        plain = json.loads(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise RpcError(RpcStatus.INTERNAL, f"what came is no JSON: {error}") from None
    show(json.dumps(with_route({key: plain}) if as_json else plain).replace("\x7f", "\\u007f"))
