"""Tests for jetstreamproto.reliability.crypto."""

from __future__ import annotations

import tracemalloc
from heapq import heappop, heappush
from random import Random
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ProtocolViolation, WireError
from jetstreamproto.reliability.crypto import (
    CHUNK,
    MAX_HANDSHAKE,
    CryptoExchange,
    alert_plaintext,
)
from jetstreamproto.reliability.settings import MIN_DATAGRAM
from jetstreamproto.security.cookies import TOKEN_SIZE
from jetstreamproto.security.datagrams import initial_overhead, retry_datagram

untimed = settings(deadline=None, derandomize=True, database=None)


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x11" + offset.to_bytes(4, "big") + len(data).to_bytes(2, "big") + data


def have(*ranges: tuple[int, int]) -> bytes:
    numbers = b"".join(n.to_bytes(4, "big") for bounds in ranges for n in bounds)
    return bytes((0x12, len(ranges))) + numbers


class Side:
    """One side: what it has to say, in turns, and what it heard."""

    def __init__(self, script: list[tuple[int, bytes]]) -> None:
        self.exchange = CryptoExchange()
        self.heard = b""
        self._script = script

    def speak(self) -> None:
        """Write what follows so many bytes of the peer's."""
        while self._script and len(self.heard) >= self._script[0][0]:
            self.exchange.write(self._script.pop(0)[1])

    @property
    def finished(self) -> bool:
        return not self._script and self.exchange.acknowledged


def run(sides: tuple[Side, Side], random: Random, loss: float, copies: float) -> float:
    """Have the sides exchange everything over a network without order; the time it took."""
    network: list[tuple[float, int, int, bytes]] = []  # arrives at, serial, to, plaintext
    now, serial = 0.0, 0
    for side in sides:
        side.speak()
    while not (sides[0].finished and sides[1].finished):
        for index, side in enumerate(sides):
            for plaintext in side.exchange.plaintexts(now):
                for _ in range(1 + (random.random() < copies)):
                    serial += 1
                    if random.random() >= loss:
                        arrival = now + random.uniform(0.01, 0.2)
                        heappush(network, (arrival, serial, 1 - index, plaintext))
        timers = [side.exchange.due_at for side in sides if side.exchange.due_at is not None]
        if network and network[0][0] <= min(timers, default=float("inf")):
            now, _, index, plaintext = heappop(network)
            sides[index].heard += sides[index].exchange.receive(plaintext)
            sides[index].speak()
        elif timers:
            now = max(now, min(timers))
        else:
            raise AssertionError("nothing would ever happen again")
        if now > 10000:
            raise AssertionError("the exchange does not end")
    return now


