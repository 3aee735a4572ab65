from __future__ import annotations

import ipaddress
import unittest

from hypothesis import given
from hypothesis import strategies as st

from jetstreamproto.services.tunnel.model import (
    TargetRules,
    parse_pattern,
    read_address,
    read_host,
    read_listen_pattern,
    read_target_pattern,
    show_address,
)

ADDRESSES = st.ip_addresses().map(str)
PORTS = st.integers(0, 65535)
LABELS = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


class PatternTests(unittest.TestCase):
    def test_canonical_forms(self) -> None:
        for text, canonical in {
            "127.0.0.1:22": "127.0.0.1:22",
            "10.0.0.0/8:*": "10.0.0.0/8:*",
            "127.0.0.1/32:1-3": "127.0.0.1:1-3",
            "[::1]:80-90": "[::1]:80-90",
            "[0:0::1]:80-80": "[::1]:80",
            "[2001:db8::/32]:443": "[2001:db8::/32]:443",
            "*:*": "*:*",
            "*:443": "*:443",
            "*.Example.ORG:443": "*.example.org:443",
            "host.:80": "host:80",
            "h:0-65535": "h:*",
        }.items():
            with self.subTest(text):
                self.assertEqual(read_target_pattern(text), canonical)
                self.assertEqual(read_target_pattern(canonical), canonical)

    def test_what_is_no_pattern(self) -> None:
        for text in (
            *("", ":", "host", "host:", ":80", "host:65536", "host:3-2", "host:-1", "host:a"),
            *("::1:80", "[::1:80", "[127.0.0.1]:80", "10.0.0.1/8:80", "10.0.0:80", "a b:80"),
            *("a*.example:80", "*.*.example:80", "*.:80", "[::ffff:1.2.3.4]:80", "[]:80", "-a:80"),
            *("1.2.3.4/40:80", "host:80-", "host:\u0663", "xn--\u00fc:80", "x" * 254 + ":80"),
        ):
            with self.subTest(text), self.assertRaises(ValueError):
                read_target_pattern(text)

    def test_servers_listen_on_addresses(self) -> None:
        for text in ("127.0.0.1:8000-9000", "*:*", "[::]:80", "0.0.0.0/0:*"):
            self.assertEqual(read_listen_pattern(text), text)
        for text in ("localhost:80", "*.example.org:80"):
            with self.assertRaises(ValueError):
                read_listen_pattern(text)

    @given(st.text(max_size=40))
    def test_any_text_is_a_pattern_or_a_value_error(self, text: str) -> None:
        try:
            pattern = parse_pattern(text)
        except ValueError:
            return
        self.assertEqual(parse_pattern(str(pattern)), pattern)


class HostTests(unittest.TestCase):
    def test_canonical_hosts(self) -> None:
        for text, host in {
            "Example.ORG.": "example.org",
            "127.0.0.1": "127.0.0.1",
            "::FFFF:127.0.0.1": "127.0.0.1",
            "0:0::1": "::1",
            "a_b": "a_b",
        }.items():
            self.assertEqual(read_host(text), host)

    def test_what_is_no_host(self) -> None:
        for text in (
            *("", ".", "a..b", "-a", "a-", "1.2.3", "127.1", "300.1.1.1", "a b", "a\x00b", "a\nb"),
            *("fe80::1%eth0", "[::1]", "\u00fc.example", "x" * 64, ".".join(["a" * 60] * 5)),
        ):
            with self.subTest(text), self.assertRaises(ValueError):
                read_host(text)

    def test_zones_do_not_matter_to_what_is_allowed(self) -> None:
        self.assertEqual(read_address("fe80::1%eth0"), ipaddress.ip_address("fe80::1"))

    def test_shown(self) -> None:
        self.assertEqual(show_address("::1", 80), "[::1]:80")
        self.assertEqual(show_address("a", 80), "a:80")


class RulesTests(unittest.TestCase):
    def assert_allows(self, patterns: str, *targets: str) -> None:
        rules = TargetRules(patterns.split())
        for target in targets:
            with self.subTest(patterns=patterns, target=target):
                negative = target.startswith("!")
                host, _, port = target.lstrip("!").rpartition(":")
                allowed = rules.allow_host(read_host(host.strip("[]")), int(port))
                self.assertEqual(allowed, not negative)

    def test_addresses_need_patterns_of_addresses(self) -> None:
        self.assert_allows("10.0.0.0/8:22-23", "10.9.8.7:22", "10.0.0.0:23", "!10.0.0.1:24")
        self.assert_allows("10.0.0.0/8:*", "!11.0.0.1:22", "!host:22", "![::1]:22")
        self.assert_allows("[::1]:80", "[::1]:80", "![::2]:80", "!127.0.0.1:80")
        self.assert_allows("*.example.org:80", "!127.0.0.1:80")

    def test_ipv4_in_ipv6_is_ipv4(self) -> None:
        self.assert_allows("10.0.0.0/8:80", "[::ffff:10.0.0.1]:80")
        self.assert_allows("[::/0]:80", "![::ffff:10.0.0.1]:80", "[::1]:80")

    def test_names(self) -> None:
        self.assert_allows("a.example:80", "a.example:80", "A.Example.:80", "!b.a.example:80")
        self.assert_allows("*.example:80", "a.example:80", "b.a.example:80", "!example:80")
        self.assert_allows("*.example:80", "!notexample:80", "!a.example:81")

    def test_a_star_is_every_host(self) -> None:
        self.assert_allows("*:80", "1.2.3.4:80", "[::1]:80", "host:80", "!host:81")
        self.assert_allows("", "!1.2.3.4:80", "!host:80")

    def test_lookups_are_for_patterns_of_addresses(self) -> None:
        for patterns, needed in {
            "": False,
            "*.example:80": False,
            "10.0.0.0/8:80": True,
            "10.0.0.0/8:81": False,
            "*:80": True,
        }.items():
            self.assertEqual(TargetRules(patterns.split()).need_lookup(80), needed)

    @given(ADDRESSES, PORTS, ADDRESSES, PORTS)
    def test_one_address_allows_itself_alone(
        self, address: str, port: int, other: str, others: int
    ) -> None:
        address, other = read_host(address), read_host(other)
        rules = TargetRules([show_address(address, port)])
        self.assertTrue(rules.allow_host(address, port))
        same = (address, port) == (other, others)
        self.assertEqual(rules.allow_host(other, others), same)

    @given(NAMES, NAMES)
    def test_names_below_a_domain(self, domain: str, name: str) -> None:
        rules = TargetRules([f"*.{domain}:80"])
        self.assertTrue(rules.allow_host(f"{name}.{domain}", 80))
        self.assertEqual(rules.allow_host(name, 80), name.endswith(f".{domain}"))
