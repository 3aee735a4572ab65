from __future__ import annotations

from typing import Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import HandshakeTimeout, JetStreamError, Refused
from jetstreamproto.server.authentication import (
    MAX_CREDENTIAL,
    PasswordAuthentication,
    encode_users,
)
from jetstreamproto.services.echo import Echo
from jetstreamproto.testing import SessionPair


class Counting(InMemoryUsernamePasswordDatabaseDontUse):
    """A checker that counts how often it is asked."""

    asked = 0

    def requestAvatarId(self, credentials: Any) -> Any:
        self.asked += 1
        return super().requestAvatarId(credentials)


class Failing:
    def requestAvatarId(self, credentials: Any) -> Any:
        raise OSError("the database is down")


class Slow:
    """A checker that answers when the test says so."""

    def __init__(self) -> None:
        self.answer: Deferred[bytes] = Deferred()

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes]:
        return self.answer


def pair_with(
    *checkers: Any, credentials: tuple[str, str] | None, allow_anonymous: bool = False
) -> SessionPair:
    authentication = PasswordAuthentication(checkers, allow_anonymous=allow_anonymous)
    return SessionPair(
        {"echo": Echo},
        connect=False,
        server_options={"authenticate": authentication},
        client_options={"credentials": credentials},
    )


class PasswordAuthenticationTests(SynchronousTestCase):
    def assert_let_in(self, pair: SessionPair, avatar: str | None) -> None:
        pair.run(pair.client.when_connected())
        self.assertEqual(pair.server.avatar, avatar)

    def refusal(self, pair: SessionPair) -> str:
        """What the client is told when it is not let in, which it must not be."""
        try:
            pair.run(pair.client.when_connected())
        except Refused as error:
            pair.run(pair.server.when_closed())
            self.assertIsNone(pair.server.avatar)
            return str(error)
        raise AssertionError("it was let in")

    def test_the_right_password_lets_in_and_the_name_is_the_avatar(self) -> None:
        pair = pair_with(Counting(al=b"secret"), credentials=("al", "secret"))
        self.assert_let_in(pair, "al")

    def test_names_and_passwords_may_have_any_letters(self) -> None:
        checker = Counting()
        checker.addUser("ål".encode(), "gehéim".encode())
        self.assert_let_in(pair_with(checker, credentials=("ål", "gehéim")), "ål")

    def test_every_refusal_is_the_same(self) -> None:
        refusals = set()
        for credentials in (
            ("al", "wrong"),
            ("al", ""),
            ("nobody", "secret"),
            ("", "secret"),
            ("", ""),
            ("al\n", "secret"),
            ("al\0", "secret"),
            ("a" * (MAX_CREDENTIAL + 1), "secret"),
            ("al", "s" * (MAX_CREDENTIAL + 1)),
            None,
        ):
            pair = pair_with(Counting(al=b"secret"), credentials=credentials)
            refusals.add(self.refusal(pair))
        self.assertEqual(len(refusals), 1, refusals)

    def test_what_is_too_long_is_not_even_looked_at(self) -> None:
        checker = Counting()
        long = "é" * (MAX_CREDENTIAL // 2)
        checker.addUser(long.encode(), long.encode())
        self.assert_let_in(pair_with(checker, credentials=(long, long)), long)
        for credentials in ((long + "a", long), (long, long + "a")):
            self.refusal(pair_with(checker, credentials=credentials))
        self.assertEqual(checker.asked, 1)

    def test_checkers_are_asked_in_turn_until_one_lets_in(self) -> None:
        first, second, third = Counting(al=b"1"), Counting(al=b"2", bo=b"3"), Counting()
        self.assert_let_in(pair_with(first, second, third, credentials=("al", "2")), "al")
        self.assert_let_in(pair_with(first, second, third, credentials=("bo", "3")), "bo")
        self.assertEqual((first.asked, second.asked, third.asked), (2, 2, 0))

    def test_a_checker_that_breaks_lets_nobody_in_and_stops_no_other(self) -> None:
        told = self.refusal(pair_with(Failing(), credentials=("al", "secret")))
        self.assertNotIn("database", told)
        self.assert_let_in(
            pair_with(Failing(), Counting(al=b"secret"), credentials=("al", "secret")), "al"
        )
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_a_checker_may_take_its_time(self) -> None:
        slow = Slow()
        pair = pair_with(slow, credentials=("al", "secret"))
        pair.clock.callLater(3, slow.answer.callback, b"al")
        self.assert_let_in(pair, "al")
        slow = Slow()
        pair = pair_with(slow, credentials=("al", "secret"))
        pair.clock.callLater(3, slow.answer.errback, UnauthorizedLogin())
        self.refusal(pair)

    def test_a_checker_that_never_answers_is_cut_off_by_the_handshake_deadline(self) -> None:
        slow = Slow()
        pair = pair_with(slow, credentials=("al", "secret"))
        closed = pair.server.when_closed()
        connected = pair.client.when_connected()
        pair.run(closed)
        self.assertIsInstance(pair.server.close_reason, HandshakeTimeout)
        self.failureResultOf(connected, JetStreamError)
        slow.answer.callback(b"al")
        self.assertEqual(pair.server_factory.sessions, set())

    def test_only_those_without_a_name_are_anonymous(self) -> None:
        checker = Counting(al=b"secret")
        pair = pair_with(checker, credentials=None, allow_anonymous=True)
        self.assert_let_in(pair, None)
        pair = pair_with(checker, credentials=("al", "secret"), allow_anonymous=True)
        self.assert_let_in(pair, "al")
        for wrong in (("al", "wrong"), ("", ""), ("nobody", "")):
            self.refusal(pair_with(checker, credentials=wrong, allow_anonymous=True))

    def test_users_given_to_strcred_in_memory_can_log_in(self) -> None:
        checker = makeChecker("memory:al:secret:bo:other")
        encode_users(checker)
        self.assert_let_in(pair_with(checker, credentials=("bo", "other")), "bo")
        self.refusal(pair_with(checker, credentials=("bo", "secret")))
