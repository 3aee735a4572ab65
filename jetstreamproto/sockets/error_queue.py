"""The error queue of a UDP socket (IP_RECVERR, ip(7)): what became of datagrams that were sent.

ICMP errors can be forged by anybody who guesses two addresses, and come in floods, so a bounded
number is read a turn and told a second. What is told is a hint.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from jetstreamproto.sockets.datagrams import IP_RECVERR, IPV6_RECVERR, plain_address

Address = tuple[str, int]

_MSG_ERRQUEUE = 0x2000
_KINDS = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""sock_extended_err: errno, origin, type, code, pad, info (the MTU), data."""
_ERROR_SPACE = 256
_QUOTED = 64

ERRORS_A_TURN = 64
REPORTS_A_SECOND = 64


class ErrorQueue:
    """Collects what went wrong, to be told once for each address and errno of a turn.

    `tell(address, errno, mtu)` is called from `report` only.
    """

    __slots__ = ("_failed", "_left", "_seconds", "_since", "_tell", "count")

    def __init__(
        self, seconds: Callable[[], float], tell: Callable[[Address, int, int], None]
    ) -> None:
        self.count = 0
        """All errors so far, told or not."""
        self._seconds = seconds
        self._tell = tell
        self._failed: dict[tuple[Address, int], int] = {}
        self._since = 0.0
        self._left = REPORTS_A_SECOND

    def __len__(self) -> int:
        """How many errors were noted and not reported."""
        return len(self._failed)

    def note(self, address: Address, code: int) -> None:
        """The kernel refused to send to `address`; it may be in its queue too, or not."""
        self.count += 1
        if len(self._failed) < ERRORS_A_TURN:
            self._failed.setdefault((address, code), 0)

    def report(self, handle: socket.socket) -> bool:
        """Empty the kernel's queue, or a turn's share of it, and tell what is in it.

        Whether there may be more.
        """
        errors, self._failed = self._failed, {}
        more = False
        for _ in range(ERRORS_A_TURN):
            error = read_error(handle)
            if error is None:
                break
            self._merge(errors, *error)
        else:
            more = True
        for (address, code), mtu in errors.items():
            if self._may_tell():
                self._tell(address, code, mtu)
        return more

    def _merge(
        self, errors: dict[tuple[Address, int], int], address: Address, code: int, mtu: int
    ) -> None:
        """Add an entry of the kernel's queue to what is known."""
        if not code:
            return  # not an error at all, but a time stamp or the like
        if not address[1]:
            # It is what `note` was told of already: Linux leaves out the port of an IPv4 address
            # to which it does not send itself. But it says the MTU.
            for known in errors:
                if known[0][0] == address[0] and known[1] == code:
                    errors[known] = max(mtu, errors[known])
            return
        if (address, code) not in errors:
            self.count += 1
        errors[address, code] = max(mtu, errors.get((address, code), 0))

    def _may_tell(self) -> bool:
        now = self._seconds()
        if not 0 <= now - self._since < 1:
            self._since = now
            self._left = REPORTS_A_SECOND
        self._left -= 1
        return self._left >= 0


def read_error(handle: socket.socket) -> tuple[Address, int, int] | None:
    """The next entry of a socket's error queue; None when there is none.

    That is the destination of the datagram it is about, an errno, and what the router or kernel
    says the MTU is, for EMSGSIZE, or 0.
    """
    try:
        _, ancillary, _, sockaddr = handle.recvmsg(_QUOTED, _ERROR_SPACE, _MSG_ERRQUEUE)
    except OSError:
        return None
    code = info = 0
    for level, kind, data in ancillary:
        if (level, kind) in _KINDS and len(data) >= _EXTENDED_ERROR.size:
            code, _, _, _, _, info, _ = _EXTENDED_ERROR.unpack_from(data)
    address = plain_address(sockaddr) if sockaddr else ("", 0)
    return address, code, info if code == errno.EMSGSIZE else 0
