"""The strings of endpoints, as Twisted reads them."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin
from twisted.plugins import jetstreamproto_plugins
from zope.interface.verify import verifyObject

from jetstreamproto.endpoints import JetStreamClientEndpoint, JetStreamServerEndpoint
from jetstreamproto.endpoints.strings import ClientParser, ServerParser

PIN = "sha256:" + "A" * 43
ESCAPED = PIN.replace(":", "\\:")


class StringTestCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        environment = mock.patch.dict(os.environ, {"JETSTREAM_HOME": str(self.folder / "home")})
        environment.start()
        self.addCleanup(environment.stop)

    def client(self, description: str) -> JetStreamClientEndpoint:
        endpoint: Any = clientFromString(MemoryReactorClock(), description)
        self.assertIsInstance(endpoint, JetStreamClientEndpoint)
        return endpoint  # type: ignore[no-any-return]

    def server(self, description: str) -> JetStreamServerEndpoint:
        endpoint: Any = serverFromString(MemoryReactorClock(), description)
        self.assertIsInstance(endpoint, JetStreamServerEndpoint)
        return endpoint  # type: ignore[no-any-return]

    def refused(self, parse: Any, description: str) -> str:
        with self.assertRaises(ValueError) as caught:
            parse(description)
        message = str(caught.exception)
        self.assertTrue(message.startswith("jetstream: "), message)
        return message


class ClientStringTests(StringTestCase):
    def test_the_shortest(self) -> None:
        endpoint = self.client("jetstream:server.example:9000")
        target = endpoint.target
        self.assertTrue(verifyObject(IStreamClientEndpoint, endpoint))
        self.assertEqual(
            (target.host, target.port, target.transport), ("server.example", 9000, "auto")
        )
        self.assertEqual((endpoint.service, endpoint.timeout), ("stream", 10.0))
        self.assertEqual(target.state_dir, self.folder / "home")

    def test_everything(self) -> None:
        endpoint = self.client(
            f"jetstream:host=server.example:port=9000:transport=udp:pin={ESCAPED}:service=web"
            f":stateDir={self.folder}:timeout=2.5:fec=10+2:congestion=cubic:mtu=1400:bulk=yes"
        )
        target = endpoint.target
        self.assertEqual((target.transport, target.bulk, target.pins), ("udp", True, (PIN,)))
        self.assertEqual((endpoint.service, endpoint.timeout), ("web", 2.5))
        self.assertEqual(target.state_dir, self.folder)
        datagrams = target.datagrams
        self.assertEqual(
            (datagrams.fec, datagrams.congestion, datagrams.mtu), ("10+2", "cubic", 1400)
        )
        self.assertTrue(self.client("jetstream:h:1:trustNew=yes").target.trust_new)
        self.assertFalse(self.client("jetstream:h:1:trustNew=no").target.trust_new)

    def test_equal_strings_have_equal_targets(self) -> None:
        one, other = (
            self.client(f"jetstream:server.example:9000:pin={ESCAPED}:service={name}").target
            for name in "ab"
        )
        self.assertEqual(one, other)
        self.assertEqual(hash(one), hash(other))
        self.assertNotEqual(one, self.client("jetstream:server.example:9000").target)

    def test_ipv6(self) -> None:
        self.assertEqual(self.client("jetstream:\\:\\:1:9000").target.host, "::1")

    def test_what_is_wrong_is_said(self) -> None:
        (self.folder / "bad.pem").write_text("no certificate")
        for rest, part in {
            "": "host is missing",
            "h": "port is missing",
            "h:": "port is missing",
            "h:http": "port: 'http' is not a number",
            "h:0": "0 is not a port",
            "h:65536": "65536 is not a port",
            "-bad-.-host name-:1": "host name",
            "h:1:2": "'2' is one word too many",
            f"h:1:pin={PIN}": "one word too many",  # without the backslash
            "h:1:pin=md5\\:1": "not a fingerprint",
            "h:1:transport=tpc": "'tpc' is not a transport; there is tcp, udp",
            "h:1:timeout=soon": "timeout: 'soon' is not a number of seconds",
            "h:1:timeout=0": "timeout: '0'",
            "h:1:timeout=nan": "timeout: 'nan'",
            "h:1:trustNew=maybe": "neither yes nor no",
            "h:1:trustnew=yes": "trustNew?",
            "h:1:colour=red": "there is host, port",
            "h:1:host=x": "host is given twice",
            f"h:1:pin={ESCAPED}:trustNew=yes": "only one of pin, ca and trustNew",
            "h:1:ca=/none.pem": "/none.pem",
            f"h:1:ca={self.folder}/bad.pem": "bad.pem",
            "h:1:cert=/none.pem": "/none.pem",
            "h:1:key=/none.pem": "key is of no use without cert",
            "h:1:fec=lots": "fec: 'lots'",
            "h:1:mtu=10": "mtu must be",
            "h:1:congestion=reno2": "congestion:",
            f"h:1:service={'x' * 256}": "longer than 255",
        }.items():
            with self.subTest(rest):
                self.assertIn(part, self.refused(self.client, f"jetstream:{rest}"))


class ServerStringTests(StringTestCase):
    def test_the_shortest(self) -> None:
        endpoint = self.server("jetstream:9000")
        listening = endpoint.listening
        self.assertTrue(verifyObject(IStreamServerEndpoint, endpoint))
        self.assertEqual((listening.port, listening.interface), (9000, "127.0.0.1"))
        self.assertLessEqual({"tcp", "udp"}, set(listening.transports))
        self.assertEqual(endpoint.service, "stream")
        self.assertFalse((self.folder / "home").exists())

    def test_everything(self) -> None:
        endpoint = self.server(
            f"jetstream:port=0:interface=0.0.0.0:transport=udp,tcp:service=web:allow={ESCAPED}"
            f":stateDir={self.folder}:drainTimeout=1:fec=off"
        )
        listening = endpoint.listening
        self.assertEqual(listening.transports, ("udp", "tcp"))
        self.assertEqual(listening.fingerprints, (PIN,))
        self.assertEqual(listening.settings.drain_timeout, 1)
        self.assertEqual(listening.datagrams.fec, "off")
        self.assertEqual((endpoint.service, listening.state_dir), ("web", self.folder))

    def test_who_is_let_in(self) -> None:
        self.assertIsNone(self.server("jetstream:1:interface=\\:\\:1").listening.client_trust())
        anyone = self.server("jetstream:1:interface=0.0.0.0:allow=anonymous").listening
        self.assertIsNone(anyone.client_trust())
        (self.folder / "clients").write_text(f"{PIN} somebody\n")
        for who in (f"allow={ESCAPED}", f"clients={self.folder}/clients"):
            trust: Any = self.server(f"jetstream:1:interface=\\:\\::{who}").listening.client_trust()
            self.assertEqual(trust.fingerprints, {PIN})

    def test_what_is_wrong_is_said(self) -> None:
        for rest, part in {
            "": "port is missing",
            "http": "port: 'http'",
            "70000": "70000 is not a port",
            "1:interface=0.0.0.0": "interface=0.0.0.0 lets other hosts in",
            "1:interface=localhost": "not an IP address",
            "1:transport=tcp,smoke": "'smoke' is not a transport",
            "1:allow=everybody": "not a fingerprint",
            f"1:allow=anonymous,{ESCAPED}": "not a fingerprint",
            "1:allow=anonymous:clients=/none": "only one of allow, clients and clientCA",
            "1:clients=/none": "/none",
            "1:key=/none": "key is of no use without cert",
            "1:cert=/none": "/none",
            "1:interfaces=\\:\\:1": "interface?",
            "1:drainTimeout=-1": "drainTimeout",
            "1:2": "one word too many",
        }.items():
            with self.subTest(rest):
                self.assertIn(part, self.refused(self.server, f"jetstream:{rest}"))


class PluginTests(unittest.TestCase):
    def test_they_are_declared(self) -> None:
        client = jetstreamproto_plugins.jetstream_client_endpoints
        server = jetstreamproto_plugins.jetstream_server_endpoints
        for parser, kind, interface in (
            (client, ClientParser, IStreamClientEndpointStringParserWithReactor),
            (server, ServerParser, IStreamServerEndpointStringParser),
        ):
            self.assertIsInstance(parser, kind)
            self.assertTrue(verifyObject(interface, parser))
            self.assertTrue(IPlugin.providedBy(parser))
            self.assertEqual(parser.prefix, "jetstream")

    def test_declaring_them_imports_nothing_heavy(self) -> None:
        script = (
            "import sys, twisted.plugins.jetstreamproto_plugins\n"
            "heavy = 'OpenSSL', 'cryptography', 'jetstreamproto.session', 'zfec', 'click',"
            " 'twisted.internet.reactor'\n"
            "sys.exit(', '.join(name for name in heavy if name in sys.modules) or None)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_names_of_the_package(self) -> None:
        import jetstreamproto.endpoints as package

        for name in package.__all__:
            self.assertEqual(getattr(package, name).__name__, name)
        with self.assertRaises(AttributeError):
            package.nothing_of_that_name  # noqa: B018
