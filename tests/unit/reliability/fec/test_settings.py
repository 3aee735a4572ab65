from __future__ import annotations

import unittest
from typing import Any

from jetstreamproto.errors import ConfigurationError
from jetstreamproto.reliability.fec.settings import FecSettings


class FecSettingsTests(unittest.TestCase):
    def test_words(self) -> None:
        self.assertEqual(FecSettings.parse("off"), FecSettings(mode="off"))
        self.assertEqual(FecSettings.parse("adaptive"), FecSettings())

    def test_groups(self) -> None:
        for text, k, r in [("10+2", 10, 2), ("1+1", 1, 1), ("255+1", 255, 1), ("1+255", 1, 255)]:
            with self.subTest(text):
                self.assertEqual(FecSettings.parse(text), FecSettings(mode="fixed", k=k, r=r))

    def test_nonsense(self) -> None:
        for text in ["", "on", "fixed", "10", "10+", "+2", "0+2", "10+0", "10+2+1", "10 + 2"]:
            with self.subTest(text), self.assertRaises(ConfigurationError):
                FecSettings.parse(text)
        for text in ["255+2", "200+57", "999+999", "-1+2", "1e1+2", "٣+2"]:
            with self.subTest(text), self.assertRaises(ConfigurationError):
                FecSettings.parse(text)

    def test_values_out_of_range(self) -> None:
        nonsense: list[dict[str, Any]] = [
            {"mode": "sometimes"},
            {"k": 0},
            {"r": 0},
            {"hold": 0.0},
            {"overhead": 0.01},
            {"overhead": 1.5},
            {"overhead": 0.3, "floor": 0.4},
            {"floor": -0.1},
            {"residual": 0.0},
            {"residual": 1.0},
        ]
        for values in nonsense:
            with self.subTest(values), self.assertRaises(ConfigurationError):
                FecSettings(**values)