class ExchangeTests(TestCase):
    @untimed
    @given(
        st.integers(0, 1 << 32),
        st.floats(0, 0.6),
        st.floats(0, 0.5),
        st.tuples(*[st.integers(1, 5000)] * 4),
    )
    def test_over_any_network(
        self, seed: int, loss: float, copies: float, sizes: tuple[int, int, int, int]
    ) -> None:
        random = Random(seed)
        hello, flight, finish, ticket = (random.randbytes(size) for size in sizes)
        client = Side([(0, hello), (len(flight), finish)])
        server = Side([(len(hello), flight), (len(hello + finish), ticket)])
        run((client, server), random, loss, copies)
        self.assertEqual(client.heard, flight + ticket)
        self.assertEqual(server.heard, hello + finish)
        for side in (client, server):
            self.assertIsNone(side.exchange.due_at)
            self.assertEqual(side.exchange._kept, 0)
            self.assertEqual(len(side.exchange._ranges), 1)

    def test_as_much_as_is_allowed(self) -> None:
        for seed in range(3):
            random = Random(seed)
            hello, flight = random.randbytes(MAX_HANDSHAKE), random.randbytes(MAX_HANDSHAKE)
            client, server = Side([(0, hello)]), Side([(1, flight)])
            run((client, server), random, 0.3, 0.1)
            self.assertEqual((client.heard, server.heard), (flight, hello))

    def test_without_losses_nothing_is_sent_twice(self) -> None:
        one, other = CryptoExchange(), CryptoExchange()
        one.write(bytes(3000))
        plaintexts = one.plaintexts(0.0)
        self.assertEqual(len(plaintexts), 3)
        self.assertEqual(b"".join(map(other.receive, plaintexts)), bytes(3000))
        (answer,) = other.plaintexts(0.1)
        self.assertEqual(answer, have((0, 3000)))
        self.assertEqual(one.plaintexts(0.1), [])
        one.receive(answer)
        self.assertTrue(one.acknowledged)
        self.assertIsNone(one.due_at)
        self.assertEqual((one.plaintexts(9.0), other.plaintexts(9.0)), ([], []))

    def test_only_what_is_missing_is_sent_again_later_and_later(self) -> None:
        exchange = CryptoExchange()
        exchange.write(b"a" * CHUNK + b"b" * CHUNK + b"c" * 10)
        self.assertEqual(len(exchange.plaintexts(5.0)), 3)
        exchange.receive(have((0, CHUNK), (2 * CHUNK, 2 * CHUNK + 5)))
        again = [crypto(CHUNK, b"b" * CHUNK), crypto(2 * CHUNK + 5, b"c" * 5)]
        now, waits = 5.0, []
        for _ in range(8):
            assert exchange.due_at is not None
            self.assertEqual(exchange.plaintexts(exchange.due_at - 0.001), [])
            waits.append(round(exchange.due_at - now, 3))
            now = exchange.due_at
            self.assertEqual(exchange.plaintexts(now), again)
        self.assertEqual(waits, [0.3, 0.45, 0.675, 1.013, 1.519, 2.0, 2.0, 2.0])

    def test_a_retry_sends_everything_again(self) -> None:
        exchange = CryptoExchange()
        exchange.write(b"hello")
        first = exchange.plaintexts(0.0)
        exchange.restart(0.2)
        self.assertEqual(exchange.plaintexts(0.2), first)
        self.assertAlmostEqual(exchange.due_at or 0.0, 0.6)
        exchange.restart(0.0)
        exchange.plaintexts(1.0)
        self.assertAlmostEqual(exchange.due_at or 0.0, 1.05)

    def test_a_retry_after_an_acknowledgement_sends_the_rest(self) -> None:
        """No honest server does that."""
        for acknowledged, rest in ((3, [crypto(3, b"lo")]), (5, [])):
            exchange = CryptoExchange()
            exchange.write(b"hello")
            exchange.plaintexts(0.0)
            exchange.receive(have((0, acknowledged)))
            exchange.restart(0.2)
            exchange.receive(have((0, 5)) if not rest else b"")
            self.assertEqual(exchange.plaintexts(0.2), rest)

    def test_what_is_known_is_acknowledged_again(self) -> None:
        exchange = CryptoExchange()
        for _ in range(3):
            exchange.receive(crypto(0, b"hello"))
            self.assertEqual(exchange.plaintexts(0.0), [have((0, 5))])
        self.assertEqual(exchange.receive(crypto(3, b"lo there")), b" there")
        self.assertEqual(exchange.plaintexts(0.0), [have((0, 11))])
        self.assertEqual(exchange.plaintexts(0.0), [])

    def test_nothing_to_say(self) -> None:
        exchange = CryptoExchange()
        exchange.write(b"")
        self.assertEqual(exchange.receive(b""), b"")
        self.assertEqual(exchange.receive(bytes(1000)), b"")
        self.assertEqual(exchange.receive(crypto(7, b"")), b"")
        self.assertEqual(exchange.plaintexts(0.0), [])
        self.assertTrue(exchange.acknowledged)

    def test_every_datagram_fits_the_smallest_path(self) -> None:
        exchange = CryptoExchange()
        exchange.write(bytes(5000))
        for offset in range(1, 200, 2):
            exchange.receive(crypto(offset, b"x"))
        plaintexts = exchange.plaintexts(0.0)
        self.assertIn(have(*((n, n + 1) for n in range(1, 17, 2))), plaintexts[0])
        largest = max(map(len, plaintexts))
        self.assertLessEqual(largest + initial_overhead(bytes(TOKEN_SIZE)), MIN_DATAGRAM)


