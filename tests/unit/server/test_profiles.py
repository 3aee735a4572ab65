"""Tests for jetstreamproto.server.profiles, and for what the server makes of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import TestCase

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.server.announcement import about_sockets
from jetstreamproto.server.config import ServerConfig
from jetstreamproto.server.listeners import open_listeners
from jetstreamproto.server.profiles import _KINDS, read_profiles
from jetstreamproto.server.reading import read_file
from jetstreamproto.sockets.profiles import PROFILES, SocketProfile


class ReadProfilesTests(TestCase):
    def read(self, text: str) -> dict[str, object]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "server.toml"
            path.write_text(text)
            return read_file(path)

    def test_one_is_made_of_another(self) -> None:
        settings = self.read(
            'profile = "edge"\n[profiles.edge]\nbase = "low-latency"\nreceive_buffer = "8M"\n'
            'keepalive = false\ncongestion = "bbr"\n'
        )
        config = ServerConfig(**settings)  # type: ignore[arg-type]
        self.assertEqual(
            config.socket_profile,
            SocketProfile(
                name="edge",
                quick_ack=True,
                fast_open=256,
                receive_buffer=8 << 20,
                keepalive=False,
                congestion="bbr",
            ),
        )

    def test_those_that_are_there_need_no_table(self) -> None:
        self.assertIs(ServerConfig(profile="bulk").socket_profile, PROFILES["bulk"])
        self.assertIs(ServerConfig().socket_profile, PROFILES["default"])
        with self.assertRaisesRegex(ConfigurationError, "--profile: there is no profile 'x'"):
            ServerConfig(profile="x")

    def test_what_is_wrong_is_named(self) -> None:
        for text, words in (
            ("profiles = 3", "profiles are written as"),
            ("[profiles]\nedge = 3", "profiles are written as"),
            ("[profiles.Edge]", "'Edge' is not a name"),
            ("[profiles.bulk]", "bulk is there already"),
            ("[profiles.edge]\nbase = 3", "edge: base: 3 is not the name"),
            ('[profiles.edge]\nbase = "fast"', "there is no profile 'fast'"),
            ("[profiles.edge]\nreceive_bufer = 1", "'receive_bufer'; receive_buffer?"),
            ("[profiles.edge]\nalso = 1", "no option 'also'"),
            ("[profiles.edge]\nname = 'x'", "no option 'name'"),
            ("[profiles.edge]\nkeepalive = 1", "edge: keepalive: 1 is neither true nor false"),
            ('[profiles.edge]\nfast_open = "x"', "edge: fast_open: 'x' is not a whole number"),
            ("[profiles.edge]\nfast_open = 70000", "fast_open: 70000 is not from 0 to 65536"),
            ("[profiles.edge]\ncongestion = 'x y'", "congestion: 'x y' is not the name"),
        ):
            with self.subTest(text), self.assertRaises(ConfigurationError) as caught:
                self.read(text)
            self.assertIn(words, str(caught.exception))
            self.assertIn("server.toml: profiles: ", str(caught.exception))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["edge", "base", *_KINDS]) | st.text(), inner)
            ),
        )
    )
    def test_whatever_a_file_says_is_a_profile_or_a_clear_error(self, value: object) -> None:
        try:
            found = read_profiles(value)
        except ValueError as error:
            self.assertTrue(str(error))
        else:
            self.assertTrue(all(one.name == name for name, one in found.items()))

    def test_there_are_not_too_many(self) -> None:
        with self.assertRaisesRegex(ValueError, "more than 100"):
            read_profiles({f"p{number}": {} for number in range(101)})


class ListenersTests(TestCase):
    def test_sockets_are_tuned_before_they_are_bound_and_the_log_says_so(self) -> None:
        profile = SocketProfile(name="mine", keepalive_idle=77)
        listeners = open_listeners(["127.0.0.1"], 0, profile=profile)
        self.addCleanup(listeners.close)
        line = about_sockets("mine", listeners)
        self.assertTrue(line.startswith("its sockets have the profile mine. TCP: "), line)
        self.assertIn("TCP_KEEPIDLE 77", line)
        self.assertIn("UDP: ", line)
        self.assertIn("SO_RCVBUF", line.split("UDP: ")[1])
