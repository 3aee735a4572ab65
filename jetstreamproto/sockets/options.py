"""Socket options: set one after another, read back, and judged by what the kernel made of them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

ON_LINUX = sys.platform == "linux"

# asm-generic/socket.h, linux/tcp.h: Python names few of these
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_BUF_LOCK = 32, 33, 72
_CONGESTION_SPACE = 16  # TCP_CA_NAME_MAX


class Outcome(Enum):
    """What became of an option."""

    GRANTED = "granted"
    CLAMPED = "clamped"
    REFUSED = "refused"
    ABSENT = "not on this system"


@dataclass(frozen=True, slots=True)
class Setting:
    """An option, what was asked for, and what the kernel says it is now (None: nothing)."""

    option: str
    asked: int | str
    granted: int | str | None
    outcome: Outcome
    why: str = ""

    def __str__(self) -> str:
        if self.outcome is Outcome.GRANTED:
            return f"{self.option} {self.asked}"
        if self.outcome is Outcome.CLAMPED:
            return f"{self.option} {self.granted} of {self.asked}"
        return f"{self.option} {self.why or self.outcome.value}"

    def to_object(self) -> dict[str, int | str | None]:
        """As it is shown in JSON."""
        return {
            "option": self.option,
            "asked": self.asked,
            "granted": self.granted,
            "outcome": self.outcome.value,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Option:
    """A socket option whose value is a number; `number` is None where the system has none.

    Options that are `flag`s are on or off, whatever number the system has for on.
    """

    name: str
    level: int
    number: int | None
    flag: bool = False

    def set(self, handle: socket.socket, value: int) -> Setting:
        """Set it and read it back. Never raises."""
        if self.number is None:
            return Setting(self.name, value, None, Outcome.ABSENT)
        try:
            handle.setsockopt(self.level, self.number, value)
            found = handle.getsockopt(self.level, self.number)
        except OSError as error:
            return Setting(self.name, value, None, Outcome.REFUSED, _reason(error))
        found = int(found != 0) if self.flag else found
        return Setting(self.name, value, found, _judge(found, value))

    def review(self, handle: socket.socket, value: int) -> Setting:
        """What has become of it since it was set. Never raises."""
        if self.number is None:
            return Setting(self.name, value, None, Outcome.ABSENT)
        found = self.read(handle)
        if found is None:
            return Setting(self.name, value, None, Outcome.REFUSED, "it cannot be read")
        found = int(found != 0) if self.flag else found
        return Setting(self.name, value, found, _judge(found, value))

    def read(self, handle: socket.socket) -> int | None:
        """What it is; None where it cannot be read."""
        try:
            return None if self.number is None else handle.getsockopt(self.level, self.number)
        except OSError:
            return None


def _tcp(name: str, linux: int | None = None, *, flag: bool = False, other: str = "") -> Option:
    """An option of TCP, by its name in `socket`, or by its number on Linux."""
    number = getattr(socket, name, getattr(socket, other, None))
    if number is None and ON_LINUX:
        number = linux
    return Option(name, socket.IPPROTO_TCP, number, flag)


REUSE_ADDRESS = Option("SO_REUSEADDR", socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
REUSE_PORT = Option(
    "SO_REUSEPORT", socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", None), flag=True
)
KEEPALIVE = Option("SO_KEEPALIVE", socket.SOL_SOCKET, socket.SO_KEEPALIVE, flag=True)
SEND_BUFFER = Option("SO_SNDBUF", socket.SOL_SOCKET, socket.SO_SNDBUF)
RECEIVE_BUFFER = Option("SO_RCVBUF", socket.SOL_SOCKET, socket.SO_RCVBUF)
NO_DELAY = _tcp("TCP_NODELAY", flag=True)
QUICK_ACK = _tcp("TCP_QUICKACK", flag=True)
KEEP_IDLE = _tcp("TCP_KEEPIDLE", other="TCP_KEEPALIVE")
KEEP_INTERVAL = _tcp("TCP_KEEPINTVL")
KEEP_COUNT = _tcp("TCP_KEEPCNT")
UNSENT = _tcp("TCP_NOTSENT_LOWAT")
FAST_OPEN = _tcp("TCP_FASTOPEN")
FAST_OPEN_CONNECT = _tcp("TCP_FASTOPEN_CONNECT", 30, flag=True)

_FORCE = {SEND_BUFFER: _SO_SNDBUFFORCE, RECEIVE_BUFFER: _SO_RCVBUFFORCE}


def fix_buffer(handle: socket.socket, option: Option, size: int) -> Setting:
    """Make SO_RCVBUF or SO_SNDBUF `size` bytes if it is smaller, past the limit where we may.

    The kernel counts as much again for its own bookkeeping (socket(7)), which is left out here.
    """
    scale = 2 if ON_LINUX else 1
    if (option.read(handle) or 0) < scale * size and not _force(handle, option, size):
        refused = option.set(handle, size)
        if refused.outcome is Outcome.REFUSED:
            return refused
    return review_buffer(handle, option, size)


def review_buffer(handle: socket.socket, option: Option, size: int) -> Setting:
    """What has become of a buffer that was to have `size` bytes, in bytes as they are asked for."""
    scale = 2 if ON_LINUX else 1
    granted = (option.read(handle) or 0) // scale
    return Setting(option.name, size, granted, _judge(granted, size))


def start_buffer(handle: socket.socket, option: Option, size: int) -> Setting:
    """Let the buffer of a TCP socket start at `size` bytes, and leave the kernel free to grow it.

    Setting SO_RCVBUF or SO_SNDBUF alone ends autotuning, so that a buffer which was to be large
    becomes the bound of a long path (tcp(7)). Linux 5.14 can lift that lock (SO_BUF_LOCK). Where
    it cannot be lifted nothing is set. Before listen or connect only: the window scale is chosen
    then.
    """
    lock = _read_lock(handle)
    if lock is None:
        return review_start(handle, option, size)
    setting = fix_buffer(handle, option, size)
    handle.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, lock)
    return setting


def review_start(handle: socket.socket, option: Option, size: int) -> Setting:
    """What has become of a buffer that was to start at `size` bytes."""
    if _read_lock(handle) is not None:
        return review_buffer(handle, option, size)
    why = "it would end autotuning here" if ON_LINUX else ""
    return Setting(option.name, size, None, Outcome.ABSENT, why)


def set_congestion(handle: socket.socket, name: str) -> Setting:
    """Choose TCP's congestion control for this socket (TCP_CONGESTION)."""
    raw = raw_congestion(name)
    if raw is None:
        return Setting("TCP_CONGESTION", name, None, Outcome.ABSENT)
    try:
        handle.setsockopt(*raw)
    except OSError as error:
        why = "not loaded" if isinstance(error, FileNotFoundError) else _reason(error)
        return Setting("TCP_CONGESTION", name, read_congestion(handle), Outcome.REFUSED, why)
    return Setting("TCP_CONGESTION", name, read_congestion(handle), Outcome.GRANTED)


