"""The lines of `jetstream kv HOST:PORT batch BUCKET`; nothing here connects."""

from __future__ import annotations

import io
import unittest
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.cli.failure import StreamFailed
from jetstreamproto.cli.kv_batch import at_line, read_batch, read_line
from jetstreamproto.errors import KeyValueError
from jetstreamproto.services.kv.model import MAX_BATCH, MAX_STEPS, Action, Refusal, Step

SET, MERGE, DELETE = Action.SET, Action.MERGE, Action.DELETE


class LineTests(unittest.TestCase):
    def test_words_and_objects_say_the_same(self) -> None:
        for words, text, step in (
            ("set k v", '{"op":"set","key":"k","value":"v"}', Step(SET, "k", ("",), (b"v",))),
            (
                "set 'a b' \"ä\" --ttl 1.5 --revision 0",
                '{"op":"set","key":"a b","value":"ä","ttl":1.5,"revision":0}',
                Step(SET, "a b", ("",), ("ä".encode(),), 0, 1500),
            ),
            (
                "set -- --k -v",
                '{"op":"set","key":"--k","value":{"base64":"LXY="}}',
                Step(SET, "--k", ("",), (b"-v",)),
            ),
            (
                "hset k f 1 g '' --revision 3",
                '{"op":"hset","key":"k","fields":{"f":"1","g":""},"revision":3}',
                Step(MERGE, "k", ("f", "g"), (b"1", b""), 3),
            ),
            ("del k", '{"op":"del","key":"k","revision":null}', Step(DELETE, "k")),
            (
                "hdel k f g",
                '{"op":"hdel","key":"k","fields":["f","g"]}',
                Step(DELETE, "k", ("f", "g")),
            ),
            ("incr k", '{"op":"incr","key":"k"}', Step(Action.INCREMENT, "k", ("",), (b"1",))),
            (
                "incr k -3 --field f --ttl 1",
                '{"op":"incr","key":"k","by":-3,"field":"f","ttl":1}',
                Step(Action.INCREMENT, "k", ("f",), (b"-3",), ttl=1000),
            ),
            ("expire k", '{"op":"expire","key":"k"}', Step(Action.EXPIRE, "k", ttl=0)),
            (
                "check k --revision 7",
                '{"op":"check","key":"k","revision":7}',
                Step(Action.CHECK, "k", revision=7),
            ),
        ):
            self.assertEqual(read_line(words), step)
            self.assertEqual(read_line(text), step)

    def test_mistakes(self) -> None:
        for text, message in (
            ("sett k v", "none of set, hset"),
            ("set", "'key' is missing"),
            ("set k", "'value' is missing"),
            ("set k v w", "'w' is too much"),
            ("set k v --ttl", "--ttl is followed by nothing"),
            ("set k v --ttl soon", "'soon' is not a number"),
            ("set k v --ttl nan", "'ttl' is not"),
            ("set k v --ttl 1e300", "'ttl' is not"),
            ("set k v --revision -1", "'revision' is not 0"),
            ("set k v --field f", "'field' is not for this"),
            ("set k 'v", "No closing quotation"),
            ("hset k", "'fields' is missing"),
            ("hset k f", "'f' has no value"),
            ("hdel k", "'fields' is missing"),
            ("incr k much", "'much' is not a whole number"),
            ("check k", "'revision' is missing"),
            ('{"op": 1, "key": "k"}', "'op' is not a string"),
            ('{"op": "set", "key": "k", "value": 1}', "value is neither"),
            ('{"op": "set", "key": "k", "value": {"base64": "%"}}', "value is neither"),
            ('{"op": "set", "key": "k", "value": "v", "more": 1}', "'more' is not for"),
            ('{"op": "set", "key": "k", "value": "v", "ttl": true}', "'ttl' is not"),
            ('{"op": "set", "key": "k", "value": "v", "revision": true}', "'revision' is not"),
            ('{"op": "hset", "key": "k", "fields": {}}', "'fields' has none"),
            ('{"op": "hset", "key": "k", "fields": ["f"]}', "'fields' is not an object"),
            ('{"op": "hdel", "key": "k", "fields": [1]}', "one or more names"),
            ('{"op":', "not JSON: Expecting value, at character 7"),
            ('{"a":' * 100_000, "not JSON: too deep"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                read_line(text)
        for text in (
            "set 'a\tb' v",
            f"set {'k' * 600} v",
            '{"op":"set","key":"\\ud800","value":""}',
        ):
            self.assertRaises(Refusal, read_line, text)

    @given(
        st.text(max_size=30), st.sampled_from(["", "set k ", "incr k ", '{"op":"set",', "hset "])
    )
    def test_any_line_is_a_write_or_a_mistake(self, text: str, start: str) -> None:
        with suppress(ValueError, Refusal):
            self.assertIsInstance(read_line(start + text), Step)


class BatchTests(unittest.TestCase):
    def test_lines_that_say_nothing_count(self) -> None:
        steps, lines = read_batch(io.BytesIO(b"\n# first\nset a 1\n  \r\ndel b\r\n"))
        self.assertEqual([step.key for step in steps], ["a", "b"])
        self.assertEqual(lines, [3, 5])
        self.assertEqual(at_line(lines, KeyValueError(2, "why", 1)), "standard input, line 5: why")
        self.assertEqual(at_line(lines, KeyValueError(2, "why", 2)), "why")
        self.assertEqual(at_line(lines, KeyValueError(2, "why")), "why")

    def test_what_is_wrong_is_said_with_its_line(self) -> None:
        for content, message in (
            (b"", "there is nothing to be done"),
            (b"# nothing\n\n", "there is nothing to be done"),
            (b"set a 1\nset a\n", "line 2: 'value' is missing"),
            (b"set a 1\nset a \xff\n", "line 2: not UTF-8"),
            (b"\nset '\x01' v", "line 2: a key has 1 or more"),
            (b"del a\n" * (MAX_STEPS + 1), f"line {MAX_STEPS + 1}: a batch has at most"),
            (b"#" * (2 * MAX_BATCH + 1), "a batch has at most"),
        ):
            with self.assertRaisesRegex(StreamFailed, f"^standard input[:,].*{message}"):
                read_batch(io.BytesIO(content))
