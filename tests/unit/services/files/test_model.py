from __future__ import annotations

import random
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.errors import FileError
from jetstreamproto.services.files.model import (
    CHUNK_SIZE,
    MAX_CHUNK_SIZE,
    MAX_CHUNKS,
    MAX_PIECES,
    MAX_SIZE,
    Arrivals,
    EntryKind,
    FileCode,
    Overwrite,
    PathRules,
    Throttle,
    Verdict,
    check_target,
    chunk_size_of,
    is_chunk_size,
    is_good_name,
    judge,
    read_path,
    read_pattern,
)

KIB = 1 << 10
HOSTILE = [
    *("..", ".", "a/..", "../a", "a/../b", "/", "/etc/passwd", "a//b", "a/", "./a"),
    *("a\0b", "a\nb", "\x1b[2J", "a\x7f", "\x9b1m", "a\u202eb", "\u2066", "a\u2028b"),
    *("C:", "c:/windows", "a/C:x", "a\\b", "..\\..", "\\\\host\\share", "\udc80"),
]


class PathTests(unittest.TestCase):
    def refused(self, code: FileCode, path: str) -> None:
        with self.assertRaises(FileError) as caught:
            read_path(path)
        self.assertEqual(caught.exception.code, code)
        self.assertTrue(str(caught.exception).isprintable())

    def test_what_leads_out_or_would_harm_a_terminal(self) -> None:
        for path in HOSTILE:
            with self.subTest(repr(path)):
                self.refused(FileCode.BAD_NAME, path)

    def test_what_is_too_long(self) -> None:
        self.refused(FileCode.NAME_TOO_LONG, "x" * 256)
        self.refused(FileCode.NAME_TOO_LONG, "é" * 128)
        self.refused(FileCode.NAME_TOO_LONG, "x" * 200 + "/y" * 2000)
        self.refused(FileCode.NAME_TOO_LONG, "/".join("x" * 65))
        self.assertEqual(len(read_path("/".join("x" * 64))), 64)

    def test_good_ones(self) -> None:
        self.assertEqual(read_path(""), ())
        for path in ("a", "a b/ü.txt", "...", "..a", "日本/\u3000x", "👩\u200d🚀", "ab:c"):
            self.assertEqual(read_path(path), tuple(path.split("/")))

    @given(st.text(max_size=300))
    def test_any_text_is_parts_without_tricks_or_refused(self, text: str) -> None:
        try:
            parts = read_path(text)
        except FileError:
            return
        self.assertEqual("/".join(parts), text)
        for name in parts:
            self.assertNotIn(name, ("", ".", ".."))
            self.assertTrue(is_good_name(name))
            self.assertFalse(set(name) & set("/\\\0\n\x1b"))
            self.assertLessEqual(len(name.encode()), 255)

    def test_targets(self) -> None:
        check_target(("a", "b.txt"))
        for parts, code in (
            ((), FileCode.IS_FOLDER),
            (("a.part",), FileCode.BAD_NAME),
            (("x" * 251,), FileCode.NAME_TOO_LONG),
        ):
            with self.assertRaises(FileError) as caught:
                check_target(parts)
            self.assertEqual(caught.exception.code, code)


