from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred, execute
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import ChatError, ConfigurationError
from jetstreamproto.services.chat.registry import FORMAT, KeptRoom, Registry


class RegistryTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "chat.sqlite"

    def open(self) -> Registry:
        registry = Registry(self.path, execute)
        self.addCleanup(registry.close)
        return registry

    def done(self, deferred: Deferred[None]) -> None:
        self.successResultOf(deferred)

    def test_what_is_saved_is_there_the_next_time(self) -> None:
        one = self.open()
        for key, name, used in (("al", "Al", 1), ("bo", "bo", 2), ("al", "AL", 3)):
            self.done(one.save_name(key, name, "user:x", used))
        self.done(one.save_room("tea", "user:x", ""))
        self.done(one.save_room("tea", "user:x", "Topic"))
        for standing in ("a", "b", "b"):
            self.done(one.save_mute("tea", standing, True))
        self.done(one.save_mute("tea", "a", False))
        two = self.open()
        self.assertEqual(two.names(), [("bo", "user:x"), ("AL", "user:x")])
        self.assertEqual(two.rooms(), [KeptRoom("tea", "user:x", "Topic", ("b",))])

    def test_files_of_no_use(self) -> None:
        self.path.write_bytes(b"no database" * 100)
        self.assertRaises(ConfigurationError, self.open)
        self.path.unlink()
        db = sqlite3.connect(self.path)
        db.execute(f"PRAGMA user_version={FORMAT + 1}")
        db.close()
        self.assertRaises(ConfigurationError, self.open)
        self.path = self.path / "not" / "there"
        self.assertRaises(ConfigurationError, self.open)

    def test_a_disk_that_fails(self) -> None:
        registry = self.open()
        registry._db.execute("DROP TABLE rooms")
        self.failureResultOf(registry.save_room("tea", None, ""), ChatError)
        self.assertEqual(registry._waiting, 0)
