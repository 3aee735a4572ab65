"""The tunnel as `twistd jetstream` offers it: by the rules in its file."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.access import AccessRules
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.offers import make_offers
from jetstreamproto.server.reading import read_file
from jetstreamproto.services.tunnel.service import TunnelOffer
from tests.doubles import make_pair

RULE = '[[allow]]\npeers = ["*"]\nservices = ["tunnel"]\n'


class TunnelRulesTests(unittest.TestCase):
    def read(self, text: str) -> dict[str, Any]:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "server.toml"
            path.write_text(text)
            return read_file(path)

    def offer(self, text: str) -> tuple[TunnelOffer, Any]:
        """The offer of a server with this file, and the session of a client."""
        config = ServerConfig(**self.read(text))
        access = AccessRules(config.allow)
        (offer,) = (one for one in make_offers(config, access) if isinstance(one, TunnelOffer))
        return offer, make_pair({}, server_options={"access": access}).server

    def test_scopes_become_rules(self) -> None:
        text = RULE + 'targets = ["*.Example.org:80", "10.0.0.0/8:*"]\nlisten = ["127.0.0.1:*"]\n'
        offer, session = self.offer("tunnel_connections = 7\n" + text)
        self.assertEqual(offer.limits.connections, 7)
        targets = offer.rules(session, "targets")
        self.assertTrue(targets.allow_host("a.example.org", 80))
        self.assertFalse(targets.allow_host("127.0.0.1", 80))
        self.assertTrue(offer.rules(session, "listen").allow_host("127.0.0.1", 80))

    def test_without_scopes_there_is_nothing(self) -> None:
        for text in (RULE, '[[allow]]\npeers = ["*"]\nservices = ["*"]\n', ""):
            offer, session = self.offer(text)
            for scope in ("targets", "listen"):
                self.assertFalse(offer.rules(session, scope).allow_host("127.0.0.1", 80))
                self.assertFalse(offer.rules(session, scope).need_lookup(80))

    def test_patterns_that_are_none(self) -> None:
        for line, problem in (
            ('targets = ["127.0.0.1"]', "rule 1: '127.0.0.1' is not a pattern"),
            ('listen = ["localhost:80"]', "rule 1: .* listens on IP addresses"),
            ('topics = ["a"]', "rule 1: there is no 'topics'"),
        ):
            with self.subTest(line), self.assertRaisesRegex(ConfigurationError, problem):
                self.read(RULE + line)
