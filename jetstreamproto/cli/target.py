"""HOST:PORT, as it is written on the command line and in the known-hosts file."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click

DEFAULT_PORT = 9000

_MAX_NAME = 253  # RFC 1035 section 2.3.4
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
_SCOPED = re.compile(r"[0-9a-fA-F:.]+(%[A-Za-z0-9_.-]{1,15})?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True)
class Target:
    """A server's address: `host` is a name (lower case, IDNA) or an IP address in short form."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """The target that `text` names: HOST, HOST:PORT, [IPV6] or [IPV6]:PORT.

    Raises `ValueError` with a message for the person who wrote it.
    """
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not [IPV6]:PORT")
        return Target(_ipv6(inside), _port(rest[1:]) if rest else DEFAULT_PORT)
    if text.count(":") > 1:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:9000")
    name, colon, port = text.partition(":")
    return Target(_host(name), _port(port) if colon else DEFAULT_PORT)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise ValueError(f"{text!r} is not a port: 1 to 65535")
    return int(text)


def _ipv6(text: str) -> str:
    import ipaddress

    try:
        if _SCOPED.fullmatch(text):
            return str(ipaddress.IPv6Address(text))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not an IPv6 address")


def _host(text: str) -> str:
    name = (text if text.isascii() else _idna(text)).lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{text!r} is not a host name")
    return _ipv4(text, name) if labels[-1].isdigit() else name


def _ipv4(text: str, name: str) -> str:
    """A name that ends in a number can only be an IPv4 address, in full."""
    import ipaddress

    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 address") from None


def _idna(text: str) -> str:
    import idna

    try:
        return idna.encode(text, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError(f"{text!r} is not a host name") from None


@dataclass(frozen=True)
class Location(Target):
    """A path at a server; without one it is "". It does not begin with a `/`."""

    path: str = ""


def parse_location(text: str) -> Location:
    """What `text` names: HOST:PORT, or HOST:PORT/PATH. Raises `ValueError` as `parse_target`."""
    address, _, path = text.partition("/")
    target = parse_target(address)
    return Location(target.host, target.port, path.lstrip("/"))


def location_argument(context: click.Context, parameter: click.Parameter, text: str) -> Location:
    """The callback of a command's HOST:PORT/PATH argument."""
    try:
        return parse_location(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error


def target_argument(context: click.Context, parameter: click.Parameter, text: str) -> Target:
    """The callback of a command's HOST:PORT argument."""
    try:
        return parse_target(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from error