class ChunkTests(unittest.TestCase):
    @given(st.integers(0, MAX_SIZE))
    def test_sizes(self, size: int) -> None:
        chunk_size = chunk_size_of(size)
        self.assertTrue(is_chunk_size(chunk_size))
        self.assertLessEqual(-(-size // chunk_size), MAX_CHUNKS)
        self.assertTrue(chunk_size == CHUNK_SIZE or chunk_size * MAX_CHUNKS < 2 * size)

    def test_limits(self) -> None:
        self.assertEqual(chunk_size_of(MAX_SIZE), MAX_CHUNK_SIZE)
        with self.assertRaises(FileError) as caught:
            chunk_size_of(MAX_SIZE + 1)
        self.assertEqual(caught.exception.code, FileCode.TOO_LARGE)
        for size in (0, 1, CHUNK_SIZE - 1, CHUNK_SIZE // 2, 3 * CHUNK_SIZE, 2 * MAX_CHUNK_SIZE):
            self.assertFalse(is_chunk_size(size))

    @given(st.integers(0, 10), st.integers(0, CHUNK_SIZE - 1), st.randoms(), st.booleans())
    def test_the_chunks_of_a_file_in_any_order(
        self, full: int, rest: int, chance: random.Random, sized: bool
    ) -> None:
        size = full * CHUNK_SIZE + rest
        lengths = [CHUNK_SIZE] * full + [rest] * bool(rest)
        numbers = list(range(len(lengths)))
        chance.shuffle(numbers)
        sent = numbers[: chance.randint(0, len(numbers))]
        arrivals = Arrivals(CHUNK_SIZE, size if sized else None)
        when = chance.randint(0, len(sent))
        for index, number in enumerate([*sent, -1]):
            if index == when:
                arrivals.finish(len(sent), size)
            if number >= 0:
                self.assertFalse(arrivals.complete)
                arrivals.add(number, lengths[number])
                self.assertIn(number, arrivals)
        self.assertTrue(arrivals.complete)

    def refused(self, arrivals: Arrivals, number: int, length: int) -> None:
        with self.assertRaises(ValueError):
            arrivals.add(number, length)

    def test_chunks_that_cannot_be(self) -> None:
        arrivals = Arrivals(CHUNK_SIZE, 2 * CHUNK_SIZE + 7)
        arrivals.add(1, CHUNK_SIZE)
        for number, length in (
            *((1, CHUNK_SIZE), (0, 5), (0, 0), (0, CHUNK_SIZE + 1), (2, 8), (2, 6), (3, 1)),
            *((MAX_PIECES, 1), (1 << 63, 7)),
        ):
            with self.subTest((number, length)):
                self.refused(arrivals, number, length)
        arrivals.add(2, 7)
        arrivals.finish(2, 2 * CHUNK_SIZE + 7)
        self.refused(arrivals, 0, CHUNK_SIZE)  # beyond what was said to be sent

    def test_the_last_chunk_of_a_stream_is_the_last(self) -> None:
        arrivals = Arrivals(CHUNK_SIZE, None)
        arrivals.add(4, 10)
        self.refused(arrivals, 5, 1)
        self.refused(arrivals, 5, CHUNK_SIZE)
        self.refused(arrivals, 3, 10)
        arrivals.add(3, CHUNK_SIZE)

    def test_ends_that_cannot_be(self) -> None:
        for total, size in ((1, 3), (2, 5), (0, 3), (1 << 40, 1 << 62)):
            arrivals = Arrivals(CHUNK_SIZE, 5)
            arrivals.add(0, 5)
            with self.subTest((total, size)), self.assertRaises(ValueError):
                arrivals.finish(total, size)
        arrivals = Arrivals(CHUNK_SIZE, 5)
        arrivals.finish(1, 5)
        with self.assertRaises(ValueError):
            arrivals.finish(1, 5)


class JudgeTests(unittest.TestCase):
    offered = (5, 1000)

    def test_verdicts(self) -> None:
        for there, always, newer in (
            (None, Verdict.SEND, Verdict.SEND),
            ((EntryKind.FILE, 5, 1000), Verdict.SAME, Verdict.SAME),
            ((EntryKind.FILE, 6, 1000), Verdict.SEND, Verdict.OLDER),
            ((EntryKind.FILE, 5, 999), Verdict.SEND, Verdict.SEND),
            ((EntryKind.FILE, 5, 1001), Verdict.SEND, Verdict.OLDER),
            ((EntryKind.LINK, 5, 999), Verdict.SEND, Verdict.SEND),
        ):
            with self.subTest(there):
                self.assertIs(judge(Overwrite.ALWAYS, self.offered, there), always)
                self.assertIs(judge(Overwrite.NEWER, self.offered, there), newer)

    def test_a_stream_is_never_the_same(self) -> None:
        there = (EntryKind.FILE, 0, 0)
        self.assertIs(judge(Overwrite.ALWAYS, None, there), Verdict.SEND)
        self.assertIs(judge(Overwrite.NEWER, None, there), Verdict.SEND)

    def test_errors(self) -> None:
        for policy, kind, code in (
            (Overwrite.ALWAYS, EntryKind.FOLDER, FileCode.IS_FOLDER),
            (Overwrite.ALWAYS, EntryKind.OTHER, FileCode.NOT_A_FILE),
            (Overwrite.NEVER, EntryKind.FILE, FileCode.EXISTS),
            (Overwrite.NEVER, EntryKind.LINK, FileCode.EXISTS),
        ):
            with self.subTest((policy, kind)), self.assertRaises(FileError) as caught:
                judge(policy, self.offered, (kind, 0, 0))
            self.assertEqual(caught.exception.code, code)
        same = (EntryKind.FILE, *self.offered)
        self.assertIs(judge(Overwrite.NEVER, self.offered, same), Verdict.SAME)


class RuleTests(unittest.TestCase):
    def test_what_matches(self) -> None:
        for pattern, path, allows, leads in (
            ("**", "", True, True),
            ("**", "a/b", True, True),
            ("in/**", "in", True, True),
            ("in/**", "in/a/b", True, True),
            ("in/**", "", False, True),
            ("in/**", "into", False, False),
            ("*.txt", "a.txt", True, True),
            ("*.txt", "d/a.txt", False, False),
            ("**/*.txt", "d/e/a.txt", True, True),
            ("**/*.txt", "a.txt", True, True),
            ("**/*.txt", "d", False, True),
            ("a/*/c", "a/b", False, True),
            ("a/*/c", "a/b/c", True, True),
            ("a/*/c", "a/b/d", False, False),
            ("[ab]/?", "b/x", True, True),
            ("[ab]/?", "c/x", False, False),
        ):
            with self.subTest((pattern, path)):
                rules = PathRules([pattern])
                self.assertEqual(rules.allows(read_path(path)), allows)
                self.assertEqual(rules.leads(read_path(path)), leads)

    def test_no_patterns_no_paths(self) -> None:
        rules = PathRules([])
        self.assertFalse(rules.allows(()) or rules.leads(()) or rules.allows(("a",)))

    def test_many_stars_take_no_time(self) -> None:
        rules = PathRules(["/".join(["**", "*a*b*c*d*e*"] * 20)])
        self.assertFalse(rules.allows(("a" * 200,) * 60))

    @given(st.lists(st.sampled_from(["a", "b", "ab"]), max_size=6))
    def test_what_is_allowed_is_led_to(self, names: list[str]) -> None:
        rules = PathRules(["a/**/b", "b/*"])
        parts = tuple(names)
        if rules.allows(parts):
            for end in range(len(parts) + 1):
                self.assertTrue(rules.leads(parts[:end]))

    def test_patterns_that_are_none(self) -> None:
        self.assertEqual(read_pattern("inbox/**"), "inbox/**")
        for text in ("", "/a", "a/", "a//b", "../a", "."):
            with self.subTest(text), self.assertRaises(ValueError):
                read_pattern(text)


class ThrottleTests(unittest.TestCase):
    @given(st.integers(1, 10**9), st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
    def test_the_rate_is_kept(self, rate: int, sizes: list[int]) -> None:
        throttle, now = Throttle(rate), 100.0
        for size in sizes:
            now += throttle.delay(now)
            throttle.spend(now, size)
        self.assertAlmostEqual(now, 100 + sum(sizes[:-1]) / rate, delta=0.05 + 1e-6 * now)

    def test_timers_that_are_late_cost_nothing(self) -> None:
        throttle, now = Throttle(100), 0.0
        for _ in range(1000):
            throttle.spend(now, 10)
            now += throttle.delay(now) + 0.02
        self.assertAlmostEqual(now, 100, delta=0.2)

    def test_a_pause_is_not_saved_up(self) -> None:
        throttle = Throttle(10)
        throttle.spend(0.0, 10)
        self.assertEqual(throttle.delay(500.0), 0.0)
        throttle.spend(500.0, 10)
        self.assertAlmostEqual(throttle.delay(500.0), 1.0, delta=0.06)
