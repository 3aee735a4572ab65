"""The example of docs/files.md, run as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from blake3 import blake3

from tests.loopback.command import DEADLINE, ROOT

EXAMPLE = ROOT / "docs" / "examples" / "files.py"


class ExampleTests(unittest.TestCase):
    def test_it_runs(self) -> None:
        content = EXAMPLE.read_bytes()
        with TemporaryDirectory() as folder:
            run = subprocess.run(
                [sys.executable, EXAMPLE, folder],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
            self.assertEqual((run.returncode, run.stderr), (0, ""))
            size, digest = len(content), blake3(content).hexdigest()
            self.assertEqual(
                run.stdout.splitlines(),
                [
                    f"{size} of {size} bytes sent, BLAKE3 {digest}",
                    "FOLDER examples 0",
                    f"FILE examples/files.py {size}",
                ],
            )
            self.assertEqual((Path(folder) / "copy.py").read_bytes(), content)

    def test_it_is_what_the_page_shows(self) -> None:
        page = (ROOT / "docs" / "files.md").read_text("utf-8")
        self.assertIn(EXAMPLE.read_text("utf-8"), page)
