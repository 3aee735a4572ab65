"""`jetstream call`, `services` and `describe` against `twistd jetstream --rpc`."""

from __future__ import annotations

import atexit
import functools
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0

APPLICATION = '''
from collections.abc import AsyncIterator
from twisted.internet import task
from jetstreamproto import RpcContext, RpcError, RpcStatus, rpc_method, rpc_service

@rpc_service("demo.Calculator")
class Calculator:
    """Sums \\x1b[31m and more."""

    @rpc_method(idempotent=True)
    def add(self, a: int, b: int = 1) -> int:
        """The sum."""
        return a + b

    @rpc_method
    async def count(self, upto: int) -> AsyncIterator[int]:
        for number in range(upto):
            yield number

    @rpc_method
    async def slow(self, context: RpcContext) -> None:
        await task.deferLater(context.clock, 60)

    @rpc_method
    async def total(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    @rpc_method(raw=True)
    def upper(self, data: bytes) -> bytes:
        return data.upper()

    @rpc_method
    def strange(self) -> dict[str, bytes]:
        return {"a\\u202e\\x9b\\x7f": b"\\xff"}

    @rpc_method
    def refuse(self) -> None:
        raise RpcError(RpcStatus.NOT_FOUND, "no \\x1b[31mthing", {"id": 5})
'''
RULES = """
[[allow]]
peers = ["*"]
services = ["rpc"]
methods = ["demo.Calculator#add", "jetstream.Reflection#*"]
"""


