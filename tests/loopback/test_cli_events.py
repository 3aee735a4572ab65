"""`jetstream pub`, `sub` and `stream` with `twistd jetstream`."""

from __future__ import annotations

import atexit
import functools
import json
import signal
import tempfile
from pathlib import Path

from tests.loopback.command import CliCase, read_line
from tests.loopback.test_cli_tunnel import Twistd
from tests.ports import free_port


@functools.cache  # and not setUpClass, which trial does not call
def shared_twistd() -> tuple[str, Twistd]:
    """The folder of the server for all tests, which is there until they end, and the server."""
    folder = tempfile.TemporaryDirectory()
    server = Twistd(Path(folder.name), rules="")
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return folder.name, server


class EventCommandTests(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder, self.server = shared_twistd()

    def command(self, *words: str, given: bytes = b"") -> tuple[int, bytes, str]:
        name, *rest = words
        home = {"JETSTREAM_HOME": self.folder}
        address = f"127.0.0.1:{self.server.port}"
        return self.run_command(name, address, *rest, given=given, environ=home)

    def test_lines_in_and_lines_out(self) -> None:
        self.assertEqual(self.command("stream", "add", "orders", "orders.>")[0], 0)
        status, out, err = self.command(
            "pub", "orders.new", "--json", given=b"a\n\xff\n\x1b[2J\nlast"
        )
        self.assertEqual((status, err), (0, ""))
        report = json.loads(out)
        self.assertEqual(
            (report["published"], report["stored"], report["transport"]), (4, 4, "tcp")
        )
        status, out, _ = self.command("sub", "orders.*", "--from", "all", "-C", "4")
        self.assertEqual((status, out), (0, b"a\n\xff\n\x1b[2J\nlast\n"))
        _, out, _ = self.command("sub", "orders.*", "--from", "seq:2", "-C", "2", "--json")
        events = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([e["sequence"] for e in events], [2, 3])
        self.assertEqual([e.get("transport") for e in events], ["tcp", None])
        self.assertEqual((events[0]["base64"], events[1]["data"]), ("/w==", "\x1b[2J"))
        self.assertNotIn(b"\x1b", out)
        durable = ("sub", "orders.*", "--durable", "d", "--from", "all")
        self.assertEqual(self.command(*durable, "-C", "1")[1], b"a\n")
        self.assertEqual(self.command(*durable, "-W", "0.5")[:2], (0, b"\xff\n\x1b[2J\nlast\n"))
        _, out, _ = self.command("stream", "info", "orders", "--json")
        self.assertEqual(json.loads(out)["consumers"][0]["floor"], 4)
        self.assertEqual(self.command("stream", "rm", "orders")[0], 0)
        left = json.loads(self.command("stream", "ls", "--json")[1])
        self.assertEqual(left, {"streams": [], "transport": "tcp"})

    def test_live(self) -> None:
        address = f"127.0.0.1:{self.server.port}"
        home = {"JETSTREAM_HOME": self.folder}
        process = self.start("sub", address, "live.>", "-C", "2", "-v", environ=home)
        for _ in range(100):
            self.command("pub", "live.a", "hello")
            if process.poll() is not None:
                break
        assert process.stdout is not None
        self.assertEqual(process.stdout.read(), b"live.a hello\n" * 2)

    def test_what_is_wrong(self) -> None:
        for status, kind, words in (
            (2, "Usage", ("pub", "a.*", "x")),
            (2, "Usage", ("pub", "$dead.a", "x")),
            (2, "Usage", ("sub", "a..b")),
            (2, "Usage", ("sub", "a", "--from", "yesterday")),
            (2, "Usage", ("sub", "a", "--from", "time:soon")),
            (2, "Usage", ("sub", "a", "-C", "0")),
            (1, "EventError", ("sub", "nothing.kept", "--from", "all")),
            (1, "EventError", ("stream", "rm", "none")),
            (5, "EndedEarly", ("sub", "quiet", "-C", "1", "-W", "0.2")),
        ):
            with self.subTest(words):
                found, out, _ = self.command(*words, "--json")
                self.assertEqual((found, json.loads(out)["error"]["kind"]), (status, kind))

    def test_a_signal_ends_it_with_one_object(self) -> None:
        address = f"127.0.0.1:{self.server.port}"
        home = {"JETSTREAM_HOME": self.folder}
        process = self.start("sub", address, "x", "--json", "-W", "30", environ=home)
        try:
            process.wait(2.5)
        except Exception:
            process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, -signal.SIGINT)
        self.assertEqual(json.loads(out)["error"]["kind"], "Interrupted")

    def test_a_subscriber_goes_on_with_the_next_server(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            port = free_port()
            server = Twistd(Path(folder), port=port, rules="")
            home = {"JETSTREAM_HOME": folder}
            address = f"127.0.0.1:{port}"
            self.run_command("stream", address, "add", "kept", "kept.>", environ=home)
            subscriber = self.start(
                "sub", address, "kept.>", "--from", "all", "-C", "2", "-W", "60", environ=home
            )
            self.run_command("pub", address, "kept.a", "before", environ=home)
            assert subscriber.stdout is not None
            self.assertEqual(read_line(subscriber.stdout), "before\n")
            server.kill()
            server = Twistd(Path(folder), port=port, rules="")
            self.addCleanup(server.kill)
            self.run_command("pub", address, "kept.a", "after", environ=home)
            out, err = subscriber.communicate(timeout=60)
            self.assertEqual((subscriber.returncode, out), (0, b"after\n"), err)
            self.assertIn(b"connected again", err)
