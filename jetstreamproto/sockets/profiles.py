"""Profiles: what is set on the sockets of one purpose, and when.

profile = find_profile("bulk")
for setting in profile.apply(handle, Moment.LISTENING):
    print(setting)
"""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, partial
from typing import Any, NamedTuple

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.sockets import options
from jetstreamproto.sockets.datagrams import DEFAULT_BUFFER
from jetstreamproto.sockets.options import Setting

MAX_BUFFER = 1 << 30
_MAX_SECONDS = 32767  # TCP_KEEPIDLE and TCP_KEEPINTVL, tcp(7)
_MAX_PROBES = 127
_MAX_QUEUE = 1 << 16
_CONGESTION_NAME = re.compile(r"[a-z0-9_-]{0,15}", re.ASCII)
_RANGES = {
    "send_buffer": MAX_BUFFER,
    "receive_buffer": MAX_BUFFER,
    "datagram_send_buffer": MAX_BUFFER,
    "datagram_receive_buffer": MAX_BUFFER,
    "keepalive_idle": _MAX_SECONDS,
    "keepalive_interval": _MAX_SECONDS,
    "keepalive_count": _MAX_PROBES,
    "fast_open": _MAX_QUEUE,
}
_MAY_BE_ZERO = {name for name in _RANGES if not name.startswith("keepalive")}


class Moment(Enum):
    """When options are set. Some are of no use later, others are not kept."""

    LISTENING = "before a TCP socket is bound"
    ADOPTED = "on a TCP socket that listens already"
    CONNECTING = "before a TCP socket connects"
    CONNECTED = "on a TCP socket that is connected"
    DATAGRAMS = "before a UDP socket is bound"


Also = Callable[[socket.socket, Moment], None]
"""What an application does to a socket besides, when the profile has been applied."""


class _Wish(NamedTuple):
    """An option with its value: how it is set, and how one sees later what became of it."""

    set: Callable[[socket.socket], Setting]
    review: Callable[[socket.socket], Setting]
    raw: tuple[int, int, int | bytes] | None = None
    """What to give setsockopt, where that is all."""


def _option(option: options.Option, value: int) -> _Wish:
    raw = None if option.number is None else (option.level, option.number, value)
    return _Wish(partial(option.set, value=value), partial(option.review, value=value), raw)


def _fixed(option: options.Option, size: int) -> _Wish:
    return _Wish(
        partial(options.fix_buffer, option=option, size=size),
        partial(options.review_buffer, option=option, size=size),
    )


def _start(option: options.Option, size: int) -> _Wish:
    return _Wish(
        partial(options.start_buffer, option=option, size=size),
        partial(options.review_start, option=option, size=size),
    )


def _congestion(name: str) -> _Wish | None:
    if not name:
        return None
    return _Wish(
        partial(options.set_congestion, name=name),
        partial(options.review_congestion, name=name),
        options.raw_congestion(name),
    )


