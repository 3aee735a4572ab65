"""A UDP port that moves many datagrams with one system call.

The kernel splits what is sent (UDP_SEGMENT, "GSO") and joins what is received (UDP_GRO): up to 64
datagrams of one size, of which the last may be shorter, to or from one address. Where it cannot,
the port does the same with one call a datagram.

    port = listen_datagrams(reactor, 4433, protocol)
    port.write_segments(data, 1200, ("192.0.2.1", 4433))

The protocol is a `BatchReceiver`, or any Twisted `DatagramProtocol`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any, Protocol

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.error import InvalidAddressError, MessageLengthError
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.udp import Port
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from jetstreamproto.sockets.datagrams import (
    MAX_PAYLOAD,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    DatagramOptions,
    DatagramStats,
    can_split_datagrams,
    join_datagrams,
    plain_address,
    prepare_datagrams,
    share_port,
)
from jetstreamproto.sockets.error_queue import Address, ErrorQueue
from jetstreamproto.sockets.options import RECEIVE_BUFFER, SEND_BUFFER, Setting, fix_buffer
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, Moment, profile_of

Ancillary = list[tuple[int, int, bytes]]

MAX_SEGMENTS = 64
"""Of one call (UDP_MAX_SEGMENTS of Linux; newer ones allow 128)."""

_BUFFER_SIZE = 1 << 16
_SEGMENT_SIZE = struct.Struct("=H")  # as it is sent
_JOINED_SIZE = struct.Struct("=i")  # as it is received
_JOINED_SPACE = 64  # of ancillary data; on an adopted socket there may be other kinds
_NO_ANCILLARY: Ancillary = []
_NOTHING_WAITS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)
_NO_ROOM = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM)
NO_SOCKET = (errno.EBADF, errno.ENOTSOCK)
_NO_OFFLOAD = (errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE)
_MAX_TARGETS = 4096
_MAX_SIZES = 256

# What is received is read into these by all ports of the process, one at a time.
_buffers: list[memoryview] = []


class BatchReceiver(Protocol):
    """What a protocol may offer, each method for itself, to be given batches and errors.

    Exceptions out of these are logged, and nothing else happens.
    """

    def datagrams_received(
        self, buffer: memoryview, segment_size: int, length: int, address: Address
    ) -> None:
        """Datagrams from `address`, back to back in the first `length` bytes of `buffer`.

        Each has `segment_size` bytes, and the last one what is left. The buffer is only good
        during the call. Empty datagrams are not handed over, only counted.
        """

    def batch_ended(self) -> None:
        """All that was waiting, or that one turn of the reactor has room for, was received."""

    def datagram_error(self, address: Address, code: int, info: int) -> None:
        """Something sent to `address` did not arrive; `code` is an errno.

        `info` is the MTU of the path for EMSGSIZE, or 0 if unknown. Anybody could have sent the
        ICMP message that says so: take it as a hint. Never called within `write_segments`.
        """


@implementer(IHalfCloseableDescriptor)
class BatchingPort(Port):
    """Twisted's UDP port with batches. Made by `listen_datagrams` and `adopt_datagrams`.

    `options` are what was asked for, `gso` and `gro` what is in use of it, `settings` what the
    kernel has made of the rest.
    Attributes of the class bound what one turn of the reactor reads.
    """

    socket_profile = DEFAULT_PROFILE

    packets_per_turn = 512
    maxThroughput = 1 << 20
    """Bytes a turn; Twisted's name for it."""

    def __init__(
        self,
        port: int,
        protocol: Any,
        interface: str = "",
        options: DatagramOptions | None = None,
        reactor: Any = None,
    ) -> None:
        self.options = options or DatagramOptions()
        super().__init__(port, protocol, interface, self.options.max_packet_size, reactor)
        self.stats = DatagramStats()
        self.gso = self.gro = False
        self.settings: list[Setting] = []
        self._stopping = False
        self._take_batch = getattr(protocol, "datagrams_received", None)
        self._end_batch = getattr(protocol, "batch_ended", None)
        self._take_error = getattr(protocol, "datagram_error", None)
        self._targets: dict[Address, tuple[Any, ...]] = {}
        self._ancillary: dict[int, Ancillary] = {}
        clock: Any = self.reactor
        self._errors = ErrorQueue(clock.seconds, self._tell_error)

    # --- the socket ------------------------------------------------------------------

    def createInternetSocket(self) -> socket.socket:
        handle: socket.socket = super().createInternetSocket()
        if self.options.reuse_port:
            share_port(handle)
        return handle

    def _bindSocket(self) -> None:
        super()._bindSocket()
        handle, options = self.socket, self.options
        self.gso = options.gso and can_split_datagrams(handle)
        self.gro = options.gro and hasattr(handle, "recvmsg_into") and join_datagrams(handle)
        self.settings = [
            *prepare_datagrams(handle),
            fix_buffer(handle, RECEIVE_BUFFER, options.receive_buffer),
            fix_buffer(handle, SEND_BUFFER, options.send_buffer),
        ]
        if self.socket_profile.also is not None:
            self.socket_profile.also(handle, Moment.DATAGRAMS)

    def _loseConnection(self) -> None:
        self._stopping = True
        super()._loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._stopping = True
        super().connectionLost(reason)

    def readConnectionLost(self, reason: Failure) -> None:
        """The epoll and poll reactors think that a socket with an error, and no data, has ended."""
        if self._stopping:
            return
        self._errors.report(self.socket)
        if not self._stopping:
            self.startReading()

    def writeConnectionLost(self, reason: Failure) -> None:
        """Part of the interface; nothing is ever waiting to be written."""

    # --- receiving -------------------------------------------------------------------

    def doRead(self) -> None:
        buffer = _buffers.pop() if _buffers else memoryview(bytearray(_BUFFER_SIZE))
        taken, troubled = 0, False
        try:
            taken, troubled = self._read_batches(buffer)
        finally:
            _buffers.append(buffer)
        if taken and self._end_batch is not None:
            self._call(self._end_batch)
        if (troubled or not taken) and not self._stopping:
            self._errors.report(self.socket)  # or the reactor would never rest

    def _read_batches(self, buffer: memoryview) -> tuple[int, bool]:
        """Read what waits, or this turn's share; how many calls had data, and if any failed."""
        packets, space = self.packets_per_turn, self.maxThroughput
        receive = getattr(self.socket, "recvmsg_into", self._receive_alone)
        ipv6 = self.addressFamily == socket.AF_INET6
        buffers, taken, troubled = (buffer,), 0, False
        while packets > 0 and space > 0 and not self._stopping:
            try:
                length, ancillary, flags, address = receive(buffers, _JOINED_SPACE)
            except OSError as error:
                if error.errno in _NOTHING_WAITS:
                    break
                if error.errno in NO_SOCKET:
                    raise
                packets -= 1
                troubled = True  # an ICMP error, which says nothing about this call
                continue
            taken += 1
            count, size = 1, length
            if ancillary:
                size = _joined_size(ancillary) or length
                count = _segments(length, size) if size else 1
            packets -= count
            space -= length
            if ipv6:
                address = plain_address(address)
            self._batch_received(buffer, size, length, count, address, flags)
        self.stats.reads += taken
        return taken, troubled

    def _batch_received(
        self,
        buffer: memoryview,
        size: int,
        length: int,
        count: int,
        address: Address,
        flags: int,
    ) -> None:
        stats = self.stats
        stats.datagrams_in += count
        stats.bytes_in += length
        if size > self.maxPacketSize or flags & socket.MSG_TRUNC:
            stats.discarded += count
        elif self._take_batch is None:
            self._hand_over_each(buffer, size, length, address)
        elif length:
            try:
                self._take_batch(buffer, size, length, address)
            except Exception:
                log.err()
        else:
            stats.discarded += 1

    def _hand_over_each(self, buffer: memoryview, size: int, length: int, address: Address) -> None:
        for start in range(0, length, size) if length else (0,):
            if self._stopping:
                return
            datagram = bytes(buffer[start : min(start + size, length)])
            self._call(self.protocol.datagramReceived, datagram, address)

    def _receive_alone(
        self, buffers: tuple[memoryview], _space: int
    ) -> tuple[int, Ancillary, int, Any]:
        """As `recvmsg_into`, where there is none."""
        length, address = self.socket.recvfrom_into(buffers[0])
        return length, _NO_ANCILLARY, 0, address

    def _call(self, function: Any, *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception:
            log.err()

    # --- sending ---------------------------------------------------------------------

    def write_segments(
        self, data: bytes | bytearray | memoryview, segment_size: int, address: Address
    ) -> bool:
        """Send `data` to `address` in datagrams of `segment_size` bytes; the last may be shorter.

        False when the kernel did not take all of them: the rest is lost, as on the way. Raises
        `InvalidAddressError` for an address that is not numeric or not of this port's family.
        """
        target = self._targets.get(address) or self._target(address)
        length = len(data)
        if length <= segment_size:
            code = self._send(data, length, 1, _NO_ANCILLARY, target)
            return not code or self._lost(code, 1, target)
        if segment_size < 1:
            raise ValueError("a segment has a byte at least")
        view = memoryview(data)
        if not self.gso:
            return self._send_each(view, segment_size, target)
        run = min(MAX_SEGMENTS, MAX_PAYLOAD // segment_size or 1) * segment_size
        if length <= run:
            return self._send_run(view, segment_size, target)
        for start in range(0, length, run):
            if not self._send_run(view[start : start + run], segment_size, target):
                self.stats.dropped += max(0, _segments(length - start - run, segment_size))
                return False
        return True

    def write(self, datagram: bytes, addr: Address | None = None) -> None:
        """As `IUDPTransport.write`; what the kernel has no room for is lost.

        Raises `MessageLengthError` for a datagram that is too long for the device.
        """
        if self._connectedAddr or addr is None:
            super().write(datagram, addr)
            return
        target = self._targets.get(addr) or self._target(addr)
        code = self._send(datagram, len(datagram), 1, _NO_ANCILLARY, target)
        if code:
            self._lost(code, 1, target)
        if code == errno.EMSGSIZE:
            raise MessageLengthError("message too long")

    def _send_run(self, view: memoryview, size: int, target: tuple[Any, ...]) -> bool:
        """Send up to `MAX_SEGMENTS` datagrams with one call, if the kernel can do that."""
        length = len(view)
        if length <= size or not self.gso:
            return self._send_each(view, size, target)
        count = _segments(length, size)
        ancillary = self._ancillary.get(size) or self._split_into(size)
        code = self._send(view, length, count, ancillary, target)
        if not code:
            return True
        if code in _NO_OFFLOAD:
            # Is it the kernel that cannot split them, or the datagrams that cannot be sent?
            code = self._send(view[:size], size, 1, _NO_ANCILLARY, target)
            if not code:
                self.gso = False
                return self._send_each(view[size:], size, target)
        return self._lost(code, count, target)

    def _send_each(self, view: memoryview, size: int, target: tuple[Any, ...]) -> bool:
        length = len(view)
        for start in range(0, length, size):
            segment = view[start : start + size]
            code = self._send(segment, len(segment), 1, _NO_ANCILLARY, target)
            if code:
                return self._lost(code, _segments(length - start, size), target)
        return True

    def _send(
        self,
        data: bytes | bytearray | memoryview,
        length: int,
        count: int,
        ancillary: Ancillary,
        target: tuple[Any, ...],
    ) -> int:
        """Send with one call; 0, or the errno of what the kernel says against it."""
        code = errno.EBADF
        for _attempt in range(0 if self._stopping else 2):
            try:
                if ancillary:
                    self.socket.sendmsg((data,), ancillary, 0, target)
                else:
                    self.socket.sendto(data, target)
            except OSError as error:
                code = error.errno or errno.EIO
                if code in _NO_ROOM:
                    break
                # It may be an ICMP error about an earlier datagram, which is told only once.
                self._error_met()
            else:
                stats = self.stats
                stats.datagrams_out += count
                stats.bytes_out += length
                stats.writes += 1
                return 0
        return code

    def _split_into(self, size: int) -> Ancillary:
        """The ancillary data that has the kernel send datagrams of `size` bytes."""
        if len(self._ancillary) >= _MAX_SIZES:
            self._ancillary.clear()
        ancillary = [(SOL_UDP, UDP_SEGMENT, _SEGMENT_SIZE.pack(min(size, 0xFFFF)))]
        self._ancillary[size] = ancillary
        return ancillary

    def _target(self, address: Address) -> tuple[Any, ...]:
        """The socket address of a peer, such that Python needs not resolve it for each call."""
        host, port = address
        target: tuple[Any, ...] = address
        if self.addressFamily == socket.AF_INET6:
            if isIPAddress(host):
                target = (f"::ffff:{host}", port, 0, 0)
            elif isIPv6Address(host):
                host, _, scope = host.partition("%")
                target = (host, port, 0, _scope_id(scope))
            else:
                raise InvalidAddressError(host, "not an IP address")
        elif not isIPAddress(host) and host != "<broadcast>":
            raise InvalidAddressError(host, "not an IPv4 address")
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        self._targets[address] = target
        return target

    # --- errors ----------------------------------------------------------------------

    def _lost(self, code: int, count: int, target: tuple[Any, ...]) -> bool:
        """Count what the kernel did not take; False.

        An error is told in a turn of its own: who is sending is not prepared for it now.
        """
        self.stats.dropped += count
        if code not in _NO_ROOM and not self._stopping:
            if not self._errors:
                self.reactor.callLater(0, self._report_noted)  # type: ignore[attr-defined]
            self._errors.note(plain_address(target), code)
        return False

    def _error_met(self) -> None:
        """A call to send has met an error: reactors tell of the queue it is in by themselves."""

    def _report_noted(self) -> None:
        if self._errors and not self._stopping:
            self._errors.report(self.socket)

    def _tell_error(self, address: Address, code: int, info: int) -> None:
        if self._take_error is not None and not self._stopping:
            self._call(self._take_error, address, code, info)


def _joined_size(ancillary: Ancillary) -> int:
    """The size of the datagrams that were joined; 0 if it was one alone."""
    for level, kind, data in ancillary:
        if level == SOL_UDP and kind == UDP_GRO and len(data) >= _JOINED_SIZE.size:
            size: int = _JOINED_SIZE.unpack_from(data)[0]
            return size
    return 0


def _segments(length: int, size: int) -> int:
    return -(-length // size)


def _buffer_sizes(reactor: Any, receive: int | None, send: int | None) -> tuple[int, int]:
    profile = profile_of(reactor)
    return receive or profile.datagram_receive_buffer, send or profile.datagram_send_buffer


def _port_class(reactor: Any) -> type[BatchingPort]:
    """What this reactor has for batches: its own class, or ours for all reactors."""
    classes = getattr(reactor, "transport_classes", None)
    found: type[BatchingPort] = getattr(classes, "batching", BatchingPort)
    return found


def _scope_id(scope: str) -> int:
    if not scope or scope.isdecimal():
        return int(scope or 0)
    return socket.if_nametoindex(scope)


def listen_datagrams(
    reactor: Any,
    port: int,
    protocol: Any,
    interface: str = "",
    *,
    gso: bool = True,
    gro: bool = True,
    receive_buffer: int | None = None,
    send_buffer: int | None = None,
    reuse_port: bool = False,
    max_packet_size: int = 65535,
) -> BatchingPort:
    """Bind a UDP port (0: any free one) and let `protocol` have what comes.

    `DatagramOptions` says what the options mean; buffers are of the reactor's profile unless given.
    Raises `CannotListenError`. The reactor needs `addReader`, as all but the IOCP reactor have.
    """
    reuse_port = reuse_port or profile_of(reactor).reuse_port
    sizes = _buffer_sizes(reactor, receive_buffer, send_buffer)
    options = DatagramOptions(gso, gro, *sizes, reuse_port, max_packet_size)
    batching = _port_class(reactor)(port, protocol, interface, options, reactor)
    batching.socket_profile = profile_of(reactor)
    batching.startListening()
    return batching


def adopt_datagrams(
    reactor: Any,
    bound: socket.socket | int,
    protocol: Any,
    *,
    gso: bool = True,
    gro: bool = True,
    receive_buffer: int | None = None,
    send_buffer: int | None = None,
    max_packet_size: int = 65535,
) -> BatchingPort:
    """As `listen_datagrams`, on a socket or descriptor that is bound already.

    It is duplicated: closing the original is left to the caller, now or later.
    """
    sizes = _buffer_sizes(reactor, receive_buffer, send_buffer)
    options = DatagramOptions(gso, gro, *sizes, False, max_packet_size)
    number = bound if isinstance(bound, int) else bound.fileno()
    handle = socket.socket(fileno=os.dup(number))
    handle.setblocking(False)
    host, port = handle.getsockname()[:2]
    batching = _port_class(reactor)(port, protocol, host, options, reactor)
    batching._preexistingSocket = handle  # type: ignore[assignment]
    batching.socket_profile = profile_of(reactor)
    batching.startListening()
    return batching
