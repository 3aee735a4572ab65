from __future__ import annotations

import unittest
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jetstreamproto.services.kv.model import (
    ANY_REVISION,
    KEEP_TTL,
    MAX_ENTRY,
    MAX_FIELDS,
    MAX_NAME,
    MAX_TTL,
    MAX_VALUE,
    NO_TTL,
    VALUE,
    Action,
    Draft,
    Head,
    Refusal,
    Status,
    Step,
    check_bucket,
    check_name,
    check_step,
    draft_batch,
    prefix_end,
    read_number,
)

NOW = 1_000_000


class FakeKeys:
    """Keys in a dictionary: their revision, their expiry and their fields."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, int, dict[str, bytes]]] = {}

    def head(self, key: str) -> Head | None:
        if key not in self.found:
            return None
        revision, expires, fields = self.found[key]
        size = sum(len(name.encode()) + len(value) for name, value in fields.items())
        return Head(revision, expires, len(fields), size, list(self.found).index(key))

    def field(self, head: Head, name: str) -> bytes | None:
        return list(self.found.values())[head.row][2].get(name)

    def save(self, drafts: Any, revision: int) -> None:
        for draft in drafts:
            before = self.found.get(draft.key)
            fields = {} if draft.cleared or before is None else dict(before[2])
            for name, value in draft.fields.items():
                if value is None:
                    fields.pop(name, None)
                else:
                    fields[name] = value
            if draft.exists:
                assert draft.count == len(fields), (draft, fields)
                assert draft.size == sum(len(n.encode()) + len(v) for n, v in fields.items())
                self.found[draft.key] = (revision, draft.expires, fields)
            else:
                del self.found[draft.key]


def status(call: Any, *arguments: Any) -> Status:
    """The status that a call is refused with."""
    try:
        call(*arguments)
    except Refusal as refusal:
        assert refusal.reason
        return refusal.status
    return Status.DONE


class NameTests(unittest.TestCase):
    def test_buckets(self) -> None:
        for name in ("a", "users", "A-b_c.9", "x" * 64):
            self.assertEqual(check_bucket(name), name)
        for name in ("", "x" * 65, "a/b", "a b", "ä", "a\n", "*", "a\0"):
            self.assertEqual(status(check_bucket, name), Status.INVALID, name)

    def test_keys(self) -> None:
        for name in ("a", "a/b c", "ключ", "\U0010ffff", "x" * MAX_NAME, "ä" * (MAX_NAME // 2)):
            self.assertEqual(check_name(name), name)
        for name in ("", "a\n", "\0", "\x7f", "\x85", "\x1b[1m"):
            self.assertEqual(status(check_name, name), Status.INVALID, repr(name))
        for name in ("x" * (MAX_NAME + 1), "ä" * (MAX_NAME // 2 + 1), "\0" * (MAX_NAME + 1)):
            self.assertEqual(status(check_name, name), Status.LIMIT)

    def test_only_fields_may_be_empty(self) -> None:
        self.assertEqual(check_name("", "field", 0), "")

    @given(st.text(max_size=4), st.text(max_size=6))
    def test_prefix_end_is_the_first_name_that_does_not_follow(
        self, prefix: str, name: str
    ) -> None:
        end = prefix_end(prefix)
        if end is None:
            self.assertEqual(prefix.strip("\U0010ffff"), "")
            return
        try:
            inside = prefix.encode() <= name.encode() < end.encode()
        except UnicodeEncodeError:  # lone surrogates are in no name
            return
        self.assertEqual(inside, name.startswith(prefix), (prefix, end, name))


class StepTests(unittest.TestCase):
    def test_good_steps(self) -> None:
        for step in (
            Step(Action.SET, "k", ("",), (b"",)),
            Step(Action.SET, "k", ("a", "b"), (b"1", b"x" * MAX_VALUE), 0, 1),
            Step(Action.MERGE, "k", ("a",), (b"1",), 7, NO_TTL),
            Step(Action.DELETE, "k"),
            Step(Action.DELETE, "k", ("a", "b")),
            Step(Action.EXPIRE, "k", ttl=MAX_TTL),
            Step(Action.INCREMENT, "k", ("",), (b"1",)),
            Step(Action.CHECK, "k", revision=3),
        ):
            check_step(step)

    def test_bad_steps(self) -> None:
        for step, expected in (
            (Step(Action.SET, "", ("",), (b"",)), Status.INVALID),
            (Step(Action.SET, "k"), Status.INVALID),
            (Step(Action.SET, "k", ("a",), ()), Status.INVALID),
            (Step(Action.SET, "k", ("a", "a"), (b"", b"")), Status.INVALID),
            (Step(Action.SET, "k", ("a\n",), (b"",)), Status.INVALID),
            (Step(Action.SET, "k", ("a",), (b"x" * (MAX_VALUE + 1),)), Status.LIMIT),
            (Step(Action.SET, "k", ("a",), (b"",), -2), Status.INVALID),
            (Step(Action.SET, "k", ("a",), (b"",), ttl=-2), Status.INVALID),
            (Step(Action.SET, "k", ("a",), (b"",), ttl=MAX_TTL + 1), Status.INVALID),
            (Step(Action.DELETE, "k", ("a",), (b"",)), Status.INVALID),
            (Step(Action.EXPIRE, "k"), Status.INVALID),
            (Step(Action.EXPIRE, "k", ("a",), ttl=5), Status.INVALID),
            (Step(Action.INCREMENT, "k", ("a", "b"), (b"1", b"1")), Status.INVALID),
            (Step(Action.CHECK, "k", ("a",)), Status.INVALID),
            (Step(Action.GET, "k"), Status.INVALID),
            (Step(Action.DELETE, "k", tuple(map(str, range(MAX_FIELDS + 1)))), Status.LIMIT),
        ):
            self.assertEqual(status(check_step, step), expected, step)

    def test_numbers(self) -> None:
        for number in (0, 1, -1, 2**63 - 1, 1 - 2**63):
            self.assertEqual(read_number(b"%d" % number), number)
        for text in (b"", b"x", b"1.0", b" 1", b"+1", b"01", b"-0", b"1_0", b"9" * 19, b"1" * 5000):
            self.assertEqual(status(read_number, text), Status.INVALID, text)


class BatchTests(unittest.TestCase):
    def setUp(self) -> None:
        self.keys = FakeKeys()
        self.revision = 0

    def do(self, *steps: Step, now: int = NOW) -> tuple[int, ...]:
        drafts, results = draft_batch(steps, self.keys, now)
        self.revision += bool(drafts)
        self.keys.save(drafts, self.revision)
        return results

    def refused(self, *steps: Step) -> Refusal:
        before = {key: (r, e, dict(f)) for key, (r, e, f) in self.keys.found.items()}
        with self.assertRaises(Refusal) as raised:
            self.do(*steps)
        self.assertEqual(self.keys.found, before)
        return raised.exception

    def set(self, key: str, value: bytes = b"v", **rest: int) -> Step:
        return Step(Action.SET, key, (VALUE,), (value,), **rest)

    def test_set_replaces_everything(self) -> None:
        self.do(Step(Action.SET, "k", ("a", "b"), (b"1", b"2"), ttl=5))
        self.do(self.set("k", b"v"))
        self.assertEqual(self.keys.found["k"], (2, 0, {"": b"v"}))

    def test_merge_keeps_the_rest(self) -> None:
        self.do(Step(Action.SET, "k", ("a", "b"), (b"1", b"2"), ttl=5))
        self.assertEqual(self.do(Step(Action.MERGE, "k", ("b", "c"), (b"3", b"4"))), (1,))
        self.assertEqual(self.keys.found["k"], (2, NOW + 5, {"a": b"1", "b": b"3", "c": b"4"}))

    def test_the_last_field_takes_the_key_away(self) -> None:
        self.do(Step(Action.SET, "k", ("a", "b"), (b"1", b"2")))
        self.assertEqual(self.do(Step(Action.DELETE, "k", ("a", "x"))), (1,))
        self.assertEqual(self.do(Step(Action.DELETE, "k", ("b",))), (1,))
        self.assertEqual(self.keys.found, {})

    def test_what_changes_nothing_makes_no_revision(self) -> None:
        self.do(self.set("k"))
        self.assertEqual(self.do(Step(Action.DELETE, "x"), Step(Action.CHECK, "k")), (0, 1))
        self.assertEqual(self.do(Step(Action.DELETE, "k", ("x",))), (0,))
        self.assertEqual(self.do(self.set("new"), Step(Action.DELETE, "new")), (1, 1))
        self.assertEqual(self.revision, 1)

    def test_revisions_are_those_from_before_the_batch(self) -> None:
        self.do(self.set("k", revision=0))
        self.do(self.set("k", b"2", revision=1), Step(Action.CHECK, "k", revision=1))
        refusal = self.refused(self.set("x"), self.set("k", revision=1))
        self.assertEqual((refusal.status, refusal.revision), (Status.CONFLICT, 2))
        self.assertIn("revision 2, not 1", refusal.reason)
        self.assertEqual(self.refused(self.set("k", revision=0)).revision, 2)

    def test_what_has_expired_is_not_there(self) -> None:
        self.do(self.set("k", ttl=10))
        self.assertEqual(self.do(Step(Action.CHECK, "k"), now=NOW + 9), (1,))
        later = NOW + 10
        self.assertEqual(self.do(Step(Action.CHECK, "k", revision=0), now=later), (0,))
        self.assertEqual(self.do(Step(Action.DELETE, "k"), now=later), (0,))
        self.assertEqual(self.do(Step(Action.EXPIRE, "k", ttl=5), now=later), (0,))
        self.assertEqual(self.do(Step(Action.INCREMENT, "k", ("n",), (b"2",)), now=later), (2,))
        self.assertEqual(self.keys.found["k"][1:], (0, {"n": b"2"}))

    def test_expiry_is_set_and_taken_away(self) -> None:
        self.do(self.set("k"))
        self.assertEqual(self.do(Step(Action.EXPIRE, "k", ttl=7)), (1,))
        self.assertEqual(self.keys.found["k"], (2, NOW + 7, {"": b"v"}))
        self.do(Step(Action.EXPIRE, "k", ttl=NO_TTL))
        self.assertEqual(self.keys.found["k"], (3, 0, {"": b"v"}))

    def test_increments(self) -> None:
        one = Step(Action.INCREMENT, "n", (VALUE,), (b"1",))
        self.assertEqual(self.do(one, one._replace(values=(b"-5",))), (1, -4))
        self.assertEqual(self.keys.found["n"][2], {"": b"-4"})
        self.do(self.set("n", b"%d" % (2**63 - 1)))
        self.assertEqual(self.refused(one).status, Status.INVALID)
        self.do(self.set("n", b"text"))
        self.assertEqual(self.refused(self.set("x"), one).status, Status.INVALID)

    def test_a_key_has_a_bound(self) -> None:
        names = tuple(map(str, range(MAX_FIELDS)))
        self.do(Step(Action.SET, "k", names, (b"",) * MAX_FIELDS))
        refusal = self.refused(Step(Action.MERGE, "k", ("more",), (b"",)))
        self.assertEqual(refusal.status, Status.LIMIT)
        self.do(Step(Action.MERGE, "k", ("0",), (b"",)))
        large = bytes(MAX_VALUE)
        count = MAX_ENTRY // MAX_VALUE
        many = Step(Action.SET, "l", tuple("abcdefgh"[:count]), (large,) * count)
        self.assertEqual(self.refused(many).status, Status.LIMIT)

    @settings(max_examples=200, deadline=None)
    @given(st.data())
    def test_any_batches_against_a_dictionary(self, data: st.DataObject) -> None:
        """What keys come to is what doing each write on dictionaries comes to."""
        self.keys, self.revision = FakeKeys(), 0
        simple: dict[str, dict[str, bytes]] = {}
        keys, names = st.sampled_from("kl"), st.sampled_from(["", "a", "b"])
        for _ in range(data.draw(st.integers(1, 6))):
            steps = []
            copy = {key: dict(fields) for key, fields in simple.items()}
            for _ in range(data.draw(st.integers(1, 4))):
                key, name = data.draw(keys), data.draw(names)
                action = data.draw(st.sampled_from([Action.SET, Action.MERGE, Action.DELETE]))
                if action is Action.SET:
                    copy[key] = {name: b"s"}
                elif action is Action.MERGE:
                    copy.setdefault(key, {})[name] = b"m"
                elif name:
                    copy.get(key, {}).pop(name, None)
                    copy = {k: fields for k, fields in copy.items() if fields}
                else:
                    copy.pop(key, None)
                values = {Action.SET: (b"s",), Action.MERGE: (b"m",)}.get(action, ())
                named = () if action is Action.DELETE and not name else (name,)
                steps.append(Step(action, key, named, values))
                check_step(steps[-1])
            self.do(*steps)
            simple = copy
            self.assertEqual({key: f for key, (_, _, f) in self.keys.found.items()}, simple)


class DraftTests(unittest.TestCase):
    def test_defaults(self) -> None:
        draft = Draft.of("k", FakeKeys(), NOW)
        self.assertEqual((draft.exists, draft.revision, draft.value("x")), (False, 0, None))
        self.assertEqual((ANY_REVISION, KEEP_TTL), (-1, -1))
