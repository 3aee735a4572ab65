from __future__ import annotations

import unittest
from pathlib import Path

from jetstreamproto.state import default_state_dir


class DefaultStateDirTests(unittest.TestCase):
    def test_jetstream_home_comes_first(self) -> None:
        environ = {"JETSTREAM_HOME": "/own", "XDG_STATE_HOME": "/xdg", "HOME": "/home/al"}
        self.assertEqual(default_state_dir(environ), Path("/own"))

    def test_a_relative_jetstream_home_is_made_absolute(self) -> None:
        self.assertEqual(default_state_dir({"JETSTREAM_HOME": "here"}), Path.cwd() / "here")

    def test_the_xdg_state_folder_comes_next(self) -> None:
        environ = {"JETSTREAM_HOME": "", "XDG_STATE_HOME": "/xdg", "HOME": "/home/al"}
        self.assertEqual(default_state_dir(environ), Path("/xdg/jetstream"))

    def test_a_relative_xdg_state_folder_is_ignored(self) -> None:
        for folder in ("", "here"):
            environ = {"XDG_STATE_HOME": folder, "HOME": "/home/al"}
            expected = Path("/home/al/.local/state/jetstream")
            self.assertEqual(default_state_dir(environ), expected)

    def test_without_any_variable_the_account_has_a_home(self) -> None:
        expected = Path.home() / ".local" / "state" / "jetstream"
        self.assertEqual(default_state_dir({}), expected)