class AlertTests(TestCase):
    def alert(self, plaintext: bytes) -> str | None:
        exchange = CryptoExchange()
        exchange.receive(plaintext)
        return exchange.alert

    def test_texts(self) -> None:
        for text, heard in [
            ("", ""),
            ("not today", "not today"),
            ("naïve", "naïve"),
            ("two\nlines\x1b[0m", "two?lines?[0m"),
            ("x" * 300, "x" * 256),
            ("x" * 255 + "é", "x" * 255 + "\ufffd"),
            ("\udc80", "?"),
        ]:
            with self.subTest(text):
                self.assertEqual(self.alert(alert_plaintext(text)), heard)
                self.assertEqual(self.alert(alert_plaintext(text) + bytes(100)), heard)

    def test_none(self) -> None:
        self.assertIsNone(self.alert(crypto(0, b"hello")))

    def test_short_ones(self) -> None:
        whole = alert_plaintext("not today")
        for size in range(1, len(whole)):
            with self.assertRaises(WireError):
                self.alert(whole[:size])

    def test_long_ones(self) -> None:
        with self.assertRaisesRegex(WireError, "at most 256"):
            self.alert(b"\x13\0\0\x01\x01" + b"x" * 257)

    def test_what_strangers_are_answered_is_less_than_they_send(self) -> None:
        """RFC 9000 section 8.1 allows three times as much; a stranger sends 1200 bytes at least."""
        retry = retry_datagram(1, 2, bytes(TOKEN_SIZE))
        alert = len(alert_plaintext("x" * 1000)) + initial_overhead(b"")
        self.assertLess(len(retry), 100)
        self.assertLess(alert, 320)


class HostileTests(TestCase):
    @untimed
    @given(st.lists(st.binary(max_size=100), max_size=5))
    def test_any_bytes(self, plaintexts: list[bytes]) -> None:
        exchange = CryptoExchange()
        exchange.write(bytes(2000))
        exchange.plaintexts(0.0)
        for plaintext in plaintexts:
            try:
                exchange.receive(plaintext)
            except (WireError, ProtocolViolation):
                return
            exchange.plaintexts(9.0)

    @untimed
    @given(st.data())
    def test_any_acknowledgements(self, data: st.DataObject) -> None:
        exchange = CryptoExchange()
        exchange.write(bytes(3000))
        exchange.write(bytes(100))
        exchange.plaintexts(0.0)
        bounds = st.integers(0, 3101)
        for _ in range(data.draw(st.integers(0, 6))):
            low, high = data.draw(bounds), data.draw(bounds)
            step = data.draw(st.sampled_from(("have", "time", "write", "restart")))
            if step == "time":
                exchange.plaintexts(exchange.due_at or 0.0)
            elif step == "restart":
                exchange.restart(0.0)
            elif step == "write":
                exchange.write(bytes(high % 100))
            elif low <= high <= 3100:
                exchange.receive(have((low, high)))
            else:
                with self.assertRaises(ProtocolViolation):
                    exchange.receive(have((low, max(high, 3101 if low <= high else 0))))
                return

    def test_what_was_never_sent(self) -> None:
        for ranges in ([(0, 6)], [(3, 2)], [(0, 5), (6, 6)], [(1 << 31, 1 << 32 - 1)]):
            exchange = CryptoExchange()
            exchange.write(b"hello")
            exchange.plaintexts(0.0)
            with self.subTest(ranges), self.assertRaises(ProtocolViolation):
                exchange.receive(have(*ranges))

    def test_frames_that_end_too_soon(self) -> None:
        for frame in (crypto(0, b"hello"), have((0, 0), (0, 0))):
            for size in range(1, len(frame)):
                with self.assertRaises(WireError):
                    CryptoExchange().receive(frame[:size])

    def test_too_much(self) -> None:
        for frame in (
            crypto(MAX_HANDSHAKE, b"x"),
            crypto(MAX_HANDSHAKE - 1, b"xy"),
            crypto(0xFFFFFFFF, b""),
        ):
            with self.assertRaisesRegex(ProtocolViolation, "too long"):
                CryptoExchange().receive(frame)

    def test_tiny_fragments(self) -> None:
        exchange = CryptoExchange()
        tracemalloc.start()
        try:
            with self.assertRaisesRegex(ProtocolViolation, "too many pieces"):
                for offset in range(1, MAX_HANDSHAKE, 2):
                    exchange.receive(crypto(offset, b"x") + bytes(60000))
            self.assertLess(tracemalloc.get_traced_memory()[0], 4 * MAX_HANDSHAKE)
        finally:
            tracemalloc.stop()

    def test_many_empty_or_known_fragments_in_one_datagram(self) -> None:
        exchange = CryptoExchange()
        exchange.receive(b"".join(crypto(offset, b"") for offset in range(9000)))
        exchange.receive(crypto(5, b"x") * 8000)
        self.assertEqual((len(exchange._ranges), exchange._kept < 1000), (1, True))
