"""The first lines of a server's log: where it listens, who it is, and what to try next."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from jetstreamproto._version import __version__
from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.listeners import Listeners, show_address
from jetstreamproto.sockets.options import summary
from jetstreamproto.state import default_state_dir

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def announcement(config: ServerConfig, fingerprint: str, port: int) -> Sequence[str]:
    """The lines for a server that listens on `port` and shows `fingerprint`."""
    where = ", ".join(show_address(interface, port) for interface in config.interface)
    return (
        f"JetStreamProto {__version__} listens on {where} ({', '.join(config.transports)})",
        f"its fingerprint is {fingerprint}",
        f"to try it: jetstream ping {_next_command(config, fingerprint, port)}",
        f"it lets in {_who(config)}; {_limits(config)}",
    )


def _next_command(config: ServerConfig, fingerprint: str, port: int) -> str:
    words = [show_address(_reachable(config.interface[0]), port)]
    if not _is_known_here(config):
        words.append(f"--pin {fingerprint}")
    if config.client_ca is not None:
        words.append("--cert FILE")
    if config.auth and not config.allow_anonymous:
        words.append("--user NAME")
    return " ".join(words)


def _is_known_here(config: ServerConfig) -> bool:
    """Whether clients on this host find the server's identity in their own state folder."""
    try:
        return config.cert is None and config.state_dir == default_state_dir()
    except ConfigurationError:
        return False


def _reachable(interface: str) -> str:
    """An address of this host that reaches a server on `interface`."""
    address = ipaddress.ip_address(interface)
    if not address.is_unspecified:
        return interface
    return "127.0.0.1" if address.version == 4 else "::1"


def _who(config: ServerConfig) -> str:
    users = "users with a password"
    if config.allow_anonymous:
        return f"{users}, and anyone without a name" if config.auth else "anyone"
    if config.clients is not None:
        clients = f"clients with a fingerprint in {config.clients}"
    elif config.client_ca is not None:
        clients = f"clients with a certificate of {config.client_ca}"
    else:
        return users if config.auth else "anyone on this host"
    return f"{clients} who are {users} too" if config.auth else clients


def _limits(config: ServerConfig) -> str:
    return (
        f"at most {config.max_sessions} sessions ({config.max_sessions_per_address} from one"
        f" address, {config.max_half_open} half open), messages of {_size(config.max_message)}"
    )


def about_sockets(profile: str, listeners: Listeners) -> str:
    """The line that says what the kernel has granted."""
    kinds = {socket.SOCK_STREAM: "TCP", socket.SOCK_DGRAM: "UDP"}
    found = listeners.settings.items()
    granted = ". ".join(f"{kinds[kind]}: {summary(settings)}" for kind, settings in found)
    return f"its sockets have the profile {profile}. {granted}"


def _size(count: int) -> str:
    for unit, name in _UNITS:
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"
