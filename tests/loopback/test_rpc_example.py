"""The example of calls, run as it stands in docs/examples but for the port."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 60.0


class ExampleTests(unittest.TestCase):
    def test_the_page_shows_it(self) -> None:
        page, program = (ROOT / "docs/rpc.md").read_text(), "docs/examples/rpc.py"
        self.assertIn("(examples/rpc.py)", page)
        shown = page.partition("```python\n")[2].partition("\n\nfactory")[0]
        self.assertIn(shown, (ROOT / program).read_text())

    def test_server_and_client(self) -> None:
        port = str(free_port())
        program = (ROOT / "docs/examples/rpc.py").read_text().replace("9000", port)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        options = {
            "cwd": folder.name,
            "env": {**os.environ, "PYTHONPATH": str(ROOT)},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }
        server = subprocess.Popen([sys.executable, "-c", program, "serve"], **options)
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        assert server.stdout is not None
        self.assertTrue(select.select([server.stdout], [], [], DEADLINE)[0], "no server")
        self.assertEqual(server.stdout.readline(), "ready\n")
        client = subprocess.Popen([sys.executable, "-c", program], **options)
        self.addCleanup(client.kill)
        output, _ = client.communicate(timeout=DEADLINE)
        self.assertEqual(
            output.splitlines(),
            [
                "1 / 8 = 0.125",
                "INVALID_ARGUMENT nobody divides by zero",
                "sums: [1.0, 3.0, 6.0]",
            ],
        )
