"""The example of docs/opening.md, run as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.loopback.command import DEADLINE, ROOT, CliCase, Server, shared_server
from tests.loopback.test_cli_udp import shared_udp_server

EXAMPLE = ROOT / "docs" / "examples" / "opening.py"


class ExampleTests(CliCase):
    def output(self, server: Server) -> list[str]:
        run = subprocess.run(
            [sys.executable, EXAMPLE, "127.0.0.1", str(server.port), server.fingerprint, "2"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        return run.stdout.splitlines()

    def test_over_udp_and_without(self) -> None:
        for server, over in (
            (shared_udp_server(), "over udp"),
            (shared_server(), r"over tcp \(udp: nothing listens there\)"),
        ):
            lines = self.output(server)
            self.assertEqual(len(lines), 2)
            for line in lines:
                self.assertRegex(line, rf"^{over}: \d+\.\d ms$")

    def test_it_is_what_the_page_shows(self) -> None:
        page = (ROOT / "docs" / "opening.md").read_text("utf-8")
        self.assertIn(EXAMPLE.read_text("utf-8"), page)
