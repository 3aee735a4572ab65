"""Tests for jetstreamproto.security.identity."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest import TestCase, mock, skipIf

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.security.handshake import Role, TlsContext
from jetstreamproto.security.identity import (
    IDENTITY_FILE,
    Identity,
    fingerprint,
    parse_fingerprint,
)
from tests.certificates import DAY, NOW, Authority, pem, self_signed, sign, subject

untimed = settings(deadline=None, derandomize=True, database=None)

digests = st.binary(min_size=32, max_size=32)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def key_pem(key: object, password: bytes | None = None) -> bytes:
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


class FolderTestCase(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.addCleanup(os.umask, os.umask(0o022))

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path


class StateFolderTests(FolderTestCase):
    """`load_or_create`."""

    def setUp(self) -> None:
        super().setUp()
        self.state = self.folder / "state"
        self.path = self.state / IDENTITY_FILE

    def test_made_private_whatever_the_umask(self) -> None:
        for umask in (0o000, 0o022, 0o077):
            with self.subTest(umask=oct(umask)):
                os.umask(umask)
                state = self.folder / f"state{umask}"
                Identity.load_or_create(state, NOW)
                self.assertEqual(mode(state), 0o700)
                self.assertEqual(mode(state / IDENTITY_FILE), 0o600)

    def test_folders_above_are_made_too(self) -> None:
        state = self.folder / "a" / "b" / "c"
        Identity.load_or_create(state, NOW)
        self.assertEqual(mode(state), 0o700)

    def test_only_the_identity_is_left_in_the_folder(self) -> None:
        Identity.load_or_create(self.state, NOW)
        Identity.load_or_create(self.state, NOW)
        self.assertEqual([path.name for path in self.state.iterdir()], [IDENTITY_FILE])

    def test_the_same_after_a_reload(self) -> None:
        made = Identity.load_or_create(self.state, NOW)
        content = self.path.read_bytes()
        again = Identity.load_or_create(self.state, NOW)
        self.assertEqual(again.certificate, made.certificate)
        self.assertEqual(again.key.public_key(), made.key.public_key())
        self.assertEqual(self.path.read_bytes(), content)

    def test_valid_from_yesterday_for_ten_years(self) -> None:
        certificate = Identity.load_or_create(self.state, NOW).certificate
        self.assertLessEqual(certificate.not_valid_before_utc, NOW - timedelta(hours=23))
        self.assertGreater(certificate.not_valid_after_utc, NOW + 3649 * DAY)

    def test_an_expired_one_is_renewed_over_the_same_key(self) -> None:
        made = Identity.load_or_create(self.state, NOW)
        later = NOW + 4000 * DAY
        renewed = Identity.load_or_create(self.state, later)
        self.assertEqual(renewed.fingerprint, made.fingerprint)
        self.assertNotEqual(renewed.certificate, made.certificate)
        self.assertGreater(renewed.certificate.not_valid_after_utc, later)
        self.assertEqual(mode(self.path), 0o600)
        self.assertEqual([path.name for path in self.state.iterdir()], [IDENTITY_FILE])
        content = self.path.read_bytes()
        self.assertEqual(Identity.load_or_create(self.state, later).fingerprint, made.fingerprint)
        self.assertEqual(self.path.read_bytes(), content)

    def test_one_from_the_future_is_renewed_too(self) -> None:
        """A host that booted with a wrong clock, and has the right time now."""
        made = Identity.load_or_create(self.state, NOW + 400 * DAY)
        renewed = Identity.load_or_create(self.state, NOW)
        self.assertEqual(renewed.fingerprint, made.fingerprint)
        self.assertLess(renewed.certificate.not_valid_before_utc, NOW)

    def test_a_certificate_of_a_ca_is_left_alone(self) -> None:
        identity = Authority.create().issue("host.example", end=NOW + DAY)
        self.state.mkdir()
        self.path.write_bytes(identity.to_pem())
        loaded = Identity.load_or_create(self.state, NOW + 2 * DAY)
        self.assertEqual(loaded.certificate, identity.certificate)

    def test_a_chain_survives_a_round_trip(self) -> None:
        identity = Authority.create().intermediate().issue("host.example")
        self.assertEqual(len(identity.chain), 1)
        path = self.write("chain.pem", identity.to_pem())
        loaded = Identity.from_files(path)
        self.assertEqual((loaded.certificate, loaded.chain), (identity.certificate, identity.chain))

    def test_processes_that_race_get_one_identity(self) -> None:
        folders = [self.folder / str(number) for number in range(10)]
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", _RACER, *map(str, folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                text=True,
            )
            for _ in range(3)
        ]
        found = []
        for racer in racers:
            assert racer.stdout is not None
            self.assertEqual(racer.stdout.readline(), "ready\n")
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        for racer in racers:
            found.append(racer.communicate(timeout=60)[0].split())
            self.assertEqual(racer.returncode, 0)
        self.assertEqual(
            found, 3 * [[Identity.load_or_create(folder, NOW).fingerprint for folder in folders]]
        )
        for folder in folders:
            self.assertEqual([path.name for path in folder.iterdir()], [IDENTITY_FILE])

    def test_whoever_comes_second_takes_the_firsts(self) -> None:
        """Two containers that share the folder are both process 1, and write at the same time."""
        real_link = os.link
        others: list[Identity] = []

        def link_late(*args: object) -> None:
            if not others:
                others.append(Identity.create(NOW))  # stands in for this process
                with mock.patch("os.link", real_link):
                    others[0] = Identity.load_or_create(self.state, NOW)
            real_link(*args)  # type: ignore[arg-type]

        with mock.patch("os.getpid", return_value=1), mock.patch("os.link", link_late):
            ours = Identity.load_or_create(self.state, NOW)
        self.assertEqual(ours.fingerprint, others[0].fingerprint)
        self.assertEqual(Identity.from_files(self.path).fingerprint, ours.fingerprint)
        self.assertEqual([path.name for path in self.state.iterdir()], [IDENTITY_FILE])

    def test_a_folder_that_cannot_be_made(self) -> None:
        self.write("state", b"a file")
        with self.assertRaisesRegex(ConfigurationError, "state"):
            Identity.load_or_create(self.state, NOW)

    def test_a_full_disk(self) -> None:
        with (
            mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")),
            self.assertRaisesRegex(ConfigurationError, "No space left"),
        ):
            Identity.load_or_create(self.state, NOW)
        self.assertEqual(list(self.state.iterdir()), [])

    def test_a_file_system_without_links(self) -> None:
        with (
            mock.patch("os.link", side_effect=PermissionError(1, "Operation not permitted")),
            self.assertRaisesRegex(ConfigurationError, f"{IDENTITY_FILE}.*not permitted"),
        ):
            Identity.load_or_create(self.state, NOW)
        self.assertEqual(list(self.state.iterdir()), [])

    def test_a_dangling_link(self) -> None:
        self.state.mkdir()
        self.path.symlink_to(self.folder / "nowhere")
        with self.assertRaisesRegex(ConfigurationError, IDENTITY_FILE):
            Identity.load_or_create(self.state, NOW)

    def test_a_renewal_that_cannot_be_written(self) -> None:
        Identity.load_or_create(self.state, NOW)
        with (
            mock.patch("os.replace", side_effect=OSError(30, "Read-only file system")),
            self.assertRaisesRegex(ConfigurationError, f"{IDENTITY_FILE}.*Read-only"),
        ):
            Identity.load_or_create(self.state, NOW + 4000 * DAY)
        self.assertEqual([path.name for path in self.state.iterdir()], [IDENTITY_FILE])

    @skipIf(os.geteuid() == 0, "root may read everything")
    def test_a_folder_that_may_not_be_entered(self) -> None:
        Identity.load_or_create(self.state, NOW)
        self.state.chmod(0)
        self.addCleanup(self.state.chmod, 0o700)
        with self.assertRaisesRegex(ConfigurationError, f"{IDENTITY_FILE}.*[Pp]ermission"):
            Identity.load_or_create(self.state, NOW)

    def test_permission_is_asked_of_the_system(self) -> None:
        """The same for those who run tests as root."""
        denied = PermissionError(13, "Permission denied")
        with (
            mock.patch.object(Path, "exists", side_effect=denied),
            self.assertRaisesRegex(ConfigurationError, f"{IDENTITY_FILE}.*Permission denied"),
        ):
            Identity.load_or_create(self.state, NOW)


_RACER = """
import sys
from datetime import datetime, timezone
from pathlib import Path
from jetstreamproto.security.identity import Identity
print("ready", flush=True)
sys.stdin.readline()
now = datetime.now(timezone.utc)
for folder in sys.argv[1:]:
    print(Identity.load_or_create(Path(folder), now).fingerprint)
