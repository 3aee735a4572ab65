from __future__ import annotations

import io
import os
import tempfile
import unittest
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import click

from jetstreamproto.cli import trust
from jetstreamproto.cli.options import ConnectionOptions
from jetstreamproto.cli.target import Target
from jetstreamproto.errors import ConfigurationError
from jetstreamproto.security.identity import IDENTITY_FILE, Identity
from jetstreamproto.security.trust import (
    KNOWN_HOSTS_FILE,
    CertificateAuthority,
    KnownHosts,
    PinnedKeys,
)

NOW = datetime.now(UTC)
FINGERPRINT = "sha256:" + "A" * 43


class TrustCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def options(self, **values: Any) -> ConnectionOptions:
        values.setdefault("target", Target("host", 9000))
        return ConnectionOptions(**{"state_dir": self.folder, **values})


class ServerTrustTests(TrustCase):
    def test_a_ca_checks_the_name(self) -> None:
        for host, name in [("host", "host"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1")]:
            options = self.options(ca=Path("ca.pem"), target=Target(host, 1))
            found = trust.server_trust(options, None)
            assert isinstance(found, CertificateAuthority)
            self.assertEqual((found.ca_file, found.name), (Path("ca.pem"), name))

    def test_a_pin(self) -> None:
        found = trust.server_trust(self.options(pin=FINGERPRINT), None)
        assert isinstance(found, PinnedKeys)
        self.assertEqual(found.fingerprints, {FINGERPRINT})

    def test_otherwise_the_known_hosts_and_our_own_key(self) -> None:
        own = Identity.create(NOW)
        found = trust.server_trust(self.options(), own)
        assert isinstance(found, KnownHosts)
        self.assertEqual(
            (found.path, found.host, found.own),
            (self.folder / KNOWN_HOSTS_FILE, "host:9000", own.fingerprint),
        )

    def test_a_broken_known_hosts_file_is_found_at_once(self) -> None:
        (self.folder / KNOWN_HOSTS_FILE).write_text("host:9000 nonsense\n")
        with self.assertRaises(ConfigurationError):
            trust.server_trust(self.options(), None)


class IdentityTests(TrustCase):
    def test_none_is_created(self) -> None:
        self.assertIsNone(trust.own_identity(self.options()))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_state_folders_is_shown_unless_another_is_given(self) -> None:
        made = Identity.load_or_create(self.folder, NOW)
        own = trust.own_identity(self.options())
        assert own is not None
        self.assertEqual(own.fingerprint, made.fingerprint)
        self.assertIs(trust.client_identity(self.options(), own), own)
        other = Identity.create(NOW)
        (self.folder / "other.pem").write_bytes(other.to_pem())
        given = self.options(cert=self.folder / "other.pem")
        shown = trust.client_identity(given, own)
        assert shown is not None
        self.assertEqual(shown.fingerprint, other.fingerprint)

    def test_a_certificate_without_its_key_is_wrong_usage(self) -> None:
        (self.folder / "bad.pem").write_text("nothing")
        with self.assertRaises(click.UsageError):
            trust.client_identity(self.options(cert=self.folder / "bad.pem"), None)

    def test_a_broken_identity_is_an_error(self) -> None:
        (self.folder / IDENTITY_FILE).write_text("nothing")
        with self.assertRaises(ConfigurationError):
            trust.own_identity(self.options())


class CredentialsTests(TrustCase):
    def test_none_without_a_user(self) -> None:
        with mock.patch.dict(os.environ, {trust.PASSWORD_VARIABLE: "secret"}):
            self.assertIsNone(trust.credentials(self.options()))

    def test_from_the_environment(self) -> None:
        with mock.patch.dict(os.environ, {trust.PASSWORD_VARIABLE: "secret"}):
            self.assertEqual(trust.credentials(self.options(user="al")), ("al", "secret"))

    def test_from_the_first_line_of_a_file(self) -> None:
        path = self.folder / "password"
        options = self.options(user="al", password_file=path)
        for content in ("secret", "secret\n", "secret\r\n", "secret\nand more"):
            path.write_bytes(content.encode())
            with mock.patch.dict(os.environ, {trust.PASSWORD_VARIABLE: "other"}):
                self.assertEqual(trust.credentials(options), ("al", "secret"))

    def test_a_file_that_is_no_text_is_wrong_usage(self) -> None:
        path = self.folder / "password"
        path.write_bytes(b"\xff\xfe")
        with self.assertRaises(click.UsageError):
            trust.credentials(self.options(user="al", password_file=path))

    def test_without_a_terminal_it_must_be_given(self) -> None:
        environ = {name: value for name, value in os.environ.items() if "PASSWORD" not in name}
        with (
            mock.patch.dict(os.environ, environ, clear=True),
            mock.patch("sys.stderr", io.StringIO()),
            self.assertRaises(click.UsageError),
        ):
            trust.credentials(self.options(user="al"))
