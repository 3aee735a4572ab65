"""The programs of the README and the guide, run as they stand there (but for the port)."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import TestCase

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DEADLINE = 60


def programs(page: str) -> list[str]:
    """The Python programs of a page, in order."""
    text = (ROOT / page).read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


class ReadmeTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.port = str(free_port())

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", program.replace("9000", self.port), *arguments],
            cwd=self.folder,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_the_server_and_the_client_of_the_tour(self) -> None:
        server_program, client_program = programs("README.md")
        server = self.start(server_program)
        assert server.stdout is not None
        ready, _, _ = select.select([server.stdout], [], [], DEADLINE)
        self.assertTrue(ready, "the server says nothing")
        fingerprint = server.stdout.readline().strip()
        self.assertRegex(fingerprint, r"^sha256:[\w-]{43}$")
        for _ in range(100):  # it prints, then listens
            client = self.start(client_program, fingerprint)
            output, errors = client.communicate(timeout=DEADLINE)
            if "refused" not in errors:
                break
        self.assertEqual((output, client.returncode), ("b'HELLO'\n", 0), errors)