@dataclass(frozen=True, kw_only=True)
class SocketProfile:
    """What is set on sockets. Sizes are in bytes, times in seconds.

    `receive_buffer` and `send_buffer` are where TCP's start; the kernel may grow them, and 0 leaves
    them to it altogether. `fast_open` is how many connections may wait whose first data came with
    their SYN (TCP_FASTOPEN); 0 is off, and above 0 clients use it too, see `speaks_first` of
    `profiled`. `congestion` names TCP's algorithm; empty, the system's own. Then connections within
    the host have `local_congestion`, since there is no link to be shared: an algorithm that paces,
    as BBR does, costs half of their speed. `also` is called for every socket, after the rest. What
    is False, 0 or empty is left as the system has it.

    Raises `ConfigurationError` for numbers out of range.
    """

    name: str
    reuse_address: bool = True
    reuse_port: bool = False
    no_delay: bool = True
    quick_ack: bool = False
    keepalive: bool = True
    keepalive_idle: int = 30
    keepalive_interval: int = 10
    keepalive_count: int = 3
    receive_buffer: int = 0
    send_buffer: int = 0
    fast_open: int = 0
    congestion: str = ""
    local_congestion: str = "reno"
    datagram_receive_buffer: int = DEFAULT_BUFFER
    datagram_send_buffer: int = DEFAULT_BUFFER
    also: Also | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, most in _RANGES.items():
            value, least = getattr(self, name), 0 if name in _MAY_BE_ZERO else 1
            if not least <= value <= most:
                raise ConfigurationError(
                    f"profile {self.name}: {name}: {value} is not from {least} to {most}"
                )
        for name in ("congestion", "local_congestion"):
            value = getattr(self, name)
            if not _CONGESTION_NAME.fullmatch(value):
                raise ConfigurationError(
                    f"profile {self.name}: {name}: {value!r} is not the name of one"
                )

    def apply(
        self, handle: socket.socket, moment: Moment, *, speaks_first: bool = False
    ) -> list[Setting]:
        """Set what is due at this moment; what became of each option.

        An option that is refused is no error. What `also` raises is raised.
        """
        settings = [wish.set(handle) for wish in self._due(handle, moment)]
        if moment is Moment.CONNECTING and speaks_first and self.fast_open:
            settings.append(options.FAST_OPEN_CONNECT.set(handle, 1))
        if self.also is not None:
            self.also(handle, moment)
        return settings

    def tune(self, handle: socket.socket) -> None:
        """Do what `apply` does on a socket that is connected, but look at nothing it became.

        It takes a third of the time, which is for every connection; `review` tells the rest.
        """
        for level, number, value in self._on_connections:
            try:
                handle.setsockopt(level, number, value)
            except OSError:
                continue  # `review` tells
        self.tune_local(handle)
        if self.also is not None:
            self.also(handle, Moment.CONNECTED)

    def tune_local(self, handle: socket.socket) -> None:
        """Do only what is due where both ends of a connection are on this host."""
        wish = self._local
        if wish is not None and wish.raw is not None and options.is_local(handle):
            with suppress(OSError):
                handle.setsockopt(*wish.raw)

    @cached_property
    def _on_connections(self) -> tuple[tuple[int, int, int | bytes], ...]:
        return tuple(wish.raw for wish in self._connected() if wish.raw is not None)

    def review(self, handle: socket.socket, moment: Moment) -> list[Setting]:
        """What has become of what was due at this moment, by now. Sets nothing."""
        return [wish.review(handle) for wish in self._due(handle, moment)]

    def _due(self, handle: socket.socket, moment: Moment) -> Iterator[_Wish]:
        yield from _WISHES[moment](self)
        connects = moment in (Moment.CONNECTING, Moment.CONNECTED)
        if connects and self._local is not None and options.is_local(handle):
            yield self._local

    @cached_property
    def _local(self) -> _Wish | None:
        return None if self.congestion else _congestion(self.local_congestion)

    def _listening(self) -> Iterator[_Wish]:
        if self.reuse_address:
            yield _option(options.REUSE_ADDRESS, 1)
        if self.reuse_port:
            yield _option(options.REUSE_PORT, 1)
        yield from self._buffers()
        yield from self._adopted()

    def _adopted(self) -> Iterator[_Wish]:
        if self.fast_open:
            yield _option(options.FAST_OPEN, self.fast_open)
        yield from self._inherited()

    def _connecting(self) -> Iterator[_Wish]:
        yield from self._buffers()
        yield from self._connected()

    def _connected(self) -> Iterator[_Wish]:
        yield from self._inherited()
        if self.quick_ack:
            yield _option(options.QUICK_ACK, 1)

    def _inherited(self) -> Iterator[_Wish]:
        """On Linux, connections have what was set on the socket that listened."""
        if self.no_delay:
            yield _option(options.NO_DELAY, 1)
        if self.keepalive:
            yield _option(options.KEEPALIVE, 1)
            yield _option(options.KEEP_IDLE, self.keepalive_idle)
            yield _option(options.KEEP_INTERVAL, self.keepalive_interval)
            yield _option(options.KEEP_COUNT, self.keepalive_count)
        chosen = _congestion(self.congestion)
        if chosen is not None:
            yield chosen

    def _buffers(self) -> Iterator[_Wish]:
        if self.receive_buffer:
            yield _start(options.RECEIVE_BUFFER, self.receive_buffer)
        if self.send_buffer:
            yield _start(options.SEND_BUFFER, self.send_buffer)

    def _datagrams(self) -> Iterator[_Wish]:
        if self.reuse_port:
            yield _option(options.REUSE_PORT, 1)
        if self.datagram_receive_buffer:
            yield _fixed(options.RECEIVE_BUFFER, self.datagram_receive_buffer)
        if self.datagram_send_buffer:
            yield _fixed(options.SEND_BUFFER, self.datagram_send_buffer)


_WISHES: Mapping[Moment, Callable[[SocketProfile], Iterator[_Wish]]] = {
    Moment.LISTENING: SocketProfile._listening,
    Moment.ADOPTED: SocketProfile._adopted,
    Moment.CONNECTING: SocketProfile._connecting,
    Moment.CONNECTED: SocketProfile._connected,
    Moment.DATAGRAMS: SocketProfile._datagrams,
}

DEFAULT_PROFILE = SocketProfile(name="default")
PROFILES: Mapping[str, SocketProfile] = {
    profile.name: profile
    for profile in (
        DEFAULT_PROFILE,
        SocketProfile(name="low-latency", quick_ack=True, fast_open=256),
        SocketProfile(name="bulk", receive_buffer=DEFAULT_BUFFER, send_buffer=DEFAULT_BUFFER),
        SocketProfile(
            name="system",
            no_delay=False,
            keepalive=False,
            local_congestion="",
            datagram_receive_buffer=0,
            datagram_send_buffer=0,
        ),
    )
}
"""The profiles that there are always."""


def find_profile(
    profile: SocketProfile | str, known: Mapping[str, SocketProfile] = PROFILES
) -> SocketProfile:
    """The profile of that name. Raises `ConfigurationError` naming those that there are."""
    if isinstance(profile, SocketProfile):
        return profile
    if profile not in known:
        raise ConfigurationError(f"there is no profile {profile!r}; there is {', '.join(known)}")
    return known[profile]


def profile_of(subject: Any) -> SocketProfile:
    """The profile of a reactor, a port or a transport, which is `default` where it has none."""
    found = getattr(subject, "socket_profile", None)
    return found if isinstance(found, SocketProfile) else DEFAULT_PROFILE
