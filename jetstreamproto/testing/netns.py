"""Linux network namespaces, each with a TUN device: hosts of their own for `testing.wan`.

Importing this works anywhere; making one needs root on Linux, and the `ip` command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_TUN = "/dev/net/tun"
_DEVICE = "wan0"
_MTU = 1500
_QUEUE = 2000  # packets that wait in a device until they are read
_BUFFERS = {"tcp_rmem": "4096 131072 33554432", "tcp_wmem": "4096 65536 33554432"}

# From the kernel's headers.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_INTERFACE_REQUEST = struct.Struct("16sH22x")
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


class NamespaceError(Exception):
    """What was asked for cannot be had here; the text says why, in one line."""


def missing() -> str | None:
    """What this machine lacks, or None."""
    if sys.platform != "linux":
        return "this needs Linux"
    if os.geteuid() != 0:
        return "this needs root"
    if shutil.which("ip") is None:
        return "the command ip is missing (Debian: iproute2)"
    if not os.path.exists(_TUN):
        return f"{_TUN} is missing (modprobe tun)"
    return None


class NetworkNamespace:
    """A network of its own, in which `device` is a TUN device with `address`.

    It has no name, so it is gone when no process is in it and this object is closed, or the
    program has ended however that came about. Raises `NamespaceError`.
    """

    def __init__(self, address: str, congestion_control: str | None = None) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._own = self.device = -1
        try:
            with self._entered():
                self.device = _open_tun()
                _ip("link", "set", "lo", "up")
                _ip("link", "set", _DEVICE, "addrgenmode", "none")  # no chatter of IPv6
                _ip("addr", "add", f"{address}/24", "dev", _DEVICE)
                _ip("link", "set", _DEVICE, "mtu", str(_MTU), "txqueuelen", str(_QUEUE), "up")
                for name, value in _BUFFERS.items():
                    _set_tcp(name, value)
                if congestion_control is not None:
                    _set_tcp("tcp_congestion_control", congestion_control)
        except BaseException:
            self.close()
            raise

    def start(self, command: list[str], stdin: int | None = None) -> subprocess.Popen[bytes]:
        """Start a program in here, which is sent SIGTERM should this one die."""
        library = _library()

        def die_with_parent() -> None:
            library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with self._entered():
            try:
                return subprocess.Popen(
                    command, stdin=stdin, start_new_session=True, preexec_fn=die_with_parent
                )
            except OSError as error:
                raise NamespaceError(f"{command[0]}: {error.strerror}") from error

    def processes(self) -> list[int]:
        """Every process in here, also those that have left their parents."""
        own, found = os.fstat(self._own).st_ino, []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}/ns/net").st_ino == own:
                    found.append(int(name))
        return found

    def close(self) -> None:
        """Give it up. What runs in it goes on."""
        for descriptor in (self.device, self._own, self._home):
            if descriptor >= 0:
                os.close(descriptor)
        self.device = self._own = self._home = -1

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        """Be in it, and make it the first time."""
        if self._own < 0:
            _call("unshare", _CLONE_NEWNET)
            self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        else:
            _call("setns", self._own, _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", self._home, _CLONE_NEWNET)


def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_library(), name)(*arguments):
        raise NamespaceError(f"{name}: {os.strerror(ctypes.get_errno())}")


def _open_tun() -> int:
    import fcntl  # not everywhere

    descriptor = -1
    try:
        descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        request = _INTERFACE_REQUEST.pack(_DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise NamespaceError(f"{_TUN}: {error.strerror}") from error
    return descriptor


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespaceError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _set_tcp(name: str, value: str) -> None:
    try:
        with open(f"/proc/sys/net/ipv4/{name}", "w", encoding="ascii") as setting:
            setting.write(value)
    except OSError as error:
        raise NamespaceError(f"{name} {value}: {error.strerror}") from error