"""


class FileTests(FolderTestCase):
    """`from_files`, and what is wrong with files."""

    def refuse(self, path: Path, key: Path | None = None, *, names: Path, why: str) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            Identity.from_files(path, key)
        self.assertIn(str(names), str(caught.exception))
        self.assertRegex(str(caught.exception), why)

    def test_one_file_or_two(self) -> None:
        identity = self_signed()
        both = self.write("both.pem", identity.to_pem())
        certificate = self.write("certificate.pem", pem(identity.certificate))
        key = self.write("key.pem", key_pem(identity.key))
        for loaded in (Identity.from_files(both), Identity.from_files(certificate, key)):
            self.assertEqual(loaded.certificate, identity.certificate)
            self.assertEqual(loaded.fingerprint, identity.fingerprint)

    def test_missing_files_and_folders(self) -> None:
        certificate = self.write("certificate.pem", pem(self_signed().certificate))
        missing = self.folder / "missing.pem"
        self.refuse(missing, names=missing, why="No such file")
        self.refuse(certificate, missing, names=missing, why="No such file")
        self.refuse(self.folder, names=self.folder, why="[Dd]irectory")

    def test_a_file_that_may_not_be_read(self) -> None:
        path = self.write("secret.pem", self_signed().to_pem())
        with mock.patch.object(
            Path, "read_bytes", side_effect=PermissionError(13, "Permission denied")
        ):
            self.refuse(path, names=path, why="Permission denied")

    def test_garbage(self) -> None:
        identity = self_signed()
        text = identity.to_pem()
        certificate = self.write("certificate.pem", pem(identity.certificate))
        for number, content in enumerate(
            (b"", b"\0\xff" * 100, b"not PEM", text[:-200], text.replace(b"A", b"B"))
        ):
            path = self.write(f"garbage{number}.pem", content)
            with self.subTest(content=content[:20]):
                self.refuse(path, names=path, why="PEM|key")
        for number, content in enumerate((b"", b"\0\xff" * 100, pem(identity.certificate))):
            path = self.write(f"garbage{number}.key", content)
            with self.subTest(key=content[:20]):
                self.refuse(certificate, path, names=path, why="no PEM private key")

    def test_an_encrypted_key(self) -> None:
        identity = self_signed()
        certificate = self.write("certificate.pem", pem(identity.certificate))
        key = self.write("key.pem", key_pem(identity.key, b"password"))
        self.refuse(certificate, key, names=key, why="encrypted")
        both = self.write("both.pem", key.read_bytes() + certificate.read_bytes())
        self.refuse(both, names=both, why="encrypted")

    def test_another_certificates_key(self) -> None:
        certificate = self.write("certificate.pem", pem(self_signed().certificate))
        for other in (self_signed().key, ed25519.Ed25519PrivateKey.generate()):
            key = self.write("key.pem", key_pem(other))
            self.refuse(certificate, key, names=key, why="not the key of the certificate")

    def test_keys_that_tls_cannot_use(self) -> None:
        certificate = self.write("certificate.pem", pem(self_signed().certificate))
        for make in (
            x25519.X25519PrivateKey.generate,
            lambda: dsa.generate_private_key(2048),
        ):
            key = self.write("key.pem", key_pem(make()))
            self.refuse(certificate, key, names=key, why="kind TLS 1.3 cannot use")

    def test_a_key_of_an_unknown_algorithm(self) -> None:
        identity = self_signed()
        certificate = self.write("certificate.pem", pem(identity.certificate))
        key = self.write("key.pem", _with_unknown_algorithm(key_pem(identity.key)))
        self.refuse(certificate, key, names=key, why="key")

    def test_a_certificate_of_an_unknown_algorithm(self) -> None:
        identity = self_signed()
        key = self.write("key.pem", key_pem(identity.key))
        certificate = self.write(
            "certificate.pem", _with_unknown_algorithm(pem(identity.certificate))
        )
        self.refuse(certificate, key, names=certificate, why="certificate|key")

    def test_keys_that_tls_can_use(self) -> None:
        makers: list[Callable[[], object]] = [
            lambda: ec.generate_private_key(ec.SECP256R1()),
            lambda: ec.generate_private_key(ec.SECP384R1()),
            lambda: ec.generate_private_key(ec.SECP521R1()),
            lambda: rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate,
            ed448.Ed448PrivateKey.generate,
        ]
        for make in makers:
            key = make()
            with self.subTest(type(key).__name__):
                path = self.write("id.pem", _old_certificate(key))
                identity = Identity.from_files(path)
                TlsContext(Role.SERVER, identity=identity)
                state = self.folder / type(key).__name__
                state.mkdir(exist_ok=True)
                (state / IDENTITY_FILE).write_bytes(path.read_bytes())
                renewed = Identity.load_or_create(state, NOW)
                self.assertEqual(renewed.fingerprint, identity.fingerprint)
                self.assertGreater(renewed.certificate.not_valid_after_utc, NOW)

    def test_a_key_that_openssl_thinks_too_weak(self) -> None:
        key = rsa.generate_private_key(65537, 1024)
        identity = Identity.from_files(self.write("weak.pem", _old_certificate(key)))
        with self.assertRaisesRegex(ConfigurationError, "key too small"):
            TlsContext(Role.SERVER, identity=identity)

    def test_a_curve_that_tls_cannot_use(self) -> None:
        """Better said when the file is read than as a failed handshake."""
        for curve in (ec.SECP224R1(), ec.SECP256K1()):
            key = ec.generate_private_key(curve)
            path = self.write("curve.pem", _old_certificate(key))
            with self.subTest(curve.name):
                self.refuse(path, names=path, why="TLS 1.3 cannot use")


def _old_certificate(key: object) -> bytes:
    """A key and a self-signed certificate for it that has expired."""
    from cryptography.hazmat.primitives.hashes import SHA256

    builder = (
        x509.CertificateBuilder()
        .subject_name(subject("old"))
        .issuer_name(subject("old"))
        .public_key(key.public_key())  # type: ignore[attr-defined]
        .serial_number(1)
        .not_valid_before(NOW - 2 * DAY)
        .not_valid_after(NOW - DAY)
    )
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return key_pem(key) + pem(builder.sign(key, None if edwards else SHA256()))  # type: ignore[arg-type]


def _with_unknown_algorithm(text: bytes) -> bytes:
    """PEM in which the key's algorithm, id-ecPublicKey, is one that does not exist."""
    first, *lines, last = text.splitlines()
    content = base64.b64decode(b"".join(lines))
    known, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d027f")
    assert known in content
    return b"\n".join((first, base64.encodebytes(content.replace(known, unknown)) + last, b""))


