"""What `jetstream tunnel` is told to forward: -L, -R and -D, as OpenSSH writes them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from jetstreamproto.cli.target import parse_target

LOCALHOST = "127.0.0.1"

LOCAL, REMOTE, DYNAMIC = "-L", "-R", "-D"

_SHAPES = {
    LOCAL: "[BIND:]PORT:TARGET:TPORT",
    REMOTE: "[BIND:]PORT:TARGET:TPORT",
    DYNAMIC: "[BIND:]PORT",
}


@dataclass(frozen=True)
class Forward:
    """One option: where to listen, and what connections are carried to (None: SOCKS)."""

    option: str
    bind: str
    port: int
    target: tuple[str, int] | None = None


def parse_forward(option: str, text: str) -> Forward:
    """The forward that `text` describes; IPv6 addresses are in brackets.

    Raises `ValueError` with a message for the person who wrote it.
    """
    parts = _split(text)
    wanted = 1 if option == DYNAMIC else 3
    if len(parts) not in (wanted, wanted + 1):
        raise ValueError(f"{text!r} is not {_SHAPES[option]}; IPv6 goes in brackets")
    bind = _bind(parts.pop(0)) if len(parts) > wanted else LOCALHOST
    port = _port(parts[0])
    if option == DYNAMIC:
        return Forward(option, bind, port)
    target = parse_target(":".join(parts[1:]))
    return Forward(option, bind, port, (target.host.partition("%")[0], target.port))


def _split(text: str) -> list[str]:
    """The parts between colons, those in brackets not counted."""
    parts, part, depth = [], "", 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == ":" and not depth:
            parts.append(part)
            part = ""
        else:
            part += character
    return [*parts, part]


def _bind(text: str) -> str:
    if text == "localhost":
        return LOCALHOST
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        address = ipaddress.ip_address(text[1:-1] if bracketed else text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address to listen on, such as 127.0.0.1, 0.0.0.0 or [::1]"
        ) from None
    return str(address)


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536:
        return int(text)
    raise ValueError(f"{text!r} is not a port: 0 (any) to 65535")
