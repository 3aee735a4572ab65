"""A UDP socket that is no socket: what the kernel would say is written down beforehand."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

ADDRESS = ("192.0.2.1", 4433)


def failure(code: int) -> OSError:
    """As the kernel raises it."""
    return OSError(code, os.strerror(code))


def joined(size: int) -> list[tuple[int, int, bytes]]:
    """The ancillary data of joined datagrams."""
    return [(17, 104, struct.pack("=i", size))]


class KernelSocket:
    """`incoming` is read; `sent` is written, unless `refuse` names an errno for it."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.family = family
        self.incoming: deque[tuple[bytes, list[Any], int, Any] | OSError] = deque()
        self.error_queue: deque[tuple[int, int, bytes, Any]] = deque()
        self.sent: list[tuple[bytes, int, Any]] = []
        """Data, segment size (0: none) and address of each call."""
        self.refuse: Callable[[bytes, int], int] = lambda data, size: 0
        self.attempts = 0
        self.unknown: set[tuple[int, int]] = set()
        self.options: dict[tuple[int, int], int] = {}
        self.closed = False

    def arrive(self, data: bytes, segment_size: int = 0, address: Any = ADDRESS) -> None:
        self.incoming.append((data, joined(segment_size) if segment_size else [], 0, address))

    def bounce(self, code: int, info: int = 0, address: Any = ADDRESS) -> None:
        """An ICMP error comes back: into the queue, and to the next call."""
        self.queue_error(code, info, address)
        self.incoming.appendleft(failure(code))

    def queue_error(self, code: int, info: int = 0, address: Any = ADDRESS) -> None:
        entry = struct.pack("=IBBBBII", code, 2, 3, 4, 0, info, 0) + bytes(16)
        ipv6 = self.family == socket.AF_INET6
        self.error_queue.append((41 if ipv6 else 0, 25 if ipv6 else 11, entry, address))

    # --- as `socket.socket` ----------------------------------------------------------

    def recvmsg_into(self, buffers: Any, _space: int) -> tuple[int, list[Any], int, Any]:
        if not self.incoming:
            raise failure(errno.EAGAIN)
        what = self.incoming.popleft()
        if isinstance(what, OSError):
            raise what
        data, ancillary, flags, address = what
        buffers[0][: len(data)] = data
        return len(data), ancillary, flags, address

    def recvmsg(self, _size: int, _space: int, flags: int) -> tuple[bytes, list[Any], int, Any]:
        assert flags == 0x2000
        if not self.error_queue:
            raise failure(errno.EAGAIN)
        level, kind, data, address = self.error_queue.popleft()
        return b"quoted", [(level, kind, data)], flags, address

    def sendmsg(self, buffers: Any, ancillary: Any, _flags: int, address: Any) -> int:
        ((level, kind, value),) = ancillary
        assert (level, kind) == (17, 103)
        return self._send(b"".join(buffers), struct.unpack("=H", value)[0], address)

    def sendto(self, data: Any, address: Any) -> int:
        return self._send(bytes(data), 0, address)

    def _send(self, data: bytes, size: int, address: Any) -> int:
        self.attempts += 1
        code = self.refuse(data, size)
        if code:
            raise failure(code)
        self.sent.append((data, size, address))
        return len(data)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        if (level, name) in self.unknown:
            raise failure(errno.ENOPROTOOPT)
        self.options[level, name] = value

    def getsockopt(self, level: int, name: int) -> int:
        return self.options.get((level, name), 0)

    def bind(self, address: Any) -> None: ...

    def fileno(self) -> int:
        return 3

    def getsockname(self) -> tuple[str, int]:
        return ("0.0.0.0", 4433)

    def close(self) -> None:
        self.closed = True
