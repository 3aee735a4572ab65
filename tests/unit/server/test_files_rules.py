"""The folder that is served: its setting, its rules, and the offer that comes of them."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.access import AccessRules, AllowRule
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.offers import make_offers, opened_services
from jetstreamproto.server.reading import read_file, read_options
from jetstreamproto.server.scopes import scopes_of
from jetstreamproto.server.values import Shared, SharedFolder
from jetstreamproto.testing import SessionPair
from tests.doubles import IDENTITY

HERE = Path("/etc/jetstream")


class SettingTests(unittest.TestCase):
    def test_a_folder_and_what_may_be_done_there(self) -> None:
        for text, path, writable in (
            ("/srv", "/srv", False),
            ("/srv:ro", "/srv", False),
            ("/srv:rw", "/srv", True),
            ("/a:b", "/a:b", False),
            ("/a:rw:ro", "/a:rw", False),
        ):
            self.assertEqual(Shared().from_text(text), SharedFolder(Path(path), writable))
        self.assertEqual(Shared().from_toml("files:rw", HERE), SharedFolder(HERE / "files", True))
        self.assertEqual(Shared().from_text("x").path, Path.cwd() / "x")

    def test_what_is_none(self) -> None:
        for text in ("", ":rw", "a\0b"):
            with self.subTest(text), self.assertRaises(ValueError):
                Shared().from_text(text)
        for value in (1, ["/srv"], True):
            with self.subTest(value), self.assertRaises(ValueError):
                Shared().from_toml(value, HERE)

    def test_on_the_command_line(self) -> None:
        settings = read_options({"files": "/srv:rw"})
        self.assertEqual(settings["files"], SharedFolder(Path("/srv"), True))


class OfferTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def services(self, config: ServerConfig) -> set[str]:
        access = AccessRules(config.allow, opened_services(config))
        return {name for offer in make_offers(config, access) for name in offer.services}

    def test_only_with_a_folder(self) -> None:
        self.assertNotIn("files", self.services(ServerConfig()))
        config = ServerConfig(files=SharedFolder(self.root, False))
        self.assertIn("files", self.services(config))
        with self.assertRaises(ConfigurationError):
            self.services(ServerConfig(files=SharedFolder(self.root / "no", False)))

    def test_without_rules_it_is_for_everyone_with_rules_for_whom_they_say(self) -> None:
        config = ServerConfig(files=SharedFolder(self.root, True))
        pair = SessionPair({}, identity=IDENTITY)
        AccessRules((), opened_services(config))(pair.server, "files")
        rule = AllowRule(frozenset({"*"}), frozenset({"echo"}))
        for rules in (AccessRules([rule], opened_services(config)), AccessRules()):
            with self.assertRaises(Exception) as caught:
                rules(pair.server, "files")
            self.assertIn("files", str(caught.exception))

    def test_patterns_in_rules(self) -> None:
        self.assertLessEqual({"read", "write"}, set(scopes_of(["files"])))
        path = self.root / "server.toml"
        head = '[[allow]]\npeers = ["*"]\nservices = ["files"]\n'
        path.write_text(head + 'read = ["**"]\nwrite = ["in/**"]\n')
        (rule,) = read_file(path)["allow"]  # type: ignore[misc]
        self.assertEqual(rule.scopes, {"read": ("**",), "write": ("in/**",)})
        path.write_text(head + 'read = ["../x"]\n')
        with self.assertRaises(ConfigurationError) as caught:
            read_file(path)
        self.assertIn("'../x' is not a pattern", str(caught.exception))
