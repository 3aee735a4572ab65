"""`jetstream chat` against `twistd jetstream`, as people run it: in pipes, and on a terminal."""

from __future__ import annotations

import atexit
import fcntl
import functools
import json
import os
import pty
import re
import select
import signal
import subprocess
import termios
import unittest
from typing import Any

from jetstreamproto.cli.chat_view import TerminalView, plain_line
from jetstreamproto.services.chat.model.notice import Notice, NoticeKind
from tests.loopback.command import DEADLINE, CliCase, read_line
from tests.loopback.test_cli_kv import KeyValueServer

COLOUR = re.compile(rb"\x1b\[(3[1-6]|9[1-6])m")


@functools.cache
def shared_server() -> KeyValueServer:
    server = KeyValueServer("--transports", "tcp")
    atexit.register(server.stop)
    return server


class ChatCommandTests(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = shared_server()
        self.home = self.server.home

    def chat(self, *arguments: str, given: bytes = b"") -> tuple[int, bytes, str]:
        return self.run_command("chat", self.server.address, *arguments, given=given)

    def test_lines_are_said_and_those_of_others_printed(self) -> None:
        listener = self.start("chat", self.server.address, "pipes", "--name", "bo", "--json")
        assert listener.stdin is not None and listener.stdout is not None
        listener.stdin.write(b"ready\n")
        listener.stdin.flush()
        first = json.loads(read_line(listener.stdout))
        self.assertEqual((first["own"], first["transport"]), (True, "tcp"))
        given = b"hello\n\n  \x1b]0;x\x07\xe2\x80\xae two\tw\xffrds\n//last"
        status, out, err = self.chat("pipes", "--name", "al", given=given)
        self.assertEqual((status, out, err), (0, b"", ""))
        rest, err_bytes = listener.communicate(timeout=DEADLINE)
        self.assertEqual((listener.returncode, err_bytes), (0, b""))
        shown = [json.loads(line) for line in rest.splitlines()]
        self.assertEqual([one["event"] for one in shown], ["joined", *["said"] * 3, "left"])
        self.assertNotIn("transport", {key for one in shown for key in one})
        said = shown[1:-1]
        self.assertEqual([one["text"] for one in said], ["hello", "]0;x two w\ufffdrds", "//last"])
        self.assertEqual({(one["name"], one["own"]) for one in said}, {("guest-al", False)})

    def test_history_and_pace(self) -> None:
        lines = b"".join(b"%d\n" % number for number in range(24))  # more than the server's burst
        status, out, err = self.chat("past", "--name", "cy", given=lines)
        self.assertEqual((status, out, err), (0, b"", ""))
        status, out, err = self.chat("past", "--history", "200")
        self.assertEqual((status, err), (0, ""))
        expected = b"".join(b"guest-cy: %d\n" % number for number in range(24))
        self.assertEqual(out, expected)

    def test_errors(self) -> None:
        self.fails_in_usage("'a b' is no room", "a b")
        self.fails_in_usage("--name", "lobby", "--name", "\x1b[2J")
        status, out, err = self.chat("lobby", "--json", given=b"x" * 5000)
        self.assertEqual(status, 1, err)
        self.assertIn("4096 bytes", json.loads(out.splitlines()[-1])["error"]["message"])
        self.fails(1, "nothing listens", "chat", "127.0.0.1:1", "lobby")

    def fails_in_usage(self, message: str, *arguments: str) -> None:
        status, out, err = self.chat(*arguments, "--json")
        self.assertEqual((status, json.loads(out)["error"]["kind"]), (2, "Usage"))
        self.assertIn(message, err)
        self.assertNotIn("\x1b", err)


class TerminalTests(CliCase):
    """Somebody at a terminal, who sees `self.shown`."""

    def setUp(self) -> None:
        super().setUp()
        self.server = shared_server()
        self.home = self.server.home
        self.shown = b""

    def sit_down(self, *arguments: str, term: str = "xterm", **environ: str) -> None:
        self.keys, terminal = pty.openpty()
        self.addCleanup(os.close, self.keys)
        self.before = termios.tcgetattr(self.keys)
        self.process: subprocess.Popen[bytes] = self.start(
            "chat",
            self.server.address,
            *arguments,
            environ={"TERM": term, "PROMPT_TOOLKIT_NO_CPR": "1", **environ},
            **dict.fromkeys(("stdin", "stdout", "stderr"), terminal),
            preexec_fn=functools.partial(fcntl.ioctl, terminal, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self.sees(b">")

    def types(self, text: str) -> None:
        os.write(self.keys, text.encode())

    def sees(self, text: bytes) -> bytes:
        """What is shown until `text` is, which the next look begins after."""
        while text not in self.shown:
            ready = select.select([self.keys], [], [], DEADLINE)[0]
            self.assertTrue(ready, f"no {text!r} in {self.shown!r}")
            self.shown += os.read(self.keys, 1 << 16)
        before, _, self.shown = self.shown.partition(text)
        return before

    def leaves(self, status: int = 0) -> None:
        while select.select([self.keys], [], [], DEADLINE)[0]:
            try:
                self.shown += os.read(self.keys, 1 << 16)
            except OSError:  # the other side is closed
                break
        self.assertEqual(self.process.wait(DEADLINE), status, self.shown)
        self.assertNotIn(b"Traceback", self.shown)

    def say(self, room: str, name: str, text: bytes) -> None:
        done = self.run_command("chat", self.server.address, room, "--name", name, given=text)
        self.assertEqual(done[0], 0, done)

    def test_talking_with_colours_and_line_editing(self) -> None:
        self.sit_down("tea", "--name", "di")
        self.types("hellp\x7fo there\r")  # a backspace
        self.assertRegex(self.sees(b": hello there"), COLOUR)
        self.say("tea", "em", b"\x1b]0;title\x07 beep \x9b2J")
        self.assertNotIn(b"\x1b]", self.sees(b"]0;title beep"))
        self.types("\x1b[A\r")  # the line before, once more
        self.sees(b": hello there")
        self.types("/quit\r")
        self.leaves()

    def test_commands(self) -> None:
        self.sit_down("cups", "--name", "fay", NO_COLOR="1")
        for typed, shown in (
            ("/help", b"/join ROOM"),
            ("/who", b"* guest-fay"),
            ("/topic Tea at four", b"changed the topic of cups to: Tea at four"),
            ("/topic", b"* Tea at four"),
            ("/nick gus", b"guest-fay is called guest-gus now"),
            ("/msg guest-gus psst", b"guest-gus -> guest-gus: psst"),
            ("/msg nobody psst", b"nobody here is called"),
            ("/kick guest-gus", b"cups is not yours"),
            ("/mute guest-gus", b"cups is not yours"),
            ("/unmute guest-gus", b"cups is not yours"),
            ("/dance", b"there is no /dance"),
            ("/join saucers", b"in saucers with guest-gus"),
            ("there", b"guest-gus: there"),
            ("/part", b"you have left saucers"),
            ("//here", b"guest-gus: /here"),
            ("/part", b"you have left cups"),
            ("nowhere", b"you are in no room"),
        ):
            with self.subTest(typed):
                self.types(typed + "\r")
                before = self.sees(shown)
                self.assertIsNone(COLOUR.search(before))
                if typed != "nowhere":
                    self.sees(b">")
        self.sees(b">")  # keys are lost on a terminal that is not raw, as while it prints
        self.types("\x04")  # Ctrl-D
        self.leaves()

    def test_ctrl_c_and_signals_leave_the_terminal_as_it_was(self) -> None:
        for stop in (lambda: self.types("\x03"), lambda: self.process.send_signal(signal.SIGINT)):
            self.shown = b""
            self.sit_down("stop")
            stop()
            watch = os.dup(self.keys)
            self.addCleanup(os.close, watch)
            self.leaves(-signal.SIGINT)
            self.assertEqual(termios.tcgetattr(watch)[:4], self.before[:4])


class ViewTests(unittest.TestCase):
    """What comes from others never acts on a terminal, whatever a server lets through."""

    def test_every_kind_is_clean(self) -> None:
        evil: Any = "\x1b[2J\x9b\u202e\r\nx"
        for kind in NoticeKind:
            notice = Notice(kind, evil, evil, evil, evil, 1, 1)
            for line in (plain_line(notice), TerminalView().line(notice, "room")):
                with self.subTest(kind):
                    self.assertIn("x", line)
                    self.assertNotRegex(line, r"\x1b\[[^0-9]|\x1b\[2J|[\r\n\x9b\u202e]")
