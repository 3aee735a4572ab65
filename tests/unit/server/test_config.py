from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import attrs

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.settings import DatagramSettings
from jetstreamproto.security.trust import PinnedKeys
from jetstreamproto.server.config import (
    EXPLANATIONS,
    KINDS,
    ServerConfig,
    read_address,
)

FINGERPRINT = "sha256:LGSw9rHTjRX3IVpHRLkc7xXRDVTI67hEWFzGVNS_QPk"


class ServerConfigTests(unittest.TestCase):
    def refuse(self, *words: str, **settings: Any) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            ServerConfig(**settings)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_without_settings_it_serves_this_host(self) -> None:
        config = ServerConfig()
        self.assertEqual((config.port, config.interface), (9000, ("127.0.0.1",)))
        self.assertEqual(config.transports, ("tcp", "udp", "quic"))
        self.assertIsNone(config.client_trust())

    def test_every_setting_has_a_kind_and_an_explanation(self) -> None:
        names = {field.name for field in attrs.fields(ServerConfig)} - {"auth", "allow", "profiles"}
        self.assertEqual(set(KINDS), names)
        self.assertEqual(set(EXPLANATIONS), names)

    def test_loopback_needs_no_permission(self) -> None:
        ServerConfig(interface=("127.0.0.1", "127.1.2.3", "::1"))

    def test_other_hosts_are_let_in_only_when_it_is_said_who(self) -> None:
        for interface in ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1"):
            with self.subTest(interface):
                listen = ("127.0.0.1", interface)
                self.refuse(interface, "--allow-anonymous", "--clients", interface=listen)
                ServerConfig(interface=listen, allow_anonymous=True)
                ServerConfig(interface=listen, clients=Path("clients"))
                ServerConfig(interface=listen, client_ca=Path("ca.pem"))
                ServerConfig(interface=listen, auth=("file:users",))

    def test_contradictions_name_both_sides(self) -> None:
        some = Path("some.pem")
        self.refuse("--key", "--cert", key=some)
        self.refuse("--clients", "--client-ca", clients=some, client_ca=some)
        self.refuse("--clients", "--allow-anonymous", clients=some, allow_anonymous=True)
        self.refuse("--heartbeat 50", "--idle-timeout 45", heartbeat=50.0)

    def test_a_datagram_has_a_least_size(self) -> None:
        self.refuse("--udp-mtu", "1199", udp_mtu=1199)
        for mtu in (0, 1200, 65507):
            self.assertEqual(ServerConfig(udp_mtu=mtu).datagram_settings().mtu, mtu)

    def test_it_becomes_settings_of_datagrams(self) -> None:
        self.assertEqual(ServerConfig().datagram_settings(), DatagramSettings())
        settings = ServerConfig(
            congestion="newreno", fec="5+1", heartbeat=1.0, idle_timeout=3.0, status_interval=2.5
        ).datagram_settings()
        self.assertEqual((settings.congestion, settings.fec), ("newreno", "5+1"))
        self.assertEqual((settings.heartbeat, settings.idle_timeout), (1.0, 3.0))
        self.assertEqual(settings.status_interval, 2.5)

    def test_it_becomes_settings_and_limits(self) -> None:
        config = ServerConfig(
            max_message=100 << 20,
            heartbeat=1.0,
            idle_timeout=3.0,
            drain_timeout=2.0,
            max_sessions=10,
            max_sessions_per_address=5,
            max_half_open=3,
        )
        settings = config.session_settings()
        self.assertEqual(settings.max_message, 100 << 20)
        self.assertGreaterEqual(settings.max_assembly, settings.max_message)
        self.assertEqual((settings.heartbeat, settings.idle_timeout), (1.0, 3.0))
        self.assertEqual(settings.drain_timeout, 2.0)
        limits = config.admission_limits()
        self.assertEqual(
            (limits.sessions, limits.sessions_per_address, limits.half_open), (10, 5, 3)
        )

    def test_clients_come_from_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "clients")
            path.write_text(f"# who may come\n{FINGERPRINT} al's laptop\n")
            trust = ServerConfig(clients=path).client_trust()
        assert isinstance(trust, PinnedKeys)
        self.assertEqual(trust.fingerprints, {FINGERPRINT})

    def test_a_file_of_clients_that_cannot_be_used_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "clients")
            for content in (None, b"", b"garbage\n", b"\xff\n"):
                if content is not None:
                    path.write_bytes(content)
                with self.subTest(content), self.assertRaises(ConfigurationError) as caught:
                    ServerConfig(clients=path).client_trust()
                self.assertIn(str(path), str(caught.exception))

    def test_addresses_are_canonical(self) -> None:
        for text, expected in {
            "127.0.0.1": "127.0.0.1",
            "[::1]": "::1",
            "0:0::1": "::1",
            "::": "::",
            "fe80::1%eth0": "fe80::1%eth0",
        }.items():
            self.assertEqual(read_address(text), expected)
        for text in ("", "localhost", "127.1", "[127.0.0.1", "1.2.3.4:9000", "*"):
            with self.assertRaises(ValueError):
                read_address(text)
