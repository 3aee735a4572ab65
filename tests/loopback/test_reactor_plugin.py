"""Installing the tuned reactor, each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TELL = """
from twisted.internet import reactor
print(type(reactor).__name__, type(reactor).__mro__[2].__name__, reactor.socket_profile.name)
"""
OBSERVE = """
import sys
from twisted.logger import globalLogBeginner, textFileLogObserver
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class InstallTests(unittest.TestCase):
    def install(self, *arguments: str, before: str = "", **environment: str) -> tuple[str, str]:
        call = f"import jetstreamproto.reactors as r; r.install({', '.join(arguments)})"
        done = run(before + call + TELL, **environment)
        return done.stdout.strip(), done.stderr

    @unittest.skipUnless(sys.platform == "linux", "epoll is Linux's")
    def test_by_code_with_a_profile(self) -> None:
        self.assertEqual(self.install('"bulk"'), (self.told("bulk"), ""))
        out, err = self.install(JETSTREAM_PROFILE="low-latency")
        self.assertEqual((out, err), (self.told("low-latency"), ""))

    def told(self, profile: str) -> str:
        return f"TunedReactor EPollReactor {profile}"

    @unittest.skipUnless(sys.platform == "linux", "epoll is Linux's")
    def test_by_its_plugin_name(self) -> None:
        script = (
            "from twisted.application.reactors import installReactor\n"
            "installReactor('jetstream-epoll')\n"
            "from jetstreamproto.server.tap import installed_reactor\n"
            "print(installed_reactor())"
        )
        done = run(script + TELL)
        self.assertEqual(
            (done.stdout.split("\n")[:2], done.stderr),
            (["jetstream-epoll", self.told("default")], ""),
        )

    def test_a_profile_that_there_is_not(self) -> None:
        _, err = self.install(JETSTREAM_PROFILE="fast")
        self.assertIn("ConfigurationError: $JETSTREAM_PROFILE: there is no profile 'fast'", err)

    def test_one_reactor_is_enough(self) -> None:
        _, err = self.install(before="from twisted.internet import reactor\n")
        self.assertIn("ReactorAlreadyInstalledError", err)

    def test_a_system_without_epoll_gets_another_and_is_told(self) -> None:
        no_epoll = "import sys; sys.modules['twisted.internet.epollreactor'] = None\n"
        for before, name in (
            (no_epoll, "poll"),
            (no_epoll + "sys.modules['twisted.internet.pollreactor'] = None\n", "select"),
        ):
            out, err = self.install('"bulk"', before=before + OBSERVE)
            self.assertEqual(out, f"TunedReactor {name.capitalize()}Reactor bulk")
            self.assertIn(f"this system has no epoll: the reactor is {name}'s", err)
