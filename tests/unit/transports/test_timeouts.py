"""Timeouts beside the calls of a clock, which they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.transports.timeouts import Timeout, Timeouts

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("after"), st.sampled_from([0.5, 1.0, 3.0])),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.floats(0, 2)),
    ),
    max_size=60,
)


class TimeoutsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.timeouts = Timeouts(self.clock)
        self.called: list[object] = []

    def after(self, seconds: float, name: object) -> Timeout:
        return self.timeouts.after(seconds, lambda: self.called.append(name))

    @given(_STEPS)
    def test_as_the_clock_itself_would_call(self, steps: list[tuple[str, float]]) -> None:
        clock, expected, called = Clock(), Clock(), []
        timeouts, wanted = Timeouts(clock), []
        both = []
        for number, (step, value) in enumerate(steps):
            if step == "after":
                ours = timeouts.after(value, lambda n=number: called.append(n))  # type: ignore[misc]
                both.append((ours, expected.callLater(value, wanted.append, number)))
            elif step == "cancel" and value < len(both):
                ours, theirs = both[int(value)]
                ours.cancel()
                if theirs.active():
                    theirs.cancel()
            elif step == "wait":
                clock.advance(value)
                expected.advance(value)
                # those of different lengths may be due at once, in any order
                self.assertEqual(sorted(called), sorted(wanted))
        clock.advance(10)
        expected.advance(10)
        self.assertEqual(sorted(called), sorted(wanted))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_one_call_of_the_clock_for_each_length(self) -> None:
        many = [self.after(seconds, seconds) for seconds in (1, 2) for _ in range(100)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 2)
        for one in many[:-1]:
            one.cancel()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        many[-1].cancel()
        many[-1].cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_is_due_may_be_cancelled_by_another(self) -> None:
        self.timeouts.after(1, lambda: second.cancel())
        second = self.after(1, "second")
        self.after(1, "third")
        self.clock.advance(1)
        self.assertEqual(self.called, ["third"])

    def test_one_may_set_the_next(self) -> None:
        self.timeouts.after(1, lambda: self.after(1, "next"))
        self.clock.advance(1)
        self.assertEqual(self.called, [])
        self.clock.advance(1)
        self.assertEqual(self.called, ["next"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_one_raises_does_not_stop_the_others(self) -> None:
        def fail() -> None:
            raise RuntimeError("of the test")

        self.timeouts.after(1, fail)
        self.after(1, "other")
        self.clock.advance(1)
        self.assertEqual(self.called, ["other"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_clock_that_is_set_back(self) -> None:
        self.clock.advance(1000)
        before = self.after(1, "before")
        self.clock.rightNow = 10.0
        self.after(1, "after")
        self.clock.advance(1)
        self.assertEqual(self.called, ["after"])
        before.cancel()
        self.after(1, "again")
        self.clock.advance(1)
        self.assertEqual(self.called, ["after", "again"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SoonTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.timeouts = Timeouts(self.clock)
        self.called: list[str] = []

    def soon(self, name: str) -> None:
        self.timeouts.soon(lambda: self.called.append(name))

    def test_all_of_a_turn_by_one_call_of_the_clock(self) -> None:
        for name in "abc":
            self.soon(name)
        self.assertEqual((len(self.clock.getDelayedCalls()), self.called), (1, []))
        self.clock.advance(0)
        self.assertEqual(self.called, ["a", "b", "c"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_they_ask_for_is_of_the_next_turn(self) -> None:
        self.timeouts.soon(lambda: self.soon("next"))
        self.soon("other")
        self.clock.advance(0)  # which goes on as long as something is due
        self.assertEqual(self.called, ["other", "next"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_one_raises_does_not_stop_the_others(self) -> None:
        self.timeouts.soon(lambda: 1 // 0)
        self.soon("second")
        self.clock.advance(0)
        self.assertEqual(self.called, ["second"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
