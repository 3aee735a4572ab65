from __future__ import annotations

import unittest
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.server.values import Flag, Kind, Location, Names, Seconds, Size, Whole

FOLDER = Path("/etc/jetstream")


class KindTests(unittest.TestCase):
    def assert_text(self, kind: Kind, cases: Mapping[str, object]) -> None:
        for text, expected in cases.items():
            with self.subTest(text):
                self.assertEqual(kind.from_text(text), expected)

    def refuse_text(self, kind: Kind, *texts: str) -> None:
        for text in texts:
            with self.subTest(text), self.assertRaises(ValueError) as caught:
                kind.from_text(text)
            self.assertNotIn("\n", str(caught.exception))

    def refuse_toml(self, kind: Kind, *values: object) -> None:
        for value in values:
            with self.subTest(value), self.assertRaises(ValueError):
                kind.from_toml(value, FOLDER)

    def test_whole_numbers(self) -> None:
        port = Whole(0, 65535)
        self.assert_text(port, {"0": 0, "9000": 9000, "65535": 65535})
        self.refuse_text(port, "", "x", "1.5", "-1", "65536", "9" * 5000)
        self.assertEqual(port.from_toml(9000, FOLDER), 9000)
        self.refuse_toml(port, "9000", True, 9000.0, [9000], -1)

    def test_sizes(self) -> None:
        size = Size(1, 1 << 32)
        self.assert_text(
            size,
            {"65536": 65536, "64K": 65536, "64k": 65536, "64KiB": 65536, "64KB": 65536}
            | {"16M": 1 << 24, "4 GiB": 1 << 32, "5B": 5, "5 b": 5},
        )
        self.refuse_text(
            size,
            "",
            "K",
            "16X",
            "-1",
            "1.5M",
            "0",
            "5G",
            "१K",
            "5I",
            "5MI",
            "5  M",
            "M",
            "9" * 5000,
        )
        self.assertEqual(size.from_toml("16M", FOLDER), 1 << 24)
        self.assertEqual(size.from_toml(1 << 24, FOLDER), 1 << 24)
        self.refuse_toml(size, True, 1.5, 0, ["16M"])

    def test_seconds(self) -> None:
        seconds = Seconds(3600)
        self.assert_text(seconds, {"0.5": 0.5, "15": 15.0, "1e3": 1000.0})
        self.refuse_text(seconds, "", "x", "0", "-1", "nan", "inf", "3601")
        self.assertEqual(seconds.from_toml(15, FOLDER), 15.0)
        self.refuse_toml(seconds, "15", True, 0, float("nan"))

    def test_locations(self) -> None:
        self.assert_text(Location(), {"/a/b": Path("/a/b"), "a": Path.cwd() / "a"})
        self.refuse_text(Location(), "", "a\0b")
        self.assertEqual(Location().from_toml("a.pem", FOLDER), FOLDER / "a.pem")
        self.assertEqual(Location().from_toml("/a.pem", FOLDER), Path("/a.pem"))
        self.refuse_toml(Location(), 1, ["a"], "")

    def test_names(self) -> None:
        names = Names(str.upper)
        self.assert_text(names, {"a": ("A",), "a, b,a": ("A", "B")})
        self.assertEqual(names.from_toml(["a", "b"], FOLDER), ("A", "B"))
        self.assertEqual(names.from_toml("a,b", FOLDER), ("A", "B"))
        self.refuse_toml(names, [], [1], 1, {"a": "b"})

    def test_flags(self) -> None:
        self.assertIs(Flag().from_text("1"), True)
        self.assertIs(Flag().from_toml(False, FOLDER), False)
        self.refuse_toml(Flag(), 1, 0, "true")

    @given(st.text(max_size=30))
    def test_no_text_raises_anything_but_value_error(self, text: str) -> None:
        for kind in (Whole(0, 10), Size(1, 1 << 20), Seconds(10), Location(), Names(str.upper)):
            try:
                kind.from_text(text)
            except ValueError as error:
                self.assertNotEqual(str(error), "")
