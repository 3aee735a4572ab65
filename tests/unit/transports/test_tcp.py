"""Tests for jetstreamproto.transports.tcp: one link at a time, or two joined by hand.

Whole sessions are in tests/scenarios.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IPullProducer
from zope.interface.verify import verifyObject

from jetstreamproto.errors import (
    ConfigurationError,
    HandshakeError,
    JetStreamError,
    NotJetStream,
    ProtocolViolation,
    Refused,
    SessionCut,
    WireError,
    WrongFingerprint,
)
from jetstreamproto.security.handshake import Role, TlsContext
from jetstreamproto.security.records import (
    MAX_BODY,
    MAX_PLAIN_BODY,
    RecordLimits,
    RecordSealer,
    RecordType,
    parse_header,
    plain_record,
)
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.transports.tcp import TcpLink
from tests.certificates import self_signed
from tests.unit.security.test_records import seal, split
from tests.unit.transports.tcp_ends import (
    SERVERS,
    End,
    carry,
    client,
    linked,
    server,
)

untimed = settings(deadline=None, derandomize=True, database=None)

CLIENT_HELLO = bytes.fromhex("16030102000100") + bytes(512)  # of TLS on its own, not in records


class HandshakeTests(TestCase):
    def test_it_is_a_pull_producer(self) -> None:
        verifyObject(IPullProducer, server().link)

    def test_ready_once_on_both_sides(self) -> None:
        for chop in (1 << 20, 1):
            one, other = client(), server()
            carry(one, other, chop)
            self.assertEqual((one.user.ready, other.user.ready), (1, 1))
            self.assertEqual((one.user.lost, other.user.lost), ([], []))
            self.assertTrue(one.link.writable and other.link.writable)

    def test_the_peers_address(self) -> None:
        for address, text in (
            (IPv4Address("TCP", "192.0.2.1", 9000), "192.0.2.1:9000"),
            (IPv6Address("TCP", "2001:db8::1", 9000), "[2001:db8::1]:9000"),
            (UNIXAddress("/run/socket"), "/run/socket"),
        ):
            self.assertIn(text, End(SERVERS, peer=address).link.peer.address)

    def test_nothing_of_tls_is_kept(self) -> None:
        one, other = linked()
        for end in (one, other):
            held = [getattr(end.link, name, None) for name in TcpLink.__slots__]
            self.assertNotIn(end.handshake, held)

    def test_both_refuse_when_the_server_is_not_trusted(self) -> None:
        one = End(TlsContext(Role.CLIENT, trust=PinnedKeys([self_signed().fingerprint])))
        other = server()
        carry(one, other)
        self.assertTrue(one.transport.closed and other.transport.closed)
        self.assertIsInstance(one.lose(), WrongFingerprint)
        reason = other.lose()
        self.assertIsInstance(reason, HandshakeError)
        self.assertIn("refused our certificate", str(reason))
        self.assertEqual((one.user.ready, other.user.ready), (0, 0))

    def test_a_trust_file_that_cannot_be_read(self) -> None:
        class Broken:
            ca_file = None

            def check(self, certificate: object, now: object) -> None:
                raise ConfigurationError("known_hosts: line 3 makes no sense")

            def proved(self, certificate: object) -> None: ...

        one, other = End(TlsContext(Role.CLIENT, trust=Broken())), server()
        carry(one, other)
        reason = one.lose()
        self.assertIsInstance(reason, ConfigurationError)
        self.assertIn("line 3", str(reason))
        self.assertIsInstance(other.lose(), HandshakeError)

    def test_a_connection_that_goes(self) -> None:
        reason = server().lose()
        self.assertIsInstance(reason, HandshakeError)
        self.assertIn("during the handshake", str(reason))

    def test_close_and_abort_before_there_are_keys(self) -> None:
        for name in ("close", "abort"):
            end = client()
            getattr(end.link, name)()
            self.assertTrue(end.transport.aborted)
            self.assertIsInstance(end.lose(), SessionCut)

    def test_a_reason_with_control_characters(self) -> None:
        one = client()
        one.link.data_received(
            plain_record(RecordType.ALERT, b"\0\0no\x1b[2J\x07\xff\xe2\x80\xae!")
        )
        text = str(one.lose())
        self.assertTrue(text.isprintable())
        self.assertIn("no?[2J?", text)

    def test_alerts_of_every_size(self) -> None:
        for body in (b"", b"\0", b"\0\0", b"\0\0x", bytes(MAX_PLAIN_BODY)):
            for end in (client(), server()):
                end.link.data_received(plain_record(RecordType.ALERT, body))
                reason = end.lose()
                self.assertIsInstance(reason, Refused)
                self.assertLess(len(str(reason)), 400)

    def test_an_empty_crypto_record(self) -> None:
        one, other = client(), server()
        for end in (one, other):
            end.link.data_received(plain_record(RecordType.CRYPTO, b""))
        carry(one, other)
        self.assertEqual((one.user.ready, other.user.ready), (1, 1))


class StrangerTests(TestCase):
    def meet(self, data: bytes, chop: int = 1 << 20, end: End | None = None) -> End:
        end = end or server()
        end.transport.take()
        for start in range(0, len(data), chop):
            end.link.data_received(data[start : start + chop])
        return end

    def test_everyone_is_named_and_answered(self) -> None:
        for data, name, reply in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP", b"HTTP/1.1 400 "),
            (b"POST /upload HTTP/1.1\r\n", "HTTP", b"HTTP/1.1 400 "),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP", b"HTTP/1.1 400 "),
            (CLIENT_HELLO, "plain TLS", b"\x15\x03\x03\0\2\2\x46"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH", b""),
            (b"\x00\x00\x00\x85\xffSMB", "something unknown", b""),
            (b"EHLO example\r\n", "something unknown", b""),
        ):
            for chop in (1 << 20, 1):
                end = self.meet(data, chop)
                with self.subTest(data[:10], chop=chop):
                    self.assertTrue(end.transport.closed)
                    self.assertTrue(bytes(end.transport.written).startswith(reply))
                    self.assertEqual(bool(end.transport.written), bool(reply))
                    reason = end.lose()
                    self.assertIsInstance(reason, NotJetStream)
                    self.assertIn(name, str(reason))

    def test_a_client_that_meets_other_servers(self) -> None:
        for data, name in (
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "SSH"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "plain TLS"),
            (b"220 mail ESMTP\r\n", "something unknown"),
        ):
            end = self.meet(data, 1, client())
            self.assertEqual(end.transport.take(), b"", "no answer to an answer")
            reason = end.lose()
            self.assertIsInstance(reason, NotJetStream)
            self.assertIn(name, str(reason))

    def test_garbage_after_a_good_start_is_not_a_stranger(self) -> None:
        one, other = client(), server()
        other.link.data_received(one.transport.take())
        other.link.data_received(b"GET / HTTP/1.1\r\n")
        self.assertNotIn(b"HTTP", other.transport.take())
        self.assertIsInstance(other.lose(), WireError)

    @untimed
    @given(st.binary(max_size=300), st.integers(1, 50))
    def test_any_bytes_at_first(self, data: bytes, chop: int) -> None:
        """Nothing is raised; there is either an end with a reason or more to wait for."""
        for end in (server(), client()):
            self.meet(data, chop, end)
            self.assertEqual(end.user.ready, 0)
            self.assertIsInstance(end.lose(), JetStreamError)

    @untimed
    @given(
        st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=60)), max_size=8),
        st.integers(1, 50),
    )
    def test_any_records_at_first(self, records: list[tuple[int, bytes]], chop: int) -> None:
        data = b"".join(
            bytes([kind]) + len(body).to_bytes(3, "big") + body for kind, body in records
        )
        for end in (server(), client()):
            self.meet(data, chop, end)
            self.assertEqual(end.user.ready, 0)
            self.assertIsInstance(end.lose(), JetStreamError)

    @untimed
    @given(st.binary(min_size=4, max_size=100), st.integers(1, 50))
    def test_any_bytes_in_a_session(self, data: bytes, chop: int) -> None:
        one, other = self.pair()
        for end in (one, other):
            self.meet(data + bytes(MAX_BODY + 4), chop if chop > 20 else 1 << 14, end)
            self.assertTrue(end.transport.closed)
            self.assertEqual(end.user.packets, [])
            self.assertIsInstance(end.lose(), JetStreamError)

    def pair(self) -> tuple[End, End]:
        return linked()


class LimitTests(TestCase):
    """What is refused before it is received, and what is held until then."""

    def test_long_records_are_refused_by_their_header(self) -> None:
        for kind, length in (
            (RecordType.CRYPTO, MAX_PLAIN_BODY + 1),
            (RecordType.ALERT, MAX_PLAIN_BODY + 1),
            (RecordType.PACKETS, MAX_BODY + 1),
            (RecordType.PACKETS, (1 << 24) - 1),
            (RecordType.END, MAX_BODY),
            (RecordType.REKEY, MAX_BODY),
            (RecordType.PACKETS, 15),
        ):
            for end in (*linked(), client(), server()):
                end.link.data_received(bytes([kind]) + length.to_bytes(3, "big"))
                self.assertTrue(end.transport.closed, (kind, length))
                self.assertIsInstance(end.lose(), JetStreamError)

    def test_sealed_records_before_there_are_keys(self) -> None:
        for kind in (RecordType.PACKETS, RecordType.REKEY, RecordType.END):
            for end in (client(), server()):
                end.link.data_received(bytes([kind]) + (16).to_bytes(3, "big"))
                self.assertTrue(end.transport.closed, "their bodies are not waited for")
                reason = end.lose()
                self.assertIsInstance(reason, ProtocolViolation)
                self.assertIn("before the handshake", str(reason))

    def test_a_connection_without_keys_holds_little(self) -> None:
        """One record, however it is chopped, and no more TLS than a handshake needs."""
        generator = random.Random(1)
        record = plain_record(RecordType.CRYPTO, bytes(MAX_PLAIN_BODY))
        for chop in (1, 7, 1000):
            end = server()
            tracemalloc.start()
            try:
                for start in range(0, len(record) - 1, chop):
                    end.link.data_received(record[start : min(start + chop, len(record) - 1)])
                held = tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()
            self.assertLess(held, 2 << 20)
            self.assertFalse(end.transport.closed)
        end, total = server(), 0
        while not end.transport.closed:
            body = b"\x16\x03\x03\x40\x00" + generator.randbytes(1 << 10)
            end.link.data_received(plain_record(RecordType.CRYPTO, body))
            total += len(body)
        self.assertLessEqual(total, (1 << 16) + 2000)

    def test_tls_after_the_handshake_is_bounded(self) -> None:
        for end in linked():
            sent = 0
            while not end.transport.closed:
                end.link.data_received(plain_record(RecordType.CRYPTO, bytes(1000)))
                sent += 1000
            self.assertLessEqual(sent, 1 << 16)
            reason = end.lose()
            self.assertIsInstance(reason, ProtocolViolation)
            self.assertIn("handshake is too long", str(reason))

    def test_a_server_sends_no_tickets(self) -> None:
        one, other = client(), server()
        other.link.data_received(one.transport.take())
        one.link.data_received(other.transport.take())
        other.link.data_received(one.transport.take())
        self.assertTrue(other.handshake.complete)
        self.assertEqual(other.transport.take(), b"")
        self.assertNotEqual(other.handshake.outgoing(), b"")  # OpenSSL has made some
        self.exchange(one, other)

    def test_a_few_tickets_are_nothing(self) -> None:
        one, other = linked()
        one.link.data_received(plain_record(RecordType.CRYPTO, bytes(1000)))
        self.exchange(one, other)

    def exchange(self, one: End, other: End) -> None:
        for sender, receiver in ((one, other), (other, one)):
            sender.send(b"still here")
            sender.link.flush()
            carry(one, other)
            self.assertEqual(receiver.payloads[-1], b"still here")

    def test_an_alert_inside_the_session(self) -> None:
        for end in linked():
            end.link.data_received(plain_record(RecordType.ALERT, b"\0\0go away"))
            reason = end.lose()
            self.assertIsInstance(reason, ProtocolViolation)
            self.assertIn("unsealed alert", str(reason))

    def test_batches_are_cut_into_records(self) -> None:
        one, other = linked()
        payloads = [random.Random(size).randbytes(size) for size in (0, 1, 60000, 1 << 16, 9)] * 3
        for payload in payloads:
            one.send(payload)
        one.link.flush()
        self.check_arrival(one, other, payloads)

    def test_batches_that_grew_while_the_link_was_blocked(self) -> None:
        """A session may hand over its own packets without asking for room before each."""
        for sizes in ([1 << 16] * 12, [200] * 3000, [0] * 8000, [1 << 16, 0] * 6):
            one, other = linked()
            one.send(b"first")
            one.link.flush()  # the transport holds it: it has not said that it has left
            self.assertFalse(one.link.writable)
            payloads = [b"first", *(bytes([n % 256]) * size for n, size in enumerate(sizes))]
            for payload in payloads[1:]:
                one.send(payload)
            one.link.flush()
            self.check_arrival(one, other, payloads)

    def check_arrival(self, one: End, other: End, payloads: list[bytes]) -> None:
        stream = b""
        while data := one.transport.take():
            stream += data
        for record in split(stream):
            self.assertLessEqual(parse_header(record, 0)[1], MAX_BODY)
        other.link.data_received(stream)
        self.assertEqual(other.user.lost, [])
        self.assertFalse(other.transport.closed)
        self.assertEqual(other.payloads, payloads)

    def test_nothing_is_written_to_a_link_that_is_closing(self) -> None:
        one, _ = linked()
        one.link.fail(ProtocolViolation("enough"))
        one.transport.take()
        one.send(b"more")
        one.link.flush()
        self.assertEqual(one.transport.take(), b"")


class SealedTests(TestCase):
    @untimed
    @given(st.integers(0, 10_000), st.sampled_from((1, 2, 3, 4, 5, 20, 1000)))
    def test_chopped_at_any_size(self, seed: int, chop: int) -> None:
        generator = random.Random(seed)
        one, other = linked(RecordLimits(records=3, hard_records=3))
        payloads = [generator.randbytes(generator.choice((0, 1, 10, 500))) for _ in range(10)]
        for payload in payloads:
            one.send(payload)
            if generator.random() < 0.5:
                one.link.flush()
        one.link.flush()
        carry(one, other, chop)
        self.assertEqual(other.payloads, payloads)

    def test_a_damaged_record(self) -> None:
        for place in range(24):
            one, other = linked()
            one.send(b"payload")
            one.link.flush()
            data = bytearray(one.transport.take())
            data[place] ^= 1
            other.link.data_received(bytes(data) + bytes(70_000))
            self.assertEqual(other.payloads, [])
            self.assertTrue(other.transport.closed)
            self.assertIsInstance(other.lose(), JetStreamError)

    def test_a_record_dropped_repeated_or_moved(self) -> None:
        for arrange in (
            lambda records: records[1:],
            lambda records: [records[0], *records],
            lambda records: records[::-1],
        ):
            one, other = linked()
            records = []
            for payload in (b"first", b"second", b"third"):
                one.send(payload)
                one.link.flush()
                records.append(one.transport.take())
            other.link.data_received(b"".join(arrange(records)))
            self.assertLessEqual(len(other.payloads), 1)
            reason = other.lose()
            self.assertIsInstance(reason, ProtocolViolation)
            self.assertIn("does not open", str(reason))

    def test_packets_that_make_no_sense(self) -> None:
        """Sealed by a peer that has the keys, so nothing but the packets is wrong."""
        for plaintext in (b"x", b"\xff" * 50, (8).to_bytes(4, "little") + bytes(8)):
            one, other = client(), server()
            carry(one, other)
            keys, _ = one.handshake.traffic_keys(b"tcp")
            other.link.data_received(seal(RecordSealer(keys), plaintext))
            self.assertTrue(other.transport.closed)
            self.assertIsInstance(other.lose(), WireError)

    def test_a_peer_that_does_not_rekey(self) -> None:
        one, other = client(), server(RecordLimits(records=2, hard_records=4))
        carry(one, other)
        for number in range(5):
            self.assertFalse(other.transport.closed, number)
            one.send(b"x")
            one.link.flush()
            carry(one, other)
        reason = other.lose()
        self.assertIsInstance(reason, ProtocolViolation)
        self.assertIn("too many records", str(reason))

    def test_links_that_feed_each_other(self) -> None:
        """A user that passes packets on to another link at once, as a proxy in memory would."""
        one, other = linked(RecordLimits(records=2, hard_records=4))
        third, fourth = linked(RecordLimits(records=2, hard_records=4))

        def pass_on() -> None:
            third.send(other.payloads[-1])
            third.link.flush()
            data = third.transport.take()
            third.link.close()
            fourth.link.data_received(data + third.transport.take())

        other.user.on_packets = pass_on
        one.send(b"payload")
        one.send(b"payload again")
        one.link.flush()
        other.link.data_received(one.transport.take())
        self.assertEqual(fourth.payloads, [b"payload again"])
        self.assertEqual(fourth.user.ended, 1)
        self.assertEqual(other.payloads, [b"payload", b"payload again"])

    def test_statistics_count_the_wire(self) -> None:
        one, other = client(), server()
        total = [0, 0]
        for _ in range(4):
            for index, (sender, receiver) in enumerate(((one, other), (other, one))):
                data = sender.transport.take()
                total[index] += len(data)
                receiver.link.data_received(data)
        self.assertEqual(one.link.stats.bytes_sent, total[0])
        self.assertEqual(other.link.stats.bytes_received, total[0])
        self.assertEqual(other.link.stats.bytes_sent, total[1])


class SegmentTests(TestCase):
    """What a turn sends leaves in whole segments, as far as it fills them."""

    def held(self, *sizes: int) -> list[str]:
        """What the kernel is told while a turn sends packets of these sizes."""
        said: list[str] = []

        class Limit:
            hold = staticmethod(lambda: said.append("hold"))
            release = staticmethod(lambda: said.append("release"))
            blocked = drained = staticmethod(lambda: None)

        one, _ = linked()
        one.link._unsent = Limit()  # type: ignore[assignment]
        for size in sizes:
            one.send(bytes(size))
        said.append("end of turn")
        one.link.flush()
        return said

    def test_a_turn_of_more_than_a_record(self) -> None:
        self.assertEqual(self.held(*[1 << 16] * 4), ["hold", "end of turn", "release"])

    def test_a_turn_of_little(self) -> None:
        self.assertEqual(self.held(100, 100), ["end of turn", "release"])


class TurnTests(TestCase):
    """What is sent while something arrives leaves when all that has arrived was looked at."""

    def setUp(self) -> None:
        self.one, self.other = linked()

    def records_after(self, *answers: Callable[[], None]) -> list[int]:
        """The types of the records that answer one turn, in which each answer had its record."""
        arrived = b""
        for _ in answers:
            self.one.send(b"a question")
            self.one.link.flush()
            arrived += self.one.transport.take()
        rest = iter(answers)
        self.other.user.on_packets = lambda: next(rest)()
        self.other.link.data_received(arrived)
        written = self.other.transport.take()
        self.one.link.data_received(written)
        return [record[0] for record in split(written)]

    def answer(self, payload: bytes) -> None:
        self.other.send(payload)
        self.other.link.flush()

    def test_a_few_packets_share_a_record(self) -> None:
        records = self.records_after(lambda: self.answer(b"one"), lambda: self.answer(b"two"))
        self.assertEqual(records, [RecordType.PACKETS])
        self.assertEqual(self.one.payloads, [b"one", b"two"])

    def test_the_end_follows_them(self) -> None:
        records = self.records_after(lambda: self.answer(b"one"), self.other.link.close)
        self.assertEqual(records, [RecordType.PACKETS, RecordType.END])
        self.assertEqual((self.one.payloads, self.one.user.ended), ([b"one"], 1))

    def test_so_does_the_close_after_a_fault(self) -> None:
        def fault() -> None:
            self.other.link.fail(ProtocolViolation("the peer was wrong"))

        records = self.records_after(lambda: self.answer(b"one"), fault)
        self.assertEqual(records, [RecordType.PACKETS])
        self.assertEqual(self.one.payloads, [b"one"])
        self.assertTrue(self.other.transport.disconnecting)

    def test_many_bytes_do_not_wait(self) -> None:
        written: list[int] = []

        def large() -> None:
            self.answer(bytes(5000))
            written.append(len(self.other.transport.written))

        self.assertEqual(self.records_after(large), [RecordType.PACKETS])
        self.assertGreater(written[0], 5000)

    def test_what_was_not_sent_when_the_link_is_dropped_is_forgotten(self) -> None:
        self.assertEqual(self.records_after(lambda: self.answer(b"1"), self.other.link.abort), [])
        self.assertTrue(self.other.transport.aborted)


class EndTests(TestCase):
    def test_both_end(self) -> None:
        one, other = linked()
        one.link.close()
        carry(one, other)
        self.assertEqual((one.user.ended, other.user.ended), (0, 1))
        self.assertFalse(one.transport.closed or other.transport.closed)
        other.link.close()
        carry(one, other)
        self.assertTrue(one.transport.disconnecting and other.transport.disconnecting)
        self.assertFalse(one.transport.aborted or other.transport.aborted)
        self.assertEqual((one.lose(), other.lose()), (None, None))

    def test_what_was_taken_goes_before_the_end(self) -> None:
        one, other = linked()
        one.send(b"before")
        one.link.flush()
        one.send(b"waits for the transport")
        one.link.close()
        carry(one, other)
        self.assertEqual(other.payloads, [b"before", b"waits for the transport"])
        self.assertEqual(other.user.ended, 1)

    def test_a_missing_end_is_a_cut(self) -> None:
        one, other = linked()
        self.assertIsInstance(one.lose(), SessionCut)
        other.link.close()
        self.assertIsInstance(other.lose(), SessionCut, "our end alone is not both")

    def test_an_end_without_ours_is_a_cut(self) -> None:
        one, other = linked()
        one.link.close()
        carry(one, other)
        self.assertIsInstance(other.lose(), SessionCut)

    def test_records_after_the_end(self) -> None:
        one, other = client(), server()
        carry(one, other)
        keys, _ = one.handshake.traffic_keys(b"tcp")
        sealer = RecordSealer(keys)
        for kind in (RecordType.PACKETS, RecordType.END, RecordType.REKEY):
            other = server()
            one = client()
            carry(one, other)
            sealer = RecordSealer(one.handshake.traffic_keys(b"tcp")[0])
            other.link.data_received(seal(sealer, b"", RecordType.END))
            self.assertEqual(other.user.ended, 1)
            other.link.data_received(seal(sealer, b"", kind))
            self.assertEqual((other.user.ended, other.user.packets), (1, []))
            reason = other.lose()
            self.assertIsInstance(reason, ProtocolViolation)
            self.assertIn("after the peer's end", str(reason))

    def test_a_forged_end(self) -> None:
        one, other = linked()
        other.link.data_received(b"\x05\0\0\x10" + bytes(16))
        self.assertEqual(other.user.ended, 0)
        self.assertIsInstance(other.lose(), ProtocolViolation)
        self.assertIsInstance(one.lose(), SessionCut)

    def test_nothing_is_read_after_the_close(self) -> None:
        one, other = linked()
        one.send(b"late")
        one.link.flush()
        other.link.fail(ProtocolViolation("enough"))
        received = other.link.stats.bytes_received
        other.link.data_received(one.transport.take())
        self.assertEqual(other.payloads, [])
        self.assertEqual(other.link.stats.bytes_received, received)

    def test_abort_after_fail(self) -> None:
        """A peer that does not read must not keep the connection: its last record never leaves."""
        for failure in (None, ProtocolViolation("enough")):
            one, _ = linked()
            one.send(b"stuck")
            one.link.flush()
            one.link.fail(failure)
            self.assertFalse(one.transport.aborted)
            one.link.abort()
            self.assertTrue(one.transport.aborted)
            self.assertIs(one.lose(), failure)

    def test_close_and_abort_in_any_order_and_often(self) -> None:
        generator = random.Random(3)
        for _ in range(300):
            one, other = linked()
            names = [generator.choice(("close", "abort", "fail", "lose")) for _ in range(5)]
            for name in names:
                end = generator.choice((one, other))
                if name == "fail":
                    end.link.fail(generator.choice((None, ProtocolViolation("x"))))
                elif name != "lose":
                    getattr(end.link, name)()
                elif not end.user.lost:
                    end.lose()
                if generator.random() < 0.5 and not (one.user.lost or other.user.lost):
                    carry(one, other)
            for end in (one, other):
                if not end.user.lost:
                    end.lose()
                end.link.close()
                end.link.abort()
                end.link.fail(None)
                end.link.data_received(b"late")
                end.link.flush()
                self.assertEqual(len(end.user.lost), 1, names)

    def test_an_idle_link_is_no_producer(self) -> None:
        """Twisted's TLS asks a pull producer for more in every turn of the reactor."""
        one, other = linked()
        self.assertIsNone(one.transport.producer)
        one.send(b"payload")
        one.link.flush()
        self.assertIsNotNone(one.transport.producer)
        carry(one, other)
        self.assertIsNone(one.transport.producer)
        one.link.fail(None)
        self.assertIsNone(one.transport.producer)

    def test_a_transport_that_somebody_else_closes(self) -> None:
        """`transport.loseConnection()` waits for its producer, which has to let go of it."""
        one, _ = linked()
        one.send(b"payload")
        one.link.flush()
        one.transport.loseConnection()
        one.transport.take()
        self.assertIsNone(one.transport.producer)
        reason = one.lose()
        self.assertIsInstance(reason, SessionCut)
        self.assertIn("this side", str(reason))
