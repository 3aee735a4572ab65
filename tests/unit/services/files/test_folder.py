from __future__ import annotations

import os
import tempfile
import threading
import unittest
from pathlib import Path
from unittest import mock

from blake3 import blake3

from jetstreamproto.errors import FileError
from jetstreamproto.services.files import folder as folder_module
from jetstreamproto.services.files.folder import Folder
from jetstreamproto.services.files.model import CHUNK_SIZE, EntryKind, FileCode
from tests.unit.services.files.place import noise


class FolderCase(unittest.TestCase):
    def setUp(self) -> None:
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = Path(home.name).resolve()
        self.root, self.outside = self.home / "root", self.home / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_bytes(b"secret")
        self.folder = Folder(self.root)
        self.addCleanup(self.folder.close)

    def fails(self, code: FileCode, call: object, *arguments: object, **options: object) -> None:
        with self.assertRaises(FileError) as caught:
            call(*arguments, **options)  # type: ignore[operator]
        self.assertEqual(caught.exception.code, code, caught.exception)


class EscapeTests(FolderCase):
    def test_links_are_not_followed_anywhere_on_the_way(self) -> None:
        (self.root / "dir").symlink_to(self.outside)
        (self.root / "file").symlink_to(self.outside / "secret")
        for parts in (("dir", "secret"), ("file",), ("dir",)):
            with self.subTest(parts), self.assertRaises(FileError):
                self.folder.open_file(parts)
        for parts in (("dir", "new"), ("file", "new")):
            with self.subTest(parts), self.assertRaises(FileError):
                self.folder.open_partial(parts)
        with self.assertRaises(FileError):
            self.folder.make_folder(("dir", "new"))
        with self.assertRaises(FileError):
            list(self.folder.scan(("dir",), deep=True))
        self.assertEqual(os.listdir(self.outside), ["secret"])

    def test_a_partial_that_is_a_link_is_not_written(self) -> None:
        (self.root / "a.part").symlink_to(self.outside / "secret")
        self.fails(FileCode.NOT_A_FILE, self.folder.open_partial, ("a",))
        os.link(self.outside / "secret", self.root / "b.part")
        self.fails(FileCode.NOT_A_FILE, self.folder.open_partial, ("b",))
        self.assertEqual((self.outside / "secret").read_bytes(), b"secret")

    def test_a_folder_that_becomes_a_link_in_between(self) -> None:
        """The name is swapped after the folder above it was opened, before it is itself."""
        (self.root / "d").mkdir()
        (self.root / "d" / "secret").write_bytes(b"harmless")
        enter = folder_module._enter

        def swapped(above: int, name: str, create: bool) -> int:
            if not (self.root / "d").is_symlink():
                (self.root / "d").rename(self.root / "old")
                (self.root / "d").symlink_to(self.outside)
            return enter(above, name, create)

        with mock.patch.object(folder_module, "_enter", swapped), self.assertRaises(FileError):
            self.folder.open_file(("d", "secret"))

    def test_a_folder_that_moves_while_it_is_open(self) -> None:
        """What was opened stays what it was: the new owner of the name gets nothing."""
        (self.root / "d").mkdir()
        with self.folder.opened(("d",)) as descriptor:
            (self.root / "d").rename(self.root / "moved")
            (self.root / "d").symlink_to(self.outside)
            self.assertEqual(os.listdir(descriptor), [])

    def test_somebody_swaps_all_the_time(self) -> None:
        (self.root / "real").mkdir()
        (self.root / "real" / "secret").write_bytes(b"harmless")
        done = threading.Event()

        def swap() -> None:
            while not done.is_set():
                os.symlink(self.outside, self.root / "link")
                os.rename(self.root / "link", self.root / "d")
                os.unlink(self.root / "d")
                os.rename(self.root / "real", self.root / "d")
                os.rename(self.root / "d", self.root / "real")

        swapper = threading.Thread(target=swap)
        swapper.start()
        found = set()
        try:
            for _ in range(2000):
                try:
                    file = self.folder.open_file(("d", "secret"))
                except FileError:
                    continue
                found.add(os.read(file.descriptor, 100))
                os.close(file.descriptor)
        finally:
            done.set()
            swapper.join()
        self.assertLessEqual(found, {b"harmless"})

    def test_what_is_no_file(self) -> None:
        os.mkfifo(self.root / "pipe")
        self.fails(FileCode.NOT_A_FILE, self.folder.open_file, ("pipe",))
        os.mkfifo(self.root / "x.part")
        with self.assertRaises(FileError):
            self.folder.open_partial(("x",))
        (self.root / "d").mkdir()
        self.fails(FileCode.IS_FOLDER, self.folder.open_file, ("d",))
        self.fails(FileCode.IS_FOLDER, self.folder.open_file, ())
        self.fails(FileCode.NOT_FOUND, self.folder.open_file, ("no",))
        self.fails(FileCode.NOT_FOUND, self.folder.open_file, ("no", "no"))
        (self.root / "f").write_bytes(b"")
        self.fails(FileCode.NOT_FOLDER, self.folder.open_file, ("f", "x"))

    def test_a_folder_that_is_none(self) -> None:
        self.fails(FileCode.NOT_FOUND, Folder, self.root / "no")
        self.fails(FileCode.NOT_FOLDER, Folder, self.outside / "secret")


