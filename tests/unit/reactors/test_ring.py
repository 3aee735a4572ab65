"""The ring without a reactor: what it tells of sockets, and what it does when it is full."""

from __future__ import annotations

import contextlib
import errno
import gc
import ipaddress
import os
import random
import re
import signal
import socket
import threading
import time
import unittest
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.reactors.uring import why_not
from tests.ports import free_port

REASON = why_not()
if REASON is None:
    from jetstreamproto.reactors import _uring
    from jetstreamproto.reactors._uring import Ring

_DEADLINE = 60.0
IPV6 = Path("/proc/net/if_inet6")


class Owner:
    """Whom events are told of. Weakly referenced by tests."""

    def __init__(self, name: str = "") -> None:
        self.name = name


@unittest.skipIf(REASON, f"no io_uring: {REASON}")
class RingTestCase(unittest.TestCase):
    def make(self, *sizes: int) -> Ring:
        ring = Ring(*sizes)
        self.addCleanup(ring.close)
        return ring

    def pair(self) -> tuple[socket.socket, socket.socket]:
        near, far = socket.socketpair()
        for one in (near, far):
            one.setblocking(False)
            self.addCleanup(one.close)
        return near, far

    def listener(self, port: int = 0) -> socket.socket:
        handle = socket.create_server(("127.0.0.1", port), backlog=128)
        handle.setblocking(False)
        self.addCleanup(handle.close)
        return handle

    def until(self, ring: Ring, enough: Any) -> list[tuple[Any, int, Any]]:
        """Events until `enough(events)`."""
        events: list[tuple[Any, int, Any]] = []
        deadline = time.monotonic() + _DEADLINE
        while not enough(events):
            self.assertLess(time.monotonic(), deadline, events[-10:])
            events += ring.wait(0.05)
        return events


class StreamTests(RingTestCase):
    def test_received(self) -> None:
        ring, (near, far), owner = self.make(), self.pair(), Owner()
        ring.receive(ring.add(near.fileno(), owner, _uring.STREAM), True)
        far.send(b"one")
        self.assertEqual(ring.wait(1.0), [(owner, _uring.RECEIVED, b"one")])
        far.send(b"two")
        far.close()
        events = self.until(ring, lambda events: len(events) == 2)
        self.assertEqual([event[2] for event in events], [b"two", b""])

    def test_nothing_is_received_unasked(self) -> None:
        ring, (near, far) = self.make(), self.pair()
        ring.add(near.fileno(), Owner(), _uring.STREAM)
        far.send(b"x")
        self.assertEqual(ring.wait(0.01), [])
        self.assertEqual(near.recv(10), b"x")

    def test_stopped_and_started_again(self) -> None:
        ring, (near, far) = self.make(), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        for _ in range(3):
            ring.receive(slot, True)
            ring.wait(0)
            ring.receive(slot, False)
            ring.wait(0)
        ring.wait(0)
        far.send(b"x")
        self.assertEqual(ring.wait(0.01), [])
        ring.receive(slot, True)
        self.assertEqual([event[2] for event in ring.wait(1.0)], [b"x"])

    def test_stopped_and_started_within_a_turn(self) -> None:
        ring, (near, far) = self.make(), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        ring.receive(slot, True)
        ring.wait(0)
        ring.receive(slot, False)
        ring.receive(slot, True)
        far.send(b"x")
        events = self.until(ring, lambda events: events)
        self.assertEqual([event[1:] for event in events], [(_uring.RECEIVED, b"x")])

    def test_sent_in_order_when_the_peer_is_slow(self) -> None:
        ring, (near, far), owner = self.make(), self.pair(), Owner()
        slot = ring.add(near.fileno(), owner, _uring.STREAM)
        pieces = [random.Random(n).randbytes(100_000 + n) for n in range(40)]
        for piece in pieces:
            unsent = ring.send(slot, piece, True)
        self.assertEqual(unsent, sum(map(len, pieces)))
        received = bytearray()
        deadline = time.monotonic() + _DEADLINE
        told = []
        while len(received) < unsent or not told:
            self.assertLess(time.monotonic(), deadline)
            told += ring.wait(0)
            try:
                received += far.recv(1 << 16)
            except BlockingIOError:
                ring.wait(0.001)
        self.assertEqual(bytes(received), b"".join(pieces))
        self.assertEqual(told, [(owner, _uring.SENT, None)])
        self.assertEqual(ring.unsent(slot), 0)

    def test_a_peer_that_is_gone(self) -> None:
        ring, (near, far) = self.make(), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        far.close()
        ring.send(slot, b"x", False)
        ring.send(slot, b"y", False)
        events = self.until(ring, lambda events: events)
        self.assertEqual([event[1:] for event in events], [(_uring.WRITE_FAILED, errno.EPIPE)])
        self.assertEqual(ring.unsent(slot), 0)

    def test_much_is_read_by_the_owner(self) -> None:
        ring, (near, far) = self.make(1024, 8192, 64, 1024), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        ring.receive(slot, True)
        ring.wait(0)
        data = random.Random(1).randbytes(50_000)
        far.send(data)
        got = bytearray()
        deadline = time.monotonic() + _DEADLINE
        kinds = set()
        while len(got) < len(data):
            self.assertLess(time.monotonic(), deadline)
            for _, kind, value in ring.wait(0.05):
                kinds.add(kind)
                if kind == _uring.READABLE:
                    try:
                        got += near.recv(4096)
                    except BlockingIOError:
                        continue
                else:
                    got += value
        self.assertEqual(bytes(got), data)
        far.send(b"x")
        self.assertEqual(ring.wait(1.0)[0][1], _uring.READABLE)
        near.recv(1)
        ring.read_small(slot)
        ring.wait(0)
        ring.wait(0)
        far.send(b"y")
        events = self.until(ring, lambda events: [e for e in events if e[1] == _uring.RECEIVED])
        self.assertEqual(events[-1][2], b"y")
        self.assertIn(_uring.RECEIVED, kinds)

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(st.tuples(st.booleans(), st.integers(0, 20_000)), min_size=1, max_size=20),
        st.integers(0, 2**32),
    )
    def test_whatever_comes_is_told_once_and_in_order(
        self, steps: list[tuple[bool, int]], seed: int
    ) -> None:
        ring, (near, far) = self.make(64, 128, 8, 512), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        source = random.Random(seed)
        sent, got = bytearray(), bytearray()

        def take(seconds: float) -> None:
            for _, kind, value in ring.wait(seconds):
                if kind == _uring.RECEIVED:
                    got.extend(value)
                elif kind == _uring.READABLE:
                    try:
                        got.extend(near.recv(700))
                    except BlockingIOError:
                        continue

        for wanted, size in steps:
            ring.receive(slot, wanted)
            data = source.randbytes(size)
            sent += data[: far.send(data)] if data else b""
            take(0)
        ring.receive(slot, True)
        deadline = time.monotonic() + _DEADLINE
        while len(got) < len(sent):
            self.assertLess(time.monotonic(), deadline)
            take(0.02)
        self.assertEqual(got, sent)
        ring.close()