class FingerprintTests(TestCase):
    def test_of_a_certificate(self) -> None:
        identity = self_signed()
        spki = identity.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).decode().rstrip("=")
        self.assertEqual(identity.fingerprint, "sha256:" + digest)
        self.assertEqual(parse_fingerprint(identity.fingerprint), identity.fingerprint)

    def test_it_is_the_keys_not_the_certificates(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        shown = {
            fingerprint(sign(key.public_key(), name, subject(name), key)) for name in ("a", "b")
        }
        self.assertEqual(len(shown), 1)

    @untimed
    @given(digests)
    def test_every_way_to_write_one(self, digest: bytes) -> None:
        canonical = "sha256:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
        for body in (
            base64.urlsafe_b64encode(digest).decode(),
            base64.b64encode(digest).decode(),
            base64.b64encode(digest).decode().rstrip("="),
            digest.hex(),
            digest.hex().upper(),
        ):
            for text in (body, f"sha256:{body}", f"SHA256:{body}", f"  sha256:{body}\n"):
                self.assertEqual(parse_fingerprint(text), canonical)

    @untimed
    @given(st.text(max_size=100))
    def test_any_text_parses_or_is_a_configuration_error(self, text: str) -> None:
        try:
            parsed = parse_fingerprint(text)
        except ConfigurationError as error:
            self.assertIn("43 base64 characters or 64 hex digits", str(error))
        else:
            self.assertEqual(parse_fingerprint(parsed), parsed)

    def test_wrong_ones(self) -> None:
        good = base64.b64encode(bytes(range(32))).decode().rstrip("=")
        for text in (
            "",
            "sha256:",
            "sha256",
            good[:-1],
            good + "A",
            good[:-1] + "!",
            f"md5:{good}",
            f"sha256:sha256:{good}",
            f"{good} {good}",
            bytes(range(31)).hex(),
            bytes(range(33)).hex(),
            "0" * 63 + "g",
            " ".join(["00"] * 21) + "0",  # 63 characters that bytes.fromhex would take
            " ".join(["00"] * 21) + " 0",
            "ü" * 43,
            "\0" * 64,
        ):
            with (
                self.subTest(text),
                self.assertRaisesRegex(ConfigurationError, "not a fingerprint"),
            ):
                parse_fingerprint(text)
