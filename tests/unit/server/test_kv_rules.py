"""What a server's configuration says of key-value, and who may use it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import TestCase

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.access import ANYONE, AccessRules
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.offers import make_offers, opened_services
from jetstreamproto.server.reading import read_file, read_options
from jetstreamproto.server.scopes import scopes_of
from jetstreamproto.services.kv.model import KV


class KeyValueRuleTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def rules(self, text: str) -> object:
        path = self.folder / "server.toml"
        path.write_text(f'[[allow]]\npeers = ["*"]\n{text}')
        return read_file(path)["allow"]

    def test_scopes_are_patterns_of_keys(self) -> None:
        (rule,) = self.rules('services = ["kv"]\nread = ["b/*", "*"]\nwrite = []')  # type: ignore[misc]
        self.assertEqual(rule.scopes, {"read": ("b/*", "*"), "write": ()})
        with self.assertRaisesRegex(ConfigurationError, "'users' is not a pattern of keys"):
            self.rules('services = ["kv"]\nread = ["users"]')

    def test_a_scope_that_several_services_have_needs_a_rule_for_each(self) -> None:
        for services in ('["kv", "files"]', '["*"]'):
            with self.assertRaisesRegex(ConfigurationError, "write a rule for each"):
                self.rules(f'services = {services}\nread = ["*"]')
        self.assertLessEqual({"read", "write", "targets"}, set(scopes_of([ANYONE])))

    def test_who_was_let_in_may_use_it_and_anybody_may_not(self) -> None:
        self.assertIn(KV, opened_services(ServerConfig(state_dir=self.folder)))
        anybody = ServerConfig(state_dir=self.folder, allow_anonymous=True)
        self.assertNotIn(KV, opened_services(anybody))

    def test_it_is_offered_and_makes_no_file_before_it_is_used(self) -> None:
        config = ServerConfig(state_dir=self.folder, data_dir=self.folder / "data")
        offers = make_offers(config, AccessRules())
        self.assertTrue(any(KV in offer.services for offer in offers))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_size_of_the_store(self) -> None:
        self.assertEqual(ServerConfig(state_dir=self.folder).kv_size, 1 << 30)
        self.assertEqual(read_options({"kv_size": "2M"}), {"kv_size": 2 << 20})
        with self.assertRaisesRegex(ConfigurationError, "--kv-size"):
            read_options({"kv_size": "1K"})