class FullTests(RingTestCase):
    def test_more_data_than_buffers(self) -> None:
        ring = self.make(64, 128, 2, 64)
        pairs = [self.pair() for _ in range(40)]
        got: dict[int, bytearray] = {}
        for number, (near, far) in enumerate(pairs):
            got[number] = bytearray()
            ring.receive(ring.add(near.fileno(), number, _uring.STREAM), True)
            far.send(bytes([number]) * 150)
        deadline = time.monotonic() + _DEADLINE
        while any(len(data) < 150 for data in got.values()):
            self.assertLess(time.monotonic(), deadline)
            for number, kind, value in ring.wait(0.05):
                got[number] += value if kind == _uring.RECEIVED else pairs[number][0].recv(99)
        self.assertEqual(got, {number: bytes([number]) * 150 for number in range(40)})

    def test_more_completions_than_there_is_room_for(self) -> None:
        ring = self.make(4, 4, 256, 64)
        pairs = [self.pair() for _ in range(200)]
        for number, (near, _) in enumerate(pairs):
            ring.receive(ring.add(near.fileno(), number, _uring.STREAM), True)
        ring.wait(0)
        for _, far in pairs:
            far.send(b"x")
        events = self.until(ring, lambda events: len(events) >= len(pairs))
        self.assertEqual(sorted(owner for owner, _, _ in events), list(range(200)))
        for _, far in pairs:  # and once more: none of them was forgotten
            far.send(b"y")
        events = self.until(ring, lambda events: len(events) >= len(pairs))
        self.assertEqual({value for _, _, value in events}, {b"y"})

    def test_more_submissions_than_there_is_room_for(self) -> None:
        ring = self.make(4, 8, 64, 64)
        pairs = [self.pair() for _ in range(100)]
        for near, _ in pairs:
            ring.send(ring.add(near.fileno(), None, _uring.STREAM), b"hello", False)
        ring.wait(0)
        ring.wait(0)
        for _, far in pairs:
            self.assertEqual(far.recv(10), b"hello")


