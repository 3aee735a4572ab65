from __future__ import annotations

import contextlib
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.cli.quantity import parse_amount


class AmountTests(unittest.TestCase):
    def test_examples(self) -> None:
        for text, amount in [
            ("1", 1),
            ("64B", 64),
            ("64KiB", 65536),
            ("64kib", 65536),
            ("256MB", 256_000_000),
            ("256 MB", 256_000_000),
            ("1.5GB", 1_500_000_000),
            ("0.5KiB", 512),
            ("2T", 2_000_000_000_000),
        ]:
            with self.subTest(text):
                self.assertEqual(parse_amount(text), amount)

    def test_what_is_no_amount(self) -> None:
        for text in [
            "",
            "0",
            "-1",
            "MB",
            "4x",
            "1iB",
            "1.5",
            "1..5k",
            "1e9",
            "0x10",
            "\u0661",
            "9" * 30,
        ]:
            with self.subTest(text), self.assertRaises(ValueError):
                parse_amount(text)

    @given(st.text())
    def test_any_text_is_a_positive_amount_or_a_value_error(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            self.assertGreater(parse_amount(text), 0)
