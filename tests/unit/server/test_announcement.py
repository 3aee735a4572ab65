from __future__ import annotations

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

from jetstreamproto.server.announcement import announcement
from jetstreamproto.server.config import ServerConfig


class AnnouncementTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        environ = mock.patch.dict(os.environ, {"JETSTREAM_HOME": folder.name})
        environ.start()
        self.addCleanup(environ.stop)

    def lines(self, **settings: Any) -> list[str]:
        return list(announcement(ServerConfig(**settings), "sha256:abc", 9000))

    def test_they_say_where_who_and_what_to_try(self) -> None:
        where, who, command, limits = self.lines()
        self.assertTrue(where.endswith("listens on 127.0.0.1:9000 (tcp, udp, quic)"), where)
        self.assertIn("sha256:abc", who)
        self.assertTrue(command.endswith("jetstream ping 127.0.0.1:9000"), command)
        for part in ("anyone on this host", "20000 sessions", "1024 half open", "16 MiB"):
            self.assertIn(part, limits)

    def test_every_interface_is_named(self) -> None:
        where = self.lines(interface=("127.0.0.1", "::1"))[0]
        self.assertIn("127.0.0.1:9000, [::1]:9000", where)

    def test_the_command_reaches_the_server(self) -> None:
        for interface, target in {
            "0.0.0.0": "127.0.0.1:9000",
            "::": "[::1]:9000",
            "192.0.2.1": "192.0.2.1:9000",
        }.items():
            command = self.lines(interface=(interface,), allow_anonymous=True)[2]
            self.assertTrue(command.endswith(f"jetstream ping {target}"), command)

    def test_the_command_has_what_the_client_needs_to_be_let_in(self) -> None:
        for settings, words in (
            ({"state_dir": Path("/elsewhere")}, "--pin sha256:abc"),
            ({"cert": Path("cert.pem")}, "--pin sha256:abc"),
            ({"auth": ("file:users",)}, "--user NAME"),
            ({"client_ca": Path("ca.pem")}, "--cert FILE"),
            ({"clients": Path("clients")}, "127.0.0.1:9000"),
            ({"auth": ("file:users",), "allow_anonymous": True}, "127.0.0.1:9000"),
        ):
            with self.subTest(settings):
                command = self.lines(**settings)[2]
                self.assertTrue(command.endswith(words), command)

    def test_it_says_who_is_let_in(self) -> None:
        auth, clients, authority = ("file:users",), Path("/c"), Path("/ca.pem")
        for settings, words in (
            ({"allow_anonymous": True}, "lets in anyone;"),
            ({"auth": auth}, "users with a password;"),
            ({"auth": auth, "allow_anonymous": True}, "and anyone without a name;"),
            ({"clients": clients}, "a fingerprint in /c;"),
            ({"client_ca": authority}, "a certificate of /ca.pem;"),
            ({"clients": clients, "auth": auth}, "/c who are users with a password too;"),
        ):
            with self.subTest(settings):
                self.assertIn(words, self.lines(**settings)[3])

    def test_sizes_are_shown_in_the_largest_unit_that_is_exact(self) -> None:
        for size, shown in {
            1000: "1000 bytes",
            1 << 30: "1 GiB",
            3 << 20: "3 MiB",
            (3 << 20) + 1024: "3073 KiB",
        }.items():
            self.assertIn(shown, self.lines(max_message=size)[3])
