from __future__ import annotations

import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import click

from jetstreamproto.cli.main import jetstream, main
from jetstreamproto.security.identity import parse_fingerprint

CONTEXT = click.Context(jetstream)


def run(*arguments: str) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a command that needs no reactor."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch("sys.argv", ["jetstream", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = main()
    return status, out.getvalue(), err.getvalue()


class UsageTests(unittest.TestCase):
    def test_wrong_usage(self) -> None:
        for line in [
            "nonsense",
            "ping",
            "ping host:0",
            "ping host host",
            "ping host -c 0",
            "ping host -i -1",
            "ping host --timeout 0",
            "ping host --pin abc",
            "ping host --ca /nonexistent",
            f"ping host --pin {'0' * 64} --ca {__file__}",
            f"ping host --key {__file__}",
            f"ping host --password-file {__file__}",
            "ping host --congestion bbr",
            "ping host --transport tcp --fec off",
            "ping host --mtu 1400",
            "ping host --transport udp --congestion vegas",
            "ping host --transport udp --fec 10",
            "ping host --transport udp --fec 0+1",
            "ping host --transport udp --mtu 1199",
            "echo host --fec off",
            "ping host --transport quic --fec off",
            "ping host --transport carrier-pigeon",
            "echo host --json",
            "bench host",
            "bench host --mode nonsense",
            "bench host --mode bulk --calls 1",
            "bench host --mode rpc --bytes 1",
            "bench host --mode rpc --direction up",
            "bench host --mode bulk --bytes none",
            "bench host --mode rpc --size 16MiB --concurrency 3",
            "bench host --mode rpc --rate 5",
            "bench host --mode bulk --size 5",
            "bench host --mode events --calls 5",
            "bench host --mode events --rate 0",
            "bench host --mode events --size 7",
            "bench host --mode events --size 65537",
            "bench host --mode events --count 1000001",
            "bench host --mode events --deadline 0",
            "identity host",
        ]:
            with self.subTest(line):
                status, out, err = run(*line.split())
                self.assertEqual((status, "--json" in line), (2, bool(out)))
                self.assertIn("Error: ", err)

    def test_what_is_wrong_is_said(self) -> None:
        for line, words in {
            "ping host --transport quic --fec 10+2": "--fec goes with --transport udp",
            "ping host --transport quic --congestion bbr": "has cubic and newreno",
            "ping host --fec 10+2": "--fec goes with --transport udp",
            "ping host --transport udp --fec x": "'x' is not off, adaptive or K+R",
            "bench host --mode bulk --size 5": "--size goes with --mode rpc or events",
            "bench host --mode rpc --count 5": "--count goes with --mode events",
        }.items():
            with self.subTest(line):
                self.assertIn(words, run(*line.split())[2])

    def test_a_json_error_is_one_object(self) -> None:
        status, out, _ = run("ping", "host:0", "--json")
        self.assertEqual(status, 2)
        self.assertEqual(json.loads(out)["error"]["kind"], "Usage")
        self.assertIn("port", json.loads(out)["error"]["message"])

    def test_help_of_every_command(self) -> None:
        for command in ("", *jetstream.list_commands(CONTEXT)):
            with self.subTest(command):
                status, out, err = run(*command.split(), "--help")
                self.assertEqual((status, err), (0, ""))
                self.assertIn("Usage: jetstream", out)

    def test_every_option_has_help(self) -> None:
        for name in jetstream.list_commands(CONTEXT):
            command = jetstream.get_command(CONTEXT, name)
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    self.assertTrue(parameter.help, f"{name} {parameter.opts}")

    def test_the_version(self) -> None:
        status, out, _ = run("--version")
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^jetstream, version \d+\.\d+\.\d+\n$")


class IdentityTests(unittest.TestCase):
    def test_it_is_made_once(self) -> None:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home, "state")
            status, first, err = run("identity", "--state-dir", str(folder))
            self.assertEqual((status, err), (0, ""))
            self.assertEqual(parse_fingerprint(first), first.strip())
            self.assertEqual(run("identity", "--state-dir", str(folder)), (0, first, ""))
            _, out, _ = run("identity", "--json", "--state-dir", str(folder))
            expected = {"fingerprint": first.strip(), "file": str(folder / "identity.pem")}
            self.assertEqual(json.loads(out), expected)

    def test_a_folder_that_cannot_be_made(self) -> None:
        status, out, err = run("identity", "--json", "--state-dir", "/proc/none")
        self.assertEqual((status, json.loads(out)["error"]["kind"]), (1, "ConfigurationError"))
        self.assertEqual(len(err.splitlines()), 1)
