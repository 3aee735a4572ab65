"""docs/examples/sockets.py, run as it is."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "sockets.py"


class ExampleTests(unittest.TestCase):
    def test_both_listeners_have_their_profiles_and_answer(self) -> None:
        with subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as program:
            self.addCleanup(program.kill)
            assert program.stdout is not None
            lines = [program.stdout.readline() for _ in range(2)]
            found = [re.fullmatch(r"port (\d+): (.*)\n", line) for line in lines]
            self.assertEqual([match and match[2] for match in found], ["low-latency", "bulk"])
            for match in found:
                assert match is not None
                with socket.create_connection(("127.0.0.1", int(match[1])), 10) as line:
                    line.sendall(b"hello")
                    self.assertEqual(line.recv(10), b"hello")
            program.terminate()
            self.assertEqual(program.wait(10), 0)
