"""Twisted's own tests of reactors, run on one reactor: a program, since a process has only one.

    python -m tests.contracts.reactor_conformance twisted.internet.epollreactor.EPollReactor

Prints one JSON object: how many tests ran, and the names of those that were skipped or failed,
without the reactor's. It is to be started in a folder that it may write to.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

MODULES = (
    *("core", "fdset", "time", "threads", "tcp", "udp", "tls", "unix", "process", "socket"),
    *("newtls", "stdio"),
)
"""Of `twisted.internet.test`."""
EPOLL_ONLY = "epoll cannot detect lost file descriptors"


def choose(reactor: str) -> None:
    """Have Twisted's test modules make their tests for this reactor; before they are imported."""
    from twisted.internet.test import reactormixins

    reactormixins.ReactorBuilder._reactors = [reactor]
    from twisted.internet.test import test_fdset

    # Twisted skips it for its own epoll reactor, which it knows by the name of its class.
    builder: Any = test_fdset.ReactorFDSetTestsBuilder
    builder.test_lostFileDescriptor.skip = EPOLL_ONLY


def run(reactor: str) -> dict[str, Any]:
    from twisted.trial.reporter import TestResult
    from twisted.trial.runner import TestLoader, TrialRunner

    choose(reactor)
    found: list[TestResult] = []

    def reporter(*_arguments: Any, **_options: Any) -> TestResult:
        found.append(_Quiet())
        return found[0]

    loader, suite = TestLoader(), None
    for module in MODULES:
        tests = loader.loadModule(importlib.import_module(f"twisted.internet.test.test_{module}"))
        suite = tests if suite is None else _added(suite, tests)
    TrialRunner(reporter, workingDirectory="_conformance").run(suite)
    result, name = found[0], reactor.rsplit(".", 1)[1]
    return {
        "ran": result.testsRun,
        "skipped": _names(result.skips, name),
        "failed": _names([*result.failures, *result.errors], name),
        "details": [str(why) for _, why in [*result.failures, *result.errors]][:5],
    }


def _added(suite: Any, tests: Any) -> Any:
    suite.addTest(tests)
    return suite


def _names(outcomes: Any, reactor: str) -> list[str]:
    return sorted({test.id().replace(f"_{reactor}Tests", "") for test, _ in outcomes})


def _Quiet() -> Any:
    """A result that prints nothing; trial's runner wants some of a reporter's methods."""
    from twisted.trial.reporter import TestResult

    class Quiet(TestResult):
        def done(self) -> None:
            super().done()

        def cleanupErrors(self, errs: Any) -> None:
            self.errors.append((_Somewhere(), errs))

    return Quiet()


class _Somewhere:
    def id(self) -> str:
        return "clean-up"


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1])))
