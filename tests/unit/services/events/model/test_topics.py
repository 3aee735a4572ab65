"""Topics and patterns against brute force: a small world of all topics there are."""

from __future__ import annotations

import itertools
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import EventError
from jetstreamproto.services.events.model.routes import TopicIndex
from jetstreamproto.services.events.model.topics import (
    check_name,
    check_pattern,
    check_topic,
    contains,
    matches,
    overlaps,
)

TOKENS = ("a", "b", "$s")
WORLD = [
    ".".join(tokens)
    for length in (1, 2, 3, 4, 5)
    for tokens in itertools.product(TOKENS, repeat=length)
]
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]) or "a",
    st.lists(st.sampled_from(["a", "$s", "*"]), max_size=3),
    st.sampled_from([(), (">",)]),
)


def simply(pattern: str, topic: str) -> bool:
    """Whether the pattern matches, by the words of the page."""
    wanted, tokens = pattern.split("."), topic.split(".")
    if wanted[0] in "*>" and tokens[0].startswith("$"):
        return False
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        w in ("*", t) for w, t in zip(wanted, tokens, strict=True)
    )


class MatchTests(unittest.TestCase):
    @given(PATTERNS)
    def test_matching(self, pattern: str) -> None:
        for topic in WORLD:
            self.assertEqual(matches(pattern, topic), simply(pattern, topic), topic)

    @given(PATTERNS, PATTERNS)
    def test_containing_is_matching_all_that_the_other_does(self, outer: str, inner: str) -> None:
        inside = [topic for topic in WORLD if simply(inner, topic)]
        self.assertEqual(contains(outer, inner), all(simply(outer, t) for t in inside))

    @given(PATTERNS, PATTERNS)
    def test_overlapping_is_matching_something_together(self, one: str, other: str) -> None:
        common = any(simply(one, topic) and simply(other, topic) for topic in WORLD)
        self.assertEqual(overlaps(one, other), common)

    @given(st.lists(PATTERNS, max_size=8), st.data())
    def test_the_index_finds_all_and_forgets_what_is_removed(
        self, patterns: list[str], data: st.DataObject
    ) -> None:
        index: TopicIndex[int] = TopicIndex()
        there = dict(enumerate(patterns))
        for number, pattern in there.items():
            index.add(pattern, number)
        while True:
            for topic in WORLD[:40]:
                expected = [n for n, pattern in there.items() if simply(pattern, topic)]
                self.assertEqual(sorted(index.match(topic)), expected)
                self.assertIs(index.match(topic), index.match(topic))
            if not there:
                break
            gone = data.draw(st.sampled_from(sorted(there)))
            index.remove(there.pop(gone), gone)
        self.assertTrue(index._root.empty)

    def test_the_cost_of_a_match_does_not_grow_with_what_does_not_match(self) -> None:
        index: TopicIndex[int] = TopicIndex()
        for number in range(5000):
            index.add(f"other.{number}.*", number)
        index.add("a.>", -1)
        seen = 0

        class Counting(dict):  # type: ignore[type-arg]
            def get(self, *words: object) -> object:
                nonlocal seen
                seen += 1
                return super().get(*words)

        index._root.next = Counting(index._root.next)
        self.assertEqual(index.match("a.b.c"), (-1,))
        self.assertLessEqual(seen, 2)


class GrammarTests(unittest.TestCase):
    def test_what_is_no_topic(self) -> None:
        for text in (
            *("", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\nb", "a\0", "a\x1b[0m", "\u202eab"),
            *("*", "a.*", ">", "a.>", "a*", "$dead.x", "\ud800", "x" * 256, ".".join("a" * 17)),
        ):
            with self.subTest(text), self.assertRaises(EventError):
                check_topic(text)
        self.assertEqual(check_topic("$dead.x", system=True), "$dead.x")
        self.assertEqual(check_topic("äöü.日本"), "äöü.日本")

    def test_what_is_no_pattern_and_no_name(self) -> None:
        for text in ("", "a.>.b", ">.a", "a*", "*a", "a>", "**", ">>", "a..>"):
            with self.subTest(text), self.assertRaises(EventError):
                check_pattern(text)
        for text in ("*", ">", "a.b", "", "x" * 65, "a b"):
            with self.subTest(text), self.assertRaises(EventError):
                check_name(text, "stream")
