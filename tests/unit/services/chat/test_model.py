"""Names, texts, patterns, the token bucket, and rooms: without a network."""

from __future__ import annotations

import unicodedata
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import ChatError
from jetstreamproto.services.chat.model.bucket import TokenBucket
from jetstreamproto.services.chat.model.codes import ChatCode
from jetstreamproto.services.chat.model.names import (
    check_name,
    check_room,
    check_text,
    check_topic,
    guest_name,
    name_key,
    read_room_pattern,
    room_allowed,
)


class NameTests(unittest.TestCase):
    def test_names_that_are_fine(self) -> None:
        for given_name, name in (
            ("al", "al"),
            ("Al-2_x", "Al-2_x"),
            ("\uff21\uff4c", "Al"),
            ("Jo\u0308rg", "Jörg"),
            ("世界", "世界"),
            ("ﬁn", "fin"),
            ("x" * 32, "x" * 32),
        ):
            self.assertEqual(check_name(given_name), name)

    def test_names_that_are_not(self) -> None:
        for name in (
            "", "x" * 33, "a b", "a\u200bb", "a\u202eb", "\u115f", "\u3164", "a\ufe0f", "-a", "_a",
            "\u0301a", "a\x1b", "a\x9b", "a.b", "a*", "a@b", "½", "\ud800", "👋", "x" * 10**6,
        ):  # fmt: skip
            with self.assertRaises(ChatError) as raised:
                check_name(name)
            self.assertEqual(raised.exception.code, ChatCode.INVALID)
            self.assertTrue(str(raised.exception).isprintable())

    @given(st.text(max_size=40))
    def test_what_is_a_name_is_clean_and_stays_one(self, text: str) -> None:
        try:
            name = check_name(text)
        except ChatError:
            return
        self.assertEqual(check_name(name), name)
        self.assertTrue(name.isprintable() and " " not in name)
        self.assertEqual(unicodedata.normalize("NFKC", name), name)

    @given(st.text(max_size=60))
    def test_what_is_a_room_stays_one_and_is_one_token_of_a_topic(self, text: str) -> None:
        try:
            room = check_room(text)
        except ChatError:
            return
        self.assertEqual(check_room(room), room)
        self.assertLess(len(room.encode()), 240)
        self.assertFalse(set(room) & set(".*> "))

    def test_case_makes_no_other_name(self) -> None:
        self.assertEqual(name_key("STRASSE"), name_key("straße"))
        self.assertEqual(check_room("Lobby"), "lobby")

    def test_guests(self) -> None:
        self.assertEqual(guest_name("", 0x12ABC), "guest-2abc")
        self.assertEqual(guest_name("al", 0), "guest-al")
        self.assertEqual(guest_name("Guest-al", 0), "Guest-al")
        self.assertRaises(ChatError, guest_name, "x" * 32, 0)

    @given(st.text(max_size=30))
    def test_texts_have_nothing_that_acts_on_a_terminal(self, text: str) -> None:
        bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
        try:
            self.assertEqual(check_topic(text), text)
            self.assertEqual(bad, [])
        except ChatError:
            self.assertTrue([c for c in text if not c.isprintable()])

    def test_texts_keep_what_scripts_and_emoji_need(self) -> None:
        for text in ("👩\u200d🔬", "\u0645\u06cc\u200c\u062e", "  two  spaces ", "ä" * 2048):
            self.assertEqual(check_text(text), text)
        for text in ("", " ", "ä" * 2049, "a\tb", "\u2066x", "\u200e", "\ufeff"):
            self.assertRaises(ChatError, check_text, text)

    def test_patterns(self) -> None:
        self.assertEqual(read_room_pattern("Team-*"), "team-*")
        for wrong in ("", "a*b", "**", "a b", "-*"):
            self.assertRaises(ValueError, read_room_pattern, wrong)
        self.assertTrue(room_allowed(["x", "team-*"], "team-1"))
        self.assertTrue(room_allowed(["*"], "x"))
        self.assertFalse(room_allowed(["team", "x"], "team-1"))
        self.assertFalse(room_allowed([], "x"))


class BucketTests(unittest.TestCase):
    @given(
        st.integers(1, 20),
        st.floats(0.1, 50),
        st.lists(st.floats(0, 5), min_size=1, max_size=200),
    )
    def test_never_more_than_the_burst_and_the_rate(
        self, burst: int, rate: float, waits: list[float]
    ) -> None:
        bucket, now, taken = TokenBucket(burst, rate, 0.0), 0.0, 0
        for wait in waits:
            now += wait
            delay = bucket.take(now)
            if not delay:
                taken += 1
            else:
                self.assertLessEqual(delay, 1 / rate + 1e-6)
            self.assertLessEqual(taken, burst + now * rate + 1e-3)

    def test_after_the_delay_there_is_one(self) -> None:
        bucket = TokenBucket(1, 3, 0.0)
        self.assertEqual(bucket.take(0.0), 0)
        delay = bucket.take(0.1)
        self.assertEqual(bucket.take(0.1 + delay), 0)
