from __future__ import annotations

import ipaddress
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.services.tunnel.model import TunnelCode, read_host
from jetstreamproto.services.tunnel.socks5 import (
    SocksConversation,
    SocksError,
    SocksReply,
    SocksTarget,
    encode_reply,
    reply_for,
)
from jetstreamproto.session.codes import ResetCode

GREETING, CHOSEN = b"\x05\x01\x00", b"\x05\x00"
IPV4 = b"\x05\x01\x00\x01\x7f\x00\x00\x01\x1f\x90"
NAME = b"\x05\x01\x00\x03\x0bexample.org\x01\xbb"
IPV6 = b"\x05\x01\x00\x04" + ipaddress.ip_address("2001:db8::1").packed + b"\x00\x50"


def converse(*pieces: bytes) -> tuple[bytes, SocksTarget | None]:
    """What is answered to all of these, and the target."""
    conversation, answers, target = SocksConversation(), b"", None
    for piece in pieces:
        assert target is None
        answer, target = conversation.receive(piece)
        answers += answer
    return answers, target


class SocksTests(unittest.TestCase):
    def test_targets_of_each_kind(self) -> None:
        for request, target in (
            (IPV4, SocksTarget("127.0.0.1", 8080, b"")),
            (NAME, SocksTarget("example.org", 443, b"")),
            (IPV6, SocksTarget("2001:db8::1", 80, b"")),
        ):
            self.assertEqual(converse(GREETING, request), (CHOSEN, target))
            pieces = [bytes([byte]) for byte in GREETING + request]
            self.assertEqual(converse(*pieces), (CHOSEN, target))

    def test_what_follows_the_request_is_kept(self) -> None:
        answers, target = converse(GREETING + IPV4 + b"GET / HTTP/1.1\r\n")
        self.assertEqual(answers, CHOSEN)
        assert target is not None
        self.assertEqual(target.rest, b"GET / HTTP/1.1\r\n")

    def test_other_methods_may_be_offered_too(self) -> None:
        self.assertEqual(converse(b"\x05\x03\x02\x01\x00"), (CHOSEN, None))

    def refused(self, answer: bytes, *pieces: bytes) -> None:
        with self.assertRaises(SocksError) as caught:
            converse(*pieces)
        self.assertEqual(caught.exception.answer, answer)

    def test_authentication_is_not_done_here(self) -> None:
        for greeting in (b"\x05\x01\x02", b"\x05\x00", b"\x05\x02\x01\x02"):
            self.refused(b"\x05\xff", greeting)

    def test_other_protocols_are_told_nothing(self) -> None:
        for start in (b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", b"GET / HTTP/1.1\r\n", b"\x00"):
            self.refused(b"", start)
        self.refused(b"", GREETING, b"\x04\x01\x00\x01")

    def test_other_commands_and_addresses(self) -> None:
        for command in (2, 3, 0, 9):
            request = bytes((5, command)) + IPV4[2:]
            self.refused(encode_reply(SocksReply.COMMAND_NOT_SUPPORTED), GREETING, request)
        for kind in (0, 2, 5, 255):
            request = IPV4[:3] + bytes((kind,)) + IPV4[4:]
            self.refused(encode_reply(SocksReply.ADDRESS_NOT_SUPPORTED), GREETING, request)

    def test_names_that_are_none_and_port_0(self) -> None:
        failure = encode_reply(SocksReply.GENERAL_FAILURE)
        for name in (b"", b"a b", b"a\x00b", b"\xff", b"127.1", b"-a", b"x" * 255):
            request = b"\x05\x01\x00\x03" + bytes((len(name),)) + name + b"\x00\x50"
            self.refused(failure, GREETING, request)
        self.refused(failure, GREETING, IPV4[:-2] + bytes(2))

    def test_a_refusal_follows_the_choice_of_method(self) -> None:
        bind = bytes((5, 2)) + IPV4[2:]
        self.refused(CHOSEN + encode_reply(SocksReply.COMMAND_NOT_SUPPORTED), GREETING + bind)

    def test_replies_by_the_letter(self) -> None:
        self.assertEqual(
            encode_reply(SocksReply.SUCCEEDED, "1.2.3.4", 258),
            b"\x05\x00\x00\x01\x01\x02\x03\x04\x01\x02",
        )
        self.assertEqual(encode_reply(SocksReply.SUCCEEDED, "::1", 1)[:4], b"\x05\x00\x00\x04")
        self.assertEqual(encode_reply(SocksReply.SUCCEEDED, "nonsense", 1)[:4], b"\x05\x00\x00\x01")

    def test_codes(self) -> None:
        for code, reply in {
            TunnelCode.CONNECTION_REFUSED: 5,
            TunnelCode.HOST_UNREACHABLE: 4,
            TunnelCode.NETWORK_UNREACHABLE: 3,
            TunnelCode.NAME_NOT_FOUND: 4,
            TunnelCode.CANNOT_CONNECT: 1,
            ResetCode.NOT_ALLOWED: 2,
            ResetCode.TIMED_OUT: 6,
            0: 1,
            999: 1,
        }.items():
            self.assertEqual(reply_for(code), reply)

    @given(st.lists(st.binary(max_size=300), max_size=5))
    def test_any_bytes_are_taken_or_refused(self, pieces: list[bytes]) -> None:
        conversation = SocksConversation()
        for piece in pieces:
            try:
                _, target = conversation.receive(piece)
            except SocksError as error:
                self.assertLessEqual(len(error.answer), 12)
                return
            if target is not None:
                self.assertEqual(read_host(target.host), target.host)
                self.assertIn(target.port, range(1, 65536))
                return
            self.assertLess(len(conversation._buffer), 520)

    @given(st.data())
    def test_it_does_not_matter_how_it_is_cut(self, data: st.DataObject) -> None:
        body = data.draw(st.sampled_from([IPV4, NAME, IPV6]))
        rest = data.draw(st.binary(max_size=20))
        whole = GREETING + body + rest
        cuts = sorted(data.draw(st.sets(st.integers(1, len(GREETING + body) - 1))))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        self.assertEqual(converse(*pieces), converse(whole))