def raw_congestion(name: str) -> tuple[int, int, bytes] | None:
    """What to give setsockopt for this congestion control; None where there is no choice."""
    number = getattr(socket, "TCP_CONGESTION", None)
    return None if number is None else (socket.IPPROTO_TCP, number, name.encode())


def review_congestion(handle: socket.socket, name: str) -> Setting:
    """What has become of the choice of TCP's congestion control."""
    found = read_congestion(handle)
    if found is None:
        return Setting("TCP_CONGESTION", name, None, Outcome.ABSENT)
    if found == name:
        return Setting("TCP_CONGESTION", name, found, Outcome.GRANTED)
    return Setting("TCP_CONGESTION", name, found, Outcome.REFUSED, f"it is {found}")


def read_congestion(handle: socket.socket) -> str | None:
    """The congestion control of a TCP socket; None where it cannot be read."""
    number = getattr(socket, "TCP_CONGESTION", None)
    if number is None:
        return None
    try:
        name = handle.getsockopt(socket.IPPROTO_TCP, number, _CONGESTION_SPACE)
    except OSError:
        return None
    return name.partition(b"\0")[0].decode("ascii", "replace")


def is_local(handle: socket.socket) -> bool:
    """Whether this is an IP connection whose two ends are on this host."""
    try:
        peer = handle.getpeername()
        if not isinstance(peer, tuple) or not isinstance(peer[0], str):
            return False  # not IP
        host = peer[0]
        return host.startswith(("127.", "::ffff:127.")) or bool(host == handle.getsockname()[0])
    except OSError:
        return False  # not connected


def summary(settings: Iterable[Setting]) -> str:
    """One line of what was set, and of what was not."""
    texts: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for setting in settings:
        texts[setting.outcome].append(str(setting))
    granted = ", ".join(texts.pop(Outcome.GRANTED)) or "nothing set"
    rest = (f"{outcome.value}: {', '.join(found)}" for outcome, found in texts.items() if found)
    return "; ".join((granted, *rest))


def _read_lock(handle: socket.socket) -> int | None:
    """Which buffers of a TCP socket the kernel does not grow; None where it does not say."""
    try:
        return handle.getsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK) if ON_LINUX else None
    except OSError:
        return None


def _force(handle: socket.socket, option: Option, size: int) -> bool:
    if not ON_LINUX:
        return False
    try:
        handle.setsockopt(socket.SOL_SOCKET, _FORCE[option], size)
    except OSError:  # it takes CAP_NET_ADMIN
        return False
    return True


def _judge(found: int, asked: int) -> Outcome:
    return Outcome.GRANTED if found >= asked else Outcome.CLAMPED


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
