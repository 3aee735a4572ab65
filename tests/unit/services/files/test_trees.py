from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from jetstreamproto.errors import FileError, SessionCut
from jetstreamproto.services.files.asking import Transfer
from jetstreamproto.services.files.messages import Entry
from jetstreamproto.services.files.model import CHUNK_SIZE, EntryKind, FileCode, Verdict
from jetstreamproto.services.files.trees import (
    LANES,
    Item,
    Tree,
    local_tree,
    open_place,
    remote_tree,
    transfer_all,
    would_transfer,
)
from tests.unit.services.files.place import PlaceCase


class LocalTreeTests(PlaceCase):
    def test_files_and_folders(self) -> None:
        self.make("d/e/f", b"123")
        self.make("d/g.part", b"")
        self.make("h", b"1")
        (self.local / "d" / "empty").mkdir()
        (self.local / "d" / "link").symlink_to("h")
        os.mkfifo(self.local / "d" / "pipe")
        (self.local / "d" / "e" / os.fsdecode(b"\xff")).write_bytes(b"")
        tree = local_tree([self.local / "d", self.local / "h"], "to")
        found = {(item.there, item.size) for item in tree.files}
        self.assertEqual(found, {("to/d/e/f", 3), ("to/h", 1)})
        self.assertEqual((tree.folders, tree.size), (["to/d/empty"], 4))
        self.assertEqual(len(tree.left_out), 4)

    def test_what_is_named_may_be_a_link(self) -> None:
        self.make("h", b"1")
        (self.local / "link").symlink_to("h")
        (item,) = local_tree([self.local / "link"], "").files
        self.assertEqual((item.there, item.size), ("link", 1))

    def test_names_of_this_place(self) -> None:
        self.make("d/f", b"")
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.local / "d")
        self.assertEqual([item.there for item in local_tree([Path(".")], "").files], ["d/f"])
        os.chdir(self.local)
        (self.local / "d" / "e").mkdir()
        there = [item.there for item in local_tree([Path("d/e/..")], "").files]
        self.assertEqual(there, ["d/f"])

    def test_a_partial_file_that_is_named_itself(self) -> None:
        path = self.make("x.part", b"1")
        with self.assertRaises(FileError) as caught:
            local_tree([path], "")
        self.assertEqual(caught.exception.code, FileCode.BAD_NAME)
        self.assertIn("'x.part' ends in .part", str(caught.exception))

    def test_errors_name_the_path(self) -> None:
        with self.assertRaises(FileError) as caught:
            local_tree([self.local / "no"], "")
        self.assertEqual(caught.exception.code, FileCode.NOT_FOUND)
        self.assertIn(str(self.local / "no"), str(caught.exception))


class RemoteTreeTests(PlaceCase):
    def entry(self, path: str, kind: EntryKind = EntryKind.FILE, size: int = 5) -> Entry:
        return Entry(path, kind, size, 0, 0o644)

    def test_a_folder(self) -> None:
        folder, link = EntryKind.FOLDER, EntryKind.LINK
        entries = [
            self.entry("a", folder),
            self.entry("a/f"),
            self.entry("b", folder),
            self.entry("l", link),
        ]
        tree = remote_tree("x/y", entries)
        self.assertEqual(tree.files, [Item(Path("a/f"), "x/y/a/f", 5)])
        self.assertEqual((tree.folders, tree.name, tree.single), (["b"], "y", None))
        self.assertEqual(tree.left_out, ["x/y/l is a link, or no file"])
        opened = open_place(self.local / "new", tree, False)
        assert opened is not None
        opened.close()
        self.assertTrue((self.local / "new" / "b").is_dir())

    def test_a_file(self) -> None:
        tree = remote_tree("x/f", [self.entry("")])
        self.assertEqual((tree.single, tree.name), (Item(Path(), "x/f", 5), "f"))
        with self.assertRaises(FileError):
            open_place(self.local / "no", tree, False)

    def test_a_dry_run_makes_nothing(self) -> None:
        tree = remote_tree("", [self.entry("f")])
        self.assertIsNone(open_place(self.local / "no", tree, True))
        self.assertEqual(os.listdir(self.local), [])
        (transfer,) = would_transfer(tree).done
        self.assertEqual((transfer.path, transfer.verdict), ("f", Verdict.SEND))


class TransferAllTests(PlaceCase):
    def setUp(self) -> None:
        super().setUp()
        self.waiting: dict[str, Deferred[None]] = {}
        self.most: dict[bool, int] = {True: 0, False: 0}

    async def transfer(self, item: Item) -> Transfer:
        self.waiting[item.there] = Deferred()
        large = item.there.startswith("L")
        now = sum(name.startswith("L") == large for name in self.waiting)
        self.most[large] = max(self.most[large], now)
        try:
            await self.waiting[item.there]
        finally:
            del self.waiting[item.there]
        return Transfer(item.there, Verdict.SEND, item.size or 0)

    def begin(self, **options: Any) -> Deferred[Any]:
        items = [Item(None, f"s{n}", CHUNK_SIZE) for n in range(50)]
        items += [Item(None, f"L{n}", CHUNK_SIZE + 1) for n in range(5)]
        return Deferred.fromCoroutine(transfer_all(items, self.transfer, **options))

    def go_on(self) -> None:
        while self.waiting:
            next(iter(self.waiting.values())).callback(None)

    def test_small_ones_go_together_and_large_ones_in_turn(self) -> None:
        done: list[Any] = []
        self.begin().addCallback(done.append)
        self.go_on()
        self.assertEqual(len(done[0].done), 55)
        self.assertEqual(self.most, {True: 1, False: LANES})

    def test_all_in_turn(self) -> None:
        self.begin(in_turn=True)
        self.go_on()
        self.assertEqual(self.most, {True: 1, False: 1})

    def test_a_file_that_fails_is_only_that(self) -> None:
        done: list[Any] = []
        self.begin().addCallback(done.append)
        self.waiting["s3"].errback(FileError(FileCode.NO_SPACE, "full"))
        self.go_on()
        self.assertEqual([path for path, _ in done[0].failed], ["s3"])
        self.assertEqual(len(done[0].done), 54)

    def test_a_session_that_is_lost_ends_all(self) -> None:
        failed: list[Any] = []
        self.begin().addErrback(failed.append)
        self.waiting["s3"].errback(SessionCut("cut"))
        self.assertEqual(failed[0].type, SessionCut)
        self.assertEqual(self.waiting, {})

    def test_cancelling_ends_all(self) -> None:
        failed: list[Any] = []
        all_of_them = self.begin().addErrback(failed.append)
        all_of_them.cancel()
        self.assertTrue(failed[0].check(CancelledError))
        self.assertEqual(self.waiting, {})

    def test_nothing(self) -> None:
        done: list[Any] = []
        Deferred.fromCoroutine(transfer_all(Tree().files, self.transfer)).addCallback(done.append)
        self.assertEqual((done[0].done, done[0].failed), ([], []))
