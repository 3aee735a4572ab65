"""How `jetstream kv` reads its command line, and what it prints; nothing here connects."""

from __future__ import annotations

import unittest

from click.testing import CliRunner

from jetstreamproto.cli.kv_output import as_object, as_value
from jetstreamproto.cli.main import jetstream
from jetstreamproto.services.kv.model import ChangeKind, KeyEntry


class UsageTests(unittest.TestCase):
    def run_kv(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(jetstream, ["kv", *arguments], prog_name="jetstream")
        return done.exit_code, done.output

    def test_wrong_usage(self) -> None:
        for arguments in (
            (),
            ("bogus",),
            ("get",),
            ("get", "nokey"),
            ("get", "e/"),
            ("get", "/k"),
            ("set", "e/k"),
            ("set", "e/k", "v", "--ttl", "0"),
            ("set", "e/k", "v", "--revision", "-1"),
            ("hset", "e/k", "f"),
            ("hset", "e/k", "f", "-", "g", "-"),
            ("incr", "e/k", "much"),
            ("keys", "e/", "--limit", "0"),
            ("watch", "e/", "-C", "0"),
            ("batch", "e/k"),
        ):
            status, output = self.run_kv("h:1", *arguments)
            self.assertEqual(status, 2, arguments)
            self.assertIn("Usage: jetstream kv", output)

    def test_help_shows_where_the_server_belongs(self) -> None:
        for arguments in (("h:1", "get", "--help"), ("get", "--help")):
            status, output = self.run_kv(*arguments)
            self.assertEqual(status, 0)
            usage = output.splitlines()[0]
            self.assertEqual(usage, "Usage: jetstream kv HOST:PORT get [OPTIONS] BUCKET/KEY")
        for arguments in (("--help",), ("h:1", "--help")):
            status, output = self.run_kv(*arguments)
            self.assertEqual(status, 0)
            self.assertIn("HOST:PORT COMMAND [ARGS]...", output)


class OutputTests(unittest.TestCase):
    def test_bytes_in_json(self) -> None:
        self.assertEqual(as_value("ä\n".encode()), "ä\n")
        self.assertEqual(as_value(b"\xff"), {"base64": "/w=="})

    def test_entries_in_json(self) -> None:
        entry = KeyEntry(ChangeKind.PUT, "k", 7, 1500, {"": b"v", "a": b"\xff"})
        self.assertEqual(
            as_object("b", entry),
            {
                "kind": "put",
                "bucket": "b",
                "key": "k",
                "revision": 7,
                "expires": 1.5,
                "value": "v",
                "fields": {"a": {"base64": "/w=="}},
            },
        )
        gone = KeyEntry(ChangeKind.EXPIRED, "k", 8)
        self.assertEqual(
            as_object("b", gone), {"kind": "expired", "bucket": "b", "key": "k", "revision": 8}
        )
