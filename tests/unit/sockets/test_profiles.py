"""Tests for jetstreamproto.sockets.profiles."""

from __future__ import annotations

import dataclasses
import socket
from types import SimpleNamespace
from unittest import TestCase, skipUnless

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.sockets.options import ON_LINUX, Outcome, Setting, read_congestion
from jetstreamproto.sockets.profiles import (
    DEFAULT_PROFILE,
    PROFILES,
    Moment,
    SocketProfile,
    find_profile,
    profile_of,
)

with socket.socket() as _handle:
    USUAL = read_congestion(_handle) or ""
OTHER = "cubic" if USUAL == "reno" else "reno"


def apply(
    profile: SocketProfile, moment: Moment, *, speaks_first: bool = False
) -> dict[str, Setting]:
    kind = socket.SOCK_DGRAM if moment is Moment.DATAGRAMS else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as handle:
        settings = profile.apply(handle, moment, speaks_first=speaks_first)
    return {setting.option: setting for setting in settings}


class ProfileTests(TestCase):
    def test_the_default_ends_delays_and_dead_peers_and_leaves_tcp_buffers_alone(self) -> None:
        found = apply(DEFAULT_PROFILE, Moment.CONNECTING)
        self.assertEqual(
            {name: setting.granted for name, setting in found.items()},
            {
                "TCP_NODELAY": 1,
                "SO_KEEPALIVE": 1,
                "TCP_KEEPIDLE": 30,
                "TCP_KEEPINTVL": 10,
                "TCP_KEEPCNT": 3,
            },
        )
        self.assertIn("SO_RCVBUF", apply(DEFAULT_PROFILE, Moment.DATAGRAMS))

    def test_the_system_profile_sets_nothing_but_reuse_of_the_address(self) -> None:
        profile = PROFILES["system"]
        self.assertEqual(list(apply(profile, Moment.LISTENING)), ["SO_REUSEADDR"])
        for moment in (Moment.ADOPTED, Moment.CONNECTING, Moment.CONNECTED, Moment.DATAGRAMS):
            self.assertEqual(apply(profile, moment), {}, moment)

    @skipUnless(ON_LINUX, "only Linux lets them grow")
    def test_bulk_starts_with_large_buffers_before_the_window_scale_is_chosen(self) -> None:
        for moment in (Moment.LISTENING, Moment.CONNECTING):
            found = apply(PROFILES["bulk"], moment)
            for name in ("SO_RCVBUF", "SO_SNDBUF"):
                self.assertEqual(found[name].asked, 4 << 20)
        self.assertNotIn("SO_RCVBUF", apply(PROFILES["bulk"], Moment.CONNECTED))

    @skipUnless(ON_LINUX, "Linux has both")
    def test_low_latency_acknowledges_at_once_and_opens_fast(self) -> None:
        profile = PROFILES["low-latency"]
        self.assertIs(apply(profile, Moment.LISTENING)["TCP_FASTOPEN"].outcome, Outcome.GRANTED)
        self.assertEqual(apply(profile, Moment.CONNECTED)["TCP_QUICKACK"].granted, 1)

    @skipUnless(ON_LINUX, "Linux has it")
    def test_only_clients_that_speak_first_open_fast(self) -> None:
        profile = PROFILES["low-latency"]
        self.assertNotIn("TCP_FASTOPEN_CONNECT", apply(profile, Moment.CONNECTING))
        found = apply(profile, Moment.CONNECTING, speaks_first=True)
        self.assertEqual(found["TCP_FASTOPEN_CONNECT"].granted, 1)
        self.assertNotIn(
            "TCP_FASTOPEN_CONNECT", apply(DEFAULT_PROFILE, Moment.CONNECTING, speaks_first=True)
        )

    def test_what_was_granted_is_seen_again_later_and_nothing_is_set(self) -> None:
        for profile in PROFILES.values():
            for moment, kind in (
                (Moment.LISTENING, socket.SOCK_STREAM),
                (Moment.CONNECTING, socket.SOCK_STREAM),
                (Moment.DATAGRAMS, socket.SOCK_DGRAM),
            ):
                with socket.socket(socket.AF_INET, kind) as handle:
                    applied = profile.apply(handle, moment)
                    self.assertEqual(profile.review(handle, moment), applied)

    def test_a_connection_is_tuned_as_if_it_were_applied(self) -> None:
        profile = SocketProfile(
            name="mine", congestion="reno", quick_ack=True, keepalive_idle=7, keepalive_count=2
        )
        for one in (DEFAULT_PROFILE, profile):
            with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as handle:
                handle.connect(server.getsockname())
                one.tune(handle)
                found = one.review(handle, Moment.CONNECTED)
                self.assertEqual({each.outcome for each in found}, {Outcome.GRANTED})
                self.assertEqual(found, one.apply(handle, Moment.CONNECTED))
        one.tune(handle)  # that it is closed is no error

    @skipUnless(ON_LINUX, "Linux names them")
    def test_only_a_connection_within_the_host_has_the_local_congestion_control(self) -> None:
        for profile, expected in (
            (SocketProfile(name="mine", local_congestion=OTHER), OTHER),
            (SocketProfile(name="mine", local_congestion=OTHER, congestion=USUAL), USUAL),
            (PROFILES["system"], USUAL),
        ):
            with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as handle:
                profile.tune(handle)
                self.assertEqual(read_congestion(handle), USUAL)  # it might go anywhere yet
                profile.apply(handle, Moment.CONNECTING)
                self.assertEqual(read_congestion(handle), USUAL)
                handle.connect(server.getsockname())
                profile.tune(handle)
                self.assertEqual(read_congestion(handle), expected)
                found = {one.option: one for one in profile.review(handle, Moment.CONNECTING)}
                if profile.name == "mine":
                    self.assertEqual(found["TCP_CONGESTION"].granted, expected)
                else:
                    self.assertEqual(found, {})

    def test_an_option_that_others_have_changed_is_seen(self) -> None:
        profile = SocketProfile(name="mine", congestion="reno", receive_buffer=1 << 20)
        with socket.socket() as handle:
            profile.apply(handle, Moment.CONNECTING)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            found = {one.option: one for one in profile.review(handle, Moment.CONNECTING)}
            self.assertEqual(found["TCP_NODELAY"].outcome, Outcome.CLAMPED)
            self.assertEqual(found["SO_KEEPALIVE"].outcome, Outcome.GRANTED)
        found = {one.option: one for one in profile.review(handle, Moment.CONNECTING)}
        self.assertEqual(found["TCP_NODELAY"].outcome, Outcome.REFUSED)  # it is closed

    def test_an_application_may_add_to_it(self) -> None:
        seen: list[Moment] = []
        profile = dataclasses.replace(
            DEFAULT_PROFILE, also=lambda handle, moment: seen.append(moment)
        )
        for moment in Moment:
            apply(profile, moment)
        self.assertEqual(seen, list(Moment))

    def test_numbers_out_of_range_are_refused(self) -> None:
        for name, value in {
            "receive_buffer": -1,
            "send_buffer": (1 << 30) + 1,
            "datagram_receive_buffer": -1,
            "keepalive_idle": 0,
            "keepalive_interval": 32768,
            "keepalive_count": 128,
            "fast_open": 1 << 17,
            "congestion": "b b r",
            "local_congestion": "a name that is too long",
        }.items():
            with self.subTest(name), self.assertRaisesRegex(ConfigurationError, f"mine: {name}: "):
                SocketProfile(name="mine", **{name: value})  # type: ignore[arg-type]

    def test_they_are_found_by_name(self) -> None:
        self.assertIs(find_profile("bulk"), PROFILES["bulk"])
        self.assertIs(find_profile(DEFAULT_PROFILE), DEFAULT_PROFILE)
        with self.assertRaisesRegex(ConfigurationError, "no profile 'fast'; there is default, low"):
            find_profile("fast")

    def test_whatever_has_none_has_the_default(self) -> None:
        self.assertIs(profile_of(None), DEFAULT_PROFILE)
        self.assertIs(profile_of(SimpleNamespace(socket_profile="bulk")), DEFAULT_PROFILE)
        self.assertIs(
            profile_of(SimpleNamespace(socket_profile=PROFILES["bulk"])), PROFILES["bulk"]
        )
