from __future__ import annotations

import unittest
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from jetstreamproto.server.workers.supervisor import PROCESS, SERVING, Supervisor, restart_delay


class Part:
    """Stands for a part with sockets."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"worker {number}"
        self.is_backend = False
        self.closed = False

    def describe(self, backend: str) -> str:
        return f"part {self.number}"

    def descriptors(self) -> dict[int, int]:
        return {3: 40 + self.number}

    def close(self) -> None:
        self.closed = True


class Process:
    def __init__(self, protocol: Any, arguments: list[str], descriptors: Any, pid: int) -> None:
        self.protocol, self.arguments, self.descriptors = protocol, arguments, descriptors
        self.pid = pid
        self.signals: list[str] = []
        self.over = False

    def signalProcess(self, name: str) -> None:
        if self.over:
            raise ProcessExitedAlready
        self.signals.append(name)

    def closeStdin(self) -> None:
        self.signals.append("end of input")

    def say(self, data: bytes, descriptor: int = 1) -> None:
        self.protocol.childDataReceived(descriptor, data)

    def end(self, signal: int | None = None) -> None:
        self.over = True
        end = ProcessDone(0) if signal is None else ProcessTerminated(None, signal, signal)
        self.protocol.processEnded(Failure(end))


class Machine(Clock):
    """A reactor in virtual time whose processes are `Process`es."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Process] = []

    def callWhenRunning(self, call: Any) -> None:
        call()

    def spawnProcess(
        self, protocol: Any, program: str, arguments: list[str], env: Any, childFDs: Any
    ) -> Process:
        process = Process(protocol, arguments, childFDs, 100 + len(self.processes))
        self.processes.append(process)
        return process


class SupervisorTests(unittest.TestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.parts = [Part(0), Part(1)]
        self.lines: list[str] = []
        globalLogPublisher.addObserver(self._log)
        self.addCleanup(globalLogPublisher.removeObserver, self._log)
        parts: Any = self.parts
        self.supervisor = Supervisor(
            parts, lambda described: [described, "more"], ["here we are"], 10.0, self.machine
        )
        self.supervisor.startService()
        self.backend = self.machine.processes.pop(0)
        self.addCleanup(self.end)

    def end(self) -> None:
        """Have the folder of the backend's socket removed."""
        self.supervisor.stopService()
        for process in (*self.machine.processes, self.backend):
            if not process.over:
                process.end()

    def _log(self, event: Any) -> None:
        if event.get("log_namespace") == "jetstream":
            self.lines.append(event["log_format"].format(**event))

    def test_each_worker_has_its_part(self) -> None:
        first, second = self.machine.processes
        self.assertEqual(first.arguments[1:], ["-m", PROCESS, "part 0", "more"])
        self.assertEqual(second.descriptors, {0: "w", 1: "r", 2: "r", 3: 41})

    def test_the_announcement_waits_for_all(self) -> None:
        for process in (self.backend, *self.machine.processes):
            self.assertNotIn("here we are", self.lines)
            process.say(SERVING.encode() + b"\n")
        self.assertEqual(self.lines.count("here we are"), 1)

    def test_what_they_say_is_logged_by_lines(self) -> None:
        process = self.machine.processes[1]
        process.say(b"one\ntw")
        process.say(b"x\n", 2)
        process.say(b"o\n\xff\n")
        said = [line for line in self.lines if line.startswith("worker 1:")]
        self.assertEqual(said, ["worker 1: " + text for text in ("one", "x", "two", "\ufffd")])

    def test_a_line_without_end_is_not_kept(self) -> None:
        process = self.machine.processes[0]
        for _ in range(100):
            process.say(bytes(1000))
        self.assertGreaterEqual(len([line for line in self.lines if "\0" in line]), 5)

    def test_a_dead_one_is_started_again_ever_later(self) -> None:
        for failures in range(1, 12):
            self.machine.processes[-1 if failures > 1 else 0].end(9)
            started = len(self.machine.processes)
            self.machine.advance(restart_delay(failures) - 0.01)
            self.assertEqual(len(self.machine.processes), started)
            self.machine.advance(0.02)
            self.assertEqual(len(self.machine.processes), started + 1)
            self.assertEqual(self.machine.processes[-1].descriptors[3], 40)
        self.assertEqual(restart_delay(11), 30.0)

    def test_a_long_life_is_no_failure(self) -> None:
        for _ in range(5):
            self.machine.advance(61)
            self.machine.processes[0].end()
            self.machine.advance(restart_delay(1) + 0.01)
            self.machine.processes[0] = self.machine.processes.pop()
            self.assertFalse(self.machine.processes[0].over)

    def test_stopping_waits_for_all_of_them(self) -> None:
        stopped: list[Any] = []
        self.supervisor.stopService().addCallback(stopped.append)
        self.assertTrue(all(part.closed for part in self.parts))
        first, second = self.machine.processes
        self.assertEqual((first.signals, second.signals), (["TERM"], ["TERM"]))
        self.assertEqual(self.backend.signals, [])  # the others' sessions end first
        first.end()
        second.end(9)
        self.assertEqual((self.backend.signals, stopped), (["end of input"], []))
        self.backend.end()
        self.assertTrue(stopped)
        self.assertEqual(self.machine.getDelayedCalls(), [])
        self.assertEqual(len(self.machine.processes), 2)

    def test_one_that_does_not_stop_is_killed(self) -> None:
        self.supervisor.stopService()
        self.supervisor.hurry()
        self.machine.advance(26)
        self.assertEqual(self.machine.processes[0].signals, ["TERM", "TERM", "KILL"])

    def test_one_that_ends_by_itself_while_others_stop(self) -> None:
        stopped: list[Any] = []
        self.supervisor.stopService().addCallback(stopped.append)
        self.backend.end(15)
        for process in self.machine.processes:
            process.end()
        self.assertTrue(stopped)
        self.machine.advance(100)
        self.assertEqual(len(self.machine.processes), 2)

    def test_stopping_while_one_is_away(self) -> None:
        self.machine.processes[0].end(11)
        stopped: list[Any] = []
        self.supervisor.stopService().addCallback(stopped.append)
        self.machine.processes[1].end()
        self.backend.end()
        self.assertTrue(stopped)
        self.machine.advance(100)
        self.assertEqual(len(self.machine.processes), 2)
