"""docs/examples/reactors.py, run as it is."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import unittest
from pathlib import Path

from jetstreamproto.reactors.uring import why_not

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "reactors.py"


class ExampleTests(unittest.TestCase):
    def test_it_answers(self) -> None:
        with subprocess.Popen(
            [sys.executable, str(EXAMPLE)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as program:
            self.addCleanup(program.kill)
            assert program.stdout is not None
            found = re.fullmatch(r"port (\d+): (.*)\n", program.stdout.readline())
            assert found is not None
            self.assertEqual(found[2], "TunedReactor" if why_not() else "UringReactor")
            with socket.create_connection(("127.0.0.1", int(found[1])), 10) as line:
                line.sendall(b"hello")
                self.assertEqual(line.recv(10), b"hello")
            program.terminate()
            self.assertEqual(program.wait(10), 0)


if __name__ == "__main__":
    unittest.main()
