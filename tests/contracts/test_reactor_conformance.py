"""Twisted's own reactor tests on our reactors: all pass that pass on Twisted's epoll reactor.

Each run is a process of its own and takes some three seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import unittest
from functools import cache
from pathlib import Path
from typing import Any

from jetstreamproto.reactors.uring import why_not

try:
    import hamcrest  # noqa: F401 - Twisted's tests want it
    from twisted.internet.epollreactor import EPollReactor
except ImportError:
    MISSING = "epoll and PyHamcrest are needed"
else:
    MISSING = ""
    STOCK = f"{EPollReactor.__module__}.{EPollReactor.__name__}"

ROOT = Path(__file__).resolve().parents[2]
RETRIES = 2
"""Some of those tests take a port that was free a moment ago, which a busy machine takes first."""

LEAST = 300
"""Tests that there are, at the least: an import that fails must not look like a success."""


def conformance(reactor: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.contracts.reactor_conformance", reactor],
            cwd=folder,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode:
        raise AssertionError(f"{reactor}: it ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@cache
def stock_conformance() -> dict[str, Any]:
    return conformance(STOCK)


@unittest.skipIf(MISSING, MISSING)
class ReactorConformanceTests(unittest.TestCase):
    """To have another reactor tested, add a method."""

    def check(self, reactor: str) -> None:
        stock, ours = stock_conformance(), conformance(reactor)
        self.assertGreaterEqual(stock["ran"], LEAST)
        self.assertEqual(ours["ran"], stock["ran"])
        self.assertEqual(ours["skipped"], stock["skipped"])
        # What fails on Twisted's own is the machine's fault, such as test_changeUID where another
        # user may not read Python.
        failed = set(ours["failed"]) - set(stock["failed"])
        for _ in range(RETRIES):
            if failed:
                failed &= set(conformance(reactor)["failed"])
        self.assertEqual(failed, set(), ours["details"])

    def test_jetstream_epoll(self) -> None:
        self.check("jetstreamproto.reactors.tuned.TunedReactor")

    def test_jetstream_uring(self) -> None:
        reason = why_not()
        if reason:
            self.skipTest(reason)
        self.check("jetstreamproto.reactors.uring.UringReactor")