class EndTests(RingTestCase):
    def test_a_discarded_socket_is_free_at_once(self) -> None:
        ring, handle = self.make(), self.listener(free_port())
        slot = ring.add(handle.fileno(), Owner(), _uring.LISTENER)
        ring.receive(slot, True)
        ring.wait(0)
        address = handle.getsockname()
        ring.discard(slot)
        handle.close()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(address)
        socket.create_server(address, reuse_port=False).close()
        self.assertEqual(ring.state()["outstanding"], 0)

    def test_connections_that_nobody_takes_are_closed(self) -> None:
        ring, handle = self.make(), self.listener()
        slot = ring.add(handle.fileno(), Owner(), _uring.LISTENER)
        ring.receive(slot, True)
        ring.wait(0)
        before = len(os.listdir("/proc/self/fd"))
        with socket.create_connection(handle.getsockname()) as peer:
            ring.discard(slot)
            handle.close()
            peer.settimeout(_DEADLINE)
            with contextlib.suppress(ConnectionResetError):  # if it was not accepted yet
                self.assertEqual(peer.recv(1), b"")
        self.assertEqual(ring.wait(0), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before - 1)

    def test_discarded_while_sending(self) -> None:
        ring, (near, _) = self.make(), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        ring.send(slot, bytes(10_000_000), True)
        ring.wait(0)
        self.assertGreater(ring.unsent(slot), 0)
        ring.discard(slot)
        self.assertEqual(ring.wait(0), [])
        self.assertEqual(ring.state()["outstanding"], 0)
        self.assertEqual(ring.state()["used_slots"], 0)

    def test_a_file_descriptor_used_again_has_its_own_events(self) -> None:
        ring = self.make()
        for turn in range(50):
            near, far = socket.socketpair()
            slot = ring.add(near.fileno(), turn, _uring.STREAM)
            ring.receive(slot, True)
            far.send(b"first of its own")
            events = ring.wait(1.0)
            self.assertEqual({owner for owner, _, _ in events}, {turn})
            far.send(b"never told")
            ring.discard(slot)
            near.close()
            far.close()

    def test_owners_are_let_go(self) -> None:
        import weakref

        ring, (near, _) = self.make(), self.pair()
        owner = Owner()
        known = weakref.ref(owner)
        slot = ring.add(near.fileno(), owner, _uring.STREAM)
        ring.receive(slot, True)
        ring.wait(0)
        ring.discard(slot)
        del owner
        self.assertIsNone(known())

    def test_a_cycle_through_the_ring_is_collected(self) -> None:
        import weakref

        near, far = self.pair()
        owner: Any = Owner()
        owner.ring = Ring(8, 16, 8, 64)
        slot = owner.ring.add(near.fileno(), owner, _uring.STREAM)
        owner.ring.receive(slot, True)
        owner.ring.send(slot, bytes(5_000_000), True)
        owner.ring.wait(0)
        known = weakref.ref(owner)
        del owner
        gc.collect()
        self.assertIsNone(known())
        far.setblocking(False)

    def test_closed_twice_and_used_afterwards(self) -> None:
        ring, (near, _) = Ring(8, 16, 8, 64), self.pair()
        slot = ring.add(near.fileno(), Owner(), _uring.STREAM)
        ring.close()
        ring.close()
        self.assertEqual(ring.fileno(), -1)
        for call in (
            lambda: ring.wait(0),
            lambda: ring.add(0, None, _uring.STREAM),
            lambda: ring.send(slot, b"x", False),
            lambda: ring.receive(slot, True),
            lambda: ring.discard(slot),
        ):
            self.assertRaises(ValueError, call)


