"""Tests for jetstreamproto.transports.admission."""

from __future__ import annotations

import random
from unittest import TestCase

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.transports.admission import Admission, AdmissionLimits, Ticket

untimed = settings(deadline=None, derandomize=True, database=None)


class AdmissionTests(TestCase):
    def admission(self, **limits: int) -> Admission:
        return Admission(AdmissionLimits(**limits))

    def empty(self, admission: Admission) -> None:
        """No residue: every counter is back where it began, and no address is remembered."""
        left = {
            name: value
            for name, value in vars(admission).items()
            if name not in ("limits", "refused") and value
        }
        self.assertEqual(left, {})

    def fill(self, admission: Admission, host: str, count: int) -> list[Ticket]:
        tickets = []
        for _ in range(count):
            ticket = admission.admit(host)
            assert ticket is not None
            tickets.append(ticket)
        return tickets

    def test_sessions_in_all(self) -> None:
        admission = self.admission(sessions=3)
        tickets = [admission.admit(f"10.0.0.{number}") for number in range(5)]
        self.assertEqual([bool(ticket) for ticket in tickets], [True] * 3 + [False] * 2)
        self.assertEqual(admission.refused, 2)
        assert tickets[0] is not None
        admission.established(tickets[0])
        self.assertIsNone(admission.admit("10.0.0.9"), "an established session counts")
        admission.release(tickets[0])
        self.assertIsNotNone(admission.admit("10.0.0.9"))

    def test_sessions_of_an_address(self) -> None:
        admission = self.admission(sessions_per_address=2)
        tickets = self.fill(admission, "10.0.0.1", 2)
        for ticket in tickets:
            admission.established(ticket)
        self.assertIsNone(admission.admit("10.0.0.1"))
        self.assertIsNotNone(admission.admit("10.0.0.2"))

    def test_half_open_in_all(self) -> None:
        admission = self.admission(half_open=2)
        first, _ = (admission.admit(f"10.0.0.{number}") for number in range(2))
        assert first is not None
        self.assertIsNone(admission.admit("10.0.0.3"))
        admission.established(first)
        self.assertIsNotNone(admission.admit("10.0.0.3"))
        self.assertIsNone(admission.admit("10.0.0.4"))

    def test_half_open_of_an_address(self) -> None:
        admission = self.admission(half_open_per_address=2)
        first, _ = self.fill(admission, "10.0.0.1", 2)
        self.assertIsNone(admission.admit("10.0.0.1"))
        self.assertIsNotNone(admission.admit("10.0.0.2"))
        admission.established(first)
        self.assertIsNotNone(admission.admit("10.0.0.1"))

    def test_established_twice_is_once(self) -> None:
        admission = self.admission(half_open=2)
        first, second = self.fill(admission, "10.0.0.1", 2)
        for _ in range(3):
            admission.established(first)
        self.fill(admission, "10.0.0.1", 1)
        self.assertIsNone(admission.admit("10.0.0.1"))
        admission.release(second)

    def test_what_counts_as_one_address(self) -> None:
        for one, other, same in (
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("2001:db8:0:0:1:2:3:4", "2001:DB8::5", True),
            ("fe80::1%eth0", "fe80::2%eth1", True),
            ("::ffff:10.0.0.1", "10.0.0.1", True),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
            ("10.0.0.1", "10.0.0.2", False),
            ("local", "local", True),
            ("/run/one", "/run/other", False),
            ("::1", "::", True),
        ):
            admission = self.admission(half_open_per_address=1)
            self.assertIsNotNone(admission.admit(one))
            self.assertEqual(admission.admit(other) is None, same, (one, other))

    def test_nothing_is_left_of_a_thousand(self) -> None:
        admission = self.admission(sessions=50, half_open=20, half_open_per_address=5)
        generator = random.Random(7)
        tickets: list[Ticket] = []
        for number in range(1000):
            ticket = admission.admit(f"10.0.{number % 256}.{generator.randrange(4)}")
            if ticket is not None:
                tickets.append(ticket)
            if tickets and generator.random() < 0.6:
                admission.established(generator.choice(tickets))
            if tickets and generator.random() < 0.5:
                admission.release(tickets.pop(generator.randrange(len(tickets))))
        self.assertGreater(admission.refused, 0)
        for ticket in tickets:
            admission.release(ticket)
        self.empty(admission)

    def test_refusals_remember_no_address(self) -> None:
        admission = self.admission(sessions=1)
        (ticket,) = self.fill(admission, "10.0.0.1", 1)
        for number in range(1000):
            self.assertIsNone(admission.admit(f"2001:db8:0:{number:x}::1"))
        self.assertEqual(admission.refused, 1000)
        admission.release(ticket)
        self.empty(admission)

    @untimed
    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("aer"), st.integers(0, 9))),
        st.integers(1, 4),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 2),
    )
    def test_against_plain_counting(
        self,
        steps: list[tuple[str, str, int]],
        sessions: int,
        of_address: int,
        half_open: int,
        half_open_of_address: int,
    ) -> None:
        admission = self.admission(
            sessions=sessions,
            sessions_per_address=of_address,
            half_open=half_open,
            half_open_per_address=half_open_of_address,
        )
        tickets: list[Ticket] = []
        for host, step, index in steps:
            if step == "a":
                mine = [ticket for ticket in tickets if ticket.source == host]
                room = (
                    len(tickets) < sessions
                    and len(mine) < of_address
                    and sum(ticket.half_open for ticket in tickets) < half_open
                    and sum(ticket.half_open for ticket in mine) < half_open_of_address
                )
                ticket = admission.admit(host)
                self.assertEqual(ticket is not None, room)
                if ticket is not None:
                    tickets.append(ticket)
            elif tickets and step == "e":
                admission.established(tickets[index % len(tickets)])
            elif tickets:
                admission.release(tickets.pop(index % len(tickets)))
        for ticket in tickets:
            admission.release(ticket)
        self.empty(admission)

    def test_limits_are_positive(self) -> None:
        for name in vars(AdmissionLimits()):
            for value in (0, -1):
                with self.assertRaisesRegex(ConfigurationError, f"{name} must be positive"):
                    AdmissionLimits(**{name: value})
