from __future__ import annotations

import signal
import unittest
from collections.abc import Callable
from typing import Any

from jetstreamproto.server.signals import StopSignals


class Reactor:
    """What the handlers need of a reactor, whose turn comes when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.stops = 0

    def sigInt(self, *_: object) -> None:
        raise AssertionError("the reactor's own handler was called")

    sigTerm = sigInt

    def callFromThread(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append((call, arguments))

    def stop(self) -> None:
        self.stops += 1

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call, arguments in calls:
            call(*arguments)


class StopSignalsTests(unittest.TestCase):
    def setUp(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = Reactor()
        self.hurried = 0
        self.signals = StopSignals(self.reactor, self.hurry)

    def hurry(self) -> None:
        self.hurried += 1

    def raise_and_turn(self, number: int) -> tuple[int, int]:
        """How often the reactor was stopped, and the rest hurried, after this signal."""
        signal.raise_signal(number)
        self.reactor.turn()
        return self.reactor.stops, self.hurried

    def test_the_first_stops_and_the_others_hurry(self) -> None:
        signal.signal(signal.SIGINT, self.reactor.sigInt)
        signal.signal(signal.SIGTERM, self.reactor.sigTerm)
        self.signals.install()
        self.assertEqual(self.raise_and_turn(signal.SIGTERM), (1, 0))
        self.assertEqual(self.raise_and_turn(signal.SIGINT), (1, 1))
        self.assertEqual(self.raise_and_turn(signal.SIGINT), (1, 2))

    def test_nothing_happens_outside_of_the_reactors_turn(self) -> None:
        signal.signal(signal.SIGINT, self.reactor.sigInt)
        self.signals.install()
        signal.raise_signal(signal.SIGINT)
        self.assertEqual(self.reactor.stops, 0)

    def test_handlers_that_are_not_the_reactors_stay(self) -> None:
        def other(number: int, frame: object) -> None:
            raise AssertionError("not raised here")

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, other)
        self.signals.install()
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
        self.assertEqual(signal.getsignal(signal.SIGTERM), other)

    def test_a_reactor_without_handlers_is_left_alone(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        StopSignals(object(), self.hurry).install()
        self.assertEqual(signal.getsignal(signal.SIGINT), before)
