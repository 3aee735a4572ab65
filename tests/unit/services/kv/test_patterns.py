from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.services.kv.patterns import KeyPatterns, read_pattern

NAMES = st.text("ab/", max_size=4)


class PatternTests(unittest.TestCase):
    def test_patterns_are_read(self) -> None:
        for text in ("*", "*/*", "*/p*", "b/*", "b/p*", "b/k", "b/a/b*", "b.c-d/ä ö"):
            self.assertEqual(read_pattern(text), text)

    def test_what_is_none_is_refused(self) -> None:
        for text in ("", "b", "b/", "/k", "/", "**", "b/**", "b/a*b", "a b/k", "b/\n", "b*/k"):
            with self.assertRaisesRegex(ValueError, "BUCKET/PREFIX"):
                read_pattern(text)

    def test_keys(self) -> None:
        patterns = KeyPatterns(["b/p*", "c/k", "*/shared"])
        for bucket, key in (("b", "p"), ("b", "pq"), ("c", "k"), ("x", "shared")):
            self.assertTrue(patterns.allow_key(bucket, key), (bucket, key))
        for bucket, key in (("b", "q"), ("c", "kk"), ("c", "p"), ("x", "k"), ("x", "shared2")):
            self.assertFalse(patterns.allow_key(bucket, key), (bucket, key))

    def test_nothing_is_allowed_without_patterns(self) -> None:
        nothing = KeyPatterns([])
        self.assertFalse(nothing.allow_key("b", "k"))
        self.assertFalse(nothing.allow_prefix("b", ""))
        self.assertEqual(nothing.buckets, [])

    def test_buckets_that_may_be_known(self) -> None:
        self.assertEqual(KeyPatterns(["c/*", "a/k", "c/x"]).buckets, ["a", "c"])
        self.assertIsNone(KeyPatterns(["c/*", "*/k"]).buckets)
        self.assertIsNone(KeyPatterns(["*"]).buckets)

    @given(st.lists(NAMES), st.booleans(), NAMES.filter(bool), NAMES)
    def test_a_prefix_that_is_allowed_has_only_keys_that_are(
        self, prefixes: list[str], more: bool, key: str, prefix: str
    ) -> None:
        patterns = KeyPatterns([f"b/{one}*" for one in prefixes] + ["b/key"] * more)
        if patterns.allow_prefix("b", prefix):
            self.assertTrue(patterns.allow_key("b", prefix + key))
        self.assertFalse(patterns.allow_prefix("c", prefix))
