"""What commands print for programs: how the server was reached is told once a session."""

from __future__ import annotations

import contextlib
import io
import json
import unittest
from collections.abc import Callable
from typing import Any

from jetstreamproto.cli.output import reached, show_error, show_object, with_route

QUIC = {"transport": "quic", "fallback": "tcp: nothing listens there"}


class RouteTests(unittest.TestCase):
    def setUp(self) -> None:
        self.addCleanup(reached, {})

    def printed(self, print_it: Callable[[], None]) -> Any:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            print_it()
        return json.loads(out.getvalue())

    def test_the_first_object_of_a_session_has_it(self) -> None:
        reached({})
        self.assertEqual(self.printed(lambda: show_object({"a": 1})), {"a": 1})
        for route in (QUIC, {"transport": "udp"}):
            reached(route)
            self.assertEqual(self.printed(lambda: show_object({"a": 1})), {"a": 1, **route})
            self.assertEqual(self.printed(lambda: show_object({"a": 2})), {"a": 2})
            self.assertEqual(with_route({"a": 3}), {"a": 3})

    def test_what_a_server_sends_cannot_stand_for_it(self) -> None:
        reached(QUIC)
        self.assertEqual(with_route({"transport": "tcp"}), QUIC)

    def test_an_error_has_it_always(self) -> None:
        reached(QUIC)
        with_route({})
        found = self.printed(lambda: show_error("SessionCut", "gone"))
        self.assertEqual(found, {"error": {"kind": "SessionCut", "message": "gone"}, **QUIC})
