r"""The strings of endpoints, for `clientFromString` and `serverFromString`.

    jetstream:HOST:PORT[:transport=auto][:pin=sha256\:...][:service=stream][:timeout=10] ...
    jetstream:PORT[:interface=127.0.0.1][:transport=tcp,udp][:allow=sha256\:...] ...

Every error in one is a `ValueError`. Twisted imports this file whenever it looks for plugins, so
it imports nothing much before there is a string to parse.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

from jetstreamproto.errors import ConfigurationError

PREFIX = "jetstream"
ANONYMOUS = "anonymous"

_FILES = ("stateDir", "cert", "key")
_UDP = ("congestion", "fec", "mtu")
_CLIENT = (
    *("host", "port", "transport", "bulk", "service", "timeout", "pin", "ca", "trustNew"),
    *(_FILES + _UDP),
)
_SERVER = (
    *("port", "interface", "transport", "service", "allow", "clients", "clientCA"),
    *("drainTimeout", *_FILES, *_UDP),
)


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class ClientParser:
    """Parses the strings of client endpoints."""

    prefix = PREFIX

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamClientEndpoint:
        return client_endpoint(reactor, _named(_CLIENT, ("host", "port"), args, kwargs))


@implementer(IPlugin, IStreamServerEndpointStringParser)
class ServerParser:
    """Parses the strings of server endpoints."""

    prefix = PREFIX

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        return server_endpoint(reactor, _named(_SERVER, ("port",), args, kwargs))


def client_endpoint(reactor: Any, given: Mapping[str, str]) -> IStreamClientEndpoint:
    """The client endpoint with these parameters."""
    from jetstreamproto.endpoints.client import DEFAULT_TIMEOUT, STREAM, JetStreamClientEndpoint
    from jetstreamproto.endpoints.target import Target
    from jetstreamproto.opening.model import AUTO

    values = _Values(given)
    timeout = values.read("timeout", _seconds, DEFAULT_TIMEOUT)
    service = values.read("service", _service, STREAM)
    try:
        target = Target(
            host=values.required("host"),
            port=values.read("port", _number),
            transport=values.read("transport", str, AUTO),
            bulk=values.read("bulk", _flag, False),
            pins=values.read("pin", _list, ()),
            ca=values.read("ca", _path, None),
            trust_new=values.read("trustNew", _flag, False),
            datagrams=_datagrams(values),
            **_files(values),
        )
        target.client_factory(reactor)  # which reads the files
    except ConfigurationError as error:
        raise ValueError(f"{PREFIX}: {error}") from error
    return JetStreamClientEndpoint(reactor, target, service, timeout)


def server_endpoint(reactor: Any, given: Mapping[str, str]) -> IStreamServerEndpoint:
    """The server endpoint with these parameters."""
    from jetstreamproto.endpoints.client import STREAM
    from jetstreamproto.endpoints.server import JetStreamServerEndpoint, Listening
    from jetstreamproto.server.config import available_transports, read_address
    from jetstreamproto.session.settings import DEFAULT_SETTINGS, SessionSettings

    values = _Values(given)
    allow = values.read("allow", _list, ())
    service = values.read("service", _service, STREAM)
    drain = values.read("drainTimeout", _seconds, DEFAULT_SETTINGS.drain_timeout)
    try:
        listening = Listening(
            port=values.read("port", _number),
            interface=values.read("interface", read_address, "127.0.0.1"),
            transports=values.read("transport", _list, available_transports()),
            fingerprints=() if allow == (ANONYMOUS,) else allow,
            clients=values.read("clients", _path, None),
            client_ca=values.read("clientCA", _path, None),
            allow_anonymous=allow == (ANONYMOUS,),
            datagrams=_datagrams(values),
            settings=SessionSettings(drain_timeout=drain),
            **_files(values),
        )
        listening.client_trust()
        if listening.cert is not None:
            listening.identity()
    except ConfigurationError as error:
        raise ValueError(f"{PREFIX}: {error}") from error
    return JetStreamServerEndpoint(reactor, listening, service)


class _Values:
    """The parameters of one string."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def required(self, name: str) -> str:
        text = self._given.get(name)
        if not text:
            raise ValueError(f"{PREFIX}: the {name} is missing")
        return text

    def read(self, name: str, read: Callable[[str], Any], *default: Any) -> Any:
        """The value of a parameter; it is required if there is no default."""
        if default and name not in self._given:
            return default[0]
        text = self.required(name)
        try:
            return read(text)
        except ConfigurationError as error:
            raise ValueError(f"{PREFIX}: {name}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{PREFIX}: {name}: {error}") from None


def _named(
    names: tuple[str, ...],
    positional: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, str]:
    """All parameters by name. Raises `ValueError` for those that there are not."""
    if len(args) > len(positional):
        extra = args[len(positional)]
        raise ValueError(
            f"{PREFIX}: {extra!r} is one word too many; a colon in a value is written \\:"
        )
    given: dict[str, str] = dict(zip(positional, args, strict=False))
    for name, text in kwargs.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; {close[0]}?" if close else f"; there is {', '.join(names)}"
            raise ValueError(f"{PREFIX}: there is no parameter {name!r}{hint}")
        if name in given:
            raise ValueError(f"{PREFIX}: the {name} is given twice")
        given[name] = text
    return given


def _files(values: _Values) -> dict[str, Any]:
    from jetstreamproto.state import default_state_dir

    return {
        "state_dir": values.read("stateDir", _path, None) or default_state_dir(),
        "cert": values.read("cert", _path, None),
        "key": values.read("key", _path, None),
    }


def _datagrams(values: _Values) -> Any:
    from jetstreamproto.reliability.settings import DEFAULT_DATAGRAM_SETTINGS, DatagramSettings
    from jetstreamproto.server.values import read_congestion, read_fec

    default = DEFAULT_DATAGRAM_SETTINGS
    return DatagramSettings(
        congestion=values.read("congestion", read_congestion, default.congestion),
        fec=values.read("fec", read_fec, default.fec),
        mtu=values.read("mtu", _number, default.mtu),
    )


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= 366 * 86400:
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _service(text: str) -> str:
    from jetstreamproto.session.codes import MAX_SERVICE_NAME

    if len(text.encode()) > MAX_SERVICE_NAME:
        raise ValueError(f"{text!r} is longer than {MAX_SERVICE_NAME} bytes")
    return text


def _flag(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text == "yes"


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))
