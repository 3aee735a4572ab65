"""`jetstream kv` against `twistd jetstream`, as people run them."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.loopback.command import DEADLINE, CliCase, read_line
from tests.loopback.server_process import LAST_LINE, TWISTD, environment, port_in


class KeyValueServer:
    """`twistd jetstream` whose state folder the commands share; it ends with the tests."""

    def __init__(self, *arguments: str) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.process = subprocess.Popen(
            [*TWISTD, "-n", "--pidfile=", "jetstream", "--port", "0", *arguments],
            cwd=self.home,
            env=environment(self.home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        log = ""
        while LAST_LINE not in log:
            assert select.select([self.process.stdout], [], [], DEADLINE)[0], log
            log += os.read(self.process.stdout.fileno(), 1 << 16).decode()
        self.address = f"127.0.0.1:{port_in(log)}"

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.home)


@functools.cache
def shared_server() -> KeyValueServer:
    server = KeyValueServer("--transports", "tcp")
    atexit.register(server.stop)
    return server


class KeyValueCommandTests(CliCase):
    def setUp(self) -> None:
        super().setUp()
        self.shared = shared_server()
        self.home = self.shared.home

    def kv(self, *arguments: str, given: bytes = b"") -> tuple[int, bytes, str]:
        return self.run_command("kv", self.shared.address, *arguments, given=given)

    def prints(self, expected: bytes, *arguments: str, given: bytes = b"") -> None:
        self.assertEqual(self.kv(*arguments, given=given), (0, expected, ""), arguments)

    def as_json(self, *arguments: str) -> dict[str, Any]:
        """The object, without how the server was reached."""
        status, out, err = self.kv(*arguments, "--json")
        self.assertEqual((status, err), (0, ""), arguments)
        found: dict[str, Any] = json.loads(out)
        self.assertEqual(found.pop("transport"), "tcp")
        return found

    def test_values(self) -> None:
        self.assertEqual(self.kv("set", "v/k", "text")[0], 0)
        self.prints(b"text", "get", "v/k")
        content = bytes(range(256)) * 8
        self.assertEqual(self.kv("set", "v/bytes", "-", "--ttl", "60", given=content)[0], 0)
        self.prints(content, "get", "v/bytes")
        found = self.as_json("get", "v/k")
        self.assertEqual((found["key"], found["value"]), ("k", "text"))
        self.prints(b"1\n", "exists", "v/k")
        self.prints(b"1\n", "del", "v/k")
        self.prints(b"0\n", "del", "v/k")
        self.assertEqual(self.as_json("exists", "v/k"), {"exists": False})

    def test_hashes_and_numbers(self) -> None:
        self.assertEqual(self.kv("hset", "h/k", "name", "Al", "raw", "-", given=b"\xff")[0], 0)
        self.prints(b"name\tAl\nraw\tbase64:/w==\n", "hgetall", "h/k")
        self.prints(b"\xff", "hget", "h/k", "raw")
        self.prints(b"name\tAl\n", "hmget", "h/k", "name", "none")
        self.assertEqual(
            self.as_json("hmget", "h/k", "none", "raw"),
            {"fields": {"none": None, "raw": {"base64": "/w=="}}},
        )
        self.prints(b"1\n", "hexists", "h/k", "name")
        self.prints(b"2\n", "hdel", "h/k", "name", "raw", "none")
        self.prints(b"-5\n", "incr", "h/n", "-5")
        self.assertEqual(self.as_json("incr", "h/n", "7", "--field", "f"), {"value": 7})

    def test_batches(self) -> None:
        given = b'set k 5 --ttl 60\n\n{"op": "incr", "key": "k", "by": 3}\n# the end\ndel none\n'
        self.prints(b"1\n8\n0\n", "batch", "bat", given=given)
        status, out, err = self.kv("batch", "bat", given=b"set k 1\n\nset l 2 --revision 7\n")
        self.assertEqual((status, out), (1, b""))
        self.assertIn("standard input, line 3: the key 'l' has revision 0, not 7", err)
        self.prints(b"8", "get", "bat/k")

    def test_pages(self) -> None:
        for key in ("a1", "a2", "b"):
            self.kv("set", f"p/{key}", key)
        self.prints(b"a1\na2\n", "keys", "p/a")
        status, out, err = self.kv("keys", "p", "--limit", "1", "--after", "a1")
        self.assertEqual((status, out, err), (0, b"a2\n", "there are more: --after 'a2'\n"))
        page = self.as_json("keys", "p/", "--limit", "2")
        self.assertEqual(
            ([key["key"] for key in page["keys"]], page["after"]), (["a1", "a2"], "a2")
        )
        found = list(map(json.loads, self.kv("scan", "p/", "--json")[1].splitlines()))
        self.assertEqual([one["value"] for one in found], ["a1", "a2", "b"])
        self.assertEqual([one.get("transport") for one in found], ["tcp", None, None])
        self.assertIn("p", self.kv("buckets")[1].decode().split())

    def test_watching(self) -> None:
        self.kv("set", "w/old", "1")
        process = self.start("kv", self.shared.address, "watch", "w/", "--since", "0", "-C", "3")
        assert process.stdout is not None
        self.assertRegex(read_line(process.stdout), r"^put\t\d+\tw/old\t1\n$")
        self.kv("hset", "w/new", "f", "\x1b[31mred")
        self.kv("del", "w/old")
        out, err = process.communicate(timeout=DEADLINE)
        self.assertRegex(out.decode(), r"^put\t\d+\tw/new\tf=\[31mred\ndeleted\t\d+\tw/old\n$")
        self.assertEqual((process.returncode, self.checked(err)), (0, ""))
        status, out, _ = self.kv("watch", "w/", "--since", "0", "-W", "0.5", "--json")
        kinds = [json.loads(line)["kind"] for line in out.splitlines()]
        self.assertEqual((status, kinds), (0, ["put"]))

    def test_errors(self) -> None:
        address = self.shared.address
        self.kv("set", "e/k", "1")
        for status, message, arguments in (
            (1, "e/none has no value", ("get", "e/none")),
            (1, "no field 'f'", ("hget", "e/k", "f")),
            (1, r"has revision \d+, not 0", ("set", "e/k", "2", "--revision", "0")),
            (1, "bucket's name", ("get", "no bucket/k")),
            (1, "at most 512 bytes", ("get", "e/" + "k" * 600)),
        ):
            self.fails(status, message, "kv", address, *arguments)
        status, _, err = self.kv("set", "e/k", "-", given=bytes((1 << 20) + 1))
        self.assertEqual(
            (status, err), (1, "jetstream: standard input: a value has at most 1048576 bytes\n")
        )


class AccessTests(CliCase):
    def test_rules_and_anonymous_peers(self) -> None:
        server = KeyValueServer("--transports", "tcp", "--allow-anonymous")
        self.addCleanup(server.stop)
        self.home = server.home
        self.fails(4, "may not use the service 'kv'", "kv", server.address, "get", "b/k")
        rules = server.home / "rules.toml"
        rules.write_text(
            'transports = ["tcp"]\nallow_anonymous = true\n[[allow]]\npeers = ["anonymous"]\n'
            'services = ["kv"]\nread = ["b/*"]\nwrite = ["b/mine/*"]\n'
        )
        ruled = KeyValueServer("--config", str(rules))
        self.addCleanup(ruled.stop)
        self.home = ruled.home
        address = ruled.address
        self.assertEqual(self.run_command("kv", address, "set", "b/mine/k", "v")[0], 0)
        self.assertEqual(self.run_command("kv", address, "get", "b/mine/k")[1], b"v")
        self.fails(4, "may not write", "kv", address, "set", "b/k", "v")
        self.fails(4, "may not read", "kv", address, "keys", "c/")