class WaitTests(RingTestCase):
    def test_a_signal_ends_the_wait(self) -> None:
        ring, seen = self.make(), []
        before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.monotonic()))
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        main = threading.main_thread().ident
        timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGUSR1))
        timer.start()
        self.assertEqual(ring.wait(_DEADLINE), [])
        timer.join()
        self.assertTrue(seen)

    def test_other_threads_run_meanwhile(self) -> None:
        ring, (near, far) = self.make(), self.pair()
        ring.receive(ring.add(near.fileno(), None, _uring.STREAM), True)
        thread = threading.Thread(target=lambda: far.send(b"x"))
        thread.start()
        self.assertEqual(len(ring.wait(_DEADLINE)), 1)
        thread.join()

    def test_another_thread_may_not_wait(self) -> None:
        ring, errors = self.make(), []

        def wait() -> None:
            try:
                ring.wait(0)
            except OSError as error:
                errors.append(error.errno)

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        self.assertEqual(errors, [errno.EEXIST])

    def test_a_watched_descriptor_is_told_again_and_again(self) -> None:
        ring = self.make()
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        ring.watch(reading)
        os.write(writing, b"x")
        for _ in range(3):
            self.assertEqual([event[1] for event in ring.wait(1.0)], [_uring.POLLED])
        os.read(reading, 1)
        ring.wait(0)
        self.assertEqual(ring.wait(0.01), [])

    def test_times(self) -> None:
        ring = self.make()
        for seconds in (0, False, -1.0, 0.0, float("nan")):
            self.assertEqual(ring.wait(seconds), [])
        self.assertRaises(TypeError, ring.wait, "soon")


class ArgumentTests(RingTestCase):
    def test_sizes(self) -> None:
        for sizes in ((0,), (3,), (1024, 8), (8, 16, 7), (8, 16, 8, 1), (8, 16, 8, 1 << 30)):
            with self.subTest(sizes):
                self.assertRaises(ValueError, Ring, *sizes)

    def test_slots_that_are_not(self) -> None:
        ring = self.make()
        for slot in (0, 5, 2**40):
            self.assertRaises((ValueError, OverflowError), ring.receive, slot, True)
            self.assertRaises((ValueError, OverflowError), ring.discard, slot)
            self.assertRaises((ValueError, OverflowError), ring.unsent, slot)
        self.assertRaises((ValueError, OverflowError), ring.unsent, -1)
        self.assertRaises(TypeError, ring.unsent, "0")

    def test_sockets_and_data_that_are_not(self) -> None:
        ring, (near, _) = self.make(), self.pair()
        self.assertRaises(ValueError, ring.add, -1, None, _uring.STREAM)
        self.assertRaises(ValueError, ring.add, 0, None, 9)
        slot = ring.add(near.fileno(), None, _uring.STREAM)
        self.assertRaises(TypeError, ring.send, slot, bytearray(b"x"), False)
        slot = ring.add(1_000_000, None, _uring.STREAM)
        ring.receive(slot, True)
        self.assertEqual(ring.wait(1.0), [(None, _uring.READ_FAILED, errno.EBADF)])

    def test_made_twice(self) -> None:
        ring = self.make()
        self.assertRaises(ValueError, ring.__init__)  # type: ignore[misc]
        self.assertEqual(ring.wait(0), [])


