from __future__ import annotations

import contextlib
import io
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from twisted.application.service import IServiceMaker
from twisted.plugins import jetstreamproto_plugins

from jetstreamproto._version import __version__
from jetstreamproto.server.tap import Options, makeService


class OptionsTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        environ = mock.patch.dict(os.environ, {"JETSTREAM_HOME": folder.name})
        environ.start()
        self.addCleanup(environ.stop)

    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(arguments)
        return options

    def refuse(self, *arguments: str) -> str:
        """The one line that these arguments end with."""
        with self.assertRaises(SystemExit) as caught:
            self.parse(*arguments)
        line = caught.exception.code
        assert isinstance(line, str)
        self.assertTrue(line.startswith("twistd jetstream: "), line)
        self.assertNotIn("\n", line)
        return line

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def test_the_plugin_leads_here(self) -> None:
        maker = jetstreamproto_plugins.jetstream_server
        self.assertTrue(IServiceMaker.providedBy(maker))
        self.assertIs(maker.options, Options)
        self.assertIs(maker.makeService, makeService)

    def test_without_arguments_the_defaults_hold(self) -> None:
        config = self.parse().config
        self.assertEqual(config.port, 9000)
        self.assertEqual(config.state_dir, self.folder)

    def test_options_have_dashes_for_underscores(self) -> None:
        options = self.parse(
            *("--max-sessions", "10", "--max-sessions-per-address", "4", "--max-half-open", "2"),
            *("--max-message=1M", "--idle-timeout", "9", "--heartbeat", "3", "--drain-timeout=2"),
            *("--allow-anonymous", "--state-dir", "elsewhere"),
        )
        config = options.config
        self.assertEqual(config.max_sessions_per_address, 4)
        self.assertEqual(config.max_message, 1 << 20)
        self.assertTrue(config.allow_anonymous)
        self.assertEqual(config.state_dir, Path("elsewhere").absolute())

    def test_interfaces_come_by_commas_and_by_repetition(self) -> None:
        options = self.parse("--interface", "127.0.0.1,[::1]", "--interface=127.0.0.2")
        self.assertEqual(options.config.interface, ("127.0.0.1", "::1", "127.0.0.2"))

    def test_an_option_wins_over_the_file(self) -> None:
        path = self.write("c.toml", 'port = 1\nheartbeat = 2\ninterface = ["::1"]\n')
        config = self.parse("--config", path, "--port", "3", "--interface", "127.0.0.1").config
        self.assertEqual((config.port, config.heartbeat), (3, 2.0))
        self.assertEqual(config.interface, ("127.0.0.1",))

    def test_what_is_wrong_is_one_line(self) -> None:
        for arguments, word in (
            (["--bogus"], "--bogus"),
            (["--port"], "--port"),
            (["--port", "x"], "--port"),
            (["stray"], "'stray'"),
            (["--clients", ""], "--clients"),
            (["--transports", "sctp"], "'sctp' is not a transport"),
            (["--interface", "0.0.0.0"], "--allow-anonymous"),
            (["--key", "key.pem"], "--cert"),
            (["--config", "/nonexistent/c.toml"], "/nonexistent/c.toml"),
            (["--auth", "pigeon:x"], "pigeon"),
            (["--auth", "anonymous"], "not supported"),
            (["--auth", "file"], "filename"),
            (["--auth", "file:/nonexistent/users"], "/nonexistent/users"),
        ):
            with self.subTest(arguments):
                self.assertIn(word, self.refuse(*arguments))

    def test_a_wrong_key_in_the_file_names_both(self) -> None:
        path = self.write("c.toml", "prot = 1\n")
        line = self.refuse("--config", path)
        self.assertIn(path, line)
        self.assertIn("prot", line)

    def test_an_error_in_credentials_does_not_show_them(self) -> None:
        self.assertNotIn("secret", self.refuse("--auth", "memory:al:secret:bo"))

    def test_checkers_are_kept_in_order(self) -> None:
        users = self.write("users", "al:secret\n")
        options = self.parse("--auth", f"file:{users}", "--auth", "memory:bo:other")
        self.assertEqual(len(options.checkers), 2)
        self.assertEqual(options.checkers[0].filename, users)
        self.assertEqual(options.checkers[1].users, {b"bo": b"other"})

    def test_users_in_the_file_are_relative_to_it_and_give_way_to_options(self) -> None:
        users = self.write("users", "al:secret\n")
        path = self.write("c.toml", 'auth = "file:users"\n')
        self.assertEqual(self.parse("--config", path).checkers[0].filename, users)
        options = self.parse("--config", path, "--auth", "memory:bo:other")
        self.assertEqual(len(options.checkers), 1)

    def test_passwords_on_the_command_line_are_warned_of(self) -> None:
        options = self.parse("--auth", "memory:al:secret")
        (warning,) = options.warnings
        self.assertIn("file:", warning)
        self.assertNotIn("secret", warning)
        path = self.write("c.toml", 'auth = ["memory:al:secret"]\n')
        self.assertEqual(self.parse("--config", path).warnings, [])

    def test_help_and_version_end_well(self) -> None:
        for argument, word in (("--version", __version__), ("--help", "--max-half-open")):
            printed = io.StringIO()
            with (
                contextlib.redirect_stdout(printed),
                self.assertRaises(SystemExit) as caught,
            ):
                self.parse(argument)
            self.assertFalse(caught.exception.code)
            self.assertIn(word, printed.getvalue())

    def test_a_rule_for_a_service_that_is_not_there_is_refused(self) -> None:
        path = self.write("c.toml", '[[allow]]\npeers = ["*"]\nservices = ["ehco"]\n')
        options = self.parse("--config", path)
        with self.assertRaises(SystemExit) as caught:
            makeService(options)
        self.assertIn("'ehco'", str(caught.exception.code))
        self.assertIn(path, str(caught.exception.code))

    def test_a_key_that_cannot_be_used_is_one_line(self) -> None:
        garbage = self.write("garbage.pem", "garbage")
        for arguments in (
            ["--cert", garbage],
            ["--cert", str(self.folder)],
            ["--client-ca", garbage],
            ["--clients", garbage],
            ["--state-dir", garbage],
        ):
            options = self.parse(*arguments)
            with self.subTest(arguments), self.assertRaises(SystemExit) as caught:
                makeService(options)
            self.assertIn(arguments[1], str(caught.exception.code))
