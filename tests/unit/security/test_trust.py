"""Tests for jetstreamproto.security.trust: each policy asked directly about a certificate.

That the chain of a CA-issued certificate is sound is OpenSSL's to judge, in the handshake: see
tests/scenarios/test_handshake_trust.py.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path
from unittest import mock

from cryptography import x509

from jetstreamproto.errors import (
    CertificateRejected,
    ConfigurationError,
    JetStreamError,
    TrustError,
    UnknownHost,
    WrongFingerprint,
)
from jetstreamproto.security.identity import Identity
from jetstreamproto.security.trust import (
    CertificateAuthority,
    KnownHosts,
    PinnedKeys,
    Trust,
)
from tests.certificates import DAY, NOW, Authority, self_signed
from tests.unit.security.test_identity import FolderTestCase

HOST = "server.example:9000"


class TrustTestCase(FolderTestCase):
    server = Identity.create(NOW)
    other = Identity.create(NOW)
    authority = Authority.create()

    def refuse(
        self,
        trust: Trust,
        certificate: x509.Certificate,
        error: type[JetStreamError],
        *parts: str,
        now: datetime = NOW,
    ) -> JetStreamError:
        with self.assertRaises(error) as caught:
            trust.check(certificate, now)
        for part in parts:
            self.assertIn(part, str(caught.exception))
        return caught.exception


class DatesTests(TrustTestCase):
    def test_every_policy_looks_at_the_dates(self) -> None:
        identity = self_signed(names=["server.example"], start=NOW - 2 * DAY, end=NOW + 2 * DAY)
        known = self.folder / "known_hosts"
        known.write_text(f"{HOST} {identity.fingerprint}\n")
        for trust in (
            PinnedKeys([identity.fingerprint]),
            CertificateAuthority(self.folder / "ca.pem", "server.example"),
            CertificateAuthority(self.folder / "ca.pem"),
            KnownHosts(known, HOST),
            KnownHosts(self.folder / "none", HOST, own=identity.fingerprint),
            KnownHosts(self.folder / "none", HOST, trust_new=True),
        ):
            with self.subTest(type(trust).__name__):
                self.refuse(
                    trust,
                    identity.certificate,
                    CertificateRejected,
                    "expired on",
                    f"{NOW + 2 * DAY:%Y-%m-%d}",
                    now=NOW + 3 * DAY,
                )
                self.refuse(
                    trust,
                    identity.certificate,
                    CertificateRejected,
                    "not valid before",
                    f"{NOW - 2 * DAY:%Y-%m-%d}",
                    now=NOW - 3 * DAY,
                )
                self.assertFalse((self.folder / "none").exists(), "remembered a bad certificate")
        for trust in (PinnedKeys([identity.fingerprint]), KnownHosts(known, HOST)):
            trust.check(identity.certificate, NOW)
            trust.check(identity.certificate, identity.certificate.not_valid_after_utc)
            trust.check(identity.certificate, identity.certificate.not_valid_before_utc)


class PinnedKeysTests(TrustTestCase):
    def test_the_pinned_one_and_no_other(self) -> None:
        trust = PinnedKeys([self.server.fingerprint])
        trust.check(self.server.certificate, NOW)
        self.refuse(
            trust, self.other.certificate, WrongFingerprint, self.other.fingerprint, "not trusted"
        )

    def test_several_in_any_form(self) -> None:
        trust = PinnedKeys(
            [self.other.fingerprint.removeprefix("sha256:"), self.server.fingerprint]
        )
        trust.check(self.server.certificate, NOW)
        trust.check(self.other.certificate, NOW)

    def test_a_renewed_certificate_has_the_same_key(self) -> None:
        state = self.folder / "state"
        trust = PinnedKeys([Identity.load_or_create(state, NOW).fingerprint])
        later = NOW + 5000 * DAY
        trust.check(Identity.load_or_create(state, later).certificate, later)

    def test_nothing_or_nonsense_is_a_configuration_error(self) -> None:
        for fingerprints in ([], ["nonsense"], [""], "sha256:abc"):
            with self.assertRaises(ConfigurationError):
                PinnedKeys(fingerprints)

    def test_from_a_file(self) -> None:
        path = self.folder / "pins"
        path.write_text(
            "# who may come\n"
            "\n"
            f"  {self.server.fingerprint}   the server in the cellar\n"
            f"{self.other.fingerprint} # another\r\n"
            "   # done\n"
        )
        trust = PinnedKeys.from_file(path)
        self.assertEqual(trust.fingerprints, {self.server.fingerprint, self.other.fingerprint})

    def test_a_file_that_cannot_be_used_is_named(self) -> None:
        path = self.folder / "pins"
        for content in (b"", b"# nothing\n", b"nonsense\n", b"\xff\xfe\0", b"sha256:short name\n"):
            path.write_bytes(content)
            with self.subTest(content), self.assertRaisesRegex(ConfigurationError, str(path)):
                PinnedKeys.from_file(path)
        for bad in (self.folder / "missing", self.folder):
            with self.assertRaisesRegex(ConfigurationError, str(bad)):
                PinnedKeys.from_file(bad)


class CertificateAuthorityTests(TrustTestCase):
    def trust(self, name: str | None) -> CertificateAuthority:
        return CertificateAuthority(self.folder / "ca.pem", name)

    def accept(self, name: str | None, *names: str) -> None:
        self.trust(name).check(self.authority.issue(*names).certificate, NOW)

    def refuse_name(self, name: str, *names: str) -> None:
        identity = self.authority.issue(*names)
        self.refuse(self.trust(name), identity.certificate, CertificateRejected, repr(name))

    def test_names(self) -> None:
        self.accept("server.example", "server.example")
        self.accept("SERVER.Example", "server.example")
        self.accept("server.example", "first.example", "server.example")
        self.refuse_name("server.example", "other.example")
        self.refuse_name("example", "server.example")
        self.refuse_name("server.example.org", "server.example")

    def test_a_name_with_the_roots_dot(self) -> None:
        self.accept("server.example.", "server.example")
        self.refuse_name("server.example.", "other.example")

    def test_names_beyond_ascii(self) -> None:
        self.accept("bücher.example", "xn--bcher-kva.example")

    def test_wildcards(self) -> None:
        self.accept("server.example.com", "*.example.com")
        self.refuse_name("example.com", "*.example.com")
        self.refuse_name("a.b.example.com", "*.example.com")
        self.refuse_name("server.example.com", "s*.example.com")

    def test_addresses(self) -> None:
        self.accept("127.0.0.1", "127.0.0.1")
        self.accept("::1", "::1")
        self.accept("0:0:0:0:0:0:0:1", "::1")
        self.refuse_name("127.0.0.2", "127.0.0.1")
        self.refuse_name("::2", "::1")
        self.refuse_name("127.0.0.1", "localhost")
        self.refuse_name("localhost", "127.0.0.1")

    def test_a_common_name_is_no_name(self) -> None:
        """As RFC 9525 says: only the alternative names count."""
        self.refuse(self.trust("alone"), self_signed().certificate, CertificateRejected, "'alone'")

    def test_without_a_name_any_certificate_of_the_ca_will_do(self) -> None:
        self.accept(None)
        self.accept(None, "anything.example")

    def test_names_that_are_none(self) -> None:
        for name in ("", " ", "a b", "[::1]", "host:9000", "\0", "https://host", "a..b", "x" * 64):
            with self.subTest(repr(name)), self.assertRaisesRegex(ConfigurationError, "name"):
                self.trust(name)


class KnownHostsTests(TrustTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.folder / "state" / "known_hosts"

    def trust(self, host: str = HOST, own: str | None = None, *, new: bool = False) -> KnownHosts:
        return KnownHosts(self.path, host, own=own, trust_new=new)

    def meet(self, trust: KnownHosts, identity: Identity) -> None:
        """What a handshake with the owner of `identity` does."""
        trust.check(identity.certificate, NOW)
        trust.proved(identity.certificate)

    def lines(self, *lines: str, end: str = "\n") -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("\n".join(lines) + end)

    def test_first_contact(self) -> None:
        error = self.refuse(
            self.trust(), self.server.certificate, UnknownHost, HOST, self.server.fingerprint
        )
        assert isinstance(error, UnknownHost)
        self.assertEqual((error.host, error.fingerprint), (HOST, self.server.fingerprint))
        self.assertFalse(self.path.exists(), "only trust_new or the user writes the file")

    def test_known(self) -> None:
        self.lines("# servers", f"{HOST} {self.server.fingerprint}  # the cellar", "")
        self.trust().check(self.server.certificate, NOW)

    def test_several_keys_of_one_host(self) -> None:
        self.lines(f"{HOST} {self.other.fingerprint}", f"{HOST} {self.server.fingerprint}")
        self.trust().check(self.server.certificate, NOW)
        self.trust().check(self.other.certificate, NOW)

    def test_another_host_is_not_known(self) -> None:
        for other in ("server.example:9001", "server.example", "other.example:9000"):
            self.lines(f"{other} {self.server.fingerprint}")
            self.refuse(self.trust(), self.server.certificate, UnknownHost)

    def test_names_of_hosts_know_no_case(self) -> None:
        self.lines(f"Server.Example:9000 {self.other.fingerprint}")
        self.refuse(self.trust("SERVER.example:9000"), self.server.certificate, WrongFingerprint)

    def test_a_changed_key(self) -> None:
        self.lines(f"{HOST} {self.other.fingerprint}")
        for new in (False, True):
            self.refuse(
                self.trust(new=new),
                self.server.certificate,
                WrongFingerprint,
                HOST,
                str(self.path),
                self.server.fingerprint,
                self.other.fingerprint,
                "changed",
            )
        self.assertNotIn(self.server.fingerprint, self.path.read_text())

    def test_our_own_identity_is_known_without_an_entry(self) -> None:
        self.trust(own=self.server.fingerprint).check(self.server.certificate, NOW)
        self.assertFalse(self.path.exists())
        self.refuse(self.trust(own=self.server.fingerprint), self.other.certificate, UnknownHost)

    def test_an_entry_counts_more_than_our_own_identity(self) -> None:
        self.lines(f"{HOST} {self.other.fingerprint}")
        trust = self.trust(own=self.server.fingerprint)
        self.refuse(trust, self.server.certificate, WrongFingerprint)

    def test_trust_new_writes_the_file(self) -> None:
        os.umask(0)
        trust = self.trust(new=True)
        trust.check(self.server.certificate, NOW)
        self.assertFalse(self.path.exists(), "nobody has proved anything yet")
        trust.proved(self.server.certificate)
        self.assertEqual(self.path.read_text(), f"{HOST} {self.server.fingerprint}\n")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        self.trust().check(self.server.certificate, NOW)
        self.refuse(self.trust(new=True), self.other.certificate, WrongFingerprint)

    def test_trust_new_twice_is_one_line(self) -> None:
        for _ in range(3):
            self.meet(self.trust(new=True), self.server)
        self.assertEqual(len(self.path.read_text().splitlines()), 1)

    def test_only_one_of_two_first_contacts_with_different_keys_is_believed(self) -> None:
        trust = self.trust(new=True)
        trust.check(self.server.certificate, NOW)
        trust.check(self.other.certificate, NOW)
        trust.proved(self.other.certificate)
        with self.assertRaises(WrongFingerprint):
            trust.proved(self.server.certificate)
        self.assertEqual(self.path.read_text(), f"{HOST} {self.other.fingerprint}\n")

    def test_what_somebody_accepted_is_written_once_it_is_proved(self) -> None:
        trust = self.trust()
        trust.accept(self.server.fingerprint)
        self.refuse(trust, self.other.certificate, UnknownHost)
        trust.check(self.server.certificate, NOW)
        self.assertFalse(self.path.exists())
        trust.proved(self.server.certificate)
        self.assertEqual(self.path.read_text(), f"{HOST} {self.server.fingerprint}\n")
        self.refuse(trust, self.other.certificate, WrongFingerprint)

    def test_nothing_is_written_of_what_is_known_already(self) -> None:
        self.meet(self.trust(own=self.server.fingerprint, new=True), self.server)
        self.assertFalse(self.path.exists())
        self.lines(f"{HOST} {self.server.fingerprint}")
        self.meet(self.trust(new=True), self.server)
        self.assertEqual(len(self.path.read_text().splitlines()), 1)

    def test_remembering_keeps_what_was_there(self) -> None:
        self.lines("# a comment", f"first:1 {self.other.fingerprint}")
        self.meet(self.trust(new=True), self.server)
        self.trust("first:1").check(self.other.certificate, NOW)
        self.trust().check(self.server.certificate, NOW)
        self.assertTrue(self.path.read_text().startswith("# a comment\n"))

    def test_remembering_after_a_last_line_without_an_end(self) -> None:
        self.lines(f"first:1 {self.other.fingerprint}", end="")
        self.trust().remember(self.server.fingerprint)
        self.trust("first:1").check(self.other.certificate, NOW)
        self.trust().check(self.server.certificate, NOW)

    def test_malformed_lines_for_other_hosts_do_not_matter(self) -> None:
        self.lines("first:1 nonsense", "alone", "# ###", f"{HOST} {self.server.fingerprint} a b c")
        self.trust().check(self.server.certificate, NOW)

    def test_a_malformed_line_for_this_host_is_no_first_contact(self) -> None:
        for line in (HOST, f"{HOST} nonsense", f"{HOST} # {self.server.fingerprint}"):
            self.lines(line)
            for new in (False, True):
                with self.subTest(line, new=new):
                    self.refuse(
                        self.trust(new=new),
                        self.server.certificate,
                        ConfigurationError,
                        str(self.path),
                    )
            self.assertEqual(self.path.read_text(), line + "\n")

    def test_a_file_that_cannot_be_read(self) -> None:
        self.lines("x")
        self.path.write_bytes(b"\xff\xfe binary \0")
        self.refuse(self.trust(), self.server.certificate, ConfigurationError, str(self.path))
        with mock.patch.object(
            Path, "read_text", side_effect=PermissionError(13, "Permission denied")
        ):
            self.refuse(
                self.trust(new=True),
                self.server.certificate,
                ConfigurationError,
                str(self.path),
                "Permission denied",
            )
        self.refuse(
            KnownHosts(self.folder, HOST),
            self.server.certificate,
            ConfigurationError,
            str(self.folder),
        )

    def test_a_file_that_cannot_be_written(self) -> None:
        (self.folder / "state").write_text("a file where the folder should be")
        with self.assertRaisesRegex(ConfigurationError, "known_hosts"):
            self.trust().remember(self.server.fingerprint)

    def test_refusals_are_trust_errors(self) -> None:
        for error in (UnknownHost, WrongFingerprint, CertificateRejected):
            self.assertTrue(issubclass(error, TrustError))
