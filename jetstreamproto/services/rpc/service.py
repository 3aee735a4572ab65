"""What a side exposes: objects, their health, and what can be said about them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from jetstreamproto.errors import ConfigurationError, RpcError
from jetstreamproto.services.rpc.context import RpcContext
from jetstreamproto.services.rpc.messages import RPC
from jetstreamproto.services.rpc.methods import Method
from jetstreamproto.services.rpc.model import (
    ANY,
    DEFAULT_LIMITS,
    RpcLimits,
    RpcStatus,
    check_method,
    matches,
)
from jetstreamproto.services.rpc.serving import ServedCalls, Tally
from jetstreamproto.services.rpc.signatures import (
    rpc_method,
    rpc_service,
    service_name,
    signatures,
)
from jetstreamproto.session.session import Session

MethodPatterns = Callable[[Session], Iterable[str]]
"""The patterns of the methods that a session's peer may call, as `demo.Calculator#*`."""


class ServiceSummary(msgspec.Struct, frozen=True):
    """One service that is exposed here."""

    service: str
    methods: list[str]
    doc: str


class RpcServer:
    """Exposes objects whose classes have `rpc_service`; it is itself the service of their channels.

        rpc = RpcServer([Calculator()])
        factory = JetStreamServerFactory(identity, {"rpc": rpc})

    A client's factory takes it as well, for calls from the server to it. `permitted` gives the
    patterns of methods that a session's peer may call, which is asked once a channel and method.
    With `reveal_errors` callers are told the text of every exception, not only that of `RpcError`.
    Raises `ConfigurationError` for an object that cannot be exposed, or a name that is taken.
    """

    def __init__(
        self,
        targets: Iterable[object] = (),
        *,
        limits: RpcLimits = DEFAULT_LIMITS,
        permitted: MethodPatterns = lambda _: (ANY,),
        reveal_errors: bool = False,
    ) -> None:
        self.limits = limits
        self.reveal_errors = reveal_errors
        self.health = Health()
        self._permitted = permitted
        self._methods: dict[bytes, Method] = {}
        self._docs: dict[str, str] = {}
        self._tallies: WeakKeyDictionary[Session, Tally] = WeakKeyDictionary()
        for target in (self.health, Reflection(self), *targets):
            self.expose(target)

    def __call__(self) -> ServedCalls:
        return ServedCalls(self)

    @property
    def services(self) -> Mapping[str, Callable[[], ServedCalls]]:
        """For the `services` of a factory."""
        return {RPC: self}

    def expose(self, target: object) -> None:
        """Let the methods of `target` be called. Raises `ConfigurationError`."""
        if isinstance(target, type):
            raise ConfigurationError(f"expose an object, not the class {target.__qualname__}")
        name = service_name(target)
        if name in self._docs:
            raise ConfigurationError(f"there is a service {name} already")
        for signature in signatures(target).values():
            self._methods[signature.name.encode()] = Method(signature, target)
        self._docs[name] = (inspect.getdoc(target) or "").partition("\n\n")[0]
        self.health.set(name, True)

    def find(self, session: Session, name: bytes) -> Method:
        """The method that a session's peer calls by `name`. Raises `RpcError`."""
        method = self._methods.get(name)
        if method is not None and matches(self._permitted(session), method.signature.name):
            return method
        try:
            text = check_method(name.decode("ascii", "replace"))
        except ValueError as error:
            raise RpcError(RpcStatus.INVALID_ARGUMENT, str(error)) from None
        if not matches(self._permitted(session), text):
            raise RpcError(RpcStatus.PERMISSION_DENIED, f"you may not call {text} here")
        service = text.partition("#")[0]
        what = text if service in self._docs else f"service {service}"
        raise RpcError(RpcStatus.UNIMPLEMENTED, f"there is no {what} here")

    def tally(self, session: Session) -> Tally:
        """What counts the calls under way of a session."""
        return self._tallies.setdefault(session, Tally())

    def summaries(self, session: Session) -> list[ServiceSummary]:
        """The services of which a session's peer may call something."""
        patterns = tuple(self._permitted(session))
        methods: dict[str, list[str]] = {}
        for method in self._methods.values():
            if matches(patterns, method.signature.name):
                service, _, name = method.signature.name.partition("#")
                methods.setdefault(service, []).append(name)
        return [
            ServiceSummary(service, sorted(names), self._docs[service])
            for service, names in sorted(methods.items())
        ]

    def describe(self, session: Session, service: str) -> dict[str, Any]:
        """The methods of `service` that a session's peer may call. Raises `RpcError`."""
        patterns = tuple(self._permitted(session))
        methods = [
            method.signature.describe()
            for method in self._methods.values()
            if method.signature.name.partition("#")[0] == service
            and matches(patterns, method.signature.name)
        ]
        if not methods:
            raise RpcError(
                RpcStatus.NOT_FOUND, f"there is no service {service[:255]!r} for you here"
            )
        return {"service": service, "doc": self._docs[service], "methods": methods}


@rpc_service("jetstream.Health")
class Health:
    """Whether services can be used at the moment."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {}

    def set(self, service: str, serving: bool) -> None:
        """Say of a service here whether it can be used."""
        self._serving[service] = serving

    @rpc_method(idempotent=True)
    def check(self, service: str = "") -> bool:
        """Whether `service` can be used; without a name, whether all can."""
        if not service:
            return all(self._serving.values())
        if service not in self._serving:
            raise RpcError(RpcStatus.NOT_FOUND, f"there is no service {service[:255]!r} here")
        return self._serving[service]


@rpc_service("jetstream.Reflection")
class Reflection:
    """What can be called here."""

    def __init__(self, server: RpcServer) -> None:
        self._server = server

    @rpc_method(idempotent=True)
    def services(self, context: RpcContext) -> list[ServiceSummary]:
        """The services of which you may call something."""
        return self._server.summaries(context.session)

    @rpc_method(idempotent=True)
    def describe(self, service: str, context: RpcContext) -> dict[str, Any]:
        """The methods of a service, with JSON schemas of their arguments and results."""
        return self._server.describe(context.session, service)
