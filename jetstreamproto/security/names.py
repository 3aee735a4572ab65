"""Names of servers, as certificates and the server-name indication have them."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from jetstreamproto.errors import ConfigurationError

_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


@lru_cache(maxsize=1024)
def is_ip_address(name: str) -> bool:
    """Whether `name` is an IPv4 or IPv6 address in text form."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1024)
def canonical_name(name: str) -> str:
    """`name` without a zone or the root's dot, and a name beyond ASCII as its A-labels.

    Raises `ConfigurationError` for what is neither an IP address nor a host name.
    """
    if is_ip_address(name):
        return name.partition("%")[0]
    try:
        ascii_name = name.removesuffix(".").encode("idna").decode("ascii")
    except UnicodeError:  # a label is empty, too long, or of characters that no name may have
        ascii_name = ""
    if not _HOST_NAME.fullmatch(ascii_name):
        raise ConfigurationError(f"{name!r} is neither a host name nor an IP address")
    return ascii_name
