"""Tests for jetstreamproto.sockets.host."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from unittest import TestCase, mock, skipUnless

from jetstreamproto.sockets import host
from jetstreamproto.sockets.host import Finding, State, examine, ring_error, try_profile
from jetstreamproto.sockets.options import ON_LINUX
from jetstreamproto.sockets.profiles import PROFILES
from jetstreamproto.sockets.recommended import RECOMMENDED


class HostTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def put(self, name: str, text: str) -> None:
        path = self.root.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def find(self, name: str) -> Finding:
        (found,) = (one for one in examine(self.root) if one.name == name)
        return found

    def test_a_host_with_everything_recommended_is_fine(self) -> None:
        for setting in RECOMMENDED:
            self.put(setting.name, setting.text.replace(" ", "\t"))
        for setting in RECOMMENDED:
            self.assertIs(self.find(setting.name).state, State.FINE, setting.name)

    def test_what_is_low_is_told_with_its_cost_and_its_mending(self) -> None:
        self.put("net.ipv4.tcp_rmem", "4096\t131072\t6291456")
        found = self.find("net.ipv4.tcp_rmem")
        self.assertEqual(
            (found.state, found.found, found.mend),
            (
                State.LOW,
                "4096 131072 6291456",
                "sysctl -w 'net.ipv4.tcp_rmem=4096 131072 67108864'",
            ),
        )
        self.assertTrue(found.costs)

    def test_a_system_without_sysctls_is_not_at_fault(self) -> None:
        states = {one.name: one.state for one in examine(self.root / "nowhere")}
        for setting in RECOMMENDED:
            self.assertIs(states[setting.name], State.ABSENT)
        self.assertIs(states["TCP congestion control"], State.ABSENT)

    def test_nonsense_in_a_sysctl_is_low_and_no_exception(self) -> None:
        self.put("net.core.somaxconn", "many")
        found = self.find("net.core.somaxconn")
        self.assertEqual(
            (found.state, found.mend), (State.LOW, "sysctl -w net.core.somaxconn=4096")
        )
        self.root.joinpath("net/core/somaxconn").write_bytes(b"\xff\x1b[31m")
        self.assertIs(self.find("net.core.somaxconn").state, State.ABSENT)

    def test_congestion_control(self) -> None:
        for available, current, state, mend in (
            ("reno cubic bbr", "bbr", State.FINE, ""),
            ("reno cubic bbr", "cubic", State.LOW, "sysctl -w net.ipv4.tcp_congestion_control=bbr"),
            (
                "reno cubic",
                "cubic",
                State.LOW,
                "modprobe tcp_bbr && sysctl -w net.ipv4.tcp_congestion_control=bbr",
            ),
        ):
            self.put("net.ipv4.tcp_available_congestion_control", available)
            self.put("net.ipv4.tcp_congestion_control", current)
            found = self.find("TCP congestion control")
            self.assertEqual((found.state, found.mend), (state, mend))

    def test_open_files(self) -> None:
        for limits, state, mend in (
            ((1024, 1 << 20), State.LOW, "ulimit -n 65536"),
            ((1024, 4096), State.LOW, "LimitNOFILE=65536"),
            ((65536, 65536), State.FINE, ""),
            ((-1, -1), State.FINE, ""),
        ):
            with mock.patch("resource.getrlimit", return_value=limits):
                found = self.find("open files")
            self.assertIs(found.state, state)
            self.assertTrue(found.mend.startswith(mend), found.mend)

    @skipUnless(ON_LINUX, "Linux only")
    def test_why_there_is_no_io_uring(self) -> None:
        for code, disabled, state, words in (
            (0, "0", State.FINE, "available"),
            (errno.ENOSYS, "0", State.ABSENT, "this kernel has none"),
            (errno.EPERM, "2", State.LOW, "kernel.io_uring_disabled is 2"),
            (errno.EPERM, "0", State.LOW, "seccomp"),
            (errno.ENOMEM, "0", State.LOW, os.strerror(errno.ENOMEM)),
        ):
            self.put("kernel.io_uring_disabled", disabled)
            with mock.patch.object(host, "ring_error", return_value=code):
                found = self.find("io_uring")
            self.assertIs(found.state, state)
            self.assertIn(words, found.found)

    @skipUnless(ON_LINUX, "Linux only")
    def test_the_probe_makes_a_ring_and_closes_it(self) -> None:
        before = os.listdir("/proc/self/fd")
        self.assertIn(ring_error(), (0, errno.EPERM, errno.ENOSYS, errno.ENOMEM))
        self.assertEqual(len(os.listdir("/proc/self/fd")), len(before))

    def test_another_system_has_what_it_has(self) -> None:
        with mock.patch.object(host, "ON_LINUX", False):
            self.assertIs(self.find("io_uring").state, State.ABSENT)

    def test_profiles_are_tried(self) -> None:
        for profile in PROFILES.values():
            found = try_profile(profile)
            self.assertEqual(set(found), {"listening", "connecting", "datagrams"})
            self.assertIn("SO_REUSEADDR", [setting.option for setting in found["listening"]])
