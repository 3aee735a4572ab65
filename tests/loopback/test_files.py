"""Files by the commands, to a server of its own process, over real sockets and a real disk."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import Any

from blake3 import blake3

from jetstreamproto.services.files.model import CHUNK_SIZE
from tests.loopback.command import DEADLINE, ROOT, CliCase
from tests.unit.services.files.place import noise

RUN = "from twisted.scripts.twistd import run; run()"
BIG = noise(40 * CHUNK_SIZE + 99)
SLOW = ("--limit", "4MB/s")  # ten times the seconds that it is given


class FilesCase(CliCase):
    """`twistd jetstream --files` and commands to it; both have one state folder."""

    transport = "tcp"

    def setUp(self) -> None:
        super().setUp()
        self.root, self.local = self.home / "root", self.home / "local"
        self.root.mkdir()
        self.local.mkdir()

    def serve(self, *options: str, limit: int | None = None) -> subprocess.Popen[bytes]:
        words = ["-n", "--pidfile=", "jetstream", "--port", "0", *options]
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(self.home)}
        log = self.home / "log"
        with log.open("wb") as file:
            server = subprocess.Popen(
                [sys.executable, "-c", RUN, *words],
                env=environ,
                cwd=self.home,
                stdout=file,
                stderr=file,
                preexec_fn=None if limit is None else lambda: limit_files(limit),
            )
        self.addCleanup(self.kill, server)
        end = time.monotonic() + DEADLINE
        while "half open" not in log.read_text():
            self.assertIsNone(server.poll(), log.read_text())
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)
        found = re.search(r"listens on \S+:(\d+)", log.read_text())
        assert found is not None
        self.address = f"127.0.0.1:{found[1]}"
        return server

    def kill(self, server: subprocess.Popen[bytes]) -> None:
        server.kill()
        server.wait()

    def words(self, command: str, *arguments: str) -> tuple[str, ...]:
        return (command, *arguments, "--transport", self.transport)

    def call(self, command: str, *arguments: str, given: bytes = b"") -> dict[str, Any]:
        """The object that the command prints, once it is done."""
        words = self.words(command, *arguments, "--json")
        status, out, err = self.run_command(*words, given=given)
        self.assertEqual(status, 0, err)
        report: dict[str, Any] = json.loads(out)
        self.assertEqual(report["transport"], self.transport)
        return report

    def make(self, name: str, content: bytes, folder: Path | None = None) -> str:
        path = (folder or self.local) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    def wait_for(self, path: Path, size: int) -> int:
        """Until the file has so many bytes; how many it has."""
        end = time.monotonic() + DEADLINE
        while not path.exists() or path.stat().st_size < size:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        return path.stat().st_size


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@functools.cache  # and not setUpClass, which trial does not call
def shared_server() -> FilesCase:
    """A case with a server that is there for all tests until they end."""
    keeper = FilesCase()
    keeper.setUp()
    atexit.register(keeper.doCleanups)
    keeper.serve("--files", f"{keeper.root}:rw")
    return keeper


class CommandTests(FilesCase):
    """With one server for all: each test has a folder of its own there."""

    def setUp(self) -> None:
        super().setUp()
        keeper = shared_server()
        self.home = keeper.home
        self.root = keeper.root / self._testMethodName
        self.root.mkdir()
        self.server_address = keeper.address
        self.address = f"{self.server_address}/{self.root.name}"

    def test_a_file_there_and_back(self) -> None:
        report = self.call("send", self.make("big", BIG), f"{self.address}/in")
        (file,) = report["files"]
        self.assertEqual((file["path"], file["state"]), (f"{self.root.name}/in/big", "sent"))
        self.assertEqual((file["bytes"], file["moved"]), (len(BIG), len(BIG)))
        self.assertEqual(file["blake3"], blake3(BIG).hexdigest())
        self.assertEqual((report["errors"], report["dry_run"]), ([], False))
        self.call("get", f"{self.address}/in/big", str(self.local / "back"))
        self.assertEqual((self.local / "back").read_bytes(), BIG)
        again = self.call("send", str(self.local / "big"), f"{self.address}/in")
        self.assertEqual((again["files"][0]["state"], again["moved"]), ("same", 0))

    def test_folders(self) -> None:
        for number in range(30):
            self.make(f"tree/sub/{number}", noise(number * 50, number))
        (self.local / "tree" / "empty").mkdir()
        (self.local / "tree" / "link").symlink_to("/etc/passwd")
        self.make("tree/half.part", b"x")
        source = str(self.local / "tree")
        status, out, err = self.run_command(*self.words("send", source, self.address))
        self.assertEqual((status, out), (0, b""), err)
        self.assertIn("left out:", err)
        self.assertIn("sent 30 file(s)", err)
        self.call("get", f"{self.address}/tree", str(self.local / "copy"))
        for folder in (self.root / "tree", self.local / "copy"):
            found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
            self.assertEqual(found, sorted(["sub", "empty", *(f"sub/{n}" for n in range(30))]))
        listing = self.call("ls", f"{self.address}/tree", "-R")["entries"]
        self.assertEqual([entry["path"] for entry in listing[:3]], ["empty", "sub", "sub/0"])
        dry = self.call("send", source, self.address, "-n")
        self.assertEqual({file["state"] for file in dry["files"]}, {"same"})

    def test_standard_streams(self) -> None:
        self.call("send", "-", f"{self.address}/deep/in.txt", given=BIG)
        self.assertEqual((self.root / "deep" / "in.txt").read_bytes(), BIG)
        words = self.words("get", f"{self.address}/deep/in.txt", "-")
        status, out, err = self.run_command(*words)
        self.assertEqual((status, out), (0, BIG), err)
        process = self.start(*words)
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        self.assertEqual(process.wait(DEADLINE), -signal.SIGPIPE)

    def test_names_are_clean_on_the_terminal(self) -> None:
        self.make("evil\x1b[2J", b"", self.root)
        self.make("\u202efdp.exe", b"", self.root)
        self.make("good", b"", self.root)
        status, out, err = self.run_command(*self.words("ls", self.address))
        self.assertEqual(status, 0)
        self.assertTrue(out.endswith(b" good\n"))
        self.assertEqual(len(out.splitlines()), 1)
        self.assertEqual(err, "2 more have names that cannot be told\n")
        status, _, err = self.run_command(*self.words("get", f"{self.address}/a\x1b[2Jb"))
        self.assertEqual(status, 1)
        self.assertNotIn("\x1b", err)

    def test_errors(self) -> None:
        self.make("d/f", b"x", self.root)
        small = self.make("f", b"xy")
        for status, message, *words in (
            (1, "nope: not found", "get", f"{self.address}/nope"),
            (1, "not a folder", "send", small, f"{self.address}/d/f"),
            (1, "there is another file", "send", small, f"{self.address}/d", "--overwrite=never"),
            (1, "not found", "send", str(self.local / "no"), self.address),
            (2, "standard input alone", "send", "-", self.server_address),
            (2, "is not a port", "send", small, "host:x/y"),
            (2, "not an amount", "send", small, self.address, "--limit", "fast"),
        ):
            with self.subTest(words):
                found, out, err = self.run_command(*self.words(*words), "--json")
                self.assertEqual(found, status, err)
                self.assertIn(message, json.loads(out)["error"]["message"])

    def test_what_fails_keeps_nothing_else_from_being_sent(self) -> None:
        (self.root / "b").mkdir()
        paths = [self.make(name, name.encode()) for name in "abc"]
        words = self.words("send", *paths, self.address, "--json")
        status, out, err = self.run_command(*words)
        report = json.loads(out)
        self.assertEqual(status, 1)
        self.assertEqual({file["path"][-2:] for file in report["files"]}, {"/a", "/c"})
        (error,) = report["errors"]
        self.assertEqual((error["path"][-2:], error["kind"]), ("/b", "FileError"))
        self.assertIn("b: there is a folder of that name", err)


class UdpTests(FilesCase):
    transport = "udp"

    def test_a_file_there_and_back(self) -> None:
        self.serve("--files", f"{self.root}:rw")
        report = self.call("send", self.make("big", BIG), f"{self.address}/in")
        self.assertEqual((report["transport"], report["moved"]), ("udp", len(BIG)))
        self.call("get", f"{self.address}/in/big", str(self.local / "back"))
        self.assertEqual((self.local / "back").read_bytes(), BIG)

    def test_a_sender_that_is_killed(self) -> None:
        """The server does not know yet that it is gone when it comes again."""
        self.serve("--files", f"{self.root}:rw")
        words = ("send", self.make("f", BIG), self.address)
        sender = self.start(*self.words(*words, *SLOW))
        held = self.wait_for(self.root / "f.part", 4 * CHUNK_SIZE)
        sender.kill()
        sender.wait()
        report = self.call(*words)
        self.assertLessEqual(report["moved"], len(BIG) - held // CHUNK_SIZE * CHUNK_SIZE)
        self.assertEqual((self.root / "f").read_bytes(), BIG)


class RightsTests(FilesCase):
    def test_read_only_unless_it_is_said(self) -> None:
        self.serve("--files", str(self.root))
        self.make("f", b"x", self.root)
        self.call("get", f"{self.address}/f", str(self.local))
        self.fails(4, "may not write", *self.words("send", self.make("g", b""), self.address))
        self.assertEqual(os.listdir(self.root), ["f"])

    def test_not_configured(self) -> None:
        self.serve()
        self.fails(4, "files", *self.words("ls", self.address))

    def test_rules(self) -> None:
        config = self.home / "server.toml"
        config.write_text(
            'files = "root:rw"\n[[allow]]\npeers = ["*"]\nservices = ["files"]\n'
            'read = ["open/**"]\nwrite = ["in/*"]\n'
        )
        self.serve("--config", str(config))
        self.make("closed/f", b"x", self.root)
        path = self.make("g", b"x")
        self.call("send", path, f"{self.address}/in")
        self.fails(4, "may not write", *self.words("send", path, f"{self.address}/open"))
        self.fails(4, "may not read", *self.words("get", f"{self.address}/closed/f", "-q"))

    def test_a_folder_that_is_none(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", RUN, "-n", "jetstream", "--files", str(self.root / "no")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            cwd=self.home,
        )
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("--files", done.stderr)
        self.assertIn("not found", done.stderr)


class KillTests(FilesCase):
    """`kill -9` of either end, whenever; the same command again finishes it."""

    def finish(self, words: tuple[str, ...], arrived: Path) -> None:
        partial = arrived.with_name(arrived.name + ".part")
        held = partial.read_bytes()
        whole = [
            held[at : at + CHUNK_SIZE] == BIG[at : at + CHUNK_SIZE]
            for at in range(0, len(BIG), CHUNK_SIZE)
        ]
        report = self.call(*words)
        self.assertEqual(arrived.read_bytes(), BIG)
        self.assertFalse(partial.exists())
        if not all(whole):
            there = sum(whole) * CHUNK_SIZE
            self.assertLessEqual(report["moved"], len(BIG) - there)
            self.assertGreater(sum(whole), 2)

    def test_a_sender_that_is_killed(self) -> None:
        self.serve("--files", f"{self.root}:rw")
        words = ("send", self.make("f", BIG), self.address)
        sender = self.start(*self.words(*words, *SLOW))
        self.wait_for(self.root / "f.part", 4 * CHUNK_SIZE)
        sender.kill()
        sender.wait()
        self.finish(words, self.root / "f")

    def test_a_server_that_is_killed(self) -> None:
        server = self.serve("--files", f"{self.root}:rw")
        sender = self.start(*self.words("send", self.make("f", BIG), self.address, *SLOW))
        self.wait_for(self.root / "f.part", 4 * CHUNK_SIZE)
        self.kill(server)
        self.assertEqual(sender.wait(DEADLINE), 1)
        self.serve("--files", f"{self.root}:rw")
        self.finish(("send", str(self.local / "f"), self.address), self.root / "f")

    def test_a_receiver_that_is_killed(self) -> None:
        self.serve("--files", str(self.root))
        self.make("f", BIG, self.root)
        words = ("get", f"{self.address}/f", str(self.local))
        receiver = self.start(*self.words(*words, *SLOW))
        self.wait_for(self.local / "f.part", 4 * CHUNK_SIZE)
        receiver.kill()
        receiver.wait()
        self.finish(words, self.local / "f")


class FullDiskTests(FilesCase):
    def again_after(self, words: tuple[str, ...], message: str) -> int:
        self.fails(1, message, *self.words(*words))
        return (self.root / "f.part").stat().st_size

    def test_a_limit_of_the_size_of_files(self) -> None:
        server = self.serve("--files", f"{self.root}:rw", limit=20 * CHUNK_SIZE + 7)
        path = self.make("f", BIG)
        held = self.again_after(("send", path, self.address), "larger than files may be")
        self.kill(server)
        self.serve("--files", f"{self.root}:rw")
        report = self.call("send", path, self.address)
        self.assertEqual(report["moved"], len(BIG) - held // CHUNK_SIZE * CHUNK_SIZE)
        self.assertEqual((self.root / "f").read_bytes(), BIG)

    @unittest.skipUnless(
        sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount"),
        "only root can mount a small file system",
    )
    def test_a_small_file_system(self) -> None:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(self.root)]
        if subprocess.run(mount, capture_output=True).returncode:
            self.skipTest("file systems cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.root)], check=True)
        self.serve("--files", f"{self.root}:rw")
        path = self.make("f", BIG)
        held = self.again_after(("send", path, self.address), "no space left")
        self.assertGreater(held, 4 * CHUNK_SIZE)
        grow = ["mount", "-o", "remount,size=64m", str(self.root)]
        subprocess.run(grow, check=True)
        report = self.call("send", path, self.address)
        self.assertEqual(report["moved"], len(BIG) - held // CHUNK_SIZE * CHUNK_SIZE)
        self.assertEqual((self.root / "f").read_bytes(), BIG)


class ProgressTests(FilesCase):
    def test_on_a_terminal_there_is_a_bar(self) -> None:
        import pty

        self.serve("--files", f"{self.root}:rw")
        path = self.make("f", BIG)
        for options, bar in (((), True), (("--no-progress",), False)):
            near, far = pty.openpty()
            process = self.start(*self.words("send", path, self.address, *options), stderr=far)
            os.close(far)
            said = b""
            with contextlib.suppress(OSError):  # the end of a terminal
                while data := os.read(near, 1 << 16):
                    said += data
            os.close(near)
            self.assertEqual(process.wait(DEADLINE), 0)
            self.assertEqual("━".encode() in said, bar, said)
            self.assertIn(b"file(s)", said)
            (self.root / "f").unlink()
