from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import unittest
from typing import Any

from jetstreamproto.cli.progress import ProgressBar
from jetstreamproto.cli.transfers import Report, TransferOptions, about
from jetstreamproto.errors import ChannelReset, FileError, NotAllowed
from jetstreamproto.services.files.asking import Transfer
from jetstreamproto.services.files.model import FileCode, Overwrite, Verdict
from jetstreamproto.services.files.trees import Outcome

SENT = Transfer("a", Verdict.SEND, 100, 60, "ab" * 32)
SAME = Transfer("b", Verdict.SAME, 7)
FAILED = ("c\x1b[2J", FileError(FileCode.NO_SPACE, "no space left"))


class ReportTests(unittest.TestCase):
    def finish(self, outcome: Outcome, **options: Any) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        report = Report(TransferOptions(**options), "sent")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = report.finish(outcome, 2.0)
        return status, out.getvalue(), err.getvalue()

    def test_for_a_person(self) -> None:
        status, out, err = self.finish(Outcome([SENT, SAME], [FAILED]))
        self.assertEqual((status, out), (1, ""))
        self.assertEqual(
            err,
            "jetstream: c[2J: no space left\n"
            "sent 1 file(s), 60 bytes in 2.0 s, 0.0 MB/s; 40 bytes were there from before;"
            " 1 file(s) left as they were\n",
        )

    def test_as_an_object(self) -> None:
        status, out, _ = self.finish(Outcome([SENT, SAME], [FAILED]), as_json=True)
        report = json.loads(out)
        self.assertEqual((status, report["moved"], report["bytes"]), (1, 60, 107))
        self.assertEqual([file["state"] for file in report["files"]], ["sent", "same"])
        self.assertEqual([file["blake3"] for file in report["files"]], ["ab" * 32, None])
        self.assertEqual(report["errors"][0]["message"], "no space left")

    def test_a_partial_of_another_version(self) -> None:
        other = dataclasses.replace(SENT, path="a\x1b", other=True)
        _, out, err = self.finish(Outcome([other, SENT]), as_json=True)
        files = json.loads(out)["files"]
        self.assertEqual([file["other_version"] for file in files], [True, False])
        self.assertEqual(
            err,
            "a: the unfinished .part file was of another version (or damaged): it starts over, and"
            " 40 bytes of it were of use\n",
        )
        self.assertEqual(self.finish(Outcome([other]), quiet=True), (0, "", ""))

    def test_quiet(self) -> None:
        self.assertEqual(self.finish(Outcome([SENT]), quiet=True), (0, "", ""))

    def test_a_dry_run_is_data(self) -> None:
        status, out, err = self.finish(Outcome([SENT, SAME]), dry_run=True)
        self.assertEqual((status, out, err), (0, "send   a\nsame   b\n", ""))

    def test_the_error_of_a_single_file_is_raised_with_its_name(self) -> None:
        with self.assertRaises(FileError) as caught:
            self.finish(Outcome([], [FAILED]))
        self.assertEqual(str(caught.exception), "c\x1b[2J: no space left")
        with self.assertRaises(NotAllowed):
            self.finish(Outcome([], [("x", NotAllowed(3, "no"))]))

    def test_the_status_is_that_of_the_first_failure(self) -> None:
        failed = [("x", NotAllowed(3, "no")), FAILED]
        self.assertEqual(self.finish(Outcome([], list(failed)))[0], 4)

    def test_policies(self) -> None:
        self.assertIs(TransferOptions(overwrite="newer").policy, Overwrite.NEWER)

    def test_about(self) -> None:
        with self.assertRaises(FileError) as caught, about("x"):
            raise FileError(FileCode.BUSY, "busy")
        self.assertEqual((caught.exception.code, str(caught.exception)), (265, "x: busy"))
        with self.assertRaises(ChannelReset), about("x"):
            raise ChannelReset(1)


class ProgressTests(unittest.TestCase):
    def test_nothing_is_shown_where_there_is_no_terminal(self) -> None:
        err = io.StringIO()
        with contextlib.redirect_stderr(err), ProgressBar(100, shown=True) as bar:
            bar.name("x")
            bar.advance(50)
        self.assertEqual(err.getvalue(), "")
