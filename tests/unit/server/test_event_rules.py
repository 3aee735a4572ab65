"""Who may use events: without rules, with --allow-anonymous, and with scopes in the file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ConfigurationError, NotAllowed
from jetstreamproto.server.access import AccessRules
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.offers import make_offers, opened_services
from jetstreamproto.server.reading import read_file
from jetstreamproto.services.events.client import EventClient
from jetstreamproto.services.events.offer import EventOffer
from tests.doubles import QuickClock, make_pair

RULES = """
[[allow]]
peers = ["*"]
services = ["events"]
publish = ["mine.>"]
subscribe = ["mine.*", "$dead.mine.>"]
streams = []
"""


class Reactor(QuickClock):
    """A clock that a journal's thread can call."""

    def callFromThread(self, call: Any) -> None:
        self.callLater(0, call)


class RuleTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def config(self, rules: str) -> ServerConfig:
        path = self.folder / "server.toml"
        path.write_text(rules)
        return ServerConfig(state_dir=self.folder, **read_file(path))  # type: ignore[arg-type]

    def client(self, config: ServerConfig) -> tuple[Any, EventClient]:
        access = AccessRules(config.allow, opened_services(config))
        (offer,) = [o for o in make_offers(config, access) if isinstance(o, EventOffer)]
        reactor = Reactor()
        offer.start(reactor)
        self.addCleanup(offer.stop)
        self.assertTrue((self.folder / "data" / "events.sqlite").is_file())
        pair = make_pair(offer.services, clock=reactor, server_options={"access": access})
        return pair, EventClient(pair.client)

    def test_without_rules_those_who_were_let_in_may(self) -> None:
        pair, client = self.client(self.config(""))
        pair.run(client.subscribe(">"))
        pair.run(client.publish("a", b""))

    def test_anonymous_peers_may_nothing(self) -> None:
        pair, client = self.client(self.config("allow_anonymous = true"))
        for asked in (client.subscribe("a"), client.publish("a", b""), client.streams()):
            with self.assertRaises(NotAllowed):
                pair.run(asked)

    def test_anonymous_peers_may_what_a_rule_says(self) -> None:
        pair, client = self.client(self.config("allow_anonymous = true\n" + RULES))
        pair.run(client.subscribe("mine.a"))
        pair.run(client.publish("mine.a.b", b""))
        for asked in (
            client.subscribe("mine.>"),
            client.publish("a", b""),
            client.add_stream("s", ["mine.>"]),
        ):
            with self.assertRaises(NotAllowed):
                pair.run(asked)

    def test_a_scope_that_is_no_pattern_names_the_file(self) -> None:
        with self.assertRaises(ConfigurationError) as raised:
            self.config(RULES.replace("mine.*", "mine*"))
        self.assertIn("server.toml: allow: rule 1", str(raised.exception))
