"""Connections that share the buffer they read into."""

from __future__ import annotations

import random
import socket
import sys
import unittest
from typing import Any
from unittest import skipUnless

from twisted.internet import main, tcp
from twisted.internet.testing import MemoryReactorClock

from jetstreamproto.transports.reading import READ_SIZE, ReadBuffer, Unread, read_into, read_no_more

RECORD = 1 << 18


class Connection:
    """Reads records of `RECORD` bytes at most, each behind its length, as `TcpLink` does."""

    def __init__(self, buffer: ReadBuffer, generator: random.Random) -> None:
        self.unread = Unread()
        self.records: list[bytes] = []
        self.sent = [
            generator.randbytes(generator.choice((0, 1, 100, 60_000, RECORD))) for _ in range(9)
        ]
        self._buffer = buffer
        self._coming = b"".join(len(r).to_bytes(4, "big") + r for r in self.sent)
        self._at = 0

    def read(self, size: int) -> None:
        room = self._buffer.room(self.unread)
        coming = self._coming[self._at : self._at + min(size, len(room))]
        self._at += len(coming)
        room[: len(coming)] = coming
        data: bytes | memoryview = self._buffer.filled(len(coming))
        if self.unread.size:
            self.unread.add(data)
            data = self._buffer.all(self.unread)
            self.unread.clear()
        while len(data) >= 4:
            end = 4 + int.from_bytes(data[:4], "big")
            if end > len(data):
                break
            self.records.append(bytes(data[4:end]))
            data = data[end:]
        if data:
            self.unread.add(data)
            if len(data) >= 4:
                self.unread.missing = 4 + int.from_bytes(data[:4], "big") - len(data)
        self._buffer.done(self.unread)


class ReadBufferTests(unittest.TestCase):
    def test_connections_in_turns(self) -> None:
        for seed in range(20):
            generator = random.Random(seed)
            buffer = ReadBuffer()
            connections = [Connection(buffer, generator) for _ in range(3)]
            for _ in range(200):
                connection = generator.choice(connections)
                for _ in range(generator.choice((1, 1, 5))):
                    connection.read(generator.choice((1, 3, 5000, READ_SIZE)))
            for connection in connections:
                for _ in connection.sent:
                    connection.read(READ_SIZE)
                    connection.read(READ_SIZE)
                self.assertEqual(connection.records, connection.sent, f"seed {seed}")

    def test_a_long_record_is_read_to_its_end(self) -> None:
        buffer, unread = ReadBuffer(), Unread()
        buffer.room(unread)
        unread.add(buffer.filled(READ_SIZE))
        for missing, room in (
            (100_000, 100_000),
            (100, READ_SIZE),  # short ones with whatever comes behind them
            (READ_SIZE * 2, READ_SIZE),
            (0, READ_SIZE),
        ):
            unread.missing = missing
            buffer.done(unread)
            self.assertEqual(len(buffer.room(unread)), room)
        unread.missing = 100_000
        unread.clear()
        self.assertEqual(unread.missing, 0)

    def test_what_is_gone_is_not_kept(self) -> None:
        buffer, gone, other = ReadBuffer(), Unread(), Unread()
        buffer.room(gone)
        gone.add(buffer.filled(10))
        buffer.done(gone)
        gone.clear()
        buffer.forget(gone)
        self.assertEqual(len(buffer.room(other)), READ_SIZE)
        self.assertEqual(gone.size, 0)


class Busy:
    """A socket that brings reads of these sizes, and the protocol that has them: what they saw."""

    def __init__(self, sizes: list[int]) -> None:
        self.events: list[int | str] = []
        self._sizes = list(sizes)

    def setblocking(self, _: bool) -> None: ...

    def fileno(self) -> int:
        return 3

    def recv_into(self, room: memoryview) -> int:
        return self._sizes.pop(0)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.events.append(f"low water {value}")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(len(data))


class TransportTests(unittest.TestCase):
    def transport(self, kind: type[tcp.Connection]) -> Any:
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        self.addCleanup(ours.close)
        found: list[bytes] = []

        class Reading:
            def dataReceived(self, data: bytes) -> None:
                found.append(bytes(data))

        transport = kind(ours, Reading(), None)  # type: ignore[arg-type]
        read_into(ReadBuffer(), transport, Unread())
        return transport, theirs, found

    def test_what_a_socket_says(self) -> None:
        transport, theirs, found = self.transport(tcp.Connection)
        self.assertIsNone(transport.doRead())  # nothing has come
        theirs.sendall(b"abc")
        self.assertIsNone(transport.doRead())
        self.assertEqual(found, [b"abc"])
        theirs.close()
        self.assertIs(transport.doRead(), main.CONNECTION_DONE)
        transport.socket.close()
        self.assertIs(transport.doRead(), main.CONNECTION_LOST)

    def test_it_reads_on_while_more_may_be_there_but_not_for_ever(self) -> None:
        for sizes, reads in (
            ([READ_SIZE] * 9, 4),
            ([READ_SIZE, READ_SIZE, 5, READ_SIZE], 3),
            ([5, 5], 1),
        ):
            busy = Busy(sizes)
            transport = tcp.Connection(busy, busy, MemoryReactorClock())  # type: ignore[arg-type]
            transport.connected = True
            read_into(ReadBuffer(), transport, Unread())
            transport.doRead()
            self.assertEqual(len([event for event in busy.events if type(event) is int]), reads)
            read_no_more(transport)
            self.assertNotIn("doRead", vars(transport))

    @skipUnless(sys.platform == "linux", "only Linux is told")
    def test_what_comes_meanwhile_is_acknowledged_when_it_comes(self) -> None:
        low, high = "low water 1", f"low water {1 << 20}"
        for sizes, expected in (
            ([READ_SIZE, READ_SIZE, 5], [high, READ_SIZE, READ_SIZE, 5, low]),
            ([1 << 16], [high, 1 << 16, low]),
            ([5], [5]),
        ):
            busy = Busy(sizes)
            transport = tcp.Connection(busy, busy, MemoryReactorClock())  # type: ignore[arg-type]
            transport.connected = True
            read_into(ReadBuffer(), transport, Unread())
            transport.doRead()
            self.assertEqual(busy.events, expected)

    def test_a_connection_that_is_closed_by_what_it_brings(self) -> None:
        transport, theirs, _ = self.transport(tcp.Connection)
        theirs.sendall(bytes(1 << 16))
        transport.protocol.dataReceived = lambda data: transport.socket.close()
        self.assertIsNone(transport.doRead())

    def test_a_connection_whose_protocol_fails_is_heard_of_again(self) -> None:
        transport, theirs, _ = self.transport(tcp.Connection)
        theirs.sendall(bytes(1 << 16))

        def fail(data: bytes) -> None:
            raise RuntimeError("it fails")

        transport.protocol.dataReceived = fail
        with self.assertRaisesRegex(RuntimeError, "it fails"):
            transport.doRead()
        self.assertEqual(transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT), 1)

    def test_a_transport_that_reads_in_its_own_way_is_left_alone(self) -> None:
        class Own(tcp.Connection):
            def doRead(self) -> None:
                return None

        transport, _, _ = self.transport(Own)
        self.assertNotIn("doRead", vars(transport))
        self.assertIsNone(read_into(ReadBuffer(), object(), Unread()))
