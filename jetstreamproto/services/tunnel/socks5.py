"""SOCKS5 without sockets (RFC 1928): what a client says until its target is known.

CONNECT to IPv4, IPv6 and names, without authentication; everything else is refused with the
code that the RFC has for it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum, IntEnum

from jetstreamproto.errors import WireError
from jetstreamproto.services.tunnel.model import TunnelCode, read_address, read_host
from jetstreamproto.session.codes import ResetCode

_VERSION = 5
_NO_AUTHENTICATION, _NO_METHOD = 0, 0xFF
_CONNECT, _BIND, _UDP_ASSOCIATE = 1, 2, 3
_IPV4, _NAME, _IPV6 = 1, 3, 4
_SIZES = {_IPV4: 4, _IPV6: 16}
_GREETING_HEAD = 2  # version, number of methods
_REQUEST_HEAD = 4  # version, command, reserved, kind of address
_PORT = 2


class SocksReply(IntEnum):
    """The codes of section 6."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


_REPLIES: dict[int, SocksReply] = {
    ResetCode.NOT_ALLOWED: SocksReply.NOT_ALLOWED,
    ResetCode.SERVICE_NOT_FOUND: SocksReply.NOT_ALLOWED,
    ResetCode.TIMED_OUT: SocksReply.TTL_EXPIRED,
    TunnelCode.CONNECTION_REFUSED: SocksReply.CONNECTION_REFUSED,
    TunnelCode.HOST_UNREACHABLE: SocksReply.HOST_UNREACHABLE,
    TunnelCode.NETWORK_UNREACHABLE: SocksReply.NETWORK_UNREACHABLE,
    TunnelCode.NAME_NOT_FOUND: SocksReply.HOST_UNREACHABLE,
}


class SocksError(WireError):
    """A client that is refused. `answer` is what it is told, which may be nothing."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True)
class SocksTarget:
    """What a client wants to be connected to, and what it has sent since."""

    host: str
    port: int
    rest: bytes


class _State(Enum):
    GREETING = "greeting"
    REQUEST = "request"
    DONE = "done"


class SocksConversation:
    """One client's. `receive` is given whatever came from it, until there is a target."""

    def __init__(self) -> None:
        self._state = _State.GREETING
        self._buffer = b""

    def receive(self, data: bytes) -> tuple[bytes, SocksTarget | None]:
        """What to send to the client, and its target once that is known.

        Raises `SocksError`; then, as after a target, nothing more may be received. At most 519
        bytes are kept beside what came last.
        """
        assert self._state is not _State.DONE
        self._buffer += data
        answer = b""
        if self._state is _State.GREETING:
            if not self._greeted():
                return b"", None
            answer = bytes((_VERSION, _NO_AUTHENTICATION))
            self._state = _State.REQUEST
        try:
            target = self._asked()
        except SocksError as error:
            raise SocksError(str(error), answer + error.answer) from None
        if target is not None:
            self._state = _State.DONE
            self._buffer = b""
        return answer, target

    def _greeted(self) -> bool:
        """Whether the greeting is whole; it is taken out of the buffer."""
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            raise SocksError(f"not SOCKS5: the first byte is {buffer[0]}")
        if len(buffer) < _GREETING_HEAD or len(buffer) < _GREETING_HEAD + buffer[1]:
            return False
        end = _GREETING_HEAD + buffer[1]
        if _NO_AUTHENTICATION not in buffer[_GREETING_HEAD:end]:
            raise SocksError("the client wants to authenticate", bytes((_VERSION, _NO_METHOD)))
        self._buffer = buffer[end:]
        return True

    def _asked(self) -> SocksTarget | None:
        """What the request asks for, None while it is not whole."""
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            raise SocksError(f"a request of version {buffer[0]}")
        if len(buffer) <= _REQUEST_HEAD:
            return None
        command, kind = buffer[1], buffer[3]
        if command != _CONNECT:
            what = {_BIND: "BIND", _UDP_ASSOCIATE: "UDP ASSOCIATE"}.get(command, f"{command}")
            raise _refused(f"the command {what}", SocksReply.COMMAND_NOT_SUPPORTED)
        start, size = _REQUEST_HEAD, _SIZES.get(kind, 0)
        if kind == _NAME:
            start, size = start + 1, buffer[_REQUEST_HEAD]
        elif not size:
            raise _refused(f"addresses of kind {kind}", SocksReply.ADDRESS_NOT_SUPPORTED)
        end = start + size
        if len(buffer) < end + _PORT:
            return None
        host = _host(kind, buffer[start:end])
        port = int.from_bytes(buffer[end : end + _PORT], "big")
        if not port:
            raise _refused("port 0", SocksReply.GENERAL_FAILURE)
        return SocksTarget(host, port, buffer[end + _PORT :])


def _host(kind: int, data: bytes) -> str:
    if kind == _IPV4:
        return str(ipaddress.IPv4Address(data))
    if kind == _IPV6:
        return read_host(str(ipaddress.IPv6Address(data)))
    try:
        return read_host(data.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        raise _refused("a name that is none", SocksReply.GENERAL_FAILURE) from None


def _refused(what: str, reply: SocksReply) -> SocksError:
    return SocksError(f"the client asked for {what}", encode_reply(reply))


def encode_reply(reply: SocksReply, host: str = "0.0.0.0", port: int = 0) -> bytes:
    """The answer to a request. `host` and `port` are the proxy's own end of the connection."""
    address = read_address(host) or ipaddress.IPv4Address(0)
    kind = _IPV4 if address.version == 4 else _IPV6
    return bytes((_VERSION, reply, 0, kind)) + address.packed + port.to_bytes(_PORT, "big")


def reply_for(code: int) -> SocksReply:
    """What a client is told when its tunnel's channel was reset with `code`."""
    return _REPLIES.get(code, SocksReply.GENERAL_FAILURE)
