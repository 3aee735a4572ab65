"""Providers and clients at one registry, each with a session of its own, in virtual time."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.client import RpcClient
from jetstreamproto.services.rpc.discovery import RpcDiscovery
from jetstreamproto.services.rpc.leases import RpcProvider
from jetstreamproto.services.rpc.model import RpcStatus
from jetstreamproto.services.rpc.registration import RpcRegistration
from jetstreamproto.services.rpc.registry import RpcRegistry
from jetstreamproto.services.rpc.service import RpcServer
from jetstreamproto.testing import SessionPair
from tests.doubles import QuickClock, make_pair

ONE, TWO = RpcProvider("one:1", "sha256:1"), RpcProvider("two:2", "sha256:2")
SERVICE = "test.Calculator"


class FakeBalancer:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[list[RpcProvider]] = []

    def update(self, providers: list[RpcProvider]) -> None:
        self.told.append(providers)


class RegistryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = QuickClock()
        self.registry = RpcRegistry()
        self.rpc = RpcServer([self.registry])
        self.client = self.join()
        self.proxy = RpcClient(self.client.client).proxy(RpcRegistry)

    def join(self) -> SessionPair:
        """A session with the registry."""
        return make_pair(self.rpc.services, clock=self.clock)

    def resolve(self) -> list[RpcProvider]:
        return self.client.run(self.proxy.resolve(SERVICE))  # type: ignore[no-any-return]

    def fails(self, call: Deferred[Any]) -> RpcStatus:
        with self.assertRaises(RpcError) as raised:
            self.client.run(call)
        return RpcStatus(raised.exception.status)


class RegistryTests(RegistryCase):
    def test_a_lease_lasts_as_long_as_it_is_renewed(self) -> None:
        lease = self.client.run(self.proxy.register(SERVICE, ONE, seconds=10.0))
        self.assertEqual(lease.seconds, 10.0)
        for _ in range(4):
            self.client.advance(8.0)
            self.assertEqual(self.resolve(), [ONE])
            self.client.run(self.proxy.renew(lease.id))
        self.client.advance(10.5)
        self.assertEqual(self.resolve(), [])
        self.assertIs(self.fails(self.proxy.renew(lease.id)), RpcStatus.NOT_FOUND)

    def test_a_short_lease_beside_a_long_one(self) -> None:
        self.client.run(self.proxy.register(SERVICE, ONE, seconds=1000.0))
        self.client.run(self.proxy.register(SERVICE, TWO, seconds=2.0))
        self.client.advance(2.5)
        self.assertEqual(self.resolve(), [ONE])

    def test_a_session_takes_its_leases_with_it(self) -> None:
        other = self.join()
        proxy = RpcClient(other.client).proxy(RpcRegistry)
        other.run(proxy.register(SERVICE, ONE))
        other.run(proxy.register("test.Other", ONE))
        self.assertEqual(self.client.run(self.proxy.services()), [SERVICE, "test.Other"])
        other.cut()
        self.assertEqual(self.resolve(), [])
        self.assertEqual(self.client.run(self.proxy.services()), [])

    def test_releasing(self) -> None:
        lease = self.client.run(self.proxy.register(SERVICE, ONE))
        other = RpcClient(self.join().client).proxy(RpcRegistry)
        self.assertIs(self.fails(other.release(lease.id)), RpcStatus.NOT_FOUND)
        self.client.run(self.proxy.release(lease.id))
        self.assertEqual(self.resolve(), [])

    def test_watching_sees_every_change(self) -> None:
        seen: list[list[RpcProvider]] = []

        async def watch() -> None:
            async for providers in self.proxy.watch(SERVICE):
                seen.append(providers)

        watching = Deferred.fromCoroutine(watch())
        self.client.advance(1.0)
        other = self.join()
        proxy = RpcClient(other.client).proxy(RpcRegistry)
        other.run(proxy.register(SERVICE, ONE, seconds=30.0))
        lease = other.run(proxy.register(SERVICE, TWO, seconds=5.0))
        other.run(proxy.register("test.Other", TWO))
        self.client.advance(1.0)
        self.client.advance(6.0)
        self.assertIs(self.fails(proxy.release(lease.id)), RpcStatus.NOT_FOUND)
        other.cut()
        self.client.advance(1.0)
        self.assertEqual(seen, [[], [ONE], [ONE, TWO], [ONE], []])
        self.client.cut()
        self.failureResultOf(watching, RpcError)
        self.assertEqual((self.registry._watching, self.registry._watchers), (0, {}))

    def test_a_watch_holds_up_neither_side_that_leaves(self) -> None:
        for leave in (lambda pair: pair.client.close(), lambda pair: pair.server.drain()):
            other = self.join()
            other.run(RpcDiscovery(SERVICE, FakeBalancer()).prepare(other.client))  # type: ignore[arg-type]
            other.advance(1.0)
            start = self.clock.seconds()
            other.run(leave(other))
            self.assertLess(self.clock.seconds() - start, 1.0)
            self.assertIsNone(other.client.close_reason)
        self.assertEqual(self.registry._watching, 0)

    def test_what_cannot_be_registered(self) -> None:
        call = RpcClient(self.client.client).call
        method = "jetstream.Registry#register"
        for arguments in (
            ("Calculator", {"address": "one:1"}),
            (SERVICE, {"address": "one"}),
            (SERVICE, {"address": "one:1", "transport": "pigeon"}),
            (SERVICE, {"address": "one:1"}, 0.1),
            (SERVICE, {"address": "one:1"}, 1e9),
            (SERVICE, "one:1"),
        ):
            with self.subTest(arguments):
                self.assertIs(self.fails(call(method, *arguments)), RpcStatus.INVALID_ARGUMENT)
        self.assertIs(self.fails(self.proxy.resolve("x")), RpcStatus.INVALID_ARGUMENT)

    def test_who_may_register_what(self) -> None:
        self.rpc = RpcServer([RpcRegistry(lambda session: ("demo.*", "test.One#*"))])
        proxy = RpcClient(self.join().client).proxy(RpcRegistry)
        for service in ("demo.Anything", "test.One"):
            self.client.run(proxy.register(service, ONE))
        for service in (SERVICE, "test.OneMore"):
            self.assertIs(self.fails(proxy.register(service, ONE)), RpcStatus.PERMISSION_DENIED)

    def test_so_many_and_no_more(self) -> None:
        for _ in range(100):
            self.client.run(self.proxy.register(SERVICE, ONE))
        self.assertIs(self.fails(self.proxy.register(SERVICE, ONE)), RpcStatus.RESOURCE_EXHAUSTED)
        self.assertEqual(self.resolve(), [ONE])

    def test_stopping_leaves_no_timer(self) -> None:
        self.client.run(self.proxy.register(SERVICE, ONE))
        self.client.cut()
        self.registry.stop()
        self.client.advance(100.0)
        self.assertIsNone(self.registry._timer)


class RegistrationTests(RegistryCase):
    def setUp(self) -> None:
        super().setUp()
        self.registration = RpcRegistration([SERVICE, "test.Other"], ONE, seconds=6.0)

    def test_it_is_kept_up(self) -> None:
        other = self.join()
        other.run(self.registration.prepare(other.client))
        self.client.advance(60.0)
        self.assertEqual(self.resolve(), [ONE])

    def test_a_reconnect_restores_it(self) -> None:
        first = self.join()
        first.run(self.registration.prepare(first.client))
        first.cut()
        self.assertEqual(self.resolve(), [])
        second = self.join()
        second.run(self.registration.prepare(second.client))
        self.assertEqual(self.resolve(), [ONE])
        self.client.advance(60.0)
        self.assertEqual(self.resolve(), [ONE])
        self.assertEqual(len(self.registry._leases._entries), 2)

    def test_a_lease_that_was_lost_is_taken_again(self) -> None:
        other = self.join()
        other.run(self.registration.prepare(other.client))
        self.registry._leases.release_all(other.server)
        self.assertEqual(self.resolve(), [])
        self.client.advance(2.5)
        self.assertEqual(self.resolve(), [ONE])

    def test_releasing(self) -> None:
        other = self.join()
        other.run(self.registration.prepare(other.client))
        other.run(Deferred.fromCoroutine(self.registration.release()))
        self.assertEqual(self.resolve(), [])
        self.client.advance(30.0)
        self.assertEqual(self.resolve(), [])

    def test_a_registry_that_refuses(self) -> None:
        self.rpc = RpcServer([RpcRegistry(lambda session: ())])
        other = self.join()
        with self.assertRaises(RpcError):
            other.run(self.registration.prepare(other.client))

    def test_names_that_are_none(self) -> None:
        with self.assertRaises(ValueError):
            RpcRegistration(["Calculator"], ONE)
        with self.assertRaises(ValueError):
            RpcRegistration([SERVICE], RpcProvider("nowhere"))


class DiscoveryTests(RegistryCase):
    def test_a_balancer_hears_of_changes_and_of_the_next_session(self) -> None:
        balancer = FakeBalancer()
        discovery = RpcDiscovery(SERVICE, balancer)  # type: ignore[arg-type]
        first = self.join()
        first.run(discovery.prepare(first.client))
        self.client.run(self.proxy.register(SERVICE, ONE))
        first.advance(1.0)
        self.assertEqual(balancer.told, [[], [ONE]])
        first.cut()
        first.advance(10.0)
        self.client.run(self.proxy.renew(self.lease()))
        self.assertEqual(len(balancer.told), 2)  # it knows what it knew
        second = self.join()
        second.run(discovery.prepare(second.client))
        second.advance(1.0)
        self.assertEqual(balancer.told[2:], [[ONE]])

    def lease(self) -> str:
        (lease,) = self.registry._leases._entries
        return lease

    def test_a_watch_that_fails_is_tried_again(self) -> None:
        balancer = FakeBalancer()
        self.registry._watching = 10_000
        other = self.join()
        other.run(RpcDiscovery(SERVICE, balancer).prepare(other.client))  # type: ignore[arg-type]
        other.advance(1.0)
        self.assertEqual(balancer.told, [])
        self.registry._watching = 0
        other.advance(6.0)
        self.assertEqual(balancer.told, [[]])
