"""Port numbers that a test may rely on."""

from __future__ import annotations

import errno
import random
import socket

_ANY = random.SystemRandom()  # Hypothesis seeds the other, so that two runs would choose alike
_BELOW_THE_SYSTEMS = range(10_000, 32_768)  # Linux gives 32768 and up, others 49152 (RFC 6335)
_ATTEMPTS = 100


def free_port() -> int:
    """A port that nothing has, over TCP or UDP, at any of this host's IPv4 addresses.

    It is outside the range that the system chooses from for clients and for port 0. One from
    there, bound and closed, may be the local port of another program's connection a moment later.
    """
    for _ in range(_ATTEMPTS):
        port = _ANY.choice(_BELOW_THE_SYSTEMS)
        try:
            with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
                stream.bind(("", port))
                datagrams.bind(("", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port
    raise AssertionError(f"none of {_ATTEMPTS} ports is free")
