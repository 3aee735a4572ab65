"""Trust: which certificates of a peer are accepted, and why one is not.

A client trusts a server by a CA and the server's name (`CertificateAuthority`), by a fingerprint
told beforehand (`PinnedKeys`), or by the one it saw at first contact (`KnownHosts`). A server
trusts clients by `PinnedKeys` or a `CertificateAuthority` without a name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)

from jetstreamproto.errors import (
    CertificateRejected,
    ConfigurationError,
    UnknownHost,
    WrongFingerprint,
)
from jetstreamproto.security.identity import fingerprint, parse_fingerprint
from jetstreamproto.security.names import canonical_name, is_ip_address

KNOWN_HOSTS_FILE = "known_hosts"


class Trust(Protocol):
    """Decides about a peer's certificate during the handshake."""

    @property
    def ca_file(self) -> Path | None:
        """The PEM file of the CAs that a chain must end in, or None where chains do not count."""

    def check(self, certificate: x509.Certificate, now: datetime) -> None:
        """Return to accept `certificate` at the time `now`; raise a `TrustError` to refuse it.

        Nobody has proved yet to own it: any peer can show a certificate that it has seen.
        """

    def proved(self, certificate: x509.Certificate) -> None:
        """The peer has proved that it owns `certificate`, which `check` accepted.

        May raise what `check` does, which fails the handshake after all.
        """


class PinnedKeys:
    """Trust exactly these fingerprints, whoever signed the certificates."""

    ca_file: Path | None = None

    def __init__(self, fingerprints: Iterable[str]) -> None:
        self.fingerprints = frozenset(map(parse_fingerprint, fingerprints))
        if not self.fingerprints:
            raise ConfigurationError("no fingerprint to trust was given")

    @classmethod
    def from_file(cls, path: Path) -> PinnedKeys:
        """The fingerprints in a file, one a line, with an optional note behind; `#` comments."""
        lines = _lines(path)
        try:
            return cls(words[0] for words in lines)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from error

    def check(self, certificate: x509.Certificate, now: datetime) -> None:
        _check_dates(certificate, now)
        shown = fingerprint(certificate)
        if shown not in self.fingerprints:
            raise WrongFingerprint(f"the peer shows the fingerprint {shown}, which is not trusted")

    def proved(self, certificate: x509.Certificate) -> None:
        """Nothing is kept."""


class CertificateAuthority:
    """Trust certificates issued by the CAs in a PEM file, for `name` where one is given.

    `name` is a host name (checked as RFC 9525 says) or an IP address in text form.
    """

    def __init__(self, ca_file: Path, name: str | None = None) -> None:
        self.ca_file: Path | None = ca_file
        self.name = name
        self._expected = None if name is None else canonical_name(name)

    def check(self, certificate: x509.Certificate, now: datetime) -> None:
        _check_dates(certificate, now)
        if self._expected is None:
            return
        try:
            if is_ip_address(self._expected):
                verify_certificate_ip_address(certificate, self._expected)
            else:
                verify_certificate_hostname(certificate, self._expected)
        except (VerificationError, CertificateError) as error:
            raise CertificateRejected(
                f"the server's certificate is not for {self.name!r}"
            ) from error

    def proved(self, certificate: x509.Certificate) -> None:
        """Nothing is kept."""


class KnownHosts:
    """Trust a server by the fingerprint that a file has for it, as OpenSSH does.

    `host` is `HOST:PORT`. `own`, this host's own fingerprint, is known without an entry. With
    `trust_new` a first contact is let in instead of refused, and written to the file once the
    server has proved that the key is its own.
    """

    ca_file: Path | None = None

    def __init__(
        self, path: Path, host: str, *, own: str | None = None, trust_new: bool = False
    ) -> None:
        self.path = path
        self.host = host
        self.own = own
        self.trust_new = trust_new
        self._accepted: str | None = None

    def check(self, certificate: x509.Certificate, now: datetime) -> None:
        _check_dates(certificate, now)
        self._is_new(fingerprint(certificate))

    def proved(self, certificate: x509.Certificate) -> None:
        """Write what was trusted at first contact to the file."""
        shown = fingerprint(certificate)
        if self._is_new(shown):
            self.remember(shown)

    def accept(self, shown: str) -> None:
        """Trust the fingerprint `shown` at first contact, as somebody has said who was asked."""
        self._accepted = parse_fingerprint(shown)

    def _is_new(self, shown: str) -> bool:
        """Whether `shown` is trusted, but not known; raises a `TrustError` if it is not."""
        known = self.known()
        if shown in known or (shown == self.own and not known):
            return False
        if known:
            raise WrongFingerprint(
                f"{self.host} shows the fingerprint {shown}, but {self.path} knows it by "
                f"{', '.join(sorted(known))}: its key was changed, or someone is in between"
            )
        if shown != self._accepted and not self.trust_new:
            raise UnknownHost(self.host, shown)
        return True

    def known(self) -> frozenset[str]:
        """The fingerprints that the file has for this host."""
        try:
            lines = _lines(self.path)
        except ConfigurationError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return frozenset()
            raise
        host = self.host.lower()
        entries = [words[1:] for words in lines if words[0].lower() == host]
        try:
            return frozenset(parse_fingerprint(entry[0] if entry else "") for entry in entries)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.path}: the entry of {self.host}: {error}") from error

    def remember(self, shown: str) -> None:
        """Append this host with the fingerprint `shown` (file mode 0600)."""
        try:
            self.path.parent.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            descriptor = os.open(self.path, flags, stat.S_IRUSR | stat.S_IWUSR)
            with os.fdopen(descriptor, "ab+") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                line_is_open = file.read() not in (b"", b"\n")
                entry = f"{self.host} {parse_fingerprint(shown)}\n".encode()
                file.write(b"\n" + entry if line_is_open else entry)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise CertificateRejected(f"the peer's certificate expired on {last:%Y-%m-%d}")
    if now < first:
        raise CertificateRejected(f"the peer's certificate is not valid before {first:%Y-%m-%d}")


def _lines(path: Path) -> list[list[str]]:
    """The words of each line that is neither empty nor a comment."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not a text file") from error
    stripped = (line.split("#", 1)[0].split() for line in text.splitlines())
    return [words for words in stripped if words]
