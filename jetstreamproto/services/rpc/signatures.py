"""Methods and their signatures: what a class exposes, and how its arguments are read.

    @rpc_service("demo.Calculator")
    class Calculator:
        @rpc_method(idempotent=True)
        def add(self, a: int, b: int) -> int:
            return a + b

The annotations are what msgspec can check: Python's own types, `msgspec.Struct`, dataclasses,
`Annotated[int, msgspec.Meta(ge=0)]` and so on. A parameter of type `AsyncIterator[T]` takes the
items that the caller sends, a result of that type makes a stream of what is returned; one of
type `RpcContext` is given the call's context.
"""

from __future__ import annotations

import collections.abc
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.services.rpc.context import RpcContext
from jetstreamproto.services.rpc.model import check_method, check_service

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

_SERVICE, _METHOD = "__rpc_service__", "__rpc_method__"
_STREAMS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_RESULTS = (Deferred, collections.abc.Awaitable, collections.abc.Coroutine)


@dataclass(frozen=True)
class _Options:
    idempotent: bool
    raw: bool


@dataclass(frozen=True)
class Signature:
    """One method: its full name, and what goes in and comes out.

    parameters: names, in order, of what the caller gives; `by_position` and `by_name` read them.
    items_in, items_out: the type of the items that stream in or out; None where none do.
    result: the type of the result, `None` where items are.
    context, items: the names of the parameters that take these, if there are such.
    """

    name: str
    attribute: str
    parameters: tuple[str, ...]
    arguments: type[msgspec.Struct]
    by_position: Callable[[Any], Any]
    by_name: Callable[[Any], Any]
    result: Any
    items_in: Any
    items_out: Any
    context: str | None
    items: str | None
    idempotent: bool
    raw: bool
    doc: str

    @property
    def streaming(self) -> bool:
        """Whether it is more than one request and one result."""
        return self.items is not None or self.items_out is not None

    @property
    def kind(self) -> str:
        """`unary`, `client stream`, `server stream` or `both ways`."""
        if self.items is not None:
            return "client stream" if self.items_out is None else "both ways"
        return "unary" if self.items_out is None else "server stream"

    def describe(self) -> dict[str, Any]:
        """Everything a caller must know, with JSON schemas of the types."""
        described: dict[str, Any] = {
            "method": self.name,
            "kind": self.kind,
            "idempotent": self.idempotent,
            "raw": self.raw,
            "doc": self.doc,
        }
        if not self.raw:
            described["arguments"] = msgspec.json.schema(self.arguments)
            if self.items is not None:
                described["items_in"] = msgspec.json.schema(self.items_in)
            if self.items_out is not None:
                described["items_out"] = msgspec.json.schema(self.items_out)
            else:
                described["result"] = msgspec.json.schema(self.result)
        return described


def rpc_service(name: str) -> Callable[[C], C]:
    """Give a class the name by which its methods are called, as in `demo.Calculator`.

    Raises `ConfigurationError` for a name that is none, and for methods that cannot be exposed.
    """
    try:
        check_service(name)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None

    def decorate(cls: C) -> C:
        setattr(cls, _SERVICE, name)
        return cls

    return decorate


@typing.overload
def rpc_method(function: F) -> F: ...


@typing.overload
def rpc_method(*, idempotent: bool = False, raw: bool = False) -> Callable[[F], F]: ...


def rpc_method(function: F | None = None, *, idempotent: bool = False, raw: bool = False) -> Any:
    """Expose a method of a class that has `rpc_service`.

    An `idempotent` one does the same if it is run again, so that a caller may repeat it where the
    first attempt's end is not known. A `raw` one takes bytes and returns bytes, as they are.
    """

    def decorate(function: F) -> F:
        setattr(function, _METHOD, _Options(idempotent, raw))
        return function

    return decorate if function is None else decorate(function)


def service_name(target: object) -> str:
    """The name that `rpc_service` gave a class, or the class of an object.

    Raises `ConfigurationError` if there is none.
    """
    cls = target if isinstance(target, type) else type(target)
    name = getattr(cls, _SERVICE, None)
    if not isinstance(name, str):
        raise ConfigurationError(f"{cls.__qualname__} has no @rpc_service name")
    return name


def signatures(target: object) -> Mapping[str, Signature]:
    """The exposed methods of a class or an object, by the names of their attributes.

    Raises `ConfigurationError` for one that cannot be called from afar.
    """
    cls = target if isinstance(target, type) else type(target)
    service = service_name(cls)
    found: dict[str, Signature] = {}
    for attribute, function in inspect.getmembers(cls, callable):
        options = getattr(function, _METHOD, None)
        if isinstance(options, _Options):
            try:
                name = check_method(f"{service}#{attribute}")
                found[attribute] = _reflect(name, attribute, function, options)
            except (TypeError, ValueError, NameError) as error:
                raise ConfigurationError(f"{service}#{attribute}: {error}") from error
    if not found:
        raise ConfigurationError(f"{cls.__qualname__} has no method with @rpc_method")
    return found


def _reflect(
    name: str, attribute: str, function: Callable[..., Any], options: _Options
) -> Signature:
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[Any] = []
    context = items = None
    items_in: Any = None
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        hint = hints.get(parameter.name, Any)
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"{parameter} cannot be sent; there are plain parameters only")
        if hint is RpcContext and context is None:
            context = parameter.name
        elif (streamed := _item_type(hint)) is not None and items is None:
            items, items_in = parameter.name, streamed[0]
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, _default(parameter.default)))
    returned = hints.get("return", Any)
    streamed = _item_type(returned)
    names = tuple(field[0] for field in fields)
    if options.raw and len(names) != (items is None):
        raise TypeError("a raw method has one parameter of bytes, or a stream of them")
    by_position, by_name = (
        _arguments(attribute, fields, array_like=True),
        _arguments(attribute, fields, array_like=False),
    )
    signature = Signature(
        name=name,
        attribute=attribute,
        parameters=names,
        arguments=by_name,
        by_position=msgspec.msgpack.Decoder(by_position).decode,
        by_name=msgspec.msgpack.Decoder(by_name).decode,
        result=None if streamed else _awaited(returned),
        items_in=items_in,
        items_out=streamed[0] if streamed else None,
        context=context,
        items=items,
        idempotent=options.idempotent,
        raw=options.raw,
        doc=inspect.getdoc(function) or "",
    )
    signature.describe()  # raises TypeError for a type that nothing can be checked against
    return signature


def _arguments(attribute: str, fields: list[Any], *, array_like: bool) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        attribute, fields, array_like=array_like, forbid_unknown_fields=True, gc=False
    )


def _default(value: Any) -> Any:
    if isinstance(value, list | dict | set | bytearray):
        return msgspec.field(default_factory=lambda: value.copy())
    return value


def _item_type(hint: Any) -> tuple[Any] | None:
    """The type of the items of a stream, in a tuple; None for what is no stream."""
    if hint in _STREAMS:
        return (Any,)
    if typing.get_origin(hint) in _STREAMS:
        return (typing.get_args(hint)[0],)
    return None


def _awaited(hint: Any) -> Any:
    """What comes of a result that may come later."""
    if hint in _RESULTS:
        return Any
    if typing.get_origin(hint) in _RESULTS:
        return typing.get_args(hint)[-1]
    return hint
