"""docs/examples/key_value.py, run as it stands there but for the port."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import TestCase

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "key_value.py"
DEADLINE = 60


class KeyValueExampleTests(TestCase):
    def test_it_does_what_the_page_says(self) -> None:
        port = str(free_port())
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", EXAMPLE.read_text("utf-8").replace("9000", port)],
                cwd=folder,
                env={"PYTHONPATH": str(ROOT), "PATH": ""},
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
        self.assertEqual((done.stdout, done.returncode), ("left: 12\nwatched: PUT tea\n", 0), done)

    def test_the_page_leads_to_it(self) -> None:
        page = (ROOT / "docs" / "key-value.md").read_text("utf-8")
        self.assertIn("(examples/key_value.py)", page)
