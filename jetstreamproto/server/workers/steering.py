"""Steering: the kernel gives datagrams to the process whose number their connection id begins with.

UDP sockets with SO_REUSEPORT form a group, and the kernel chooses among them by a hash of both
addresses. When a peer's address changes (RFC 9000 section 9) that would be another process. So a
program of the classic packet filter chooses instead (socket(7), SO_ATTACH_REUSEPORT_CBPF): it
returns the place of a socket in its group, and what is no place means "by the hash".
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from typing import NamedTuple

from jetstreamproto.security.datagrams import NOT_OURS, SEALED

_SO_ATTACH_REUSEPORT_CBPF = 51
_LONG = 0x80  # of QUIC, beside NOT_OURS: a packet of the handshake, whose id the client may choose
_KIND = 0xF0

_LOAD_BYTE, _AND = 0x30, 0x54
_IF_ANY_BIT, _IF_EQUAL = 0x45, 0x15
_RETURN, _RETURN_LOADED = 0x06, 0x16
_BY_HASH = 0xFFFFFFFF


class _Instruction(NamedTuple):
    """One of linux/filter.h's `struct sock_filter`; the jumps count from the next one."""

    code: int
    if_true: int
    if_false: int
    operand: int


_PROGRAM = (
    _Instruction(_LOAD_BYTE, 0, 0, 0),
    _Instruction(_IF_ANY_BIT, 0, 1, NOT_OURS),
    _Instruction(_IF_ANY_BIT, 4, 2, _LONG),
    _Instruction(_AND, 0, 0, _KIND),
    _Instruction(_IF_EQUAL, 0, 2, SEALED),
    _Instruction(_LOAD_BYTE, 0, 0, 1),
    _Instruction(_RETURN_LOADED, 0, 0, 0),
    _Instruction(_RETURN, 0, 0, _BY_HASH),
)


def steer(bound: socket.socket) -> str | None:
    """Sort the datagrams of the group that `bound` is in; why that cannot be done, or None.

    The sockets must have joined the group, by being bound, in the order of their processes.
    """
    if sys.platform != "linux":
        return f"{sys.platform} has no SO_ATTACH_REUSEPORT_CBPF"
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _PROGRAM)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(_PROGRAM), ctypes.addressof(buffer))
    try:
        bound.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
    except OSError as error:
        return f"SO_ATTACH_REUSEPORT_CBPF: {error.strerror}"
    return None