def start_server(folder: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """`twistd jetstream` in `folder`, and its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()"),
            *("-n", "--pidfile=", "jetstream", "--port", "0"),
            *("--data-dir", tempfile.mkdtemp(dir=folder), *arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JETSTREAM_HOME": str(folder / "state")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert process.stdout is not None
    log, until = "", time.monotonic() + DEADLINE
    while not (found := re.search(r"listens on (\S+:\d+)", log)):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
        said = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not said:
            process.kill()
            raise AssertionError(f"the server does not start: {log}")
        log += said.decode()
    return process, found[1]


@functools.cache  # and not setUpClass, which trial does not call
def shared_server() -> tuple[Path, str]:
    """The folder of the server for all tests, which is there until they end, and its address."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name)
    (path / "shop.py").write_text(APPLICATION)
    server, address = start_server(path, "--rpc", "shop:Calculator")
    atexit.register(folder.cleanup)
    atexit.register(server.communicate)
    atexit.register(server.kill)
    return path, address


class CallTests(unittest.TestCase):
    def setUp(self) -> None:
        self.folder, self.address = shared_server()

    def run_command(
        self, command: str, *arguments: str, stdin: str = "", address: str = ""
    ) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "jetstreamproto.cli"),
                *(command, address or self.address, *arguments),
            ],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JETSTREAM_HOME": str(self.folder / "state"),
            },
            input=stdin.encode(),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_arguments_in_all_forms(self) -> None:
        method = "demo.Calculator#add"
        for data, result in (('{"a": 2, "b": 3}', "5"), ("[2]", "3"), ("4", "5")):
            self.assertEqual(self.run_command("call", method, "-d", data), (0, result + "\n", ""))
        got = self.run_command("call", method, "-d", "-", "--json", stdin="[20, 22]")
        self.assertEqual(got, (0, '{"result": 42, "transport": "tcp"}\n', ""))

    def test_streams(self) -> None:
        status, out, _ = self.run_command("call", "demo.Calculator#count", "-d", "[3]")
        self.assertEqual((status, out), (0, "0\n1\n2\n"))
        _, out, _ = self.run_command("call", "demo.Calculator#count", "-d", "[2]", "--json")
        self.assertEqual(out, '{"item": 0, "transport": "tcp"}\n{"item": 1}\n')
        items = "\n".join(map(str, range(1000)))
        got = self.run_command("call", "demo.Calculator#total", "--items", "-", stdin=items)
        self.assertEqual(got, (0, "499500\n", ""))

    def test_items_that_are_no_json(self) -> None:
        status, out, error = self.run_command(
            "call", "demo.Calculator#total", "--items", "-", "--json", stdin="1\nx{\n"
        )
        self.assertEqual((status, json.loads(out)["error"]["kind"]), (2, "Usage"))
        self.assertIn("an item is not JSON", error)

    def test_raw(self) -> None:
        got = self.run_command("call", "demo.Calculator#upper", "--raw", "-d", "-", stdin="abc")
        self.assertEqual(got, (0, "ABC", ""))

    def test_nothing_reaches_the_terminal_but_text(self) -> None:
        status, out, _ = self.run_command("call", "demo.Calculator#strange")
        self.assertEqual(status, 0)
        self.assertEqual(out, '{"a\\u202e\\u009b\\u007f": "/w=="}\n')
        for command in (
            ("call", "demo.Calculator#refuse"),
            ("services",),
            ("describe", "demo.Calculator"),
        ):
            _, out, error = self.run_command(*command)
            self.assertTrue((out + error).replace("\n", "").isprintable())

    def test_errors(self) -> None:
        for arguments, status, word in (
            (("demo.Calculator#refuse",), 1, "NOT_FOUND"),
            (("demo.Calculator#add", "-d", '{"c": 1}'), 1, "INVALID_ARGUMENT"),
            (("demo.Nothing#add",), 1, "UNIMPLEMENTED"),
            (("demo.Calculator#slow", "--deadline", "0.3"), 5, "DEADLINE_EXCEEDED"),
        ):
            got, out, error = self.run_command("call", *arguments, "--json")
            self.assertEqual(got, status, error)
            self.assertIn(word, json.loads(out)["error"]["message"])
            self.assertIn(word, error)

    def test_services_and_describe(self) -> None:
        _, out, _ = self.run_command("services")
        self.assertIn("  demo.Calculator#add\n", out)
        _, out, _ = self.run_command("services", "--json")
        found = json.loads(out)
        self.assertEqual(found["transport"], "tcp")
        names = {one["service"] for one in found["services"]}
        registry = {"jetstream.Health", "jetstream.Reflection", "jetstream.Registry"}
        self.assertEqual(names, {"demo.Calculator", *registry})
        _, out, _ = self.run_command("describe", "demo.Calculator")
        self.assertIn("add(a: integer, b: integer = ...) -> integer  [unary, idempotent]", out)
        self.assertIn("count(upto: integer) -> stream of integer", out)
        _, out, _ = self.run_command("describe", "demo.Calculator", "--json")
        found = json.loads(out)
        self.assertEqual((len(found["methods"]), found["transport"]), (7, "tcp"))
        self.assertEqual(self.run_command("describe", "demo.Nothing")[0], 1)

    def test_the_registry_is_there(self) -> None:
        provider = '{"service": "demo.X", "provider": {"address": "host:1"}}'
        status, out, _ = self.run_command("call", "jetstream.Registry#register", "-d", provider)
        self.assertEqual((status, json.loads(out)["seconds"]), (0, 15.0))
        # The lease ended with the command's session.
        got = self.run_command("call", "jetstream.Registry#resolve", "-d", '["demo.X"]')
        self.assertEqual(got, (0, "[]\n", ""))

    def test_rules_of_access(self) -> None:
        (self.folder / "rules.toml").write_text(RULES)
        server, address = start_server(
            self.folder, "--rpc", "shop:Calculator", "--config", "rules.toml"
        )
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        got = self.run_command("call", "demo.Calculator#add", "-d", "[1]", address=address)
        self.assertEqual(got, (0, "2\n", ""))
        status, _, error = self.run_command("call", "demo.Calculator#count", address=address)
        self.assertEqual(status, 4)
        self.assertIn("PERMISSION_DENIED", error)

    def test_anonymous_peers_need_a_rule(self) -> None:
        server, address = start_server(self.folder, "--allow-anonymous")
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        self.assertEqual(self.run_command("services", address=address)[0], 4)
