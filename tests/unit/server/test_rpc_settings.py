from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.offers import opened_services
from jetstreamproto.server.reading import read_file, read_options
from jetstreamproto.services.rpc.messages import RPC


class SettingsTests(unittest.TestCase):
    def test_targets(self) -> None:
        self.assertEqual(
            read_options({"rpc": "shop:Orders, shop.stock:Stock"})["rpc"],
            ("shop:Orders", "shop.stock:Stock"),
        )
        for text in ("shop", "shop:", ":Orders", "a b:C"):
            with self.subTest(text), self.assertRaisesRegex(ConfigurationError, "MODULE:OBJECT"):
                read_options({"rpc": text})

    def test_who_is_let_in_may_call_but_not_just_anyone(self) -> None:
        self.assertIn(RPC, opened_services(ServerConfig()))
        self.assertNotIn(RPC, opened_services(ServerConfig(allow_anonymous=True)))


class ScopeTests(unittest.TestCase):
    def read(self, rule: str) -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "server.toml"
            path.write_text(f'[[allow]]\npeers = ["*"]\nservices = ["rpc"]\n{rule}\n')
            return read_file(path)

    def test_methods_and_registrations(self) -> None:
        (rule,) = self.read('methods = ["demo.Calc#*", "*"]\nregister = ["demo.*"]')["allow"]  # type: ignore[misc]
        self.assertEqual(
            dict(rule.scopes), {"methods": ("demo.Calc#*", "*"), "register": ("demo.*",)}
        )

    def test_patterns_that_are_none(self) -> None:
        for pattern in ("demo.Calc", "demo*", "", "demo.Calc#a*"):
            with self.subTest(pattern), self.assertRaises(ConfigurationError):
                self.read(f'methods = ["{pattern}"]')
