"""Races of anything that can be begun and cancelled."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.opening.racing import DroppedOut, NobodyWon, Race, Runner, in_time


class Final(Exception):
    pass


class Track:
    """A race whose runners do as they are told: `ends` maps names to seconds and an outcome."""

    def __init__(self, *runners: tuple[str, float], ends: dict[str, tuple[float, Any]]) -> None:
        self.clock = Clock()
        self.begun: list[tuple[float, str]] = []
        self.cancelled: list[str] = []
        self.discarded: list[str] = []
        self._ends = ends
        self.race: Race[str] = Race(
            self.clock,
            [Runner(name, after, lambda name=name: self._begin(name)) for name, after in runners],
            lambda error: isinstance(error, Final),
            self.discarded.append,
        )
        self.result = self.race.run()

    def _begin(self, name: str) -> Deferred[str]:
        self.begun.append((self.clock.seconds(), name))
        running: Deferred[str] = Deferred(lambda _: self.cancelled.append(name))
        if name in self._ends:
            after, outcome = self._ends[name]
            if after:
                self.clock.callLater(after, self._end, running, outcome)
            else:
                self._end(running, outcome)
        return running

    def _end(self, running: Deferred[str], outcome: Any) -> None:
        if running.called:
            return
        (running.errback if isinstance(outcome, Exception) else running.callback)(outcome)

    def go(self, seconds: float) -> Track:
        self.clock.pump([0.05] * round(seconds / 0.05))
        return self


class RaceTests(SynchronousTestCase):
    def test_the_first_wins_and_no_other_begins(self) -> None:
        track = Track(("a", 0), ("b", 0.25), ends={"a": (0.2, "A")}).go(1)
        self.assertEqual(self.successResultOf(track.result), "A")
        self.assertEqual((track.begun, track.race.winner), ([(0, "a")], "a"))
        self.assertEqual(track.clock.getDelayedCalls(), [])

    def test_the_next_begins_after_the_head_start(self) -> None:
        track = Track(("a", 0), ("b", 0.25), ("c", 0.5), ends={"b": (0.2, "B")}).go(1)
        self.assertEqual(self.successResultOf(track.result), "B")
        self.assertEqual([name for _, name in track.begun], ["a", "b"])
        self.assertEqual(track.cancelled, ["a"])

    def test_the_next_begins_at_once_when_one_fails(self) -> None:
        ends = {"a": (0, ValueError()), "b": (0.1, ValueError()), "c": (0.1, "C")}
        track = Track(("a", 0), ("b", 9), ("c", 9), ends=ends).go(1)
        self.assertEqual(self.successResultOf(track.result), "C")
        self.assertEqual([name for _, name in track.begun], ["a", "b", "c"])
        self.assertEqual(list(track.race.failures), ["a", "b"])

    def test_but_not_when_a_later_one_still_runs(self) -> None:
        ends = {"a": (0.3, ValueError()), "b": (1.0, "B")}
        track = Track(("a", 0), ("b", 0.2), ("c", 9), ends=ends).go(2)
        self.assertEqual(self.successResultOf(track.result), "B")
        self.assertEqual([name for _, name in track.begun], ["a", "b"])

    def test_when_all_fail(self) -> None:
        ends = {name: (0.1, ValueError(name)) for name in "ab"}
        track = Track(("a", 0), ("b", 9), ends=ends).go(1)
        lost = self.failureResultOf(track.result, NobodyWon).value
        self.assertEqual(
            {name: str(error) for name, error in lost.failures.items()}, {"a": "a", "b": "b"}
        )

    def test_what_is_final(self) -> None:
        track = Track(("a", 0), ("b", 0.1), ("c", 0.1), ends={"b": (0, Final())}).go(1)
        self.failureResultOf(track.result, Final)
        self.assertEqual((track.cancelled, len(track.begun)), (["a"], 2))
        self.assertEqual(track.clock.getDelayedCalls(), [])

    def test_one_that_drops_out_may_run_again(self) -> None:
        ends: dict[str, Any] = {"a": (0.05, DroppedOut())}
        track = Track(("a", 0), ("b", 9), ("a", 0.2), ends=ends)
        track.go(0.1)
        self.assertEqual((list(track.race.begun), track.race.failures), (["b"], {}))
        ends["a"] = (0.1, "A")
        track.go(0.5)
        self.assertEqual(self.successResultOf(track.result), "A")
        self.assertEqual(list(track.race.begun), ["b", "a"])

    def test_one_that_failed_or_runs_does_not(self) -> None:
        for ends in ({"a": (0.05, ValueError())}, {}):
            track = Track(("a", 0), ("b", 0.2), ("a", 0.2), ends=ends).go(1)
            self.assertEqual([name for _, name in track.begun], ["a", "b"])
            track.result.cancel()
            self.failureResultOf(track.result, CancelledError)

    def test_all_drop_out(self) -> None:
        track = Track(("a", 0), ends={"a": (0, DroppedOut())})
        self.assertEqual(self.failureResultOf(track.result, NobodyWon).value.failures, {})

    def test_cancelling(self) -> None:
        track = Track(("a", 0), ("b", 0.2), ("c", 0.2), ends={}).go(0.3)
        track.result.cancel()
        self.failureResultOf(track.result, CancelledError)
        self.assertEqual((track.cancelled, track.clock.getDelayedCalls()), (["a", "b"], []))

    def test_what_comes_after_the_end_is_discarded(self) -> None:
        late: Deferred[str] = Deferred(lambda d: d.callback("late"))
        clock, discarded = Clock(), []
        race: Race[str] = Race(
            clock,
            [Runner("a", 0, lambda: late), Runner("b", 0.2, lambda: Deferred())],
            lambda _: False,
            discarded.append,
        )
        result = race.run()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(discarded, ["late"])

    @given(
        st.lists(
            st.tuples(st.floats(0, 2), st.floats(0, 2), st.sampled_from(["won", "lost", "never"])),
            min_size=1,
            max_size=5,
        ),
        st.floats(0, 12),
    )
    def test_every_race_ends_and_leaves_nothing(
        self, runners: list[tuple[float, float, str]], until: float
    ) -> None:
        ends: dict[str, Any] = {}
        for number, (_, seconds, how) in enumerate(runners):
            if how != "never":
                ends[str(number)] = (seconds, str(number) if how == "won" else ValueError())
        track = Track(*((str(n), after) for n, (after, _, _) in enumerate(runners)), ends=ends)
        results: list[Any] = []
        track.result.addBoth(results.append)
        track.clock.pump([until / 50] * 50)
        if not results:
            track.result.cancel()
        self.assertEqual(len(results), 1)
        begun = [name for _, name in track.begun]
        self.assertEqual(begun, sorted(begun))
        won = results[0] if isinstance(results[0], str) else None
        running = set(begun) - set(track.race.failures) - {won}
        self.assertEqual(set(track.cancelled), running)
        own = [c for c in track.clock.getDelayedCalls() if c.func == track.race._begin_next]
        self.assertEqual(own, [])


class InTimeTests(SynchronousTestCase):
    def test_late(self) -> None:
        clock, waiting = Clock(), Deferred[int]()
        result = Deferred.fromCoroutine(in_time(clock, waiting, 2, Final()))
        clock.advance(2)
        self.failureResultOf(result, Final)
        self.assertTrue(waiting.called)

    def test_in_time(self) -> None:
        clock, waiting = Clock(), Deferred[int]()
        result = Deferred.fromCoroutine(in_time(clock, waiting, 2, Final()))
        waiting.callback(7)
        self.assertEqual(self.successResultOf(result), 7)
        self.assertEqual(clock.getDelayedCalls(), [])