class DatagramTests(RingTestCase):
    def bound(self, family: int = socket.AF_INET, host: str = "127.0.0.1") -> socket.socket:
        handle = socket.socket(family, socket.SOCK_DGRAM)
        self.addCleanup(handle.close)
        handle.bind((host, 0))
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        return handle

    def served(self, ring: Ring, handle: socket.socket, owner: object = None) -> int:
        slot = ring.add(handle.fileno(), owner, _uring.DATAGRAM)
        ring.receive(slot, True)
        return slot

    def batches(self, ring: Ring, count: int) -> list[Any]:
        """So many buffers, which are still lent: what is in them, size, address and flags."""
        told: list[Any] = []

        def enough(events: list[tuple[Any, int, Any]]) -> bool:
            self.assertLessEqual({kind for _, kind, _ in events}, {_uring.DATAGRAMS})
            told[:] = [batch for _, _, batches in events for batch in batches]
            return len(told) >= count

        self.until(ring, enough)
        return told

    def test_datagrams_with_their_senders(self) -> None:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with self.subTest(host):
                ring, near, far = self.make(), self.bound(family, host), self.bound(family, host)
                self.served(ring, near)
                sent = (b"one", b"", bytes(60_000), b"one")
                for data in sent:
                    far.sendto(data, near.getsockname())
                self.assertEqual(
                    [
                        (view[:length].tobytes(), size, address, flags)
                        for view, size, length, address, flags, _ in self.batches(ring, 4)
                    ],
                    [(data, len(data), far.getsockname()[:2], 0) for data in sent],
                )

    def test_a_link_local_sender_has_its_scope(self) -> None:
        known = IPV6.read_text() if IPV6.exists() else ""
        found = re.search(r"^(fe80[0-9a-f]{28}) ([0-9a-f]+) ", known, re.M)
        if not found:
            self.skipTest("no interface has a link-local address")
        host = str(ipaddress.IPv6Address(int(found[1], 16)))
        scope = int(found[2], 16)
        ring, near = self.make(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.addCleanup(near.close)
        near.bind((host, 0, 0, scope))
        self.served(ring, near)
        near.sendto(b"x", near.getsockname())
        [(_, _, _, address, _, _)] = self.batches(ring, 1)
        self.assertEqual(address, (f"{host}%{scope}", near.getsockname()[1]))

    def test_joined_datagrams_say_their_size(self) -> None:
        ring, near, far = self.make(), self.bound(), self.bound()
        near.setsockopt(17, 104, 1)  # UDP_GRO
        near.setsockopt(socket.SOL_SOCKET, 37, 0xFF)  # SO_TIMESTAMPING: more control data
        near.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        self.served(ring, near)
        far.connect(near.getsockname())
        for length, size in ((2500, 1000), (2000, 1000), (1001, 1000), (64, 1)):
            far.sendmsg([bytes(length)], [(17, 103, size.to_bytes(2, "little"))])  # UDP_SEGMENT
        self.assertEqual(
            [(size, length) for _, size, length, *_ in self.batches(ring, 4)],
            [(1000, 2500), (1000, 2000), (1000, 1001), (1, 64)],
        )

    def test_more_datagrams_than_buffers(self) -> None:
        ring, near, far = self.make(), self.bound(), self.bound()
        self.served(ring, near)
        for number in range(200):
            far.sendto(number.to_bytes(2, "big"), near.getsockname())
        got: list[int] = []
        deadline = time.monotonic() + _DEADLINE
        while len(got) < 200:
            self.assertLess(time.monotonic(), deadline)
            for _, _, batches in ring.wait(0.05):
                got += [int.from_bytes(view[:length], "big") for view, _, length, *_ in batches]
                ring.give_back(batches)
        self.assertEqual(got, list(range(200)))
        self.assertEqual(ring.state()["lent_buffers"], 0)

    def test_without_buffers_it_waits_until_one_is_given_back(self) -> None:
        ring, near, far, other = self.make(), self.bound(), self.bound(), self.bound()
        self.served(ring, near)
        self.served(ring, other)
        for number in range(100):
            far.sendto(number.to_bytes(2, "big"), near.getsockname())
        far.sendto(b"other", other.getsockname())
        first = self.batches(ring, _uring.LOANS)
        for _ in range(3):
            began = time.monotonic()
            self.assertEqual(ring.wait(0.02), [])
            self.assertGreater(time.monotonic() - began, 0.015, "it does not rest")
        self.assertEqual(ring.state()["lent_buffers"], _uring.LOANS)
        ring.give_back(first)
        ring.give_back(first)  # which is no harm
        events = self.until(ring, lambda events: sum(len(e[2]) for e in events) >= _uring.LOANS)
        self.assertEqual(ring.state()["lent_buffers"], _uring.LOANS)
        for _, _, batches in events:
            ring.give_back(batches)

    def test_what_is_lent_stays_readable(self) -> None:
        """The memory is there for as long as anybody can see it."""
        ring, near, far = self.make(), self.bound(), self.bound()
        self.served(ring, near)
        far.sendto(b"kept", near.getsockname())
        batches = self.batches(ring, 1)
        view, _, length, *_ = batches[0]
        ring.close()
        ring.give_back(batches)
        self.assertEqual(view[:length].tobytes(), b"kept")

    def test_nothing_is_lent_to_who_is_gone(self) -> None:
        ring, near, far = self.make(), self.bound(), self.bound()
        slot = self.served(ring, near)
        ring.wait(0)
        for _ in range(100):
            far.sendto(b"x", near.getsockname())
        ring.discard(slot)
        self.assertEqual(ring.wait(0.01), [])
        self.assertEqual(ring.state()["lent_buffers"], 0)

    def test_what_was_never_lent(self) -> None:
        ring, near = self.make(), self.bound()
        self.assertRaises(TypeError, ring.give_back, ())
        self.served(ring, near)
        view = memoryview(b"")
        ring.give_back([(view, 0, 0, ("", 0), 0, number) for number in (0, 1 << 30, -1)])
        for batch in ((), 5, (1, 2, 3, 4, 5, "six"), (1, 2, 3, 4, 5, 1 << 90)):
            self.assertRaises(
                (IndexError, TypeError, OverflowError, SystemError), ring.give_back, [batch]
            )


if __name__ == "__main__":
    unittest.main()
