"""The example of docs/events.md, run as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from tempfile import TemporaryDirectory

from tests.loopback.command import DEADLINE, ROOT

EXAMPLE = ROOT / "docs" / "examples" / "events.py"


class ExampleTests(unittest.TestCase):
    def test_it_runs_and_keeps_what_was_published(self) -> None:
        with TemporaryDirectory() as folder:
            for number in (1, 2):
                run = subprocess.run(
                    [sys.executable, EXAMPLE, folder],
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE,
                )
                self.assertEqual((run.returncode, run.stderr), (0, ""))
                self.assertEqual(
                    run.stdout.splitlines(),
                    [f"published as {number}", "orders.new: two pairs of socks"],
                )

    def test_it_is_what_the_page_shows(self) -> None:
        page = (ROOT / "docs" / "events.md").read_text("utf-8")
        self.assertIn(EXAMPLE.read_text("utf-8"), page)
