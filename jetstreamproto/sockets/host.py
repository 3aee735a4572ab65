"""This host, examined: what its kernel and its limits allow, beside what is recommended.

Nothing is changed. What a system has not is said to be absent, and is no fault.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shlex
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from jetstreamproto.sockets.datagrams import can_split_datagrams, join_datagrams
from jetstreamproto.sockets.options import (
    FAST_OPEN,
    FAST_OPEN_CONNECT,
    ON_LINUX,
    Outcome,
    Setting,
)
from jetstreamproto.sockets.profiles import Moment, SocketProfile
from jetstreamproto.sockets.recommended import RECOMMENDED, Sysctl

PROC_SYS = Path("/proc/sys")
OPEN_FILES = 65536
"""The recommended limit of open files: a descriptor a connection, and some to spare."""

_IO_URING_SETUP = 425  # the same on all architectures but Alpha
_PARAMS_SIZE = 120  # struct io_uring_params
_MAX_SYSCTL = 4096
_BBR = "bbr"


class State(Enum):
    """How a finding compares with what is recommended."""

    FINE = "fine"
    LOW = "recommended"
    ABSENT = "not on this system"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `costs` and `mend` are of those that are not fine."""

    name: str
    found: str
    wanted: str
    state: State
    costs: str = ""
    mend: str = ""


def examine(root: Path = PROC_SYS) -> list[Finding]:
    """Everything there is to say about this host. `root` is where its sysctls are."""
    findings = [_sysctl(setting, root) for setting in RECOMMENDED]
    findings += [_open_files(), _congestion(root), _io_uring(root)]
    findings += [*_offloads(), *_fast_open()]
    return findings


def try_profile(profile: SocketProfile) -> dict[str, list[Setting]]:
    """What this kernel makes of a profile, on sockets that are closed again."""
    found = {}
    for name, kind, moment in (
        ("listening", socket.SOCK_STREAM, Moment.LISTENING),
        ("connecting", socket.SOCK_STREAM, Moment.CONNECTING),
        ("datagrams", socket.SOCK_DGRAM, Moment.DATAGRAMS),
    ):
        with socket.socket(socket.AF_INET, kind) as handle:
            found[name] = profile.apply(handle, moment, speaks_first=True)
    return found


def _sysctl(setting: Sysctl, root: Path) -> Finding:
    text = _read(setting.name, root)
    if text is None:
        return Finding(setting.name, "", setting.text, State.ABSENT)
    numbers = tuple(int(word) for word in text.split() if word.lstrip("-").isdecimal())
    if setting.is_met(numbers):
        return Finding(setting.name, text, setting.text, State.FINE)
    mend = f"sysctl -w {shlex.quote(f'{setting.name}={setting.better(numbers)}')}"
    return Finding(setting.name, text, setting.text, State.LOW, setting.without, mend)


def _open_files() -> Finding:
    name, wanted = "open files", str(OPEN_FILES)
    try:
        import resource
    except ImportError:
        return Finding(name, "", wanted, State.ABSENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return Finding(name, str(soft), wanted, State.FINE)
    by_root = hard != resource.RLIM_INFINITY and hard < OPEN_FILES
    mend = f"LimitNOFILE={wanted} in the systemd unit, or as root: " if by_root else ""
    costs = f"a server holds fewer than {soft} connections, each of which has a descriptor"
    return Finding(name, str(soft), wanted, State.LOW, costs, f"{mend}ulimit -n {wanted}")


def _congestion(root: Path) -> Finding:
    name = "TCP congestion control"
    available = _read("net.ipv4.tcp_available_congestion_control", root)
    if available is None:
        return Finding(name, "", _BBR, State.ABSENT)
    current = _read("net.ipv4.tcp_congestion_control", root) or "unknown"
    found = f"{current} (there is {', '.join(available.split())})"
    if current == _BBR:
        return Finding(name, found, _BBR, State.FINE)
    load = "" if _BBR in available.split() else "modprobe tcp_bbr && "
    costs = "TCP slows down on a long path that loses packets; UDP of ours has its own"
    return Finding(
        name,
        found,
        _BBR,
        State.LOW,
        costs,
        f"{load}sysctl -w net.ipv4.tcp_congestion_control={_BBR}",
    )


def _io_uring(root: Path) -> Finding:
    name, wanted = "io_uring", "available"
    if not ON_LINUX:
        return Finding(name, "", wanted, State.ABSENT)
    code = ring_error()
    if code == 0:
        return Finding(name, wanted, wanted, State.FINE)
    costs = "the reactor jetstream-uring falls back to epoll"
    if code == errno.ENOSYS:
        return Finding(name, "this kernel has none", wanted, State.ABSENT, costs)
    disabled = _read("kernel.io_uring_disabled", root)
    if code == errno.EPERM and disabled not in (None, "0"):
        found = f"kernel.io_uring_disabled is {disabled}"
        mend = "sysctl -w kernel.io_uring_disabled=0"
    elif code == errno.EPERM:
        found = "forbidden, by seccomp or another security module"
        mend = "allow io_uring_setup, io_uring_enter and io_uring_register to the container"
    else:
        found, mend = os.strerror(code), "see io_uring_setup(2)"
    return Finding(name, found, wanted, State.LOW, costs, mend)


def ring_error() -> int:
    """0 if a ring can be made, otherwise the errno. The ring is closed again."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(_PARAMS_SIZE)
    descriptor = libc.syscall(
        ctypes.c_long(_IO_URING_SETUP), ctypes.c_uint(1), ctypes.byref(parameters)
    )
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
    return 0


def _offloads() -> Iterator[Finding]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        yield _kernel_has(
            "UDP_SEGMENT (GSO)",
            can_split_datagrams(handle),
            "every datagram that is sent costs a system call",
        )
        yield _kernel_has(
            "UDP_GRO",
            join_datagrams(handle),
            "every datagram that is received costs a system call",
        )


def _fast_open() -> Iterator[Finding]:
    costs = "connections take one round trip more"
    tests: tuple[tuple[str, Callable[[socket.socket], Setting]], ...] = (
        ("TCP_FASTOPEN (servers)", lambda handle: FAST_OPEN.set(handle, 1)),
        ("TCP_FASTOPEN_CONNECT (clients)", lambda handle: FAST_OPEN_CONNECT.set(handle, 1)),
    )
    for name, test in tests:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as handle:
            granted = test(handle).outcome is Outcome.GRANTED
        yield _kernel_has(name, granted, costs)


def _kernel_has(name: str, has: bool, costs: str) -> Finding:
    """A feature, which is there or not: no setting can mend it."""
    if has:
        return Finding(name, "available", "available", State.FINE)
    return Finding(name, "", "available", State.ABSENT, costs)


def _read(name: str, root: Path) -> str | None:
    """The value of a sysctl in one line; None where there is none."""
    path = root.joinpath(*name.split("."))
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="ascii") as file:
        return " ".join(file.read(_MAX_SYSCTL).split())
    return None
