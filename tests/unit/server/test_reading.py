from __future__ import annotations

import tempfile
import unittest
from datetime import UTC, datetime
from pathlib import Path

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.security.identity import Identity
from jetstreamproto.server.access import AllowRule
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.reading import read_file, read_options

FINGERPRINT = "sha256:LGSw9rHTjRX3IVpHRLkc7xXRDVTI67hEWFzGVNS_QPk"


class OptionTests(unittest.TestCase):
    def test_texts_become_values(self) -> None:
        given = {"port": "0", "interface": "::1,127.0.0.1", "max_message": "1M", "clients": "c"}
        self.assertEqual(
            read_options(given),
            {
                "port": 0,
                "interface": ("::1", "127.0.0.1"),
                "max_message": 1 << 20,
                "clients": Path.cwd() / "c",
            },
        )

    def test_an_error_names_the_option(self) -> None:
        for key, text, word in (
            ("port", "x", "--port"),
            ("max_half_open", "0", "--max-half-open"),
            ("transports", "tcp,sctp", "'sctp' is not a transport; there is tcp"),
            ("transports", "pigeon", "'pigeon' is not a transport"),
            ("transports", "", "'' is not a transport"),
            ("congestion", "reno", "--congestion: 'reno' is not one of bbr, cubic, newreno"),
            ("fec", "10-2", "--fec: '10-2' is not off, adaptive or K+R"),
            ("fec", "200+57", "--fec: '200+57' is a group of more than 256 packets"),
            ("udp_mtu", "70000", "--udp-mtu"),
            ("status_interval", "-1", "--status-interval"),
        ):
            with self.subTest(key), self.assertRaises(ConfigurationError) as caught:
                read_options({key: text})
            self.assertIn(word, str(caught.exception))


class FileTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "server.toml")

    def read(self, text: str) -> dict[str, object]:
        self.path.write_text(text)
        return read_file(self.path)

    def refuse(self, text: str, *words: str) -> None:
        with self.subTest(text), self.assertRaises(ConfigurationError) as caught:
            self.read(text)
        for word in (str(self.path), *words):
            self.assertIn(word, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))

    def test_every_key_is_read(self) -> None:
        settings = self.read(
            """
            port = 9443
            interface = ["0.0.0.0", "::"]
            transports = ["udp", "tcp"]
            congestion = "cubic"
            fec = "10+2"
            udp_mtu = 1400
            status_interval = 0
            state_dir = "state"
            cert = "/etc/ssl/cert.pem"
            key = "key.pem"
            clients = "clients"
            auth = ["file:users"]
            allow_anonymous = false
            max_sessions = 100
            max_sessions_per_address = 10
            max_half_open = 5
            max_message = "1MiB"
            heartbeat = 5
            idle_timeout = 20.5
            drain_timeout = 3

            [[allow]]
            peers = ["*"]
            services = ["echo"]

            [[allow]]
            peers = ["user:al", "sha256:LGSw9rHTjRX3IVpHRLkc7xXRDVTI67hEWFzGVNS/QPk="]
            services = ["*"]
            """
        )
        config = ServerConfig(**settings)  # type: ignore[arg-type]
        self.assertEqual(config.interface, ("0.0.0.0", "::"))
        self.assertEqual(config.key, self.path.parent / "key.pem")
        self.assertEqual(config.state_dir, self.path.parent / "state")
        self.assertEqual(config.cert, Path("/etc/ssl/cert.pem"))
        self.assertEqual(config.auth, ("file:users",))
        self.assertEqual((config.max_message, config.idle_timeout), (1 << 20, 20.5))
        self.assertEqual(config.transports, ("udp", "tcp"))
        self.assertEqual((config.congestion, config.fec), ("cubic", "10+2"))
        self.assertEqual(
            config.allow,
            (
                AllowRule(frozenset({"*"}), frozenset({"echo"})),
                AllowRule(frozenset({"user:al", FINGERPRINT}), frozenset({"*"})),
            ),
        )

    def test_a_key_that_there_is_not_is_refused_and_a_close_one_offered(self) -> None:
        self.refuse("prot = 1", "prot", "port?")
        self.refuse("max-sessions = 1", "max-sessions", "max_sessions?")
        self.refuse("[section]\nport = 1", "section")

    def test_a_wrong_type_or_value_names_the_key(self) -> None:
        self.refuse('port = "9000"', "port", "'9000'")
        self.refuse("port = 70000", "port", "70000")
        self.refuse("interface = [1]", "interface")
        self.refuse("allow_anonymous = 1", "allow_anonymous")
        self.refuse("cert = true", "cert")
        self.refuse("auth = 1", "auth")
        self.refuse('transports = ["sctp"]', "transports", "'sctp'")
        self.refuse("congestion = 1", "congestion", "not a word")
        self.refuse('fec = "10+0"', "fec", "'10+0'")
        self.refuse('udp_mtu = "1400"', "udp_mtu", "'1400'")

    def test_a_wrong_rule_is_counted(self) -> None:
        good = '[[allow]]\npeers = ["*"]\nservices = ["echo"]\n'
        self.refuse(good + '[[allow]]\npeers = ["al"]\nservices = ["echo"]', "rule 2", "'al'")
        self.refuse(good + '[[allow]]\npeers = ["*"]', "rule 2", "services")
        self.refuse('[[allow]]\nservices = ["echo"]', "rule 1", "peers")
        self.refuse('[[allow]]\npeers = "*"\nservices = ["echo"]', "rule 1")
        self.refuse('[[allow]]\npeer = ["*"]\nservices = ["echo"]', "rule 1", "'peer'")
        self.refuse('allow = ["echo"]', "[[allow]]")
        self.refuse('[allow]\npeers = ["*"]', "[[allow]]")

    def test_what_is_not_toml_is_told_with_its_place(self) -> None:
        self.refuse("port = \n", "line 1")
        self.path.write_bytes(b"port = \xff")
        with self.assertRaisesRegex(ConfigurationError, "UTF-8"):
            read_file(self.path)

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        for path in (self.path, self.path.parent):
            with self.assertRaises(ConfigurationError) as caught:
                read_file(path)
            self.assertIn(str(path), str(caught.exception))


class IdentityFileTests(unittest.TestCase):
    def test_a_fingerprint_of_an_identity_is_a_peer_in_a_rule(self) -> None:
        shown = Identity.create(datetime.now(UTC)).fingerprint
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "server.toml")
            path.write_text(f'[[allow]]\npeers = ["{shown}"]\nservices = ["echo"]\n')
            rules = read_file(path)["allow"]
        self.assertEqual(rules, (AllowRule(frozenset({shown}), frozenset({"echo"})),))
