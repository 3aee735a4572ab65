"""UDP ports on an io_uring: what they receive comes by completions, what they send goes at once."""

# Mixins in front of Twisted's transports, which are mixins themselves: of what these have, a type
# checker sees nothing from here.
# mypy: disable-error-code="misc, has-type, attr-defined, no-any-return"

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from twisted.python import log

from jetstreamproto.reactors._uring import DATAGRAM, DATAGRAMS, Ring
from jetstreamproto.reactors.ring_transport import RingTransport
from jetstreamproto.reactors.transports import TunedDatagramPort, TunedMulticastPort
from jetstreamproto.sockets.datagrams import join_datagrams, separate_datagrams
from jetstreamproto.sockets.offload import NO_SOCKET, BatchingPort

Batch = tuple[memoryview, int, int, tuple[str, int], int, int]
"""A buffer, the size of its datagrams, the length of all, their sender, flags, its number."""

_NOT_LENT = -1


class _RingPort(RingTransport):
    """A UDP port of either kind. It is lent the ring's buffers while it is told what is in them."""

    kind = DATAGRAM
    _rest: Iterable[Batch] = ()

    def connectionLost(self, reason: Any = None) -> None:
        self._leave()
        super().connectionLost(reason)

    def _read(self, kind: int, value: Any) -> Any:
        if kind != DATAGRAMS:
            self._armed = False  # an error has ended it
            self._changed()
            return self._read_failed(value)
        ring = self.reactor.ring  # by the end it may be another
        assert ring is not None
        before = self._rest  # not empty if a protocol runs the reactor: then it comes first
        batches = self._rest = chain(before, value)
        try:
            self._take(batches)
            left = list(batches)
            if left and self.slot is not None:
                self.hold(kind, left)
        finally:
            self._rest = before
            ring.give_back(value)
        return None

    def hold(self, kind: int, value: Any) -> None:
        """Copies are kept: the buffers are for all ports."""
        if kind == DATAGRAMS:
            copies = [
                (memoryview(bytearray(view[:length])), size, length, address, flags, _NOT_LENT)
                for view, size, length, address, flags, _ in value
            ]
            self.drop(kind, value)
            value = copies
        super().hold(kind, value)

    def drop(self, kind: int, value: Any) -> None:
        if kind == DATAGRAMS and self.reactor.ring is not None:
            self.reactor.ring.give_back(value)

    def _take(self, batches: Iterator[Batch]) -> None:
        """Take them all, but for those that are left when the port does not read any more."""
        raise NotImplementedError

    def _read_failed(self, code: int) -> Any:
        raise NotImplementedError


class _RingDatagrams(_RingPort):
    """A UDP port as Twisted has it.

    On the ring, the kernel joins datagrams of one sender for it (UDP_GRO) where it can, and they
    are taken apart here. `gro` says so. A socket that was adopted may be read by others too, who
    do not expect that: it is left as it is.
    """

    gro = False
    _made_here = False

    def createInternetSocket(self) -> socket.socket:
        self._made_here = True
        return super().createInternetSocket()

    def _enter(self, ring: Ring) -> int:
        self.gro = self._made_here and join_datagrams(self.socket)
        return super()._enter(ring)

    def to_epoll(self) -> None:
        if self.gro:
            separate_datagrams(self.socket)
            self.gro = False
        super().to_epoll()

    def _take(self, batches: Iterator[Batch]) -> None:
        received, most = self.protocol.datagramReceived, self.maxPacketSize
        for view, size, length, address, _, _ in batches:
            if "%" in address[0]:
                address = address[0].partition("%")[0], address[1]  # as Twisted has it
            try:
                if length > size:
                    self._take_apart(view[:length], size, address)
                else:
                    received(bytes(view[: length if length < most else most]), address)
            except BaseException:
                log.err()
            if not self.reading:
                break

    def _take_apart(self, joined: memoryview, size: int, address: tuple[str, int]) -> None:
        """As from one call to the kernel: all of them are told."""
        for start in range(0, len(joined), size):
            datagram = joined[start : start + size]
            try:
                self.protocol.datagramReceived(bytes(datagram[: self.maxPacketSize]), address)
            except BaseException:
                log.err()

    def _read_failed(self, code: int) -> Any:
        if code == errno.ECONNREFUSED:
            if self._connectedAddr:
                self.protocol.connectionRefused()
            return None
        return OSError(code, os.strerror(code))


class RingDatagramPort(_RingDatagrams, TunedDatagramPort):
    """A UDP port."""


class RingMulticastPort(_RingDatagrams, TunedMulticastPort):
    """A UDP port that may join groups."""


class RingBatchingPort(_RingPort, BatchingPort):
    """A port that takes batches as they are."""

    _reporting = False

    def _take(self, batches: Iterator[Batch]) -> None:
        stats = self.stats
        for view, size, length, address, flags, _ in batches:
            stats.reads += 1
            count = -(-length // size) if size else 1
            self._batch_received(view, size, length, count, address, flags)
            if not self.reading:
                break
        if self._end_batch is not None:
            self._call(self._end_batch)

    def _read_failed(self, code: int) -> Any:
        if code in NO_SOCKET:
            return OSError(code, os.strerror(code))
        self._report_errors()  # an ICMP error
        return None

    def _error_met(self) -> None:
        """The ring tells an error once, and not at all if a call to send meets it first."""
        if self.on_ring and not self._reporting:
            self._reporting = True
            self.reactor.callLater(0, self._report_errors)

    def _report_errors(self) -> None:
        self._reporting = False
        if not self._stopping and self._errors.report(self.socket):
            self._error_met()
