from __future__ import annotations

import unittest

from jetstreamproto.cli.describe import lines
from jetstreamproto.services.rpc.service import RpcServer
from tests.unit.cli.test_main import run
from tests.unit.services.rpc.calculator import Calculator


class UsageTests(unittest.TestCase):
    def test_wrong_usage(self) -> None:
        add = "demo.Calculator#add"
        for arguments in (
            (),
            ("add",),
            ("demo.Calculator",),
            (add, "-d", "{"),
            (add, "-d", "[" * 100_000),
            (add, "--items", "/nonexistent"),
            (add, "-d", "-", "--items", "-"),
            (add, "--raw", "--json"),
            (add, "--metadata", "x"),
            (add, "--metadata", "=x"),
            (add, "--deadline", "-1"),
        ):
            with self.subTest(arguments):
                self.assertEqual(run("call", "localhost:9000", *arguments)[0], 2)
        self.assertEqual(run("describe", "localhost:9000")[0], 2)
        self.assertEqual(run("services")[0], 2)


class DescriptionTests(unittest.TestCase):
    def test_what_is_exposed(self) -> None:
        server = RpcServer([Calculator()], permitted=lambda _: ("test.Calculator#*",))
        shown = list(lines(server.describe(None, "test.Calculator")))  # type: ignore[arg-type]
        for line in (
            "test.Calculator: Counts its calls, and what became of them.",
            "  add(a: integer, b: integer = ...) -> integer  [unary, idempotent]",
            "  later() -> string  [unary]",
            "  slow(seconds: number) -> number or null  [unary]",
            "  squares(*items: integer) -> stream of integer  [both ways]",
            "  total(start: integer = ..., *items: integer) -> integer  [client stream]",
            "  upper(bytes) -> bytes  [unary, raw]",
            "  zeros(size: integer) -> bytes  [unary]",
        ):
            self.assertIn(line, shown)

    def test_what_a_hostile_server_says(self) -> None:
        deep: object = {"type": "string"}
        for _ in range(500):
            deep = {"type": "array", "items": deep}
        for described in (
            {},
            {"service": 1, "methods": 2, "doc": []},
            {"service": "\x1b[31m\u202e", "methods": [1, {}, {"method": "a\x9b#b\x07"}]},
            {"methods": [{"method": "a#b", "arguments": {"properties": [1], "required": 5}}]},
            {"methods": [{"method": "a#b", "arguments": {"$ref": 5, "$defs": {"": 7}}}]},
            {"methods": [{"method": "a#b", "result": deep}]},
            {"methods": [{"method": "a#b", "result": {"anyOf": [deep] * 1000}}]},
        ):
            for line in lines(described):
                self.assertTrue(line.isprintable())
                self.assertLess(len(line), 1000)