class ScanTests(FolderCase):
    def test_everything_and_what_it_is(self) -> None:
        (self.root / "b" / "c").mkdir(parents=True)
        (self.root / "b" / "f").write_bytes(b"12345")
        (self.root / "a").symlink_to("b")
        (self.root / "x.part").write_bytes(b"")
        os.mkfifo(self.root / "p")
        (self.root / "bad\x1bname").write_bytes(b"")
        (self.root / os.fsdecode(b"\xff")).write_bytes(b"")
        found = list(self.folder.scan((), deep=True))
        named = [(entry.path, entry.kind, entry.size) for entry in found if entry is not None]
        self.assertEqual(
            named,
            [
                ("a", EntryKind.LINK, 0),
                ("b", EntryKind.FOLDER, 0),
                ("b/c", EntryKind.FOLDER, 0),
                ("b/f", EntryKind.FILE, 5),
                ("p", EntryKind.OTHER, 0),
            ],
        )
        self.assertEqual(found.count(None), 2)
        flat = [entry.path for entry in self.folder.scan((), deep=False) if entry]
        self.assertEqual(flat, ["a", "b", "p"])
        below = [entry.path for entry in self.folder.scan(("b",), deep=True) if entry]
        self.assertEqual(below, ["c", "f"])

    def test_look(self) -> None:
        (self.root / "f").write_bytes(b"123")
        os.utime(self.root / "f", ns=(7, 1_000_000_007))
        entry = self.folder.look(("f",))
        assert entry is not None
        self.assertEqual((entry.path, entry.size, entry.mtime_ns), ("f", 3, 1_000_000_007))
        self.assertIsNone(self.folder.look(("no",)))
        self.assertIsNone(self.folder.look(("no", "no")))
        top = self.folder.look(())
        assert top is not None
        self.assertIs(top.kind, EntryKind.FOLDER)


class PartialTests(FolderCase):
    def test_written_in_any_order_and_named(self) -> None:
        content = noise(3 * CHUNK_SIZE + 5)
        partial = self.folder.open_partial(("d", "f"))
        self.addCleanup(partial.close)
        partial.write(2 * CHUNK_SIZE, [content[2 * CHUNK_SIZE : 3 * CHUNK_SIZE], content[-5:]])
        partial.write(0, [content[:CHUNK_SIZE]])
        digests = partial.digests(CHUNK_SIZE, 10)
        self.assertEqual(len(digests), 4 * 32)
        self.assertEqual(digests[:32], blake3(content[:CHUNK_SIZE]).digest())
        self.assertEqual(digests[32:64], blake3(bytes(CHUNK_SIZE)).digest())
        self.assertEqual(len(partial.digests(CHUNK_SIZE, 2)), 64)
        partial.write(CHUNK_SIZE, [content[CHUNK_SIZE : 2 * CHUNK_SIZE]])
        self.assertFalse((self.root / "d" / "f").exists())
        self.assertEqual((self.root / "d" / "f.part").stat().st_mode & 0o777, 0o600)
        partial.finish(12_345_678_901, 0o640)
        found = (self.root / "d" / "f").stat()
        self.assertEqual((found.st_mtime_ns, found.st_mode & 0o7777), (12_345_678_901, 0o640))
        self.assertEqual((self.root / "d" / "f").read_bytes(), content)
        self.assertEqual(os.listdir(self.root / "d"), ["f"])

    def test_many_pieces_and_short_writes(self) -> None:
        content = noise(200 * 100)
        pieces = [content[start : start + 100] for start in range(0, len(content), 100)]
        partial = self.folder.open_partial(("f",))
        self.addCleanup(partial.close)
        write = os.pwritev
        with mock.patch.object(os, "pwritev", lambda fd, some, at: write(fd, some[:1], at)):
            partial.write(0, pieces)
        self.assertEqual((self.root / "f.part").read_bytes(), content)

    def test_one_at_a_time(self) -> None:
        partial = self.folder.open_partial(("f",))
        self.fails(FileCode.BUSY, self.folder.open_partial, ("f",))
        partial.close()
        self.folder.open_partial(("f",)).close()

    def test_a_partial_that_was_swapped_is_not_named(self) -> None:
        partial = self.folder.open_partial(("f",))
        self.addCleanup(partial.close)
        (self.root / "f.part").unlink()
        (self.root / "f.part").write_bytes(b"another")
        self.fails(FileCode.CHANGED, partial.finish, 0, 0o644)
        self.assertFalse((self.root / "f").exists())

    def test_a_link_of_the_name_is_replaced_and_not_followed(self) -> None:
        (self.root / "f").symlink_to(self.outside / "secret")
        partial = self.folder.open_partial(("f",))
        self.addCleanup(partial.close)
        partial.write(0, [b"new"])
        partial.finish(None, 0o644)
        self.assertFalse((self.root / "f").is_symlink())
        self.assertEqual((self.outside / "secret").read_bytes(), b"secret")
