"""Calls to several providers, each at the end of a session of its own, in virtual time."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import RpcError, SessionCut
from jetstreamproto.services.rpc.balancer import RpcBalancer
from jetstreamproto.services.rpc.balancing import Ejection, RetryBudget
from jetstreamproto.services.rpc.leases import RpcProvider
from jetstreamproto.services.rpc.model import RpcLimits, RpcStatus
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.session.session import Session
from jetstreamproto.testing import SessionPair
from tests.doubles import QuickClock, make_pair
from tests.unit.services.rpc.calculator import Calculator

ADD, SLOW = "test.Calculator#add", "test.Calculator#slow"


class Host:
    """A provider: its object, and the sessions with it."""

    def __init__(self, address: str, clock: QuickClock) -> None:
        self.provider = RpcProvider(address)
        self.target = Calculator()
        self.rpc = RpcServer([self.target], limits=RpcLimits(calls=50))
        self.clock = clock
        self.up = True
        self.latency = 0.0
        self.pairs: list[SessionPair] = []

    def connect(self) -> Deferred[Session]:
        if not self.up:
            return fail(SessionCut("nothing listens"))
        pair = make_pair(self.rpc.services, clock=self.clock, connect=False, latency=self.latency)
        self.pairs.append(pair)
        return pair.client.when_connected()

    def cut(self) -> None:
        self.pairs[-1].cut()


class BalancerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = QuickClock()
        self.seed = random.randrange(1 << 32)
        self.hosts = [Host(f"{name}:1", self.clock) for name in ("one", "two", "three")]

    def start(self, **options: Any) -> None:
        by_provider = {host.provider: host for host in self.hosts}
        options.setdefault("chance", random.Random(self.seed).random)
        self.balancer = RpcBalancer(
            lambda provider: by_provider[provider].connect(), clock=self.clock, **options
        )
        self.balancer.update(by_provider)

    def run_call(self, call: Deferred[Any]) -> Any:
        results: list[Any] = []
        call.addBoth(results.append)
        for _ in range(100_000):
            if results:
                break
            calls = self.clock.getDelayedCalls()
            self.clock.advance(max(0.0, calls[0].getTime() - self.clock.seconds()))
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

    def advance(self, seconds: float) -> None:
        self.hosts[0].pairs[0].advance(seconds)

    def counts(self) -> list[int]:
        return [host.target.calls for host in self.hosts]

    def fails(self, call: Deferred[Any]) -> RpcError:
        with self.assertRaises(RpcError, msg=f"seed {self.seed}") as raised:
            self.run_call(call)
        return raised.exception

    def test_calls_wait_for_the_first_session(self) -> None:
        self.start()
        self.assertEqual(self.run_call(self.balancer.call(ADD, 1, 2)), 3)

    def test_round_robin(self) -> None:
        self.start(policy="round-robin")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        for _ in range(30):
            self.run_call(self.balancer.call(ADD, 1))
        self.assertEqual(sorted(self.counts()), [10, 10, 11])

    def test_the_least_outstanding(self) -> None:
        self.start(policy="least-outstanding")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        calls = [self.balancer.call(SLOW, 5.0) for _ in range(30)]
        self.advance(1.0)
        outstanding = [len(host.target.contexts) for host in self.hosts]
        self.assertEqual(outstanding, [10, 10, 10])
        for call in calls:
            self.run_call(call)

    def test_a_slow_provider_gets_fewer_calls(self) -> None:
        self.hosts[0].latency = 0.5
        self.start(policy="power-of-two")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(5.0)
        for _ in range(100):
            self.run_call(self.balancer.call(ADD, 1))
        slow, *quick = self.counts()
        self.assertLess(slow, 5, f"seed {self.seed}")
        self.assertGreater(min(quick), 20, f"seed {self.seed}")

    def test_a_dead_provider_fails_its_calls_at_once_and_gets_no_more(self) -> None:
        self.start(policy="round-robin")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        calls = [self.balancer.call(SLOW, 20.0) for _ in range(6)]
        self.advance(1.0)
        dead, others = self.hosts[0], self.hosts[1:]
        dead.up = False
        before = self.clock.seconds()
        dead.cut()
        failed = [call for call in calls if call.called]
        self.assertEqual(len(failed), 2)
        for call in failed:
            error = self.failureResultOf(call, RpcError).value
            self.assertIs(error.status, RpcStatus.UNAVAILABLE)
        self.assertEqual(self.clock.seconds(), before)
        count = dead.target.calls
        for _ in range(20):
            self.assertEqual(self.run_call(self.balancer.call(ADD, 1)), 2)
        self.assertEqual(dead.target.calls, count)
        self.assertGreater(min(host.target.calls for host in others), 5)
        for call in calls:
            if call not in failed:
                self.run_call(call)

    def test_an_idempotent_call_goes_to_another_within_its_deadline(self) -> None:
        self.start(policy="round-robin")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        call = self.balancer.call(SLOW, 4.0, idempotent=True, timeout=10.0)
        self.advance(3.0)
        (busy,) = [host for host in self.hosts if host.target.contexts]
        busy.up = False
        busy.cut()
        # 10 s less the 3 s of the first attempt, less the 4 s that the method takes.
        self.assertAlmostEqual(self.run_call(call), 3.0, delta=0.1)

    def test_the_deadline_holds_across_retries(self) -> None:
        self.start(policy="round-robin")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        start = self.clock.seconds()
        call = self.balancer.call(SLOW, 100.0, idempotent=True, timeout=5.0)
        self.advance(3.0)
        (busy,) = [host for host in self.hosts if host.target.contexts]
        busy.up = False
        busy.cut()
        self.assertIs(self.fails(call).status, RpcStatus.DEADLINE_EXCEEDED)
        self.assertLess(self.clock.seconds() - start, 5.1)

    def test_others_are_made_at_most_once(self) -> None:
        self.start()
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        call = self.balancer.call(SLOW, 4.0)
        self.advance(1.0)
        for host in self.hosts:
            if host.target.contexts:
                host.cut()
        self.assertIs(self.fails(call).status, RpcStatus.UNAVAILABLE)
        self.advance(5.0)
        self.assertEqual(sum(len(host.target.contexts) for host in self.hosts), 1)

    def test_a_call_that_was_not_begun_goes_to_another(self) -> None:
        self.start(policy="round-robin")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        for host in self.hosts[:2]:
            host.pairs[-1].server.drain("restarting")
        for _ in range(9):
            self.assertEqual(self.run_call(self.balancer.call(ADD, 1)), 2)

    def test_the_budget_bounds_retries(self) -> None:
        self.start(budget=RetryBudget(ratio=0.0, most=2.0), policy="round-robin")
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        full = [self.balancer.call(SLOW, 50.0) for _ in range(150)]
        self.advance(0.5)
        before = [host.target.calls for host in self.hosts]
        self.assertEqual(sum(before), 151)
        for _ in range(4):
            error = self.fails(self.balancer.call(SLOW, 1.0))
            self.assertIs(error.status, RpcStatus.RESOURCE_EXHAUSTED)
        self.assertLess(self.balancer._budget._saved, 1.0)
        for call in full:
            call.addErrback(lambda _: None)
            call.cancel()
        self.advance(0.5)

    def test_the_proxy_repeats_what_is_declared_idempotent(self) -> None:
        self.start(policy="round-robin")
        proxy = self.balancer.proxy(Calculator)
        self.assertEqual(self.run_call(proxy.add(2, b=5)), 7)
        self.assertEqual(self.run_call(proxy.upper(b"x")), b"X")

    def test_errors_of_the_method_are_not_retried(self) -> None:
        self.start()
        error = self.fails(self.balancer.call("test.Calculator#refuse", idempotent=True))
        self.assertEqual((error.status, error.details), (RpcStatus.NOT_FOUND, {"id": 5}))

    def test_one_that_keeps_failing_is_left_alone_for_a_while(self) -> None:
        self.start(policy="round-robin", ejection=Ejection(faults=3, seconds=20.0))
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        bad = self.hosts[0]
        bad.target.broken = True
        before = bad.target.calls
        for _ in range(30):
            self.balancer.call(SLOW, 0.0).addErrback(lambda _: None)
            self.advance(0.1)
        self.assertEqual(bad.target.calls - before, 3)
        self.advance(20.0)
        for _ in range(30):
            self.balancer.call(SLOW, 0.0).addErrback(lambda _: None)
            self.advance(0.1)
        self.assertEqual(bad.target.calls - before, 6)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_nobody_to_call(self) -> None:
        for host in self.hosts:
            host.up = False
        self.start()
        error = self.fails(self.balancer.call(ADD, 1))
        self.assertEqual((error.status, error.started), (RpcStatus.UNAVAILABLE, False))
        with self.assertRaises(RpcError):
            self.balancer.stream("test.Calculator#count", 1)
        for host in self.hosts:
            host.up = True
        self.clock.advance(2.0)
        self.assertEqual(self.run_call(self.balancer.call(ADD, 1)), 2)
        self.balancer.update([])
        self.assertIs(self.fails(self.balancer.call(ADD, 1)).status, RpcStatus.UNAVAILABLE)

    def test_a_balancer_that_was_told_nothing_yet_waits(self) -> None:
        self.balancer = RpcBalancer(lambda _: self.hosts[0].connect(), clock=self.clock)
        late = self.balancer.call(ADD, 1, timeout=2.0)
        call = self.balancer.call(ADD, 1, timeout=20.0)
        gone = self.balancer.call(ADD, 1, timeout=20.0)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.clock.advance(3.0)
        error = self.failureResultOf(late, RpcError).value
        self.assertEqual((error.status, error.started), (RpcStatus.DEADLINE_EXCEEDED, False))
        self.balancer.update([self.hosts[0].provider])
        self.assertEqual(self.run_call(call), 2)

    def test_a_provider_that_comes_back(self) -> None:
        self.hosts = self.hosts[:1]
        self.start()
        self.run_call(self.balancer.call(ADD, 1))
        host = self.hosts[0]
        host.cut()
        self.assertIs(self.fails(self.balancer.call(ADD, 1)).status, RpcStatus.UNAVAILABLE)
        self.advance(2.0)
        self.assertEqual(self.run_call(self.balancer.call(ADD, 1)), 2)
        self.assertEqual(len(host.pairs), 2)

    def test_streams_have_one_provider(self) -> None:
        self.start()
        self.run_call(self.balancer.call(ADD, 1))
        stream = self.balancer.proxy(Calculator).count(3)

        async def collect() -> list[str]:
            return [item async for item in stream]

        self.assertEqual(self.run_call(Deferred.fromCoroutine(collect())), ["0", "1", "2"])
        figures = [node.figures.outstanding for node in self.balancer._nodes.values()]
        self.assertEqual(figures, [0, 0, 0])

    def test_one_that_leaves_finishes_its_calls(self) -> None:
        self.start()
        self.run_call(self.balancer.call(ADD, 1))
        self.advance(1.0)
        calls = [self.balancer.call(SLOW, 3.0) for _ in range(6)]
        self.advance(1.0)
        closing = self.balancer.close()
        for call in calls:
            self.run_call(call)
        self.run_call(closing)
        for host in self.hosts:
            for pair in host.pairs:
                self.assertFalse(pair.client.accepts_channels)
        self.balancer.update([self.hosts[0].provider])
        self.assertEqual(self.balancer.providers, [])
