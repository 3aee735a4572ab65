from __future__ import annotations

import ipaddress
import string
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.cli.target import (
    DEFAULT_PORT,
    Location,
    Target,
    parse_location,
    parse_target,
)

ports = st.integers(1, 65535)
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


class GoodTargets(unittest.TestCase):
    @given(names, ports)
    def test_names(self, name: str, port: int) -> None:
        self.assertEqual(parse_target(f"{name}:{port}"), Target(name, port))
        self.assertEqual(parse_target(name.upper()), Target(name, DEFAULT_PORT))

    @given(st.ip_addresses(v=4), ports)
    def test_ipv4(self, address: ipaddress.IPv4Address, port: int) -> None:
        self.assertEqual(parse_target(f"{address}:{port}"), Target(str(address), port))

    @given(st.ip_addresses(v=6), ports)
    def test_ipv6(self, address: ipaddress.IPv6Address, port: int) -> None:
        self.assertEqual(parse_target(f"[{address.exploded}]:{port}"), Target(str(address), port))
        self.assertEqual(parse_target(f"[{address}]"), Target(str(address), DEFAULT_PORT))

    @given(st.one_of(names, st.ip_addresses().map(str)), ports)
    def test_what_is_shown_can_be_read_back(self, host: str, port: int) -> None:
        target = Target(host, port)
        self.assertEqual(parse_target(str(target)), target)

    def test_a_scope_stays(self) -> None:
        self.assertEqual(parse_target("[fe80::1%eth0]:1"), Target("fe80::1%eth0", 1))

    def test_international_names(self) -> None:
        self.assertEqual(parse_target("Bücher.example:1"), Target("xn--bcher-kva.example", 1))

    def test_a_name_with_its_final_dot(self) -> None:
        self.assertEqual(parse_target("example.org.:1"), Target("example.org", 1))


class Locations(unittest.TestCase):
    def test_with_a_path_and_without(self) -> None:
        for text, path in (
            ("host:1", ""),
            ("host:1/", ""),
            ("host:1//a", "a"),
            ("host:1/a b/c.txt", "a b/c.txt"),
            ("host:1/d/", "d/"),
            ("host:1/a:b@c", "a:b@c"),
        ):
            self.assertEqual(parse_location(text), Location("host", 1, path))
        self.assertEqual(parse_location("[::1]:7/x"), Location("::1", 7, "x"))
        self.assertEqual(parse_location("host"), Location("host", DEFAULT_PORT, ""))

    def test_it_is_known_as_its_target(self) -> None:
        self.assertEqual(str(parse_location("host:1/secret/path")), "host:1")

    def test_what_is_none(self) -> None:
        for text in ("", "/", "/etc/passwd", "host:x/y", "a b/c"):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_location(text)


class BadTargets(unittest.TestCase):
    def test_examples(self) -> None:
        for text in [
            *("", ":", ":9000", ".", "a..b", "-a", "a-", "a b", "user@host", "x" * 64),
            *(
                "a:",
                "a:0",
                "a:65536",
                "a:-1",
                "a:+1",
                "a: 1",
                "a:1 ",
                "a:1x",
                "a:\u0661",
                "a:000001",
            ),
            *("::1", "::1:9000", "[::1", "[::1]9000", "[::1]:", "[]", "[a]", "[1.2.3.4]:1"),
            *("[fe80::1%]:1", "[fe80::1%a b]:1", "[fe80::1%\x1b[2J]:1"),
            *("1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "4711"),
            *("http://a:80", "a/b", "a\n:1", "\u202ea:1", "a" * 300, ".".join(["a" * 60] * 5)),
        ]:
            with self.subTest(text), self.assertRaises(ValueError):
                parse_target(text)

    @given(st.one_of(st.text(), st.text(alphabet=string.hexdigits + ":.[]%-_")))
    def test_any_text_is_a_sound_target_or_a_value_error(self, text: str) -> None:
        try:
            target = parse_target(text)
        except ValueError:
            return
        self.assertTrue(target.host.isascii() and target.host.isprintable())
        self.assertNotIn(" ", target.host)
        self.assertEqual(parse_target(str(target)), target)
