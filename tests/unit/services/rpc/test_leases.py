from __future__ import annotations

import unittest

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jetstreamproto.errors import RpcError
from jetstreamproto.services.rpc.leases import LeaseTable, RpcProvider
from jetstreamproto.services.rpc.model import RpcStatus

ONE, TWO = RpcProvider("one:1"), RpcProvider("two:2")


class LeaseTableTests(unittest.TestCase):
    def test_granted_renewed_and_over(self) -> None:
        table = LeaseTable()
        table.grant("a", self, "demo.X", ONE, 10.0, now=0.0)
        table.grant("b", self, "demo.X", TWO, 10.0, now=1.0)
        self.assertEqual(table.providers("demo.X"), [ONE, TWO])
        self.assertEqual(table.renew("a", self, now=5.0), 10.0)
        self.assertEqual(table.expire(12.0), {"demo.X"})
        self.assertEqual(table.providers("demo.X"), [ONE])
        self.assertEqual(table.expire(14.9), set())
        self.assertEqual(table.expire(15.0), {"demo.X"})
        self.assertEqual((table.services(), table.earliest), ([], None))

    def test_only_the_owner_has_a_say(self) -> None:
        table = LeaseTable()
        table.grant("a", "me", "demo.X", ONE, 10.0, now=0.0)
        for act in (lambda: table.renew("a", "you", 1.0), lambda: table.release("a", "you")):
            with self.assertRaises(RpcError) as raised:
                act()
            self.assertIs(raised.exception.status, RpcStatus.NOT_FOUND)
        self.assertEqual(table.release_all("you"), set())
        self.assertEqual(table.release_all("me"), {"demo.X"})

    def test_limits(self) -> None:
        for limits in ({"most": 2}, {"most_providers": 2}, {"most_owned": 2}):
            table = LeaseTable(**limits)
            table.grant("a", self, "demo.X", ONE, 10.0, now=0.0)
            table.grant("b", self, "demo.X", TWO, 10.0, now=0.0)
            with self.assertRaises(RpcError) as raised:
                table.grant("c", self, "demo.X", TWO, 10.0, now=0.0)
            self.assertIs(raised.exception.status, RpcStatus.RESOURCE_EXHAUSTED)

    def test_leases_that_come_and_go_leave_nothing(self) -> None:
        table = LeaseTable()
        for number in range(10_000):
            table.grant(str(number), self, "demo.X", ONE, 3600.0, now=0.0)
            table.release(str(number), self)
        self.assertLess(len(table._due), 100)

    def test_addresses_that_are_none(self) -> None:
        for address in ("", "host", "host:", "ho st:1", "host:1\x1b", "h:1\n", "x" * 300 + ":1"):
            with self.subTest(address), self.assertRaises(msgspec.ValidationError):
                msgspec.convert({"address": address}, RpcProvider)
        msgspec.convert({"address": "[::1]:9000", "transport": "quic"}, RpcProvider)


class LeaseMachine(RuleBasedStateMachine):
    """Against a dictionary of when each lease ends."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable()
        self.now = 0.0
        self.count = 0
        self.known: dict[str, tuple[str, str, float, float]] = {}

    @rule(
        owner=st.sampled_from("ab"),
        service=st.sampled_from(["d.X", "d.Y"]),
        seconds=st.floats(1.0, 50.0),
    )
    def grant(self, owner: str, service: str, seconds: float) -> None:
        self.count += 1
        lease = str(self.count)
        self.table.grant(lease, owner, service, RpcProvider(f"h:{lease}"), seconds, self.now)
        self.known[lease] = owner, service, seconds, self.now + seconds

    @rule(index=st.integers(0, 99), end=st.booleans())
    def renew_or_release(self, index: int, end: bool) -> None:
        if self.known:
            lease = sorted(self.known)[index % len(self.known)]
            owner, service, seconds, _ = self.known.pop(lease)
            if end:
                self.table.release(lease, owner)
            else:
                self.table.renew(lease, owner, self.now)
                self.known[lease] = owner, service, seconds, self.now + seconds

    @rule(owner=st.sampled_from("ab"))
    def owner_leaves(self, owner: str) -> None:
        self.table.release_all(owner)
        self.known = {lease: one for lease, one in self.known.items() if one[0] != owner}

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.table.expire(self.now)
        self.known = {lease: one for lease, one in self.known.items() if one[3] > self.now}

    @invariant()
    def the_same_providers(self) -> None:
        for service in ("d.X", "d.Y"):
            expected = {f"h:{lease}" for lease, one in self.known.items() if one[1] == service}
            found = {provider.address for provider in self.table.providers(service)}
            assert found == expected, (found, expected)
        if self.known:
            assert self.table.earliest is not None
            assert self.table.earliest <= min(one[3] for one in self.known.values())


LeaseMachineTests = LeaseMachine.TestCase
LeaseMachineTests.settings = settings(max_examples=40, stateful_step_count=30)
