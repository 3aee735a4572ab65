from __future__ import annotations

import errno
import unittest

import click
from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto import errors
from jetstreamproto.cli.failure import (
    CannotConnect,
    ConnectTimeout,
    ExitStatus,
    NameNotFound,
    StreamFailed,
    clean,
    describe,
)
from jetstreamproto.session.codes import ResetCode

DONE, FAILED, USAGE, NOT_TRUSTED, NOT_ALLOWED, TIMED_OUT = ExitStatus


class ExitStatusTests(unittest.TestCase):
    def test_the_numbers_are_what_is_documented(self) -> None:
        self.assertEqual([int(status) for status in ExitStatus], [0, 1, 2, 3, 4, 5])

    def test_every_error_has_its_status(self) -> None:
        for error, status in [
            (click.UsageError("no"), USAGE),
            (click.BadParameter("no"), USAGE),
            (errors.TrustError("no"), NOT_TRUSTED),
            (errors.UnknownHost("a:1", "sha256:x"), NOT_TRUSTED),
            (errors.WrongFingerprint("no"), NOT_TRUSTED),
            (errors.CertificateRejected("no"), NOT_TRUSTED),
            (errors.NotAllowed(ResetCode.NOT_ALLOWED, "no"), NOT_ALLOWED),
            (errors.HandshakeTimeout("late"), TIMED_OUT),
            (errors.PeerSilent("late"), TIMED_OUT),
            (errors.ChannelReset(ResetCode.TIMED_OUT), TIMED_OUT),
            (ConnectTimeout("late"), TIMED_OUT),
            (errors.Refused("the server has too many connections"), FAILED),
            (errors.ServiceNotFound(ResetCode.SERVICE_NOT_FOUND, "no service"), FAILED),
            (errors.ChannelReset(ResetCode.CANCELLED), FAILED),
            (errors.SessionCut("cut"), FAILED),
            (errors.NotJetStream("HTTP"), FAILED),
            (errors.ConfigurationError("bad file"), FAILED),
            (CannotConnect("refused"), FAILED),
            (NameNotFound("what"), FAILED),
            (StreamFailed("full"), FAILED),
            (OSError(errno.EACCES, "Permission denied", "/x"), FAILED),
        ]:
            with self.subTest(error=error):
                failure = describe(error)
                self.assertEqual(failure.status, status)
                self.assertTrue(failure.expected)
                self.assertTrue(failure.message)

    def test_a_bug_is_called_one(self) -> None:
        failure = describe(ZeroDivisionError("division by zero"))
        self.assertEqual((failure.kind, failure.status), ("InternalError", FAILED))
        self.assertFalse(failure.expected)

    def test_a_first_contact_says_what_to_do(self) -> None:
        message = describe(errors.UnknownHost("a:1", "sha256:x")).message
        for part in ("a:1", "--pin sha256:x", "--trust-new", "jetstream identity"):
            self.assertIn(part, message)

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        error = OSError(errno.EACCES, "Permission denied", "/x")
        self.assertEqual(describe(error).message, "/x: Permission denied")


class CleanTests(unittest.TestCase):
    def test_examples(self) -> None:
        for text, cleaned in [
            ("plain", "plain"),
            ("two\r\nlines\tand  more", "two lines and more"),
            ("\x1b[31mred\x1b[0m\x07", "[31mred[0m"),
            ("\x9b31m c1", "31m c1"),
            ("\u202egnp.exe\u2066", "gnp.exe"),
            ("\ufeffword\u200b", "word"),
            ("grüße 日本", "grüße 日本"),
        ]:
            with self.subTest(text):
                self.assertEqual(clean(text), cleaned)

    @given(st.text())
    def test_one_printable_line(self, text: str) -> None:
        self.assertTrue(clean(text).isprintable())
        self.assertEqual(len(clean(text).splitlines() or [""]), 1)

    @given(st.text())
    def test_messages_are_clean_whatever_the_peer_says(self, text: str) -> None:
        for error in (errors.Refused(text), errors.ChannelReset(1, text), CannotConnect(text)):
            self.assertTrue(describe(error).message.isprintable())
