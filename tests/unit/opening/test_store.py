"""The command line's file of what it has learnt."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import unittest
from pathlib import Path

from jetstreamproto.opening.model import Memory
from jetstreamproto.opening.store import open_memory

PLACE = ("server.example", 9000)


class StoreTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "state" / "transports.json"

    def test_what_one_run_learns_the_next_knows(self) -> None:
        open_memory(self.path, 100).failed(PLACE, "udp", "silent", 100)
        recalled = open_memory(self.path, 110).recall(PLACE, 110, bulk=True)
        self.assertEqual(recalled.troubles["udp"].reason, "silent")
        self.assertEqual(len(open_memory(self.path, 9999)), 0)

    def test_only_the_owner_may_read_it(self) -> None:
        open_memory(self.path, 0).served(PLACE, "udp", 0, bulk=True)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        self.assertEqual(os.listdir(self.path.parent), [self.path.name])

    def test_a_bad_file_is_ignored_and_replaced(self) -> None:
        self.path.parent.mkdir()
        for data in (b"", b"[[", b"\xff\xfe", b"{}", b"[" * 100_000, b"[[1,2]]", b"9" * (1 << 21)):
            self.path.write_bytes(data)
            memory = open_memory(self.path, 0)
            self.assertEqual(len(memory), 0)
            memory.served(PLACE, "tcp", 0, bulk=False)
            self.assertEqual(len(json.loads(self.path.read_bytes())), 1)

    def test_a_place_that_cannot_be_written(self) -> None:
        self.path.parent.write_text("a file in the place of the folder")
        memory = open_memory(self.path, 0)
        memory.served(PLACE, "tcp", 0, bulk=False)
        self.assertEqual(memory.recall(PLACE, 0, bulk=False).choice, "tcp")

    def test_the_largest_file_can_be_read(self) -> None:
        memory = open_memory(self.path, 100)
        for port in range(1, 600):
            memory._put(("h" * 253, port, "udp"), "\U0001f600" * 300, 100.0)
        memory.failed(PLACE, "udp", "silent", 100)
        again = open_memory(self.path, 100)
        self.assertEqual(again.dump(), memory.dump())
        self.assertIsInstance(again, Memory)
