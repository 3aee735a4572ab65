"""What is set on a UDP socket: on Linux what pays there, elsewhere what there is."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.sockets.options import Outcome, Setting

ON_LINUX = sys.platform == "linux"

# linux/udp.h, linux/in.h, linux/in6.h, asm-generic/socket.h: Python names few of these
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, IP_RECVERR = 10, 11
_IPV6_MTU_DISCOVER, IPV6_RECVERR, _IPV6_DONTFRAG = 23, 25, 62
_PMTUDISC_PROBE = 3

DEFAULT_BUFFER = 4 << 20
MAX_PAYLOAD = 65507
"""The most bytes of a UDP datagram over IPv4, and of the datagrams of one call to the kernel."""


@dataclass(frozen=True)
class DatagramOptions:
    """How a UDP port is set up. Sizes are in bytes; the kernel may grant smaller buffers.

    `gso` and `gro`: let the kernel split and join datagrams, where it can. Some paths are slower
    for it. `reuse_port`: several processes share the port (only before it is bound).
    """

    gso: bool = True
    gro: bool = True
    receive_buffer: int = DEFAULT_BUFFER
    send_buffer: int = DEFAULT_BUFFER
    reuse_port: bool = False
    max_packet_size: int = 65535

    def __post_init__(self) -> None:
        for name, least in (("receive_buffer", 0), ("send_buffer", 0), ("max_packet_size", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} must be at least {least}")


@dataclass(slots=True)
class DatagramStats:
    """What a port has done so far. A call moves one datagram or a batch of them."""

    datagrams_in: int = 0
    bytes_in: int = 0
    reads: int = 0
    discarded: int = 0
    """Datagrams that were too long, or empty."""
    datagrams_out: int = 0
    bytes_out: int = 0
    writes: int = 0
    dropped: int = 0
    """Datagrams that the kernel did not take."""


def share_port(handle: socket.socket) -> None:
    """Let other sockets of this user be bound to the same port (SO_REUSEPORT)."""
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def forbid_fragments(handle: socket.socket) -> bool:
    """Send what fits the device, marked not to be fragmented; what does not is an EMSGSIZE.

    Whether the kernel will.
    """
    if not ON_LINUX:
        return False
    forbidden = set_if_known(handle, socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    if handle.family == socket.AF_INET6:
        forbidden = set_if_known(handle, socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        set_if_known(handle, socket.IPPROTO_IPV6, _IPV6_DONTFRAG, 1)
    return forbidden


def queue_errors(handle: socket.socket) -> bool:
    """Have ICMP errors kept with the address that they are about; whether the kernel will."""
    if not ON_LINUX:
        return False
    queued = set_if_known(handle, socket.IPPROTO_IP, IP_RECVERR, 1)
    if handle.family == socket.AF_INET6:  # the other is for IPv4 peers, where there are any
        queued = set_if_known(handle, socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    return queued


def join_datagrams(handle: socket.socket) -> bool:
    """Have equal datagrams of a sender joined (UDP_GRO); whether the kernel will."""
    return ON_LINUX and set_if_known(handle, SOL_UDP, UDP_GRO, 1)


def separate_datagrams(handle: socket.socket) -> None:
    """Have each datagram by itself again."""
    set_if_known(handle, SOL_UDP, UDP_GRO, 0)


def can_split_datagrams(handle: socket.socket) -> bool:
    """Whether the kernel splits a buffer into datagrams (UDP_SEGMENT)."""
    return ON_LINUX and set_if_known(handle, SOL_UDP, UDP_SEGMENT, 0)


def prepare_datagrams(handle: socket.socket) -> list[Setting]:
    """Both of the above, and what became of them."""
    forbidden, queued = forbid_fragments(handle), queue_errors(handle)
    return [
        _path_setting("IP_MTU_DISCOVER", _PMTUDISC_PROBE, forbidden),
        _path_setting("IP_RECVERR", 1, queued),
    ]


def set_if_known(handle: socket.socket, level: int, name: int, value: int) -> bool:
    """Set a socket option; False where the kernel does not know or allow it."""
    try:
        handle.setsockopt(level, name, value)
    except OSError:
        return False
    return True


def plain_address(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> tuple[str, int]:
    """Host and port of a socket address; the host has the scope of a link-local address."""
    host, port = sockaddr[:2]
    if len(sockaddr) == 4 and sockaddr[3]:
        return f"{host}%{sockaddr[3]}", port
    return host, port


def _path_setting(name: str, asked: int, done: bool) -> Setting:
    return Setting(
        name, asked, asked if done else None, Outcome.GRANTED if done else Outcome.ABSENT
    )
