"""`JetStreamAddress`: one end of a byte stream, as Twisted's protocols see it."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IAddress
from zope.interface import implementer


@implementer(IAddress)
@attrs.frozen
class JetStreamAddress:
    """Where one end of a byte stream is, and who.

    `transport` is what carries it (several by commas at a listening port). `fingerprint` is the
    one that this end has proved, None for an end that did not say who it is. `host` is empty and
    `port` 0 where they are not known.
    """

    host: str
    port: int
    transport: str = ""
    service: str = ""
    fingerprint: str | None = None


def split_host_port(text: str) -> tuple[str, int]:
    """The host and the port of `HOST:PORT` or `[HOST]:PORT`; port 0 for any other text."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        return text, 0
    return host.removeprefix("[").removesuffix("]"), int(port)
