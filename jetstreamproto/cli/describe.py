"""`jetstream describe`: the methods of a service, with what they take and return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from jetstreamproto.cli.failure import clean
from jetstreamproto.cli.options import ConnectionOptions, connection_options, json_option
from jetstreamproto.cli.output import show, show_object

if TYPE_CHECKING:
    from twisted.internet.base import ReactorBase

    from jetstreamproto.session.session import Session

_DEEPEST = 8


@click.command()
@connection_options
@click.argument("service", metavar="SERVICE")
@json_option
def describe(options: ConnectionOptions, service: str, as_json: bool) -> None:
    """Show the methods of SERVICE at HOST:PORT that you may call.

    With --json there are the JSON schemas of their arguments, items and results.
    """
    from jetstreamproto.cli.connection import run_session
    from jetstreamproto.services.rpc.service import Reflection

    async def work(reactor: ReactorBase, session: Session) -> Any:
        from jetstreamproto.services.rpc.client import RpcClient

        reflection = RpcClient(session, timeout=options.timeout).proxy(Reflection)
        return await reflection.describe(service)

    described = run_session(options, work)
    if as_json:
        show_object(described)
        return
    for line in lines(described):
        show(line)


def lines(described: Mapping[str, Any]) -> Iterator[str]:
    """A description for people. It comes from a peer: what is not as it should be is left out."""
    doc = clean(_text(described.get("doc")))
    yield clean(_text(described.get("service"))) + (f": {doc}" if doc else "")
    for method in _dicts(described.get("methods")):
        name = clean(_text(method.get("method"))).partition("#")[2]
        notes = [clean(_text(method.get("kind")))]
        notes += [note for note in ("idempotent", "raw") if method.get(note) is True]
        yield f"  {name}{_shape(method)}  [{', '.join(notes)}]"
        doc = clean(_text(method.get("doc")))
        if doc:
            yield f"      {doc}"


def _shape(method: Mapping[str, Any]) -> str:
    """Parameters and result, as in `(a: integer, b: integer = 2) -> integer`."""
    if method.get("raw") is True:
        return "(bytes) -> bytes"
    arguments = method.get("arguments")
    schema = _resolve(arguments, arguments)
    required = schema.get("required")
    properties = schema.get("properties")
    parameters = []
    for name, kind in (properties if isinstance(properties, dict) else {}).items():
        optional = "" if isinstance(required, list) and name in required else " = ..."
        parameters.append(f"{clean(_text(name))}: {_kind(kind, arguments)}{optional}")
    if "items_in" in method:
        parameters.append(f"*items: {_kind(method['items_in'], method['items_in'])}")
    out = method.get("items_out", method.get("result"))
    many = "stream of " if "items_out" in method else ""
    return f"({', '.join(parameters)}) -> {many}{_kind(out, out)}"


def _kind(schema: Any, root: Any, depth: int = 0) -> str:
    """A schema in a word or two."""
    if depth > _DEEPEST or not isinstance(schema, dict):
        return "any"
    if "$ref" in schema:
        return clean(_text(schema["$ref"]).rpartition("/")[2])
    if isinstance(schema.get("anyOf"), list):
        return " or ".join(_kind(one, root, depth + 1) for one in schema["anyOf"][:_DEEPEST])
    kind = clean(_text(schema.get("type"))) or "any"
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"array of {_kind(schema['items'], root, depth + 1)}"
    if kind == "string" and schema.get("contentEncoding") == "base64":
        return "bytes"
    return kind


def _resolve(schema: Any, root: Any) -> Mapping[str, Any]:
    """What a reference at the top of a schema leads to."""
    if not isinstance(schema, dict):
        return {}
    found = schema
    if isinstance(root, dict) and isinstance(root.get("$defs"), dict):
        found = root["$defs"].get(_text(schema.get("$ref")).rpartition("/")[2], schema)
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    for one in value if isinstance(value, list) else ():
        if isinstance(one, dict):
            yield one
