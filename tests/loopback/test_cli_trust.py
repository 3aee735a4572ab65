"""The `jetstream` command against servers it should not, may not or cannot talk to."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import termios
import threading
from collections.abc import Callable
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from jetstreamproto.security.identity import Identity
from tests.loopback.command import DEADLINE, NOW, CliCase, Server, shared_server
from tests.ports import free_port

ELSEWHERE = "sha256:" + "A" * 43


class Authority:
    """A CA that issues certificates, valid until `days` from now."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA {id(self)}")])
        self.certificate = self._sign(self.key, self.name, 1, ca=True)

    def issue(self, *names: str, days: float = 1) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        return Identity(key, self._sign(key, subject, days, names))

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        days: float,
        names: tuple[str, ...] = (),
        ca: bool = False,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=9))
            .not_valid_after(NOW + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if names:
            general = [_general_name(name) for name in names]
            builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
        return builder.sign(self.key, SHA256())

    def write(self, path: Path) -> str:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return str(path)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class FirstContactTests(CliCase):
    def ping(self, server: Server) -> tuple[str, ...]:
        return ("ping", server.address, "-c", "1")

    def test_without_a_terminal_it_fails_and_says_what_to_do(self) -> None:
        server = shared_server()
        self.fails(
            *(3, f"{server.fingerprint}.* --pin {server.fingerprint} or --trust-new"),
            *self.ping(server),
        )
        self.assertFalse(self.known_hosts.exists())

    def test_trust_new_remembers(self) -> None:
        server = shared_server()
        status, _, err = self.run_command(*self.ping(server), "--trust-new")
        line = f"{server.address} {server.fingerprint}"
        self.assertEqual((status, self.known_hosts.read_text()), (0, line + "\n"))
        self.assertIn(server.fingerprint, err)
        status, _, err = self.run_command(*self.ping(server))
        self.assertEqual((status, err), (0, ""))

    def test_trust_new_does_not_trust_another(self) -> None:
        server = shared_server()
        self.known_hosts.write_text(f"{server.address} {ELSEWHERE}\n")
        self.fails(3, "its key was changed", *self.ping(server), "--trust-new")

    def test_a_folder_that_cannot_be_written(self) -> None:
        environ = {"JETSTREAM_HOME": "/proc/none"}
        self.fails(
            *(1, "/proc/none/known_hosts: "),
            *self.ping(shared_server()),
            "--trust-new",
            environ=environ,
        )

    def test_a_server_with_our_own_identity_is_known(self) -> None:
        server = self.server(Identity.load_or_create(self.home, NOW))
        status, _, err = self.run_command(*self.ping(server))
        self.assertEqual((status, err), (0, ""))
        self.assertFalse(self.known_hosts.exists())

    def on_terminal(
        self, answer: bytes, *arguments: str, question: bytes = b"[y/N] "
    ) -> tuple[int, str]:
        """The exit status and what the terminal showed, for a person who types `answer`."""
        person, terminal = pty.openpty()
        self.addCleanup(os.close, person)

        def take_terminal() -> None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

        process = self.start(
            *arguments,
            **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
            preexec_fn=take_terminal,
        )
        os.close(terminal)
        shown = self.read_terminal(person, question)
        os.write(person, answer)
        shown += self.read_terminal(person, None)
        return process.wait(DEADLINE), shown.decode().replace("\r\n", "\n")

    def read_terminal(self, person: int, until: bytes | None) -> bytes:
        shown = b""
        while until is None or not shown.endswith(until):
            self.assertTrue(select.select([person], [], [], DEADLINE)[0], shown)
            try:
                shown += os.read(person, 4096)
            except OSError:  # the other side is closed
                self.assertIsNone(until, shown)
                return shown
        return shown

    def test_on_a_terminal_it_asks(self) -> None:
        server = shared_server()
        status, shown = self.on_terminal(b"y\n", *self.ping(server))
        self.assertEqual(status, 0, shown)
        self.assertIn(server.fingerprint, shown)
        self.assertIn("1 of 1 answered", shown)
        expected = f"{server.address} {server.fingerprint}\n"
        self.assertEqual(self.known_hosts.read_text(), expected)

    def test_anything_but_yes_is_no(self) -> None:
        for answer in (b"\n", b"n\n", b"what?\n", b"\x04"):
            status, shown = self.on_terminal(answer, *self.ping(shared_server()))
            self.assertEqual(status, 3, shown)
            self.assertIn("was not accepted", shown)
            self.assertFalse(self.known_hosts.exists())

    def test_ctrl_c_at_the_question(self) -> None:
        status, shown = self.on_terminal(b"\x03", *self.ping(shared_server()))
        self.assertEqual(status, -2, shown)
        self.assertNotIn("Traceback", shown)

    def test_a_password_is_asked_for_and_not_shown(self) -> None:
        server = self.server(log_in=True)
        self.known_hosts.write_text(f"{server.address} {server.fingerprint}\n")
        ping = (*self.ping(server), "--user", "al")
        status, shown = self.on_terminal(b"secret\n", *ping, question=b"Password of al: ")
        self.assertEqual(status, 0, shown)
        self.assertNotIn("secret", shown)


class TrustTests(CliCase):
    def test_a_wrong_pin(self) -> None:
        server = shared_server()
        self.fails(
            *(3, f"{server.fingerprint}, which is not trusted"),
            *("ping", server.address, "--pin", ELSEWHERE),
        )

    def test_a_ca_and_the_name(self) -> None:
        authority = Authority()
        ca = ("--ca", authority.write(self.home / "ca.pem"))
        server = self.server(authority.issue("localhost", "127.0.0.1"))
        for host in ("localhost", "127.0.0.1"):
            status, _, err = self.run_command("ping", f"{host}:{server.port}", "-c", "1", *ca)
            self.assertEqual((status, err), (0, ""))
        other = ("--ca", Authority().write(self.home / "other.pem"))
        self.fails(
            3, "not one of the trusted CAs|CA that is not trusted", "ping", server.address, *other
        )
        server = self.server(authority.issue("example.org"))
        self.fails(3, "not for '127.0.0.1'", "ping", server.address, *ca)

    def test_an_expired_certificate(self) -> None:
        authority = Authority()
        server = self.server(authority.issue("127.0.0.1", days=-1))
        self.fails(3, "expired", "ping", server.address, "--pin", server.fingerprint)
        ca = authority.write(self.home / "ca.pem")
        self.fails(3, "expired", "ping", server.address, "--ca", ca)

    def test_a_broken_known_hosts_file(self) -> None:
        server = shared_server()
        self.known_hosts.write_text(f"{server.address} nonsense\n")
        self.fails(1, "known_hosts: ", "ping", server.address)


class NotAllowedTests(CliCase):
    def test_user_and_password(self) -> None:
        server = self.server(log_in=True)
        ping = ("ping", server.address, "--pin", server.fingerprint, "-c", "1")
        refused = (4, "unknown user or wrong password")
        password = {"environ": {"JETSTREAM_PASSWORD": "secret"}}
        status, _, err = self.run_command(*ping, "--user", "al", **password)
        self.assertEqual((status, err), (0, ""))
        self.fails(*refused, *ping)
        self.fails(*refused, *ping, "--user", "eve", **password)
        self.fails(*refused, *ping, "--user", "al", environ={"JETSTREAM_PASSWORD": "x"})
        path = self.home / "password"
        path.write_text("secret\n")
        status, _, err = self.run_command(*ping, "--user", "al", "--password-file", str(path))
        self.assertEqual((status, err), (0, ""))

    def test_client_certificates(self) -> None:
        ours, theirs = Identity.create(NOW), Identity.create(NOW)
        server = self.server(clients=[ours.fingerprint])
        ping = ("ping", server.address, "--pin", server.fingerprint, "-c", "1")
        self.fails(4, "requires a client certificate", *ping)
        for path, options in [
            (self.home / "cert.pem", ("--cert", str(self.home / "cert.pem"))),
            (self.home / "identity.pem", ()),
        ]:
            path.write_bytes(ours.to_pem())
            status, _, err = self.run_command(*ping, *options)
            self.assertEqual((status, err), (0, ""))
            path.write_bytes(theirs.to_pem())
            self.fails(4, "the peer refused our certificate", *ping, *options)


class NoServerTests(CliCase):
    def listener(self, serve: Callable[[socket.socket], None] | None, backlog: int = 5) -> str:
        """The address of something that listens, and serves one connection after another."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.addCleanup(listening.close)
        self.listening = listening

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    assert serve is not None
                    serve(connection)

        if serve is not None:
            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            self.addCleanup(thread.join, DEADLINE)
            self.addCleanup(listening.shutdown, socket.SHUT_RDWR)
        return f"127.0.0.1:{listening.getsockname()[1]}"

    def ping(self, address: str, *options: str) -> tuple[str, ...]:
        return ("ping", address, "--pin", ELSEWHERE, *options)

    def test_nothing_listens(self) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.fails(1, f"^nothing listens at {address}$", *self.ping(address))

    def test_an_unknown_host_name(self) -> None:
        self.fails(1, "host name nothing.invalid has no address", *self.ping("nothing.invalid"))

    def test_a_server_that_accepts_and_says_nothing(self) -> None:
        address = self.listener(None)
        self.fails(5, "no session within 0.5 s", *self.ping(address, "--timeout", "0.5"))

    def test_a_server_that_does_not_accept(self) -> None:
        address = self.listener(None, backlog=0)
        waiting = [socket.socket() for _ in range(4)]  # more than its queue takes
        for connection in waiting:
            self.addCleanup(connection.close)
            connection.setblocking(False)
            connection.connect_ex(self.listening.getsockname())
        self.fails(5, f"no answer from {address} within", *self.ping(address, "--timeout", "0.5"))

    def test_an_http_server(self) -> None:
        def serve(connection: socket.socket) -> None:
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            while connection.recv(4096):
                pass

        self.fails(1, "does not speak JetStream but HTTP", *self.ping(self.listener(serve)))

    def test_a_server_that_speaks_first(self) -> None:
        def serve(connection: socket.socket) -> None:
            connection.sendall(b"220 \x1b[2Jmail.example ESMTP\r\n")
            while connection.recv(4096):
                pass

        address = self.listener(serve)
        self.fails(1, "does not speak JetStream", *self.ping(address))

    def test_a_server_that_hangs_up(self) -> None:
        self.fails(1, "closed the connection", *self.ping(self.listener(lambda _: None)))

    def test_a_full_server(self) -> None:
        server = self.server(sessions=1)
        ping = ("ping", server.address, "--pin", server.fingerprint)
        first = self.start(*ping, "-i", "99")
        assert first.stdout is not None
        self.assertTrue(select.select([first.stdout], [], [], DEADLINE)[0])
        # The reason is lost when our hello meets a connection that the server has closed already.
        self.fails(1, "too many connections|closed the connection", *ping)
