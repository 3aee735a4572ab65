from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.cli.forwards import DYNAMIC, LOCAL, REMOTE, Forward, parse_forward


class ForwardTests(unittest.TestCase):
    def test_what_can_be_written(self) -> None:
        for option, text, forward in (
            (LOCAL, "8080:host:80", Forward(LOCAL, "127.0.0.1", 8080, ("host", 80))),
            (LOCAL, "0:127.0.0.1:80", Forward(LOCAL, "127.0.0.1", 0, ("127.0.0.1", 80))),
            (LOCAL, "0.0.0.0:80:Host:80", Forward(LOCAL, "0.0.0.0", 80, ("host", 80))),
            (LOCAL, "localhost:80:h:80", Forward(LOCAL, "127.0.0.1", 80, ("h", 80))),
            (REMOTE, "[::1]:80:[::2]:81", Forward(REMOTE, "::1", 80, ("::2", 81))),
            (DYNAMIC, "1080", Forward(DYNAMIC, "127.0.0.1", 1080)),
            (DYNAMIC, "[::]:1080", Forward(DYNAMIC, "::", 1080)),
        ):
            with self.subTest(text):
                self.assertEqual(parse_forward(option, text), forward)

    def test_what_cannot(self) -> None:
        for option, text, problem in (
            (LOCAL, "", "is not"),
            (LOCAL, "80", r"not \[BIND:\]PORT:TARGET:TPORT"),
            (LOCAL, "80:host", "is not"),
            (LOCAL, "a:b:c:d:e", "is not"),
            (LOCAL, "::1:80:host:80", "brackets"),
            (LOCAL, "x:80:host:80", "not an address to listen on"),
            (LOCAL, "65536:host:80", "not a port"),
            (LOCAL, "-1:host:80", "not a port"),
            (LOCAL, "80:host:0", "not a port"),
            (LOCAL, "80:ho st:80", "not a host name"),
            (LOCAL, "80:[::1:80", "is not"),
            (DYNAMIC, "80:host:80", r"not \[BIND:\]PORT"),
            (DYNAMIC, "\u0661", "not a port"),
        ):
            with self.subTest(text), self.assertRaisesRegex(ValueError, problem):
                parse_forward(option, text)

    @given(st.sampled_from([LOCAL, REMOTE, DYNAMIC]), st.text(":[]0123456789.ab*", max_size=20))
    def test_any_text_is_a_forward_or_a_value_error(self, option: str, text: str) -> None:
        try:
            forward = parse_forward(option, text)
        except ValueError:
            return
        self.assertIn(forward.port, range(65536))
        self.assertEqual(forward.target is None, option == DYNAMIC)
