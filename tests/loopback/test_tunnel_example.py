"""The example of docs/tunnel.md runs, and is what the page shows."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest

from tests.loopback.command import DEADLINE, ROOT

EXAMPLE = ROOT / "docs" / "examples" / "tunnel.py"


class ExampleTests(unittest.TestCase):
    def test_it_runs(self) -> None:
        done = subprocess.run(
            [sys.executable, str(EXAMPLE)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, "hello through the tunnel\n")

    def test_the_page_leads_to_it(self) -> None:
        page = (ROOT / "docs" / "tunnel.md").read_text()
        self.assertIn("(examples/tunnel.py)", page)
