"""Tests for jetstreamproto.reactors.profiled: the reactor that is seen through it."""

from __future__ import annotations

import os
from unittest import TestCase, mock

from twisted.internet.interfaces import IReactorTCP, IReactorTime, IReactorUDP
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reactors.profiled import ProfiledReactor, profiled
from jetstreamproto.reactors.tuned import PROFILE_VARIABLE, chosen_profile
from jetstreamproto.sockets.profiles import DEFAULT_PROFILE, PROFILES, profile_of
from tests.tuned import TunedReactorCase


class ProfiledTests(TunedReactorCase):
    def test_it_is_the_reactor_but_for_the_profile(self) -> None:
        seen = profiled(self.reactor, "bulk")
        self.assertIsInstance(seen, ProfiledReactor)
        for interface in (IReactorTCP, IReactorUDP, IReactorTime):
            self.assertTrue(interface.providedBy(seen))
        self.assertIs(profile_of(seen), PROFILES["bulk"])
        self.assertIs(profile_of(self.reactor), DEFAULT_PROFILE)
        self.assertEqual(seen.getThreadPool, self.reactor.getThreadPool)

    def test_the_last_profile_counts(self) -> None:
        seen = profiled(profiled(self.reactor, "bulk"), "system")
        self.assertIs(seen.unprofiled, self.reactor)
        self.assertEqual(profile_of(seen).name, "system")

    def test_reactors_without_sockets_stay_as_they_are(self) -> None:
        for reactor in (Clock(), MemoryReactorClock(), None):
            self.assertIs(profiled(reactor, "bulk"), reactor)
        with self.assertRaises(ConfigurationError):
            profiled(Clock(), "nonesuch")


class ChosenProfileTests(TestCase):
    def test_the_argument_the_environment_or_the_default(self) -> None:
        for variable, argument, name in (
            ("", None, "default"),
            ("bulk", None, "bulk"),
            ("bulk", "low-latency", "low-latency"),
        ):
            with mock.patch.dict(os.environ, {PROFILE_VARIABLE: variable}):
                self.assertEqual(chosen_profile(argument).name, name)

    def test_one_that_there_is_not_is_named_with_its_variable(self) -> None:
        with (
            mock.patch.dict(os.environ, {PROFILE_VARIABLE: "x"}),
            self.assertRaisesRegex(ConfigurationError, r"^\$JETSTREAM_PROFILE: .* 'x'"),
        ):
            chosen_profile(None)
